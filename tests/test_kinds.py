"""Kinds of groups in known architectures, worked out by hand from their configurations; states cut alone."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from mambas import model as mamba
from networks import prune_and_prove

from benchmarks import architectures
from graph.adapter import adapt
from graph.axes import Axes, infer
from graph.capture import capture
from prune.plan import make_plan
from prune.selection import Selection, select
from prune.surgery import cut
from prune.verify import verify
from prune.widths import WidthSpace

transformers = pytest.importorskip("transformers")

# Sizes of benchmarks/architectures.py: width 32, two layers of 4 heads of 8 lanes, hidden width 64.
# A group of rows (heads) has lanes of its own for queries with keys, and for values.
KINDS = {
    "bert": {"residual": 32, "head": 2 * 4, "lane": 2 * (32 + 32), "mlp": 2 * 64},
    # Two heads of keys serve four of queries; rotary pairs are the same in all heads.
    "llama": {"residual": 32, "head": 2 * 2, "lane": 2 * (4 + 2 * 8), "mlp": 2 * 64},
    "mixtral": {"residual": 32, "head": 2 * 2, "lane": 2 * (4 + 2 * 8), "mlp": 2 * 64, "expert": 2 * 4},
    # A shared expert of 48 beside four of 32.
    "qwen2-moe": {"residual": 32, "head": 2 * 2, "lane": 2 * (4 + 2 * 8), "mlp": 2 * (48 + 32),
                  "expert": 2 * 4},
    "gpt2": {"residual": 32, "head": 2 * 4, "lane": 2 * (32 + 32), "mlp": 2 * 4 * 32},
    # Heads are tied by the positions, which all layers of an encoder, of a decoder and of its cross-attention
    # share; there are six attentions and four hidden layers.
    "t5": {"residual": 32, "head": 3 * 4, "lane": 6 * (32 + 32), "mlp": 4 * 64},
    "vit": {"residual": 32, "head": 2 * 4, "lane": 2 * (32 + 32), "mlp": 2 * 64},
    # Stages of width 16 and 32 with heads of 8 lanes and hidden layers of four times the width.
    "swin": {"residual": 16 + 32, "head": 2 * 2 + 2 * 4, "lane": 2 * (16 + 32) * 2, "mlp": 2 * 4 * (16 + 32)},
    # Bottlenecks of a quarter; only the third stage (width 64) has a block with its input added.
    "resnet": {"channel": 16 + (8 + 8 + 32) * 2 + (16 + 16) * 3 + 64, "residual": 64},
    # Twice the width in the middle, a rank of 4 for the steps, 8 states.
    "mamba": {"residual": 32, "channel": 2 * 64, "mlp": 2 * 4, "state": 2 * 8},
    "falcon-mamba": {"residual": 32, "channel": 2 * 64, "mlp": 2 * 4, "state": 2 * 8},
    # Two groups of 8 states serve four heads of 8 lanes each.
    "mamba2": {"residual": 32, "head": 2 * 2, "lane": 2 * 8 * 8, "state": 2 * 2 * 8},
}  # fmt: skip


def kinds(axes: Axes) -> dict[str, int]:
    found: Counter[str] = Counter()
    for group in axes.groups:
        found[group.kind] += len(group.units)
    return dict(found)


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_architectures(name: str) -> None:
    module, example = architectures.build(name)
    if name in ("mamba", "falcon-mamba"):
        example = tuple(x[:, :4] for x in example)  # the scan is a loop over time
    axes = infer(capture(module, list(example)))
    assert kinds(axes) == KINDS[name]
    assert not axes.unsupported


def state_space(name: str, **settings: int) -> Axes:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        **settings)  # fmt: skip
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    ids = torch.randint(3, 40, (2, 5))
    return infer(capture(adapt(model, ["input_ids"]).eval(), [ids]))


def cut_states(axes: Axes, keep: int, seed: int) -> dict[str, tuple[int, ...]]:
    """Keep so many random states in each row of each layer and all else; the new shapes of the tensors."""
    space = WidthSpace(axes)
    levels = np.array(space.level_counts, dtype=np.int64) - 1
    for index, bundle in enumerate(axes.bundles):
        told = {axes.groups[g].kind for g in bundle.groups}
        assert "state" not in told or told == {"state"}
        if "state" in told:
            levels[index] = bundle.layouts.index((keep,) * len(bundle.groups))
    plan = make_plan(space, levels, np.random.default_rng(seed).random(axes.classes), "random")
    kept = {g.name: len(plan.kept[g.name]) for g in axes.groups if g.kind != "state"}
    assert kept == {g.name: len(g.units) for g in axes.groups if g.kind != "state"}
    return {n: tuple(t.shape) for n, t in prune_and_prove(axes, plan).tensors.items()}


def test_states_of_mamba_are_cut_alone() -> None:
    """The second dimension of A, and the rows of x_proj that make B and C; nothing else gets shorter."""
    axes = state_space("Mamba", state_size=6, time_step_rank=3)
    before = {n: tuple(t.shape) for n, t in axes.program.tensors.items()}
    for seed, keep in enumerate((1, 4)):
        shapes = cut_states(axes, keep, seed)
        for layer in range(2):
            mixer = f"backbone.layers.{layer}.mixer."
            assert shapes[f"{mixer}A_log"] == (32, keep)
            assert shapes[f"{mixer}x_proj.weight"] == (3 + 2 * keep, 32)
        cut = {n for n, shape in shapes.items() if shape != before[n]}
        assert {n.split("mixer.")[-1] for n in cut} == {"A_log", "x_proj.weight"}


@pytest.mark.parametrize("groups", [1, 2])
def test_states_of_mamba_2_are_cut_alone(groups: int) -> None:
    """The rows of in_proj and the channels of the convolution that make B and C, equally many per group."""
    axes = state_space("Mamba2", state_size=6, num_heads=4, head_dim=8, n_groups=groups, chunk_size=4)
    before = {n: tuple(t.shape) for n, t in axes.program.tensors.items()}
    for seed, keep in enumerate((1, 4)):
        shapes = cut_states(axes, keep, seed)
        for layer in range(2):
            mixer = f"backbone.layers.{layer}.mixer."
            channels = 32 + 2 * groups * keep  # hidden, B, C
            assert shapes[f"{mixer}conv1d.weight"] == (channels, 1, 4)
            assert shapes[f"{mixer}conv1d.bias"] == (channels,)
            assert shapes[f"{mixer}in_proj.weight"] == (32 + channels + 4, 16)
        cut = {n for n, shape in shapes.items() if shape != before[n]}
        assert {n.split("mixer.")[-1] for n in cut} == {"conv1d.weight", "conv1d.bias", "in_proj.weight"}


@pytest.mark.parametrize(("version", "length"), [(1, 12), (2, 12), (2, 24)])  # Mamba-2: one chunk, and two
def test_states_of_our_own_mambas(version: Any, length: int) -> None:
    """Also where the time step has a rank of one: that single channel stays, what is beside it may go."""
    lm = mamba(version)
    assert version == 2 or lm.sizes.dt_rank == 1
    axes = infer(capture(lm, [torch.zeros(2, length, dtype=torch.int64)]))
    states = [g for g in axes.groups if g.kind == "state"]
    assert [len(g.units) for g in states] == [5] * (2 if version == 1 else 4)
    keep = np.ones(axes.classes, dtype=bool)
    for i, group in enumerate(states):
        keep[list(np.random.default_rng(i).permutation(group.units)[:2])] = False
    assert verify(axes, axes.closed(keep), cut(axes, axes.closed(keep))).max_error <= 1e-9


@pytest.mark.parametrize("version", [1, 2])
def test_states_alone_can_be_selected(version: Any) -> None:
    """What they are is read off the channels beside them, which are pinned then."""
    program = capture(mamba(version, ngroups=1), [torch.zeros(2, 24, dtype=torch.int64)])
    axes, minimum = select(program, Selection(kinds=("state",)))
    free = [g for g in axes.groups if minimum.get(g.name, 0) < len(g.units)]
    assert [(g.kind, len(g.units)) for g in free] == [("state", 5)] * 2
