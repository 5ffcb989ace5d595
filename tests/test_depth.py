"""Depth: which blocks go, what is left, who loads it, and bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from collected import quick_clocks
from mambas import ids
from mambas import model as mamba
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import cli
from front.commands import terminal
from graph.errors import TargetError, UsageError
from models_zoo.mamba_config import Version
from models_zoo.mamba_lm import MambaLM
from prune.architectures import tokens_input
from prune.compensation import compensate
from prune.data import load_data
from prune.depth import BlockConfig, Blocks, Depth, judge
from prune.evaluation import evaluate
from prune.load import LoadedModel
from prune.mamba import load_mamba, save_mamba
from prune.pruned import load_pruned
from prune.smaller_mamba import shorter_mamba
from prune.subject import program_of


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick_clocks():
        yield


def text_file(folder: Path) -> str:
    """A text of few words."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 122, 3))) for _ in range(20)]
    (folder / "a.txt").write_text("".join(words[i] for i in rng.integers(0, 20, 2000)))
    return f"text:{folder / 'a.txt'}"


def deep(version: Version) -> MambaLM:
    """Four layers, of which the second does next to nothing and the third turns the stream, to no effect."""
    lm = mamba(version, n_layer=4, vocab_size=256)
    layers: Any = lm.backbone.layers
    with torch.no_grad():
        layers[1].mixer.out_proj.weight *= 1e-3
        layers[0].mixer.out_proj.weight *= 0.3
        layers[3].mixer.out_proj.weight *= 0.3
    return lm


def blocks_of(lm: MambaLM) -> Blocks:
    loaded = LoadedModel(lm, "mamba", {}, tokens_input(lm, 16), None, {}, "mine", "", 0)
    return Blocks.of(loaded, program_of(loaded))


def nothing(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.mark.parametrize("version", [1, 2])
def test_the_blocks_that_are_missed_least_go_in_turn(version: Version, tmp_path: Path) -> None:
    lm, data = deep(version), load_data(text_file(tmp_path), length=16)
    blocks = blocks_of(lm)
    depth = judge(BlockConfig(text="0.5"), blocks, data, nothing)
    assert Depth.from_json(json.loads(json.dumps(depth.to_json())), depth.config) == depth
    short = replace(blocks.loaded, module=blocks.without(depth.dropped))

    def loss(kept: list[int]) -> float:
        return evaluate(shorter_mamba(lm, kept), data.search, limit=depth.records).loss

    gone: list[int] = []
    for place, score in zip(depth.dropped, depth.scores, strict=True):
        stay = [i for i in range(4) if i not in gone]
        losses = {i: loss([k for k in stay if k != i]) for i in stay}
        assert place == min(losses, key=lambda i: losses[i]) and score == pytest.approx(losses[place])
        gone.append(place)
    assert depth.whole == pytest.approx(loss([0, 1, 2, 3]))
    assert isinstance(short.module, MambaLM) and short.module.sizes.n_layer == 2
    assert blocks.proof(depth, program_of(short)).max_error <= 1e-12
    # In the model's own class: the layers that went are walked past.
    with torch.no_grad():
        x = lm.backbone.embedding(ids(2, 16))
        for i in depth.kept:
            x, _ = lm.backbone.layers[i](x)
        torch.testing.assert_close(short.module(ids(2, 16)), lm.lm_head(lm.backbone.norm_f(x)))


def test_similarity_takes_what_turns_the_stream_least(tmp_path: Path) -> None:
    lm, data = deep(1), load_data(text_file(tmp_path), length=16)
    depth = judge(BlockConfig(text="2", criterion="similarity"), blocks_of(lm), data, nothing)
    turned = np.zeros(4)
    with torch.no_grad():
        for x, _ in data.search.batches(64, limit=depth.records):
            stream = lm.backbone.embedding(x)
            for i, layer in enumerate(lm.backbone.layers):
                after, _ = layer(stream)
                turned[i] += float((1 - F.cosine_similarity(stream, after, dim=-1)).sum())
                stream = after
    order = np.argsort(turned)[:2].tolist()
    assert list(depth.dropped) == order and order[0] == 1 and depth.whole is None
    np.testing.assert_allclose(depth.scores, turned[order] / (depth.records * 16), rtol=1e-4)


def test_what_is_left_makes_up_for_what_went() -> None:
    """A layer whose output another one can make as well is not missed after the fit."""
    lm = mamba(2, n_layer=3)
    layers: Any = lm.backbone.layers
    layers[2].load_state_dict(layers[1].state_dict())
    with torch.no_grad():
        layers[1].mixer.out_proj.weight *= 0.05
        layers[2].mixer.out_proj.weight *= 0.05
    short, text = shorter_mamba(lm, [0, 1]), [(ids(4, 60, s), ids(4, 60, s)) for s in range(6)]
    x = ids(2, 40, seed=99)
    with torch.no_grad():
        before = float((short(x) - lm(x)).abs().max())
        compensate(lm, short, None, text, lm, [0, 1])
        after = float((short(x) - lm(x)).abs().max())
    assert after < 0.5 * before


class Images(nn.Module):
    """Residual convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = x + F.relu(block(x))
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


# From end to end


def run(*args: object) -> tuple[int, str]:
    terminal.console.width = terminal.stderr.width = 300
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def test_a_shorter_mamba_loads_where_it_came_from(tmp_path: Path) -> None:
    """Blocks and states together, in one checkpoint."""
    save_mamba(tmp_path / "lm", deep(1))
    args = ["compress", f"hf:{tmp_path / 'lm'}", "--blocks", "3", "--states", "3", "--input-shape", "16"]
    args += ["--data", text_file(tmp_path), "--epochs", "0", "-o", tmp_path / "o"]
    code, told = run(*args)
    assert code == 0, told
    assert "states kept in each layer: 3 of 5" in told and "in the layout of transformers" in told
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["verification"]["max_error"] <= 1e-9 and report["blocks"]["max_error"] <= 1e-12
    (dropped,) = report["blocks"]["dropped"]
    assert f"blocks kept: 3 of 4, by loss; dropped in this order: {dropped['name']}" in told
    assert "--blocks 3" in " ".join(report["command"])
    assert "Blocks that went" in (tmp_path / "o" / "report.html").read_text()
    again, _ = load_mamba(tmp_path / "o" / "checkpoint")
    assert again.sizes.n_layer == 3 and again.sizes.d_state == 3
    for form, says in (("step", "7 inputs"), ("any-length", "tokens of any length")):
        code, told = run("export", tmp_path / "o", "-o", tmp_path / f"{form}.onnx", "--form", form)
        assert code == 0 and says in told, told
    x = ids(2, 16)
    with torch.no_grad():
        wanted = load_pruned(tmp_path / "o")(x)
        torch.testing.assert_close(again(x), wanted, rtol=1e-4, atol=1e-4)
        transformers = pytest.importorskip("transformers")
        other, info = transformers.MambaForCausalLM.from_pretrained(
            tmp_path / "o" / "checkpoint", output_loading_info=True
        )
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        torch.testing.assert_close(other.eval()(x, use_cache=False).logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_a_shorter_mamba_in_the_layout_of_mamba_ssm(version: Version, tmp_path: Path) -> None:
    """Layers with different numbers of states keep their own."""
    lm = mamba(version, n_layer=3, d_state=(3, 4, 5))
    short = shorter_mamba(lm, [0, 2])
    save_mamba(tmp_path / "lm", short, layout="mamba_ssm")
    again, _ = load_mamba(tmp_path / "lm")
    assert again.sizes.n_layer == 2 and again.sizes.states == (3, 5)
    torch.testing.assert_close(again(ids(2, 16)), short(ids(2, 16)))


def test_blocks_and_flops_are_shares_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any network with residual blocks, on images: blocks by the loss, then channels to the limit."""
    (tmp_path / "residual_images.py").write_text(
        "import torch\nfrom test_depth import Images\n\n"
        "def net():\n    torch.manual_seed(0)\n    return Images()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    common = [
        "compress",
        "residual_images:net",
        "--input-shape",
        "1x8x8",
        "--data",
        "digits",
        "--blocks",
        "2",
    ]
    common += ["--epochs", "0", "--planner", "uniform", "-o", tmp_path / "o"]
    code, told = run(*common, "--flops", "0.5")
    assert code == 0 and "blocks kept: 2 of 3" in told, told
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert 0.3 < report["ratios"]["macs"] <= 0.5 and report["verification"]["max_error"] <= 1e-9
    assert not report["native"]["runs"]
    code, told = run(*common, "--flops", "0.9", "--force")
    assert code == 2 and "without the blocks the model uses 0.6" in told and "leave it out" in told
    # Each point of a curve is looked at before the first one is pruned.
    code, told = run(*common, "--pareto", "0.5,0.9", "--force")
    assert code == 2 and "without the blocks the model uses 0.6" in told and "leave it out" in told
    code, told = run(*common, "--pareto", "0.5,0.0001", "--force")
    assert code == 2 and "cannot be reached" in told and "go on with" not in told, told
    # A pattern names a module of the whole model, which may be among those that go.
    (gone,) = report["blocks"]["dropped"]
    for words in (("--exclude", gone["name"]), ("--limit", f"{gone['name']}=4")):
        code, told = run(*common, *words, "--force")
        assert code == 0 and "blocks kept: 2 of 3" in told, told
    code, told = run(*common, "--only", gone["name"], "--flops", "0.5", "--force")
    assert code == 2 and "no prunable channels" in told, told


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--blocks", "0.1"), "--blocks 0.1 leaves none of 4 blocks"),
        (("--blocks", "4"), "there are only 4 blocks"),
        (("--blocks", "some"), "not a share or a number of blocks"),
        (("--blocks", "2", "--block-criterion", "luck"), "--block-criterion luck: unknown"),
        (("--blocks", "2", "--latency", "0.5"), "do not go together"),
        (("--blocks", "2", "--data", "none"), "--blocks needs data"),
        (("--blocks", "2", "--exclude", "backbone.layers.0"), "numbers the layers of a Mamba anew"),
        (
            ("--blocks", "2", "--limit", "backbone.layers.0=2", "--dry-run"),
            "numbers the layers of a Mamba anew",
        ),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    save_mamba(tmp_path / "lm", deep(1))
    given = ["compress", f"hf:{tmp_path / 'lm'}", "--input-shape", "12", *args, "-o", tmp_path / "out"]
    code, told = run(*given)
    assert code == 2 and "error:" in told and "hint:" in told and says in told
    assert not (tmp_path / "out").exists()


def test_models_without_blocks() -> None:
    lm = mamba(1, n_layer=1)
    with pytest.raises(UsageError, match="has 1 residual block: --blocks needs several"):
        blocks_of(lm)
    with pytest.raises(TargetError):
        BlockConfig(text="0")
