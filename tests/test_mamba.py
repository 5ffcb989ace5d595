"""Mamba: the scans against their definition in float64, decoding, captured graphs and ONNX files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mambas import config, ids, model
from torch import Tensor

from graph.axes import infer
from graph.capture import capture
from graph.errors import ArchitectureError
from graph.program import ProgramModule
from models_zoo import mamba_scan, mamba_ssd, registry
from models_zoo.mamba_config import Version
from models_zoo.mamba_lm import MambaAnyLength, MambaLM, MambaStep
from prune.evaluation import evaluate
from prune.export import export_onnx
from prune.onnx_model import OnnxModel

VERSIONS: tuple[Version, ...] = (1, 2)
Scan = Callable[..., tuple[Tensor, Tensor]]


def scan_inputs(length: int) -> list[Tensor]:
    """Decays from almost one to almost nothing, in float64, with a state from before."""
    g = torch.Generator().manual_seed(length)
    B, D, N = 2, 6, 5

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    dt = 3 * torch.rand(B, length, D, generator=g, dtype=torch.float64) ** 3
    A = -torch.exp(2 * normal(D, N))
    return [normal(B, length, D), dt, A, normal(B, length, N), normal(B, length, N), normal(B, D, N)]


def ssd_inputs(length: int, groups: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(length)
    B, H, P, N = 2, 4, 3, 5

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    dt = 3 * torch.rand(B, length, H, generator=g, dtype=torch.float64) ** 3
    states = (normal(B, length, groups, N), normal(B, length, groups, N))
    return [normal(B, length, H, P), dt, -torch.exp(2 * normal(H)), *states, normal(B, H, P, N)]


def with_gradients(scan: Scan, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, last state, and the gradient of each input for an uneven weighing of both."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    y, h = scan(*inputs)
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    found = torch.autograd.grad((y * weights).sum() + (h * h).sum(), inputs)
    return [y.detach(), h.detach(), *found]


def agree(wanted: list[Tensor], got: list[Tensor], limit: float = 1e-10) -> None:
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= limit * max(1.0, float(a.abs().max()))


@pytest.mark.parametrize("length", [1, 2, 63, 100])
@pytest.mark.parametrize("form", ["chunked", "doubling"])
def test_a_scan_is_its_definition(form: str, length: int) -> None:
    scan: Scan = {"chunked": mamba_scan.chunked_scan, "doubling": mamba_scan.doubling_scan}[form]
    inputs = scan_inputs(length)
    agree(with_gradients(mamba_scan.recurrent_scan, inputs), with_gradients(scan, inputs))


def test_lanes_of_an_accelerator_are_the_same_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks(*_: Tensor) -> Any:
        yield from ((0, 32, 4), (32, 64, 8), (64, 91, 3), (91, 100, 1))

    inputs = scan_inputs(100)
    wanted = with_gradients(mamba_scan.recurrent_scan, inputs)
    monkeypatch.setattr(mamba_scan, "_blocks", blocks)
    agree(wanted, with_gradients(mamba_scan.chunked_scan, inputs))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("length", [1, 7, 64, 1000, 2049])
def test_blocks_cover_the_length(device: str, length: int) -> None:
    """`meta` stands for any accelerator."""
    u = torch.empty(length, 3, 32, device=device)
    end = 0
    for begin, stop, lanes in mamba_scan._blocks(u, torch.empty(16, 32, device=device)):
        assert begin == end < stop <= length and (stop - begin) % lanes == 0
        end = stop
    assert end == length


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (50, 8), (48, 16), (50, 64), (50, None)])
def test_the_block_form_is_its_definition(length: int, chunk: int | None, groups: int) -> None:
    inputs = ssd_inputs(length, groups)

    def blocks(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return mamba_ssd.chunked_ssd(*tensors, chunk=chunk)

    agree(with_gradients(mamba_ssd.recurrent_ssd, inputs), with_gradients(blocks, inputs))


def test_strong_decays_neither_overflow_nor_lose_the_recent_past() -> None:
    """Far into a chunk the log decays are in the thousands; their small differences must be exact."""
    inputs = [t.float() for t in ssd_inputs(64, 1)]
    inputs[1] = torch.full_like(inputs[1], 0.01)
    inputs[1][:, 5] = 400.0
    inputs[2] = torch.full_like(inputs[2], -10.0)
    wanted, _ = mamba_ssd.recurrent_ssd(*(t.double() for t in inputs))
    got, _ = mamba_ssd.chunked_ssd(*inputs, chunk=64)
    agree([wanted], [got.double()], 2e-6)


def test_only_one_block_of_states_is_in_memory() -> None:
    """All states of this scan would take 64 MB; what is kept for the backward pass takes a few."""
    length, D, N = 4096, 64, 64
    u, dt, into = torch.randn(1, length, D), torch.rand(1, length, D), torch.randn(1, length, N)
    kept: list[int] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t.numel() * t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        A = -torch.rand(D, N).requires_grad_()
        mamba_scan.chunked_scan(u, dt, A, into, into, torch.zeros(1, D, N))
    assert 0 < sum(kept) < 8e6


@pytest.mark.parametrize("version", VERSIONS)
def test_decoding_is_the_whole_sequence(version: Version) -> None:
    """Prefill of any length, pieces, single steps, and an empty cache: always the same logits."""
    lm, tokens = model(version).double(), ids(2, 45)
    with torch.no_grad():
        whole = lm(tokens)
        pieces, cache = [], None
        for begin, end in ((0, 2), (2, 30), (30, 31), (31, 45)):
            logits, cache = lm.extend(tokens[:, begin:end], cache)
            pieces.append(logits)
        first, _ = lm.extend(tokens[:, :1], lm.empty_cache(2))
    agree([whole, whole[:, :1]], [torch.cat(pieces, 1), first], 1e-12)
    with torch.enable_grad():  # the path of training
        agree([whole], [lm(tokens).detach()], 1e-12)
    assert [tuple(s.ssm.shape[1:]) for s in lm.empty_cache(2)] == [lm.sizes.state_shape(i) for i in (0, 1)]


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_may_differ_in_their_states(version: Version) -> None:
    lm, tokens = model(version, d_state=(3, 7)).double(), ids(2, 20)
    with torch.no_grad():
        logits, cache = lm.extend(tokens)
    assert [s.ssm.shape[-1] for s in cache] == [3, 7] and torch.isfinite(logits).all()
    assert config(version, d_state=(5, 5)) == config(version)


def test_generation_repeats_the_likeliest_and_draws_from_a_seed() -> None:
    lm, start = model(1), ids(2, 7)
    greedy = lm.generate(start, 5)
    assert torch.equal(greedy[:, :7], start) and greedy.shape == (2, 12)
    with torch.no_grad():
        assert torch.equal(greedy[:, 7:], lm(greedy)[:, 6:-1].argmax(-1))
    drawn = [
        lm.generate(start, 9, temperature=2.0, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no states": ({"d_state": 0}, "remembers nothing"),
    "no states in a layer": ({"d_state": (5, 0)}, "nor one for each of 2 layers"),
    "one layer forgotten": ({"d_state": (5,)}, "nor one for each of 2 layers"),
    "no width": ({"d_model": 0}, "d_model of a Mamba must be"),
    "true": ({"n_layer": True}, "n_layer of a Mamba must be"),
    "heads": ({"headdim": 7}, "do not part into heads of 7"),
    "groups": ({"ngroups": 3}, "in 3 groups"),
    "limits": ({"dt_limit": (1.0, 0.0)}, "is no range"),
}


@pytest.mark.parametrize("case", WRONG)
def test_sizes_that_make_no_model(case: str) -> None:
    changes, says = WRONG[case]
    with pytest.raises(ArchitectureError, match=says) as caught:
        config(2, **changes)
    assert caught.value.hint
    with pytest.raises(ArchitectureError, match="no Mamba-3"):
        config(3)  # type: ignore[arg-type]


def test_a_new_model_starts_as_mamba_ssm_starts_it() -> None:
    """Rates 1 to N, time steps between 0.001 and 0.1, no decay on what has a meaning at zero."""
    torch.manual_seed(0)
    mixer = MambaLM(config(1)).backbone.layers[0].mixer
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 6).expand(32, 5))
    dt = torch.nn.functional.softplus(mixer.dt_proj.bias.detach())
    assert float(dt.min()) > 0.9e-3 and float(dt.max()) < 0.11
    free = {n for n, p in mixer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert free == {"A_log", "D", "dt_proj.bias"}
    first = evaluate_loss(MambaLM(config(2)))
    assert abs(first - math.log(40)) < 0.5


def evaluate_loss(lm: MambaLM) -> float:
    from models_zoo.text import TokenSplit

    return evaluate(lm, TokenSplit(ids(1, 400)[0], 32, bytes_per_token=None)).loss


@pytest.mark.parametrize("name", [n for n in registry.LANGUAGE_MODELS if n.startswith("mamba")])
def test_the_zoo_says_what_its_mambas_cost(name: str) -> None:
    """Multiply-adds of what has weights, counted from these: each weight once for each token."""
    entry = registry.find(name)
    lm = registry.build(name)
    assert sum(p.numel() for p in lm.parameters()) == entry.params
    weights = [
        p
        for n, p in lm.named_parameters()
        if n.endswith(("proj.weight", "conv1d.weight", "embedding.weight"))
    ]
    assert entry.macs == entry.input_shape[0] * sum(p.numel() for p in weights)


# Graphs and files


@pytest.mark.parametrize("version", VERSIONS)
def test_the_graph_finds_states_and_channels(version: Version) -> None:
    lm, tokens = model(version, d_model=32), ids(2, 16)
    program = capture(lm, [tokens])
    assert program.dynamic_batch and len(program.nodes) < 200
    with torch.no_grad():
        assert torch.allclose(ProgramModule(program)(tokens), lm(tokens), atol=1e-5)
    axes = infer(program)
    assert not axes.unsupported
    rows = {n for g in axes.groups if len(g.units) == 5 for n, _ in g.tensors}
    name = "backbone.layers.1.mixer." + ("A_log" if version == 1 else "conv1d.weight")
    assert name in rows, "a group of five states in each layer"
    if version == 1:
        assert any(len(g.units) == 64 for g in axes.groups), "the inner channels"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_step_runs_in_onnxruntime(version: Version, tmp_path: Path) -> None:
    lm = model(version, n_layer=1)
    step, tokens = MambaStep(lm), ids(3, 6)
    checked = export_onnx(step, step.example(2), tmp_path / "step.onnx")
    assert checked.max_error < 1e-4
    file = OnnxModel(tmp_path / "step.onnx")
    assert file.inputs == ("token", "conv_0", "ssm_0")
    states = step.example(3)[1:]
    with torch.no_grad():
        wanted = lm(tokens)
    for t in range(tokens.shape[1]):
        logits, *states = file.run(tokens[:, t], *states)
        assert torch.allclose(logits, wanted[:, t], atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_for_any_length(version: Version, tmp_path: Path) -> None:
    lm = model(version, n_layer=1)
    export_onnx(MambaAnyLength(lm), ids(2, 9), tmp_path / "any.onnx", dynamic_length=True)
    file = OnnxModel(tmp_path / "any.onnx")
    for batch, length in ((1, 3), (3, 40)):
        tokens = ids(batch, length)
        with torch.no_grad():
            assert torch.allclose(file(tokens), lm(tokens), atol=1e-5)
    assert not any(getattr(m, "any_length", False) for m in lm.modules()), "the model is left as it was"
