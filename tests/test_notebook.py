"""A real notebook, executed by a real kernel; by hand, where nbclient and ipykernel are installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

CELLS = (
    "import prune, torch\nfrom torch import nn\n"
    "net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))\n"
    "result = prune.compress(net, 'digits', flops=0.5, episodes=4, epochs=2)",
    "result",
    "prune.inspect(net, torch.randn(1, 1, 8, 8))",
    "prune.compress(net, flops=0.5)",
)


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("nbclient", "ipykernel")),
    reason="nbclient and ipykernel are not installed: a check by hand",
)
def test_a_notebook_shows_the_run_and_its_result() -> None:
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    NotebookClient(book, timeout=300, kernel_name="python3", allow_errors=True).execute()
    run, result, overview, failure = (cell.outputs for cell in book.cells)
    shown = "".join(str(o.get("data", {}).get("text/html", "")) for o in run)
    for stage in ("searching", "fine-tuning", "measuring latency"):
        assert stage in shown
    has_bars = any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in run)
    assert has_bars is (find_spec("ipywidgets") is not None)
    assert "<table>" in result[0].data["text/html"] and "Sequential" in result[0].data["text/plain"]
    assert "prunable groups" in overview[0].data["text/html"]
    assert failure[-1].ename == "UsageError" and "nothing tells what Sequential takes" in failure[-1].evalue
