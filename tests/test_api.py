"""The Python API: what a caller has at hand goes in, a module of his own class comes out."""

from __future__ import annotations

import inspect as signatures
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset
from typer.testing import CliRunner

import cli
import prune
from graph.errors import DataError, OutputError, ResumeError, TargetError, UsageError
from models_zoo.digits import load as digits
from models_zoo.registry import build
from prune.inputs import InputRequest
from prune.inspection import measure
from prune.load import ModelSource, save_model
from prune.loaders import LoaderSplit, data_set
from prune.tune import fit
from prune.unfinished import is_unfinished


class TwoHeads(nn.Module):
    """Returns a dict whose prediction comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.body = nn.Conv2d(12, 16, 3, padding=1)
        self.side, self.head = nn.Linear(16, 2), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(self.norm(self.stem(x)).relu()).relu().mean((2, 3))
        return {"side": self.side(x), "logits": self.head(x)}


@pytest.fixture(scope="module")
def pairs() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    found = digits(seed=0)
    train, test = (next(iter(s.batches(len(s)))) for s in (found.train, found.test))
    return train, test


@pytest.fixture(scope="module")
def halved(pairs: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[TwoHeads, prune.Result]:
    torch.manual_seed(0)
    net = TwoHeads()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    loaders = [DataLoader(TensorDataset(*pair), batch_size=50, shuffle=True) for pair in pairs]
    folder = tmp_path_factory.mktemp("empty")
    at = Path.cwd()
    os.chdir(folder)
    try:
        result = prune.compress(net, loaders, flops=0.5, episodes=4, epochs=2, progress=False)
    finally:
        os.chdir(at)
    assert list(folder.iterdir()) == [], "nothing is written where nothing was asked for"
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    return net, result


@pytest.mark.parametrize("by_heart", [True, False])
def test_fine_tuning_begins_from_weights_that_were_not_fitted(
    pairs: Any, monkeypatch: pytest.MonkeyPatch, by_heart: bool
) -> None:
    seen: list[Any] = []

    def fitting(module: nn.Module, data: Any, config: Any, **options: Any) -> Any:
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        seen.append((state, config.mixup, options["initial"]))
        return fit(module, data, config, **options)

    monkeypatch.setattr("prune.pipeline.fit", fitting)
    monkeypatch.setattr("prune.tune_config.knows_by_heart", lambda *_: by_heart)
    torch.manual_seed(0)
    net = TwoHeads()
    loaders = [DataLoader(TensorDataset(*pair), batch_size=50) for pair in pairs]
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(pairs[0][0])["logits"], pairs[0][1]).backward()
        optimizer.step()
    result = prune.compress(net, loaders, flops=0.5, planner="uniform", epochs=1, lr=1e-5, progress=False)
    assert result.report.accuracy["mended"] == "reconstructed"
    ((fitted, mixup, initial),) = seen
    assert mixup is by_heart and result.report.tune["mixup"] is by_heart
    whole = {tuple(column.tolist()) for column in net.head.weight.T}
    assert not any(tuple(column.tolist()) in whole for column in fitted["head.weight"].T)
    assert all(tuple(column.tolist()) in whole for column in initial["head.weight"].T)


def test_a_module_with_loaders_becomes_a_smaller_one_of_its_class(halved: Any, pairs: Any) -> None:
    _, result = halved
    assert type(result.module) is TwoHeads and not result.module.training
    assert result.report.ratios()["macs"] <= 0.5 and result.plan.ratio <= 0.5
    out = result.module(pairs[1][0])
    assert set(out) == {"side", "logits"}
    accuracy = float((out["logits"].argmax(1) == pairs[1][1]).double().mean())
    assert accuracy == pytest.approx(result.report.pruned.accuracy)
    assert result.module.stem.out_channels == result.module.stem.weight.shape[0] < 12
    assert {len(kept) for kept in result.plan.kept.values()} == {
        result.module.stem.out_channels,
        result.module.body.out_channels,
    }
    data = result.report.data
    assert data["train"] + data["search"] == len(pairs[0][0]) and data["test"] == len(pairs[1][0])
    assert result.report.search["evaluations"] >= 4 and len(result.report.tune["history"]) == 2
    assert prune.evaluate(result.module, pairs).accuracy == pytest.approx(accuracy)


def test_a_result_is_shown_and_saved(halved: Any, pairs: Any, tmp_path: Path) -> None:
    net, result = halved
    assert re.fullmatch(r"Result\(TwoHeads: MACs 0\.\d{3} x, .*accuracy .*%; TwoHeads\)", repr(result))
    html = result._repr_html_()
    assert html.count("<tr>") == 1 + len(result.report.rows()) and "--flops 0.5: at most" in html
    folder = result.save(tmp_path / "half")
    assert {p.name for p in folder.iterdir()} == {p.name for p in result.folder.iterdir()}
    x = pairs[1][0]
    expected = result.module(x)["logits"]
    # Of several outputs the one that is predicted by comes first.
    assert torch.allclose(prune.load_pruned(folder)(x)[0], expected, atol=1e-5)
    assert torch.allclose(prune.load_native(folder, net).eval()(x)["logits"], expected, atol=1e-5)
    assert json.loads((folder / "report.json").read_text())["command"] == []
    with pytest.raises(prune.PruneError) as caught:
        result.save(folder)
    assert caught.value.hint and result.save(folder, force=True) == folder


def test_the_command_line_measures_the_prediction_too(halved: Any, tmp_path: Path) -> None:
    net, _ = halved
    torch.save(net.state_dict(), tmp_path / "two.pt")
    request = InputRequest(shape=(1, 8, 8))
    source = ModelSource(model=f"{__name__}:TwoHeads", weights=tmp_path / "two.pt", request=request)
    found, name = measure(source, "digits", "test")
    assert name == "digits" and found == prune.evaluate(net, "digits")


def test_the_temporary_folder_goes_with_the_result(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = prune.compress(
        nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3)),
        inputs=torch.randn(1, 6),
        params="60%",
        progress=False,
    )
    folder = result.folder
    assert (folder / "model.onnx").is_file() and isinstance(result.module, nn.Sequential)
    assert result.report.data["name"] is None
    del result
    assert not folder.exists()


def test_a_file_and_a_name_are_what_they_are_on_the_command_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("resnet20", num_classes=10, in_channels=1)
    about: dict[str, Any] = {"arch_args": {"num_classes": 10, "in_channels": 1}, "input_shape": [1, 8, 8]}
    save_model(tmp_path / "net.pt", net, arch="resnet20", data="digits", metrics={}, **about)
    result = prune.compress(
        tmp_path / "net.pt",
        flops=0.5,
        planner="uniform",
        exclude="layer1.*",
        reconstruct=False,
        tune=False,
        output=tmp_path / "out",
        progress=False,
    )
    assert type(result.module) is type(net) and result.folder == tmp_path / "out"
    words = " ".join(result.report.command)
    assert (
        "--planner uniform" in words and "--exclude layer1.*" in words and f"-o {tmp_path / 'out'}" in words
    )
    assert result.report.data["name"] == "digits" and result.report.pruned.accuracy is not None
    again = prune.inspect(tmp_path / "out")
    assert again.subject.costs.macs == result.report.pruned.macs
    assert "MACs" in repr(again) and "<caption>prunable groups</caption>" in again._repr_html_()


def test_a_model_of_transformers_comes_back_as_one() -> None:
    transformers = pytest.importorskip("transformers", reason="extra transformers is not installed")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    ids = torch.randint(0, 50, (1, 7))
    result = prune.compress(
        model,
        inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        flops=0.8,
        kinds=["mlp"],
        progress=False,
    )
    assert type(result.module) is type(model)
    assert result.module(input_ids=ids).logits.shape == (1, 2)
    assert result.module.bert.encoder.layer[0].intermediate.dense.out_features < 32
    assert [i["name"] for i in result.report.model["inputs"]] == ["input_ids", "attention_mask"]


def test_a_run_that_was_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, out = TwoHeads(), tmp_path / "out"
    options: dict[str, Any] = {"flops": 0.5, "episodes": 2, "images": 16, "epochs": 1, "progress": False}
    monkeypatch.setattr("prune.pipeline.export_all", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        prune.compress(net, "digits", output=out, **options)
    assert caught.value.__notes__ == [f"go on with: prune.compress(..., output={str(out)!r}, resume=True)"]
    with pytest.raises(KeyboardInterrupt) as caught:
        prune.compress(net, "digits", **options)
    assert not hasattr(caught.value, "__notes__"), "a temporary folder is gone"
    monkeypatch.undo()
    with pytest.raises(OutputError, match="holds an unfinished run") as refused:
        prune.compress(net, "digits", output=out, **options)
    assert "resume=True" in refused.value.hint
    with pytest.raises(ResumeError, match="with --seed 1"):
        prune.compress(net, "digits", output=out, resume=True, seed=1, **options)
    told = CliRunner().invoke(cli.app, ["compress", "--resume", str(out)])
    assert told.exit_code == 2 and "was started in Python" in told.output
    with pytest.raises(ResumeError, match="the model .* is not what it was"):
        prune.compress(TwoHeads(), "digits", output=out, resume=True, **options)
    monkeypatch.setattr("rl.reward.Evaluator._found", lambda *_: pytest.fail("scored again"))
    result = prune.compress(net, "digits", output=out, resume=True, **options)
    monkeypatch.undo()
    other = prune.compress(net, "digits", **options)
    assert result.plan == other.plan and not is_unfinished(out)
    for name, tensor in result.module.state_dict().items():
        assert torch.equal(tensor, other.module.state_dict()[name]), name
    with pytest.raises(UsageError, match="of which run"):
        prune.compress(net, "digits", resume=True, **options)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_whole_share_is_no_number() -> None:
    """As a float, 1.0 keeps all, and only 1 keeps one."""
    net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))
    with pytest.raises(TargetError, match="--blocks 1.0: not a share or a number"):
        prune.compress(net, inputs=torch.randn(1, 6), blocks=1.0, progress=False)


def test_the_keywords_are_the_flags() -> None:
    """Each option of ``prune compress`` has a keyword with the same default, but for a console's own."""
    command = typer.main.get_command(cli.app).commands["compress"]  # type: ignore[attr-defined]
    flags = {
        option.opts[0].removeprefix("--").replace("-", "_"): option.default
        for option in command.params
        if option.param_type_name == "option"
    }
    keywords = {n: p.default for n, p in signatures.signature(prune.compress).parameters.items()}
    console_only = {"pareto", "config", "json", "help", "dry_run", "tensorboard", "input_spec"}
    assert set(flags) - set(keywords) <= console_only
    assert set(keywords) - set(flags) == {"model", "inputs", "progress"}
    differing = {n for n in set(flags) & set(keywords) if (flags[n] or None) != (keywords[n] or None)}
    assert differing == {"workers"}


class Items(Dataset[Any]):
    """Items with labels but without ``targets``; some are not what they should be."""

    def __init__(self, wrong: object = None) -> None:
        self.wrong = wrong

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        if index == 30 and isinstance(self.wrong, Exception):
            raise self.wrong
        return torch.full((1, 4, 4), float(index)), self.wrong if index == 30 and self.wrong else index % 4


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.zeros(1, 4, 4), 0


def test_splits_hold_each_record_once() -> None:
    found = data_set(Items())
    assert isinstance(found, prune.DataSet) and len(found.classes) == 4 and found.input_shape == (1, 4, 4)
    seen = [
        [int(x[0, 0, 0]) for b, _ in s.batches(7) for x in b] for s in (found.train, found.search, found.test)
    ]
    assert sorted(sum(seen, [])) == list(range(40)) and all(seen)
    assert any("test images" in note for note in found.notes)
    assert data_set("digits") == "digits" and data_set(found) is found and data_set(None) is None


def test_a_loader_keeps_its_sampler_and_its_way_to_collate() -> None:
    def doubled(items: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = torch.utils.data.default_collate(items)
        return 2 * x, y

    loader = DataLoader(Items(), sampler=SubsetRandomSampler([3, 8, 5]), collate_fn=doubled)
    state = torch.get_rng_state()
    found = data_set((Items(), loader))
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(found, prune.DataSet)
    (x, y), *rest = found.test.batches(10)
    assert not rest and x[:, 0, 0, 0].tolist() == [6.0, 10.0, 16.0] and y.tolist() == [3, 1, 0]


def test_batches_follow_their_seed() -> None:
    split = LoaderSplit(DataLoader(Items()), torch.arange(40))
    orders = [torch.cat([y for _, y in split.batches(16, shuffle=True, seed=s)]).tolist() for s in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])
    assert [len(y) for _, y in split.batches(16, limit=20)] == [16, 4]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Endless(), "cannot be read by index"),
        (3, "int is no data set"),
        ((torch.zeros(3, 1, 4, 4), torch.zeros(2, dtype=torch.int64)), "3 images, 2 labels"),
        ((torch.zeros(3, 1, 4, 4), torch.zeros(3)), "not a pair of float images"),
        ((torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)), "not a pair"),
        (Items(OSError("no disk")), "the data set failed: OSError"),
        (Items(-1), "not a pair"),
        ((Items(), (torch.zeros(4, 1, 5, 5), torch.zeros(4, dtype=torch.int64))), "images of shapes"),
    ],
)
def test_data_that_is_none(given: Any, says: str) -> None:
    with pytest.raises(DataError) as caught:
        data_set(given)
    assert says in str(caught.value) and caught.value.hint


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("a handle")


@pytest.mark.parametrize(
    ("args", "options", "error", "says"),
    [
        ((nn.Linear(3, 2),), {"flops": 0.5}, UsageError, "nothing tells what Linear takes"),
        ((nn.Linear(3, 2),), {"inputs": torch.zeros(1, 3)}, TargetError, "give a target"),
        ((nn.Linear(3, 2),), {"flops": 0.5, "arch": "resnet20"}, UsageError, "leave arch out"),
        ((nn.Linear(3, 2),), {"flops": 0.5, "inputs": [3]}, UsageError, "inputs: input is int"),
        ((nn.Linear(3, 2),), {"flops": 0.5, "inputs": torch.zeros(0, 3)}, UsageError, "at least one record"),
        (
            (nn.Linear(3, 2),),
            {"flops": 0.5, "inputs": torch.zeros(1, 3)},
            TargetError,
            "no prunable",
        ),
        (
            (Uncopied(3, 2),),
            {"flops": 0.5, "inputs": torch.zeros(1, 3)},
            UsageError,
            "cannot be copied: a handle",
        ),
        ((7,), {"flops": 0.5}, UsageError, "the model is a int"),
        (("no-such.pt",), {"flops": 0.5}, prune.PruneError, "no-such.pt"),
        (("no-such.pt",), {"flops": 0.5, "agent": "agcm"}, UsageError, "did you mean agmc"),
    ],
)
def test_mistakes_are_named(args: Any, options: Any, error: type[prune.PruneError], says: str) -> None:
    with pytest.raises(error) as caught:
        prune.compress(*args, **options, progress=False)
    assert says in f"{caught.value} {caught.value.hint}" and caught.value.hint


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_wrappers_of_torch_are_taken_off() -> None:
    net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        found = prune.inspect(wrapped, torch.randn(2, 6))
        assert found.subject.loaded.arch == "Sequential" and found.subject.costs.macs == 6 * 40 + 40 * 3


@pytest.mark.smoke
def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, prune; assert 'torch' not in sys.modules and 'rich' not in sys.modules;"
        "assert 'compress' in dir(prune)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
