"""Capture: any module becomes a program that computes the same, or its user learns which line is to blame."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from graph.adapter import adapt
from graph.capture import capture
from graph.errors import CaptureError
from graph.program import INPUT, TENSOR, Program, ProgramModule

Forward = Callable[..., Any]


class Net(nn.Module):
    """A forward given as a function of the module and its inputs, with a few layers to use."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 6)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("table", torch.randn(4, 6))
        self.register_buffer("loose", torch.randn(4, 6), persistent=False)
        self.function = forward

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def operators(program: Program) -> list[str]:
    return [n.base for n in program.nodes if n.op not in (INPUT, TENSOR)]


def assert_same(program: Program, module: nn.Module, *inputs: Tensor) -> None:
    got = ProgramModule(program)(*[t.clone() for t in inputs])
    with torch.no_grad():
        wanted = module.eval()(*[t.clone() for t in inputs])
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


# --- changes in place, also of views --------------------------------------------------------------


def write_slice(m: Net, x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:3] += 1
    y[:, 0] = y[:, 5]
    return y


def write_below_a_view(m: Net, x: Tensor) -> Tensor:
    y = x * 2
    grid = y.view(x.shape[0], 2, 3)
    turned = grid.transpose(1, 2)
    turned[:, 0].mul_(3)
    return torch.cat([y, grid.flatten(1)], 1) + turned.sum()


def write_after_reading(m: Net, x: Tensor) -> Tensor:
    y = x + 1
    part = y[:, :2]
    before = part * 1
    y.mul_(2)
    return before + part


def write_a_part(m: Net, x: Tensor) -> Tensor:
    y = x * 2
    first, second = y.split([2, 4], 1)
    second.relu_()
    rows = y.unbind(1)
    rows[3].fill_(7.0)
    y.chunk(3, 1)[0].zero_()
    return y + first.sum(1, keepdim=True)


def write_with_a_mask(m: Net, x: Tensor) -> Tensor:
    y = x * 2
    y[y > 0] = 0.5
    y[:, 2:].masked_fill_(x[:, 2:] < 0, -1.0)
    return y


def write_another_type(m: Net, x: Tensor) -> Tensor:
    counts = torch.zeros(x.shape[0], 6, dtype=torch.float64)
    counts.add_(x)
    counts[:, :3].copy_(x[:, :1])
    return counts.to(torch.float32)


def write_a_diagonal(m: Net, x: Tensor) -> Tensor:
    y = x.unsqueeze(1) * m.table.sum() + torch.zeros(6, 6)
    y.diagonal(dim1=1, dim2=2).copy_(x)
    y.narrow(1, 2, 2).neg_()
    return y.permute(2, 0, 1).mul_(2).sum(0) + y[:, 0]


def write_a_broadcast(m: Net, x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], 6)
    y[:, 2:4] = x[:, 1:2]
    y[:, 5] = m.table[0, 0]
    return y


def write_the_input(m: Net, x: Tensor) -> Tensor:
    x.add_(1)
    return x * 2


def change_only_the_shape(m: Net, x: Tensor) -> Tensor:
    y = x * 2
    y.unsqueeze_(1)
    y += 1
    return y.squeeze_(1).detach_()


def work_on_a_clone(m: Net, x: Tensor) -> Tensor:
    y = m.table.clone()
    y[0] = 1
    return x @ y.t() + m.table.sum()


def update_a_result_of_several(m: Net, x: Tensor) -> Tensor:
    values, _ = x.topk(3, 1)
    values /= values.sum(1, keepdim=True)
    return values


IN_PLACE = [
    write_slice,
    write_below_a_view,
    write_after_reading,
    write_a_part,
    write_with_a_mask,
    write_another_type,
    write_a_diagonal,
    write_a_broadcast,
    write_the_input,
    change_only_the_shape,
    work_on_a_clone,
    update_a_result_of_several,
]


@pytest.mark.parametrize("forward", IN_PLACE, ids=lambda f: f.__name__)
def test_changes_in_place_become_values(forward: Forward) -> None:
    module = Net(forward)
    program = capture(module, [torch.randn(2, 6)])
    assert program.dynamic_batch and not program.notes
    assert not any(name.endswith("_") and not name.startswith("__") for name in operators(program))
    for batch in (1, 2, 5):
        assert_same(program, module, torch.randn(batch, 6))


def test_dropout_survives_a_change_of_a_slice() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.drop(m.linear(x))
        y[:, :2] = 1
        return y

    module = ProgramModule(capture(Net(forward), [torch.ones(2, 6)])).train()
    assert not torch.equal(module(torch.ones(2, 6)), module(torch.ones(2, 6)))


def test_a_changed_buffer_is_noted() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        m.table += 1
        return x @ m.table.t()

    module = Net(forward)
    before = module.table.clone()
    program = capture(module, [torch.randn(2, 6)])
    assert "'table'" in program.notes[0]
    assert torch.equal(module.table, before) and torch.equal(program.tensors["table"], before)
    assert_same(program, module, torch.randn(3, 6))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own call in run_decompositions
def test_what_cannot_be_followed_is_left_to_the_exporter() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = x * 2
        torch.as_strided(y, (3,), (1,)).mul_(2)
        return y

    program = capture(Net(forward), [torch.randn(2, 6)])
    assert any("as_strided" in note for note in program.notes)
    assert_same(program, Net(forward), torch.randn(2, 6))


# --- wrappers -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
def test_wrappers_are_written_out() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = m.linear(x)
        with torch.autocast("cpu", enabled=False):
            x = m.linear(x)
        with torch.autocast("cuda", dtype=torch.float16):  # without effect here
            x = m.linear(x)
        return torch.utils.checkpoint.checkpoint(m.linear, x, use_reentrant=False)

    module = Net(forward)
    program = capture(module, [torch.randn(2, 6)])
    assert operators(program) == ["linear"] * 4
    assert_same(program, module, torch.randn(4, 6))


# --- constants ------------------------------------------------------------------------------------


def attend(m: Net, x: Tensor) -> Tensor:
    length = x.shape[1]
    position = torch.arange(length)
    mask = torch.full((length, length), float("-inf")).triu(1)
    angle = position[:, None] * (1.0 / 100 ** (torch.arange(0, 6, 2) / 6))
    x = m.linear(x + torch.cat([angle, angle], 1).sin())
    return (x @ x.transpose(1, 2) + mask).softmax(-1) @ x


def test_index_tables_and_masks_are_constants() -> None:
    module = Net(attend)
    program = capture(module, [torch.randn(2, 5, 6)])
    assert set(operators(program)) == {"add", "linear", "transpose", "matmul", "softmax"}
    found = {k: t.shape for k, t in program.tensors.items() if k.startswith("constant.")}
    assert sorted(found.values()) == [(5, 5), (5, 6)]
    assert not program.trainable & set(found)
    for batch in (1, 3):
        assert_same(program, module, torch.randn(batch, 5, 6))


def fill(m: Net, x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros(6, 6).expand(6, 6)]) if x.shape[1] > 6 else x + torch.ones(6)


def noise(m: Net, x: Tensor) -> Tensor:
    return x + torch.rand(6) * 0


def statistics(m: Net, x: Tensor) -> Tensor:
    return m.bn(m.conv(x)) + m.bn.running_var.sqrt().sum()


def frozen(m: Net, x: Tensor) -> Tensor:
    return x * (m.table[0] + 1e-5).abs().rsqrt()


def loose(m: Net, x: Tensor) -> Tensor:
    return x * (m.loose[0] + 1e-5).abs().rsqrt()


def weights(m: Net, x: Tensor) -> Tensor:
    return F.linear(x, m.linear.weight * 2)


def large(m: Net, x: Tensor) -> Tensor:
    return x + torch.arange(5_000_000).sum() % 7


def several(m: Net, x: Tensor) -> Tensor:
    first, second = torch.arange(12.0).view(2, 6).unbind(0)
    return x * first + second * first.sum().item()


@pytest.mark.parametrize(
    ("forward", "shape", "constants", "kept"),
    [
        (fill, (2, 6), 0, {"ones"}),
        (noise, (2, 6), 0, {"rand"}),
        (statistics, (2, 3, 4, 4), 0, {"sqrt"}),
        (frozen, (2, 6), 0, {"rsqrt"}),  # stands in the checkpoint: sliced as the layer that it belongs to
        (loose, (2, 6), 1, {"mul"}),
        (weights, (2, 6), 0, {"mul"}),
        (large, (2, 6), 0, {"arange"}),
        (several, (2, 6), 2, {"mul", "add"}),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_what_is_folded(forward: Forward, shape: tuple[int, ...], constants: int, kept: set[str]) -> None:
    module = Net(forward)
    program = capture(module, [torch.randn(shape)])
    assert sum(k.startswith("constant.") for k in program.tensors) == constants
    assert kept <= set(operators(program))
    assert {"linear.weight", "bn.running_mean", "table"} <= set(program.tensors)  # the user's checkpoint
    if forward is not noise:
        assert_same(program, module, torch.randn(3, *shape[1:]))


def test_a_constant_may_be_called_like_a_method() -> None:
    program = capture(Net(lambda m, x: x + torch.arange(6).to(torch.float32).float()), [torch.randn(2, 6)])
    assert_same(program, Net(lambda m, x: x + torch.arange(6).to(torch.float32).float()), torch.randn(2, 6))


# --- the batch and the inputs ---------------------------------------------------------------------


def test_a_batch_of_one_is_free_too() -> None:
    program = capture(nn.Linear(4, 3), [torch.randn(1, 4)])
    assert program.dynamic_batch and program.inputs[0].shape == (1, 4)


def test_sizes_that_are_computed_from_the_batch() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        half = x.view(x.shape[0] * 2, 3)[: x.shape[0] * 3 // 2]
        return half.sum(1) / x.shape[0] + x.shape[0] ** 2 + len(x.shape)

    module = Net(forward)
    program = capture(module, [torch.randn(4, 6)])
    assert program.dynamic_batch
    for batch in (2, 4, 7):
        assert_same(program, module, torch.randn(batch, 6))


def test_integers_keep_to_the_range_of_the_example() -> None:
    program = capture(nn.Embedding(50, 3), [torch.tensor([[3, 9], [4, 8]])])
    assert (program.inputs[0].low, program.inputs[0].high) == (3, 10)


def test_modes_are_restored_one_by_one() -> None:
    module = Net(lambda m, x: m.drop(m.linear(x))).train()
    module.drop.eval()
    capture(module, [torch.randn(2, 6)])
    assert module.training and not module.drop.training


def test_outputs_that_are_no_tensors_are_left_out() -> None:
    def forward(m: Net, x: Tensor) -> dict[str, Any]:
        return {"loss": None, "logits": m.linear(x), "states": (x * 2, 3)}

    assert len(capture(Net(forward), [torch.randn(2, 6)]).outputs) == 2


# --- the adapter ----------------------------------------------------------------------------------


@dataclass
class Output:
    loss: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()
    logits: Tensor | None = None


class Config:
    use_cache = True


class Library(nn.Module):
    """Keyword inputs, a configuration with a cache, an output that is an object."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9)

    def forward(self, unused: Any = None, ids: Tensor | None = None, weight: Tensor | None = None) -> Output:
        assert not self.config.use_cache and ids is not None
        hidden = self.embed(ids) if weight is None else self.embed(ids) * weight
        return Output(hidden=(hidden,), logits=self.head(hidden))


def test_the_adapter_maps_names_and_picks_the_prediction() -> None:
    model = Library()
    ids, weight = torch.randint(0, 9, (2, 5)), torch.randn(2, 5, 1)
    module = adapt(model, ["ids", "weight"])
    program = capture(module, [ids, weight])
    assert [s.name for s in program.inputs] == ["ids", "weight"]
    assert set(program.tensors) == set(model.state_dict())
    assert {n.module for n in program.nodes} == {"", "embed", "head"}
    assert model.config.use_cache
    assert_same(program, module, ids, weight)


def test_the_adapter_refuses_unknown_names() -> None:
    with pytest.raises(CaptureError, match="takes no input 'pixels'") as refused:
        adapt(Library(), ["pixels"])
    assert "ids" in refused.value.hint


@pytest.mark.parametrize(
    ("result", "picked"),
    [
        (lambda x: x, 1),
        (lambda x: (None, [x.long(), x])[1], 1),
        (lambda x: {"logits": x, "pred_boxes": x, "last_hidden_state": x}, 2),
        (lambda x: {"past": (x,), "last_hidden_state": x}, 1),
    ],
)
def test_the_adapter_returns_tensors(result: Callable[[Tensor], Any], picked: int) -> None:
    found = adapt(Net(lambda m, x: result(x)))(torch.ones(2, 6))
    tensors = [found] if isinstance(found, Tensor) else list(found)
    assert len(tensors) == picked and all(t.is_floating_point() for t in tensors)


# --- failures -------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        if x.sum() > 0:  # <- here
            return x
        return -x


class Item(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        count = x.abs().sum().item()
        if count > 3:  # <- here
            return x
        return -x


class Times(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x for _ in range(int(x.abs().sum()))])  # <- here


class Chosen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        chosen = x[x > 0]
        return sum(value * 2 for value in chosen)  # <- here


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2)  # <- here


class Sparse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to_sparse()  # <- here


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.prune_tests.untraceable(x + 1)  # <- here


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.prune_tests.traceable(x + 1) * 2  # <- here


class Cond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: t + 1, lambda t: t - 1, (x,))  # <- here


class Thing:
    pass


class Returns(nn.Module):
    def forward(self, x: Tensor) -> Any:  # <- here
        return Thing()


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.inner = Branch()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.linear(x))


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # <- here


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x)  # <- here


class Floats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # <- here


class Two(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # <- here
        return x * mask


def place(kind: type[nn.Module]) -> tuple[int, str]:
    lines, first = inspect.getsourcelines(kind)
    (offset,) = [i for i, line in enumerate(lines) if "# <- here" in line]
    return first + offset, lines[offset].strip()


@pytest.fixture
def custom_operators() -> Any:
    library = torch.library.Library("prune_tests", "DEF")
    library.define("untraceable(Tensor x) -> Tensor")
    library.define("traceable(Tensor x) -> Tensor")
    library.impl("untraceable", lambda x: x * 2, "CPU")
    library.impl("traceable", lambda x: x * 2, "CPU")
    torch.library.register_fake("prune_tests::traceable", lambda x: torch.empty_like(x), lib=library)
    yield
    library._destroy()


@pytest.mark.parametrize(
    ("kind", "at", "reason", "hint"),
    [
        (Branch, Branch, "a branch depends on the values", "torch.where"),
        (Item, Item, "a branch depends on the values", "torch.where"),
        (Times, Times, "a Python number is taken out", "zero dimensions"),
        (Chosen, Chosen, "the number of elements depends", "multiply by the mask"),
        (Numpy, Numpy, "numpy", "torch instead of numpy"),
        (Sparse, Sparse, "sparse", "dense"),
        (Unknown, Unknown, "prune_tests.untraceable.default cannot be traced", "pure PyTorch path"),
        (Custom, Custom, "custom operator prune_tests::traceable", "pure PyTorch path"),
        (Cond, Cond, "higher_order.cond", "choose with torch.where"),
        (Returns, Returns, "something other than tensors", "returns the tensor of interest"),
        (Nested, Branch, "Nested cannot be captured: a branch", "torch.where"),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else None,
)
@pytest.mark.usefixtures("custom_operators")
def test_a_failure_names_the_line(kind: type[nn.Module], at: type, reason: str, hint: str) -> None:
    line, text = place(at)
    with pytest.raises(CaptureError) as failure:
        capture(kind(), [torch.randn(2, 6)])
    message = str(failure.value)
    assert f"test_capture.py:{line}: {text}" in message
    assert reason in message
    assert hint in failure.value.hint


@pytest.mark.parametrize(
    ("kind", "example", "reason", "hint"),
    [
        (
            Wide,
            torch.randn(2, 6),
            "(2, 6) float32: mat1 and mat2 shapes cannot be multiplied",
            "--input-shape",
        ),
        (Tokens, torch.randn(2, 6), "indices", "token ids and indices are integers"),
        (Floats, torch.ones(2, 6, dtype=torch.long), "int64", "images and audio are float32"),
        (Two, torch.randn(2, 6), "missing 1 required positional argument: 'mask'", "forward(x, mask)"),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else None,
)
def test_inputs_that_do_not_fit(kind: type[nn.Module], example: Tensor, reason: str, hint: str) -> None:
    line, text = place(kind)
    with pytest.raises(CaptureError) as failure:
        capture(kind(), [example])
    message = str(failure.value)
    assert f"test_capture.py:{line}: {text}" in message
    assert reason in message
    assert hint in failure.value.hint


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_torchscript_is_refused() -> None:
    with pytest.raises(CaptureError, match="TorchScript"):
        capture(torch.jit.script(nn.Linear(2, 2)), [torch.randn(2, 2)])


def test_no_tensor_at_all() -> None:
    with pytest.raises(CaptureError, match="returns no tensor"):
        capture(Net(lambda m, x: 3), [torch.randn(2, 6)])


class Mover(nn.Module):
    """Casts a layer in forward, as the routers of Switch Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 6)."""
        self.layer = self.layer.to(torch.float32)
        y: Tensor = self.layer(x)
        return y


def test_a_module_that_is_moved_to_where_it_is() -> None:
    module, before = Mover(), nn.Module.to
    x = torch.randn(2, 6)
    assert_same(capture(module, [x]), module, x)
    assert nn.Module.to is before


# --- architectures of transformers ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "qwen3-moe", "swin", "mamba", "t5", "clip"])
def test_architectures_of_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    from benchmarks import architectures

    module, example = architectures.build(name)
    program = capture(module, example)
    assert program.dynamic_batch and not program.notes
    assert set(program.trainable) <= {n.removeprefix("module.") for n, _ in module.named_parameters()}
    assert not {"tril", "triu", "meshgrid", "index_put"} & set(operators(program))
    larger = [torch.cat([t, t[:1]]) for t in example]
    with torch.no_grad():
        torch.testing.assert_close(ProgramModule(program)(*larger), module(*larger))


def test_a_library_model_is_blamed_by_its_own_file() -> None:
    pytest.importorskip("transformers")
    from benchmarks import architectures

    with pytest.raises(CaptureError, match=r"modeling_longformer\.py:\d+: if is_global_attn"):
        capture(*architectures.build("longformer"))
