"""Export: the written files compute what the model computes, and files from elsewhere cannot reach out."""

from __future__ import annotations

import os
import resource
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from graph.capture import capture
from graph.errors import ExportError, OutputError
from graph.program import ProgramModule
from models_zoo import registry
from prune import export
from prune.export import OnnxCheck, check_onnx, export_onnx, export_pt2
from prune.onnx_model import OnnxModel, run_onnx
from prune.tensor_files import save_weights


class Net(nn.Module):
    """Batch norm and dropout, both of which compute something else in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu()).mean((2, 3)))


EXAMPLE = torch.zeros(2, 3, 8, 8)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def resnet() -> ProgramModule:
    torch.manual_seed(0)
    model = registry.build("resnet20", width=4)
    return ProgramModule(capture(model, [torch.zeros(2, 3, 32, 32)]))


@pytest.fixture(scope="module")
def exported(resnet: ProgramModule, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnnxCheck]:
    path = tmp_path_factory.mktemp("onnx") / "resnet.onnx"
    return path, export_onnx(resnet, torch.zeros(2, 3, 32, 32), path)


@pytest.fixture
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ONNX out


def test_a_program_exports(exported: tuple[Path, OnnxCheck], resnet: ProgramModule) -> None:
    path, check = exported
    assert list(path.parent.iterdir()) == [path]
    assert check.comparisons == 15 and 0 <= check.max_error <= 1e-4
    assert check.size_bytes == path.stat().st_size
    model = onnx.load(path)
    assert check.opset == model.opset_import[0].version
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("input", "output")
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
    x = torch.randn(7, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(OnnxModel(path)(x), resnet(x), atol=1e-4, rtol=1e-4)


def test_batch_norm_is_folded_away(exported: tuple[Path, OnnxCheck]) -> None:
    ops = [node.op_type for node in onnx.load(exported[0]).graph.node]
    assert ops.count("Conv") == 19 and "BatchNormalization" not in ops


def test_no_path_of_this_machine_is_in_a_file(
    exported: tuple[Path, OnnxCheck], net: Net, tmp_path: Path
) -> None:
    export_pt2(net, EXAMPLE, tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        parts = [archive.read(name) for name in archive.namelist()]
    for content in (exported[0].read_bytes(), *parts):
        assert b".py" not in content and os.getcwd().encode() not in content


def test_export_is_silent_and_leaves_nothing_about(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    export_onnx(net, EXAMPLE, tmp_path / "out" / "m.onnx")
    export_pt2(net, EXAMPLE, tmp_path / "out" / "m.pt2")
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "work").iterdir()) == []
    assert sorted(os.listdir(tmp_path / "out")) == ["m.onnx", "m.pt2"]


def test_a_training_module_exports_in_eval_mode_and_stays_as_it_was(net: Net, tmp_path: Path) -> None:
    net.train()
    net.norm.eval()  # frozen, as in fine-tuning
    check = export_onnx(net, EXAMPLE, tmp_path / "m.onnx")
    assert check.max_error <= 1e-4
    assert net.training and net.drop.training and not net.norm.training
    assert net.conv.weight.requires_grad


def test_an_example_of_one_record_still_gives_a_free_batch(net: Net, tmp_path: Path) -> None:
    export_onnx(net, EXAMPLE[:1], tmp_path / "m.onnx")
    assert OnnxModel(tmp_path / "m.onnx").batch is None


def test_a_fixed_batch(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert export_onnx(net, EXAMPLE, path, dynamic_batch=False).comparisons == 5
    model = OnnxModel(path, threads=1)
    assert model.batch == 2
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net.eval()(x), atol=1e-4, rtol=1e-4)
    with pytest.raises(ExportError, match="fixed to batches of 2"):
        check_onnx(path, net, EXAMPLE)


def test_a_program_with_a_fixed_batch_keeps_it_and_takes_another_opset(net: Net, tmp_path: Path) -> None:
    program = replace(capture(net, [EXAMPLE]), dynamic_batch=False)
    assert export_onnx(ProgramModule(program), EXAMPLE, tmp_path / "m.onnx", opset=21).opset == 21
    assert OnnxModel(tmp_path / "m.onnx").batch == 2


def test_several_outputs_and_integer_inputs(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.table(x)
            return y.mean(1), y.sum(1)

    tokens = Tokens()
    export_onnx(tokens, torch.tensor([[0, 9, 3], [1, 2, 4]]), tmp_path / "m.onnx")
    assert [o.name for o in onnx.load(tmp_path / "m.onnx").graph.output] == ["output_0", "output_1"]


def test_attention_exports_whatever_strides_its_kernel_has(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)
            self.bias = nn.Parameter(torch.randn(1, 2, 6, 6))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (t.view(-1, 6, 2, 8).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=self.bias.expand(len(x), 2, 6, 6)
            )
            return y.transpose(1, 2).contiguous().view(x.shape[0], 6, -1)

    module = ProgramModule(capture(Attention().eval(), [torch.randn(2, 6, 16)]))
    assert export_onnx(module, torch.randn(2, 6, 16), tmp_path / "m.onnx").max_error <= 1e-4
    ops = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert "Identity" not in ops  # copies that the exporter needed, but no runtime does


def test_other_weights_than_the_files_are_found(
    exported: tuple[Path, OnnxCheck], resnet: ProgramModule
) -> None:
    path, check = exported
    example = torch.zeros(2, 3, 32, 32)
    assert check_onnx(path, resnet, example) == check
    program = resnet.program
    name = next(n for n in program.tensors if n.endswith("conv1.weight"))
    other = replace(program, tensors={**program.tensors, name: program.tensors[name] * 1.01})
    with pytest.raises(ExportError, match="differs from the model by .* more than 0.0001"):
        check_onnx(path, ProgramModule(other), example)


def test_an_exporter_that_goes_wrong_leaves_no_file(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.onnx.export

    def another(program: object, **options: Any) -> object:
        sizes = ({0: torch.export.Dim("batch")},)
        return real(torch.export.export(Net().eval(), (EXAMPLE,), dynamic_shapes=sizes), **options)

    (tmp_path / "m.onnx").write_text("old")
    monkeypatch.setattr(torch.onnx, "export", another)
    with pytest.raises(ExportError, match="differs from the model"):
        export_onnx(net, EXAMPLE, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_text() == "old" and len(os.listdir(tmp_path)) == 1


def test_another_opset_than_asked_for_is_an_error(net: Net, tmp_path: Path) -> None:
    padded = nn.Sequential(nn.ZeroPad2d(1), net)  # the exporter has no Pad older than 18
    with pytest.raises(ExportError, match="opset 17 was asked for, the exporter wrote 18"):
        export_onnx(padded, EXAMPLE, tmp_path / "m.onnx", opset=17)
    assert os.listdir(tmp_path) == []


def test_large_weights_go_beside_the_file(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_ONE_FILE_BYTES", 0)
    net.head = nn.Linear(4, 2000)
    check = export_onnx(net, EXAMPLE, tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert check.size_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    assert run_onnx(tmp_path / "m.onnx", EXAMPLE).shape == (2, 2000)


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    class NoForm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x).abs()

    for module in (Branch(), NoForm()):
        with pytest.raises(ExportError) as caught:
            export_onnx(module, torch.zeros(2, 3, 3), tmp_path / "m.onnx")
        assert "\n" not in str(caught.value) and caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_full_disk(net: Net, tmp_path: Path, full_disk: None) -> None:
    program = capture(net, [EXAMPLE])
    for write in (
        lambda path: export_onnx(net, EXAMPLE, path),
        lambda path: export_pt2(net, EXAMPLE, path),
        lambda path: save_weights(program, path, {"note": "x" * 2000}),
    ):
        with pytest.raises(OutputError, match="m.bin cannot be written"):
            write(tmp_path / "m.bin")
    assert os.listdir(tmp_path) == []


def test_pt2(resnet: ProgramModule, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    export_pt2(resnet, torch.zeros(2, 3, 32, 32), path)
    assert os.listdir(tmp_path) == ["m.pt2"]
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(path).module()(x), resnet(x))


def test_a_pt2_that_differs_leaves_no_file(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.export.load

    def wrong(path: Path) -> torch.export.ExportedProgram:
        program = real(path)
        with torch.no_grad():
            program.state_dict["head.bias"].add_(1e-4)
        return program

    monkeypatch.setattr(torch.export, "load", wrong)
    with pytest.raises(ExportError, match="differs from the model"):
        export_pt2(net, EXAMPLE, tmp_path / "m.pt2")
    assert os.listdir(tmp_path) == []
