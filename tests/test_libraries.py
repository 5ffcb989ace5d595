"""Networks of other libraries: stand-ins with the surface of timm and torchvision."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from graph.errors import ArchitectureError, PruneError, UsageError
from prune.load import LoadedModel, ModelSource, load

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))
"""
TIMM = (
    NET
    + """
CALLS = []

def create_model(name, pretrained=False, num_classes=10):
    CALLS.append((name, pretrained))
    if name != "tiny_net":
        raise RuntimeError(f"Unknown model ({name})")
    module = Net(num_classes)
    module.default_cfg = {"input_size": (3, 16, 16)}
    return module

def list_models():
    return ["tiny_net", "large_net"]
"""
)
TORCHVISION = (
    NET
    + """
CALLS = []

def segmenter(*, weights=None, weights_backbone="DEFAULT", num_classes=10):
    CALLS.append((weights, weights_backbone))
    return Net(num_classes)

def tiny(*, weights=None, num_classes=10):
    CALLS.append((weights, None))
    return Net(num_classes)

def get_model_builder(name):
    return {"segmenter": segmenter, "tiny": tiny}[name]

def get_model(name, **config):
    return get_model_builder(name)(**config)
"""
)


@pytest.fixture(autouse=True)
def _libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib" / "torchvision").mkdir(parents=True)
    (tmp_path / "lib" / "timm.py").write_text(TIMM)
    (tmp_path / "lib" / "torchvision" / "__init__.py").touch()
    (tmp_path / "lib" / "torchvision" / "models.py").write_text(TORCHVISION)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    for name in ("timm", "torchvision", "torchvision.models"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def opened(name: str, **options: object) -> LoadedModel:
    return load(ModelSource(model=name, **options))  # type: ignore[arg-type]


def test_random_weights_are_told_and_repeat() -> None:
    found, again = opened("timm:tiny_net"), opened("timm:tiny_net")
    assert found.arch == "timm:tiny_net" and found.input_shape == (3, 16, 16)
    assert found.notes == ("the weights are random: give --weights FILE or --pretrained",)
    assert found.sha256 == "" and found.size_bytes == 0
    x = found.inputs.example()[0]
    assert torch.equal(found.module(x), again.module(x))


def test_arguments_and_the_librarys_own_weights() -> None:
    found = opened("timm:tiny_net", pretrained=True, arch_args={"num_classes": 4})
    assert found.notes == () and found.module(torch.zeros(1, 3, 16, 16)).shape == (1, 4)
    assert sys.modules["timm"].CALLS == [("tiny_net", True)]  # type: ignore[attr-defined]


def test_weights_of_a_file_both_ways_round(tmp_path: Path) -> None:
    torch.manual_seed(7)
    wanted = opened("timm:tiny_net").module
    torch.nn.init.normal_(wanted.head.weight)  # type: ignore[union-attr,arg-type]
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    named = opened("timm:tiny_net", weights=tmp_path / "w.pt")
    file = opened(str(tmp_path / "w.pt"), arch="timm:tiny_net")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(named.module(x), wanted(x)) and torch.equal(file.module(x), wanted(x))
    assert named.notes == () and len(named.sha256) == 64 and file.input_shape == (3, 16, 16)
    with pytest.raises(ArchitectureError, match="do not fit timm:tiny_net: .* another shape"):
        opened("timm:tiny_net", weights=tmp_path / "w.pt", arch_args={"num_classes": 3})


def test_torchvision_downloads_nothing_that_nobody_asked_for() -> None:
    assert opened("torchvision:tiny").input_shape == (3, 224, 224)
    opened("torchvision:segmenter")
    opened("torchvision:segmenter", pretrained=True)
    calls = sys.modules["torchvision.models"].CALLS  # type: ignore[attr-defined]
    assert calls == [(None, None), (None, None), ("DEFAULT", "DEFAULT")]


@pytest.mark.parametrize(
    ("name", "options", "kind", "says", "hint"),
    [
        ("timm:tiny", {}, ArchitectureError, "Unknown model", "timm:tiny_net"),
        ("timm:tiny_net", {"arch_args": {"depth": 3}}, ArchitectureError, "depth", "--arch-args"),
        ("torchvision:nothing", {}, ArchitectureError, "KeyError", "check the name"),
        ("timm:", {}, ArchitectureError, "name of the network is missing", "timm:resnet18"),
        ("timm:tiny_net", {"arch": "resnet20"}, UsageError, "--arch", "leave out"),
        ("timm:tiny_net", {"weights": Path("w"), "pretrained": True}, UsageError, "--pretrained", "library"),
        ("torch.nn:Identity", {"pretrained": True}, UsageError, "--pretrained", "timm:NAME"),
        ("timm:tiny_net", {"weights": Path("none.pt")}, PruneError, "no such file", "path"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, object], kind: type, says: str, hint: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        opened(name, **options)
    assert hint in caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_missing(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ArchitectureError, match=f"needs the package {library}") as caught:
        opened(f"{library}:tiny")
    assert f"pip install {library}" in caught.value.hint
