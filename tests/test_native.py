"""The user's own module runs with the pruned weights, or the reason says which submodule does not."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prune
from benchmarks.awkward.case import scramble
from graph.adapter import adapt
from graph.axes import infer
from graph.capture import capture
from graph.errors import ArchitectureError
from graph.program import Program, ProgramModule
from models_zoo import registry
from prune.attributes import Change, copied, set_attributes
from prune.files import write_json
from prune.importance import magnitude
from prune.native import NativeResult, native_module
from prune.plan import make_plan
from prune.pruned import GRAPH_FILE, WEIGHTS_FILE
from prune.spy import spied
from prune.surgery import prune_program
from prune.tensor_files import save_weights
from prune.verify import LIMIT, difference, run_program
from prune.widths import WidthSpace

Example = tuple[Tensor, ...]


def halved(
    module: nn.Module, example: Example, *, lanes: bool = True, ratio: float = 0.5
) -> tuple[Program, Program]:
    """The program of a module and one in which every group keeps the same share of its channels."""
    program = capture(module, list(example))
    axes = infer(program)
    space = WidthSpace(axes)
    # Each layer may keep other lanes, but rotary models have one table for all of them.
    kinds = [{axes.groups[g].kind for g in b.groups} for b in axes.bundles]
    ratios = [1.0 if "lane" in k and not lanes else ratio for k in kinds]
    plan = make_plan(space, space.levels(ratios), magnitude(axes), "even")
    assert plan.ratio < 1
    return program, prune_program(axes, plan)


def state_of(module: nn.Module) -> Any:
    """All that a module is: classes, modes, attributes, hooks and tensors."""
    return [
        (
            name,
            type(part),
            part.training,
            {k: v for k, v in vars(part).items() if isinstance(v, (int, float, str, tuple))},
            [len(h) for k, h in vars(part).items() if k.endswith("_hooks")],
            [vars(v).copy() for v in vars(part).values() if isinstance(v, SimpleNamespace)],
        )
        for name, part in module.named_modules()
    ]


def native(module: nn.Module, example: Example, *, lanes: bool = True) -> tuple[NativeResult, Program]:
    """The result for a half; the module itself must be as it was."""
    weights, state = copy.deepcopy(module.state_dict()), state_of(module)
    program, pruned = halved(module, example, lanes=lanes)
    result = native_module(module, program, pruned)
    assert state_of(module) == state
    after = module.state_dict()
    assert all(torch.equal(t, after[k]) for k, t in weights.items())
    return result, pruned


def own(module: nn.Module, example: Example, *, lanes: bool = True, limit: float = LIMIT) -> NativeResult:
    """The result, which must be the pruned program in float64, and train."""
    result, pruned = native(module, example, lanes=lanes)
    made = result.module
    assert made is not None, result.reason
    assert type(made) is type(getattr(module, "module", module))
    inputs = pruned.random_inputs(4, seed=1, dtype=torch.float64)
    runs = adapt(copied(made, double=True), getattr(module, "names", None))
    with torch.no_grad():
        assert difference(run_program(pruned, inputs)[0], runs.eval()(*inputs)) <= limit
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in module.parameters())
    trains(made, getattr(module, "names", None), pruned)
    return result


def trains(made: nn.Module, names: Any, pruned: Program) -> None:
    """Gradients reach every parameter that was pruned; batch norm learns in train mode alone."""
    runs = adapt(copied(made), names)
    norms = [m for m in runs.modules() if isinstance(m, nn.BatchNorm2d)]
    inputs = pruned.random_inputs(3)
    for mode in (False, True):
        means = [n.running_mean.clone() for n in norms if n.running_mean is not None]
        torch.autograd.backward(runs.train(mode)(*inputs).square().mean())
        assert all(torch.equal(m, n.running_mean) != mode for m, n in zip(means, norms, strict=True))
    reached = {n.removeprefix("module.") for n, p in runs.named_parameters() if p.grad is not None}
    used = {str(n.args[0]) for n in pruned.nodes if n.op == "tensor"} & set(pruned.trainable)
    assert used <= reached | {n for n, _ in made.named_parameters(remove_duplicate=False)}
    assert len(reached) >= len(used) - 1  # tied ones count twice


def changes(result: NativeResult) -> dict[str, tuple[Any, Any]]:
    return {c.name: (c.old, c.new) for c in result.changes}


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        pytest.param("shufflenet_v2", marks=pytest.mark.slow),
    ],
)
def test_networks_of_the_zoo_run_natively(name: str) -> None:
    torch.manual_seed(0)
    module = registry.build(name).eval()
    scramble(module)
    result = own(module, (torch.randn(2, *registry.find(name).input_shape),))
    made = result.module
    assert made is not None
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.num_features == len(layer.running_mean)
    if name == "resnet20":
        old, new = changes(result)["layer2.0.padded"]
        assert old == (8, 8) and sum(new) == 8


class Heads(nn.Module):
    """Attention whose sizes are attributes, or written into its forward."""

    def __init__(self, *, hard_coded: bool = False, width: int = 24) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * 64), nn.Linear(64, width)
        self.heads, self.head_dim = 4, 16
        self.scale = self.head_dim**-0.5
        self.layer_idx = 4
        self.hard_coded = hard_coded

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        queries, keys, values = self.qkv(x).chunk(3, -1)

        def split(t: Tensor) -> Tensor:
            if self.hard_coded:
                return t.view(batch, length, 4, 16).transpose(1, 2)
            return t.view(batch, length, self.heads, self.head_dim).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(queries), split(keys), split(values), scale=self.scale
        )
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """A residual block around attention."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner, self.attention, self.head = nn.Linear(12, 24), Heads(**options), nn.Linear(24, 3)
        scramble(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        result: Tensor = self.head(x + self.attention(x))
        return result


TOKENS = (torch.randn(2, 5, 12),)


def test_sizes_that_are_attributes_follow() -> None:
    result = own(Block().eval(), TOKENS)
    found = changes(result)
    # The heads of this block keep their number or their lanes, as the plan says; what is no size stays.
    heads, lanes = (found.get(f"attention.{n}", (o, o))[1] for n, o in (("heads", 4), ("head_dim", 16)))
    assert result.module is not None
    assert heads * lanes == result.module.get_submodule("attention.out").in_features < 64  # type: ignore[operator]
    assert not {"attention.layer_idx", "attention.hard_coded", "attention.scale"} & set(found)


def test_sizes_in_the_code_are_refused_with_the_submodule() -> None:
    result, _ = native(Block(hard_coded=True).eval(), TOKENS)
    assert result.module is None
    assert result.reason.startswith("Heads.forward at attention fails: shape '[3, 5, 4, 16]' is invalid")


class Logarithm(nn.Module):
    """Of inputs that are positive; what looks like a size is none."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.a, self.b = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.a(x.log()) * (1 / self.width))
        return result


def test_inputs_that_make_no_numbers_prove_nothing() -> None:
    module, x = Logarithm().eval(), torch.rand(2, 12)
    program, pruned = halved(module, (x,))
    result = native_module(module, program, pruned)
    assert result.module is not None, result.reason
    torch.testing.assert_close(result.module(x), ProgramModule(pruned)(x))
    with torch.no_grad():
        module.b.bias.fill_(torch.nan)
    assert native_module(module, *halved(module, (x,))).module is None


class Configured(nn.Module):
    """A layer that reads its size from a configuration which others hold too."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(12, config.width), nn.Linear(config.width, 12)

    @property
    def width(self) -> int:
        """As the configuration has it."""
        return int(self.config.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        x = F.gelu(self.up(x)).reshape(-1, self.width)  # (B, T, W) -> (B * T, W)
        result: Tensor = self.down(x).reshape(batch, length, -1)  # (B * T, C) -> (B, T, C)
        return result


@dataclass(frozen=True)
class Config:
    width: int = 32


@pytest.mark.parametrize("config", [SimpleNamespace(width=32), Config()])
def test_modules_that_share_a_configuration_get_their_own(config: Any) -> None:
    module = nn.Sequential(Configured(config), Configured(config), nn.Linear(12, 3)).eval()
    program = capture(module, list(TOKENS))
    axes = infer(program)
    space = WidthSpace(axes)
    ratios = [0.25 if "0.up" in axes.groups[b.groups[0]].name else 0.5 for b in axes.bundles]
    pruned = prune_program(axes, make_plan(space, space.levels(ratios), magnitude(axes), "uneven"))
    result = native_module(module, program, pruned)
    made: Any = result.module
    assert made is not None, result.reason
    widths = (made[0].config.width, made[1].config.width)
    assert widths == (made[0].up.out_features, made[1].up.out_features) == (8, 16)
    assert config.width == 32 and module[0].config is config and module[1].config is config


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.layer, self.head = (
            nn.Linear(12, 16),
            kind(16, 16, batch_first=True),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(self.embed(x))[0])
        return result


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrences(kind: type[nn.RNNBase]) -> None:
    result = own(Recurrent(kind).eval(), TOKENS)
    assert {"layer.hidden_size", "layer.input_size", "head.in_features"} <= set(changes(result))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weights_that_are_computed(norm: Any) -> None:
    module = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU(), norm(nn.Linear(8, 3)))
    found = changes(own(module.eval(), TOKENS))
    assert {"0.out_features", "2.in_features"} <= set(found)


def test_group_norm() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 3)
    ).eval()
    scramble(module)
    found = changes(own(module, (torch.randn(2, 3, 8, 8),)))
    assert {"0.out_channels", "1.num_channels", "4.in_features"} <= set(found)


class Words(nn.Module):
    """The embedding is the head's weight too, and one block is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight
        self.block = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.again = self.block

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.block(x)
        result: Tensor = self.head(x + self.again(x))
        return result


def test_what_is_shared_stays_shared() -> None:
    made: Any = own(Words().eval(), (torch.randint(0, 20, (2, 6)),)).module
    assert made.head.weight is made.embed.weight and made.again is made.block
    assert made.embed.embedding_dim == made.head.in_features == made.embed.weight.shape[1] < 16


def test_multihead_attention_of_torch_is_told_by_name() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha, self.head = nn.MultiheadAttention(12, 3, batch_first=True), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.mha(x, x, x, need_weights=False)[0])
            return result

    result, _ = native(Attending().eval(), TOKENS)  # its inner width is that of its input
    assert result.module is None
    assert result.reason.startswith("MultiheadAttention.forward at mha fails: ")


class Lazy(nn.Module):
    """Makes a table at its first forward and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.width = nn.Linear(12, 32), nn.Linear(32, 3), 32
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(1.0, 1.0, self.width, dtype=x.dtype)
        result: Tensor = self.down(torch.relu(self.up(x)) * self.table)
        return result


def test_what_the_first_forward_makes_is_made_anew() -> None:
    module = Lazy().eval()
    program, pruned = halved(copy.deepcopy(module), TOKENS)
    result = native_module(module, program, pruned)
    assert result.module is not None, result.reason
    assert changes(result)["width"] == (32, 16)
    assert module.table is None and getattr(result.module, "table", 0) is None


def test_a_forward_that_reads_its_sizes_nowhere_needs_no_attribute() -> None:
    module = nn.Sequential(nn.Linear(12, 32), nn.Dropout(0.5), nn.Linear(32, 3)).eval()
    result = own(module, TOKENS)
    assert set(changes(result)) == {"0.out_features", "2.in_features"}


def test_programs_have_no_class_of_their_own() -> None:
    program, pruned = halved(Block().eval(), TOKENS)
    result = native_module(ProgramModule(program), program, pruned)
    assert result.module is None and "given as a program" in result.reason


def test_hooks_modes_and_devices_are_kept() -> None:
    module = Block().train()
    module.attention.eval()
    seen: list[int] = []
    module.head.register_forward_hook(lambda *_: seen.append(1))
    made: Any = native(module, TOKENS)[0].module
    assert made.training and not made.attention.training and made.attention.out.training is False
    assert len(made.head._forward_hooks) == len(module.head._forward_hooks) == 1


class Stubborn(Block):
    """Cannot be copied."""

    def __deepcopy__(self, memo: object) -> Any:
        raise RuntimeError("there is only one of me")


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    module = Stubborn().eval()
    program, pruned = halved(module, TOKENS)
    result = native_module(module, program, pruned)
    assert result.reason == "Stubborn cannot be copied and changed: there is only one of me"


def test_classes_and_state_are_restored_when_something_raises() -> None:
    module = Block()
    classes = [type(m) for m in module.modules()]
    read: list[str] = []
    with pytest.raises(KeyboardInterrupt), spied(module, lambda _, name, value: read.append(name)):
        assert module.attention.heads == 4
        assert type(module.attention) is not Heads and isinstance(module.attention, Heads)
        raise KeyboardInterrupt
    assert [type(m) for m in module.modules()] == classes
    assert read == ["heads"]


@pytest.mark.parametrize("limits", [{"trials": 1}, {"seconds": 0.0}])
def test_a_search_that_costs_too_much_is_given_up(limits: dict[str, Any]) -> None:
    class Ambiguous(nn.Module):
        """Two sizes that were the same."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 3)
            self.one = self.two = 32

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x)).reshape(-1, self.one)  # (B, T, C) -> (B * T, C)
            result: Tensor = self.c(torch.relu(self.b(x)).reshape(-1, 5, self.two))  # -> (B, T, C)
            return result

    module = Ambiguous().eval()
    program = capture(module, list(TOKENS))
    axes = infer(program)
    space = WidthSpace(axes)
    plan = make_plan(space, space.levels([0.5, 0.25]), magnitude(axes), "uneven")
    pruned = prune_program(axes, plan)
    assert native_module(module, program, pruned).changes[-2:] != ()
    result = native_module(module, program, pruned, **limits)
    assert result.module is None and "given up" in result.reason


def test_a_module_that_runs_only_in_eval_mode_after_surgery_is_refused() -> None:
    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(12, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            if self.training:
                x = x + torch.ones(32)
            result: Tensor = self.down(x)
            return result

    result, _ = native(Training().eval(), TOKENS)
    assert result.module is None and "does not run in train mode" in result.reason


def test_a_run_without_its_class_says_what_is_in_the_way(tmp_path: Path) -> None:
    module = Block(hard_coded=True).eval()
    _, pruned = halved(module, TOKENS)
    write_json(tmp_path / GRAPH_FILE, pruned.to_json())
    save_weights(pruned, tmp_path / WEIGHTS_FILE, {})
    with pytest.raises(ArchitectureError, match=r"Block does not run .* Heads.forward at attention") as found:
        prune.load_native(tmp_path, module)
    assert "load_pruned" in found.value.hint
    with pytest.raises(ArchitectureError, match="it has no tensor"):
        prune.load_native(tmp_path, nn.Sequential(nn.Linear(12, 3)))
    made = prune.load_native(tmp_path, Block())  # the same weights, and sizes that are attributes
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(*TOKENS), prune.load_pruned(tmp_path)(*TOKENS))


def test_attributes_that_are_missing_are_an_error() -> None:
    with pytest.raises(AttributeError):
        set_attributes(Block(), [Change("attention.lanes", 1, 2)])


SMALL = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["Bert", "Llama", "ViT"])
def test_models_of_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "Bert":
        config = transformers.BertConfig(**SMALL)
        module = adapt(transformers.BertForSequenceClassification(config).eval(), ["input_ids"])
        example: Example = (torch.randint(1, 50, (2, 7)),)
    elif kind == "Llama":
        config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2)
        module = adapt(transformers.LlamaForCausalLM(config).eval(), ["input_ids"])
        example = (torch.randint(1, 50, (2, 7)),)
    else:
        config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=8)
        module = adapt(transformers.ViTForImageClassification(config).eval(), ["pixel_values"])
        example = (torch.randn(2, 3, 16, 16),)
    scramble(module)
    before = config.to_dict()
    result = own(module.eval(), example, lanes=kind != "Llama", limit=1e-6)  # tables of float32
    assert config.to_dict() == before
    sizes = {n.rpartition(".")[2] for n in changes(result)} - _DECLARED
    assert sizes == SIZES[kind]


SIZES = {"Bert": {"attention_head_size"}, "Llama": set[str](), "ViT": {"head_dim"}}
_DECLARED = {
    "in_features",
    "out_features",
    "normalized_shape",
    "embedding_dim",
    "in_channels",
    "out_channels",
}
