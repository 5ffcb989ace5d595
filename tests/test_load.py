"""Loading: what is written comes back, foreign weights fit, bad and hostile files end in one clear line."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from graph.capture import capture
from graph.errors import ArchitectureError, ModelFileError, PruneError, UntrustedCodeError, UsageError
from models_zoo import registry
from prune.load import LoadedModel, load_model, save_model

WEIGHTS = Path(__file__).parents[2] / "shared" / "data" / "weights"
ARGS = {"num_classes": 7, "in_channels": 1, "width": 4}
X = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return registry.build("resnet20", **ARGS).eval()


def save(path: Path, module: nn.Module | None = None, **changes: Any) -> None:
    facts: dict[str, Any] = {
        "arch": "resnet20",
        "arch_args": ARGS,
        "input_shape": (1, 8, 8),
        "data": "digits",
        "metrics": {"accuracy": 0.97, "history": [1, 2.5]},
    }
    save_model(path, module or network(), **(facts | changes))


def same(loaded: LoadedModel, module: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(loaded.module(X), module(X))


class Bomb:
    """Runs a shell command when it is unpickled the ordinary way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


# What is good


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_saved_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    save(path)
    found = load_model(path)
    assert same(found, network())
    assert (found.arch, found.arch_args, found.input_shape, found.data) == (
        "resnet20", ARGS, (1, 8, 8), "digits",
    )  # fmt: skip
    assert found.metrics == {"accuracy": 0.97, "history": [1, 2.5]}
    assert found.size_bytes == path.stat().st_size and len(found.sha256) == 64
    assert not found.module.training
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == [] if suffix == ".pt" else True
    assert load_model(path, input_shape=(1, 16, 16)).input_shape == (1, 16, 16)


def test_metrics_of_numpy_and_shared_weights_are_stored(tmp_path: Path) -> None:
    module = network()
    module.layer1[0].conv1.weight = module.layer1[0].conv2.weight  # type: ignore
    for suffix in (".pt", ".safetensors"):
        save(
            tmp_path / f"m{suffix}",
            module,
            metrics={"accuracy": torch.tensor([0.5]).numpy().astype(float)[0]},
        )
        assert same(load_model(tmp_path / f"m{suffix}"), module)


STATE: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "epoch": torch.tensor(3)},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "data parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
    "compiled, in parallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "uncounted": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("form", STATE)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", "legacy.pt"])
def test_foreign_weights_fit_the_named_architecture(tmp_path: Path, form: str, suffix: str) -> None:
    state = STATE[form](dict(network().state_dict()))
    path = tmp_path / f"w{suffix}"
    if suffix != ".safetensors":
        torch.save(state, path, _use_new_zipfile_serialization=suffix != "legacy.pt")
    elif all(isinstance(v, Tensor) for v in state.values()):
        safetensors.torch.save_file(state, path)
    else:
        return
    found = load_model(path, arch="ResNet-20", arch_args={"width": 4})
    assert (found.arch, found.arch_args, found.input_shape) == ("resnet20", ARGS, (1, 32, 32))
    assert all(p.dtype == torch.float32 for p in found.module.parameters())
    assert same(found, network()) or form == "half"


def test_the_tokens_of_foreign_weights_are_told_by_their_embedding(tmp_path: Path) -> None:
    torch.save(registry.build("gpt_tiny", vocab_size=50).state_dict(), tmp_path / "m.pt")
    assert load_model(tmp_path / "m.pt", arch="gpt_tiny").arch_args == {"vocab_size": 50}


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="published weights are not beside the repository")
def test_published_weights_just_work() -> None:
    found = load_model(WEIGHTS / "resnet56-cifar10.safetensors", arch="resnet56")
    assert found.arch_args == {"num_classes": 10, "in_channels": 3} and found.input_shape == (3, 32, 32)


def test_a_factory_is_imported_when_the_user_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "myown.py").write_text(
        "from torch import nn\ndef net(width):\n    return nn.Linear(3, width)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    torch.save(nn.Linear(3, 5).state_dict(), "w.pt")
    found = load_model("w.pt", arch="myown:net", arch_args={"width": 5}, input_shape=(1, 1, 3))
    assert (found.arch, found.arch_args) == ("myown:net", {"width": 5})
    # Once saved under that name, the file alone does not get it imported; naming it again does.
    save_model(
        "m.pt",
        found.module,
        arch=found.arch,
        arch_args=found.arch_args,
        input_shape=(1, 1, 3),
        data=None,
        metrics={},
    )
    monkeypatch.delitem(sys.modules, "myown")
    with pytest.raises(ArchitectureError, match="not imported because a file says so"):
        load_model("m.pt")
    assert "myown" not in sys.modules
    assert load_model("m.pt", arch="myown:net").input_shape == (1, 1, 3)
    with pytest.raises(UsageError, match="nothing tells the shape"):
        load_model("w.pt", arch="myown:net", arch_args={"width": 5})


# What needs trust


def pickled(path: Path) -> None:
    torch.save(network(), path)


def pickled_long_ago(path: Path) -> None:
    torch.save(network(), path, _use_new_zipfile_serialization=False)


def inside_a_checkpoint(path: Path) -> None:
    torch.save({"epoch": 3, "model": network()}, path)


def exported(path: Path) -> None:
    program = torch.export.export(network(), (X,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)  # its name is not what tells


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network(), X).save(path)


@pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")
@pytest.mark.parametrize(
    ("write", "names"),
    [
        (pickled, "models_zoo.resnet_cifar.CifarResNet"),
        (pickled_long_ago, "models_zoo.resnet_cifar.CifarResNet"),
        (inside_a_checkpoint, "models_zoo.resnet_cifar.CifarResNet"),
        (exported, ".pt2"),
        (scripted, "TorchScript"),
    ],
)
def test_code_in_a_file_needs_trust(tmp_path: Path, write: Callable[[Path], None], names: str) -> None:
    path = tmp_path / "m.pt"
    write(path)
    with pytest.raises(UntrustedCodeError, match=names) as caught:
        load_model(path, input_shape=(1, 8, 8))
    assert "--trust-code" in caught.value.hint and "state_dict" in caught.value.hint
    weights = load_model(path, arch="resnet20", arch_args={"width": 4}, trust_code=True)
    assert weights.arch_args == ARGS and same(weights, network())
    if write is scripted:
        with pytest.raises(ModelFileError, match="cannot capture") as refused:
            load_model(path, trust_code=True)
        assert "state_dict" in refused.value.hint
        return
    found = load_model(path, input_shape=(1, 8, 8), trust_code=True)
    assert same(found, network()) and found.input_shape == (1, 8, 8)
    assert capture(found.module, [X]).dynamic_batch
    if write is exported:
        assert load_model(path, trust_code=True).input_shape == (1, 8, 8)


@pytest.mark.parametrize("how", ["archive", "legacy", "state dict", "metadata", "bare"])
@pytest.mark.parametrize("arch", [None, "resnet20"])
def test_a_hostile_pickle_does_not_run(tmp_path: Path, how: str, arch: str | None) -> None:
    mark, path = tmp_path / "ran", tmp_path / "w.pt"
    bomb: Any = Bomb(mark)
    if how == "bare":
        path.write_bytes(pickle.dumps(bomb))
    else:
        within = {
            "state dict": {"w": torch.ones(1), "b": bomb},
            "metadata": {"format": "prune-model", "arch": bomb},
        }
        torch.save(within.get(how, bomb), path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(ModelFileError if how == "bare" else UntrustedCodeError) as caught:
        load_model(path, arch=arch)
    assert how == "bare" or "system" in str(caught.value)
    assert not mark.exists()


# What is broken


def text(path: Path) -> None:
    path.write_text("hello, I am a model\n" * 50)


def rezipped(path: Path, change: Callable[[zipfile.ZipFile], None], mode: Any = "a") -> None:
    save(path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, mode) as archive:
        warnings.simplefilter("ignore")
        change(archive)


def flipped(path: Path) -> None:
    save(path)
    blob = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        stored = max((archive.read(m) for m in archive.namelist()), key=len)
    blob[blob.index(stored) + 100] ^= 0x40
    path.write_bytes(blob)


def truncated_legacy(path: Path) -> None:
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=False)
    os.truncate(path, 9000)


def encrypted(path: Path) -> None:
    save(path)
    blob = bytearray(path.read_bytes())
    blob[blob.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(blob)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * 50_000_000)


def tar(path: Path) -> None:
    text(path.with_suffix(".txt"))
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_suffix(".txt"), "storages")


def truncated(path: Path, suffix: str = ".pt") -> None:
    whole = path.with_name(f"whole{suffix}")
    save(whole)
    path.write_bytes(whole.read_bytes()[:-3000])


def header(path: Path, text: str) -> None:
    safetensors.torch.save_file({"w": torch.ones(2)}, path, {"prune": text})


def metadata(path: Path, **changes: Any) -> None:
    facts = {"format": "prune-model", "version": 1, "arch": "resnet20", "arch_args": ARGS}
    rest = {"input_shape": [1, 8, 8], "data": None, "metrics": {}, "state_dict": network().state_dict()}
    torch.save(facts | rest | changes, path)


def weights(path: Path, **changes: Tensor) -> None:
    torch.save(network().state_dict() | {k.replace("__", "."): v for k, v in changes.items()}, path)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: None, "no such file"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "empty": (lambda p: p.touch(), "is empty"),
    "text": (text, "not a model file: it is text"),
    "page": (lambda p: p.write_text("\n<!DOCTYPE html><html>404</html>"), "but a web page"),
    "git lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid"), "Git-LFS"),
    "random": (lambda p: p.write_bytes(random.Random(1).randbytes(5000)), "not a model file"),
    "tar": (tar, "tar archive"),
    "bare pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "bare pickle"),
    "truncated zip": (truncated, "broken or truncated zip"),
    "truncated safetensors": (lambda p: truncated(p, ".safetensors"), "broken or truncated safetensors"),
    "truncated legacy": (truncated_legacy, "cannot be read by torch.load"),
    "flipped bit": (flipped, "fails its checksum"),
    "other zip": (lambda p: zipfile.ZipFile(p, "w").writestr("a/b.txt", "x"), "no data.pkl"),
    "bomb": (bomb, "claims to hold"),
    "two of a name": (lambda p: rezipped(p, lambda z: z.writestr(z.namelist()[0], "x")), "two members named"),
    "outside": (lambda p: rezipped(p, lambda z: z.writestr("../evil", "x")), "points outside"),
    "encrypted": (encrypted, "is encrypted"),
    "claims": (lambda p: weights(p, linear__bias=torch.ones(1).expand(1 << 30)), "claims 1,073,741,824"),
    "no data": (lambda p: weights(p, linear__bias=torch.empty(7, device="meta")), "without data"),
    "sparse": (lambda p: weights(p, linear__bias=torch.ones(7).to_sparse()), "sparse"),
    "nan": (lambda p: weights(p, linear__bias=torch.full((7,), torch.nan)), "'linear.bias' has NaN"),
    "inf": (lambda p: weights(p, bn1__running_var=torch.full((4,), torch.inf)), "'bn1.running_var' has"),
    "nothing": (lambda p: torch.save({}, p), "holds nothing"),
    "no weights": (lambda p: torch.save([1, 2], p), "holds a list"),
    "checkpoint of what": (lambda p: torch.save({"weights": {}, "epoch": 1}, p), "'weights' is a dict"),
    "not JSON": (lambda p: header(p, "{"), "not JSON"),
    "not ours": (lambda p: header(p, json.dumps([1])), "not of the format"),
    "no safetensors": (lambda p: p.write_bytes(struct.pack("<Q", 9) + b"{" + b" " * 99), "broken or trunc"),
    "newer": (lambda p: metadata(p, version=2), "version 2"),
    "version": (lambda p: metadata(p, version=torch.ones(2)), "version is not"),
    "arch": (lambda p: metadata(p, arch=3), "arch is not a text"),
    "args": (lambda p: metadata(p, arch_args={"width": torch.ones(1)}), "arch_args is not"),
    "shape": (lambda p: metadata(p, input_shape=[]), "input_shape is not"),
    "shape 0": (lambda p: metadata(p, input_shape=[1, 0, 8]), "input_shape is not"),
    "shape bool": (lambda p: metadata(p, input_shape=[True, 8, 8]), "input_shape is not"),
    "shape big": (lambda p: metadata(p, input_shape=[1, 8, 10**9]), "input_shape is not"),
    "data": (lambda p: metadata(p, data=3), "data is not"),
    "metrics": (lambda p: metadata(p, metrics=[1]), "metrics is not"),
    "no state": (lambda p: metadata(p, state_dict=None), "holds a NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_gets_one_clear_line(tmp_path: Path, case: str) -> None:
    make, message = BROKEN[case]
    path = tmp_path / "m.pt"
    make(path)
    needs_arch = case in ("nan", "inf")
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(
            path, arch="resnet20" if needs_arch else None, arch_args={"width": 4} if needs_arch else None
        )
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    save(tmp_path / "m.pt")
    (tmp_path / "m.pt").chmod(0)
    with pytest.raises(ModelFileError, match="Permission denied"):
        load_model(tmp_path / "m.pt")


def test_any_cut_or_changed_byte_is_an_error_of_ours_or_the_same_model(tmp_path: Path) -> None:
    """Whatever happens to a file, nothing but a PruneError comes out, and never other weights."""
    draw = random.Random(0)
    for suffix in (".pt", ".safetensors"):
        save(tmp_path / f"m{suffix}")
        blob = (tmp_path / f"m{suffix}").read_bytes()
        for _ in range(40):
            path, changed = tmp_path / "changed", bytearray(blob)
            changed[draw.randrange(len(blob) if suffix == ".pt" else 2000)] ^= 1 << draw.randrange(8)
            path.write_bytes(changed[: draw.choice([len(blob), draw.randrange(len(blob))])])
            try:
                found = load_model(path)
            except PruneError:
                continue
            assert suffix == ".safetensors" or same(found, network())  # the latter has no checksum


# What does not fit


def test_weights_alone_need_an_architecture(tmp_path: Path) -> None:
    weights(tmp_path / "w.pt")
    with pytest.raises(ArchitectureError, match="not the architecture") as caught:
        load_model(tmp_path / "w.pt")
    assert "--arch" in caught.value.hint and "resnet56" in caught.value.hint


@pytest.mark.parametrize(
    ("arch", "args", "message"),
    [
        ("resnet20", {"width": 8}, r"conv1.weight is \(4, 1, 3, 3\) in the file and \(8, 1, 3, 3\)"),
        ("resnet32", {"width": 4}, "missing .first: layer1.3.conv1.weight"),
        ("vgg11", {}, "do not fit vgg11: 50 missing"),
        ("vgg11", {"in_channels": 10**5}, "far more than the weights are for"),
        ("resnet20", {"width": 4, "num_classes": 100}, "linear.weight is .7, 16. in the file and .100, 16."),
        ("resnet20", {"depth": 9}, "no argument 'depth'"),
        ("resnet20", {"width": 10**18}, "cannot be built with|of another shape"),
        ("resnet21", {}, "unknown architecture 'resnet21'"),
        ("no_such_module:net", {}, "ModuleNotFoundError"),
        ("torch.nn:NoSuchClass", {}, "AttributeError"),
        ("torch.nn:Linear", {"width": 3}, "TypeError"),
        ("builtins:dict", {}, "returns a dict"),
        ("torch.nn:Flatten", {}, "unexpected"),
    ],
)
def test_an_architecture_that_does_not_fit_is_told(
    tmp_path: Path, arch: str, args: dict[str, Any], message: str
) -> None:
    weights(tmp_path / "w.pt")
    with pytest.raises(ArchitectureError, match=message) as caught:
        load_model(tmp_path / "w.pt", arch=arch, arch_args=args, input_shape=(1, 8, 8))
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_file_cannot_ask_for_more_memory_than_it_has(tmp_path: Path) -> None:
    metadata(tmp_path / "m.pt", arch_args={**ARGS, "width": 100_000})  # 6 GB of weights, were it built
    with pytest.raises(ArchitectureError, match="far more than the weights are for"):
        load_model(tmp_path / "m.pt")


def test_a_trusted_module_without_parameters_or_class_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(nn.Sequential(nn.ReLU()), tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="no parameters"):
        load_model(tmp_path / "m.pt", input_shape=(1, 8, 8), trust_code=True)
    pickled(tmp_path / "m.pt")
    monkeypatch.delattr("models_zoo.resnet_cifar.CifarResNet")
    with pytest.raises(ModelFileError, match="cannot be unpickled"):
        load_model(tmp_path / "m.pt", input_shape=(1, 8, 8), trust_code=True)


@pytest.mark.parametrize("shape", [(), (0, 8, 8), (1, 8, 8.0), (1, 8, 10**9)])
def test_an_input_shape_is_checked(tmp_path: Path, shape: Any) -> None:
    save(tmp_path / "m.pt")
    with pytest.raises(UsageError, match="a few positive whole numbers"):
        load_model(tmp_path / "m.pt", input_shape=shape)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("m.onnx", {}, "neither .pt nor .safetensors"),
        ("m.pt", {"metrics": {"a": torch.ones(1)}}, "metrics"),
        ("m.pt", {"input_shape": (0, 8)}, "input_shape"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        save(tmp_path / name, **changes)
    assert list(tmp_path.iterdir()) == []
