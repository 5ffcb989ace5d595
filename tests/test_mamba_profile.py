"""Mamba by component: costs against torch's counter, the parts against the whole model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from graph.errors import ArchitectureError, UsageError
from models_zoo.mamba1 import Mamba1Mixer
from models_zoo.mamba_config import MambaConfig
from models_zoo.mamba_lm import MambaLM
from models_zoo.mamba_scan import recurrent_scan
from models_zoo.mamba_ssd import recurrent_ssd
from profilers.mamba import MODES, VIEW, MambaProfileConfig, MambaSizes, profile_mamba, seams
from profilers.mamba_cost import (
    COMPONENTS,
    CONV,
    EMBED,
    GATE,
    IN_PROJ,
    OUT_PROJ,
    SCAN,
    SELECT,
    mamba_costs,
)
from profilers.profile import Profile
from profilers.stages import opened
from profilers.traffic import TrafficByPart
from profilers.watch import REST, Budget

ONCE = Budget(repeats=1, seconds=0.0, warmup=0)
BATCH = 2


def model(version: int, groups: int = 1) -> MambaLM:
    torch.manual_seed(0)
    return MambaLM(
        MambaConfig(
            version=version,  # type: ignore[arg-type]
            d_model=32, n_layer=2, vocab_size=50, d_state=8, headdim=8, ngroups=groups,
        )
    ).eval()  # fmt: skip


def counted(net: MambaLM, ids: Tensor) -> Counter[str]:
    """FLOPs of each component as torch counts them."""
    found: Counter[str] = Counter()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:

        @contextmanager
        def scope(part: str) -> Iterator[None]:
            before = counter.get_total_flops()
            yield
            found[part] += counter.get_total_flops() - before

        with opened(list(seams(net)), scope):
            net(ids)
        assert found.total() == counter.get_total_flops()  # no product outside the components
    return found


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("length", [7, 64, 1024])
def test_projections_cost_what_torch_counts(version: int, length: int) -> None:
    net = model(version)
    costs, found = mamba_costs(net, BATCH, length), counted(net, torch.randint(50, (BATCH, length)))
    for name in (IN_PROJ, SELECT, OUT_PROJ, EMBED):
        assert costs[name].flops == found[name], name
    assert costs[IN_PROJ].flops > 0 and (costs[SELECT].flops > 0) == (version == 1)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [7, 64, 1024])
def test_the_block_form_costs_what_torch_counts(groups: int, length: int) -> None:
    net = model(2, groups)
    skip = 2 * (2 * BATCH * length * 64)  # two layers; products of elements, which torch does not count
    found = counted(net, torch.randint(50, (BATCH, length)))
    assert mamba_costs(net, BATCH, length)[SCAN].flops - skip == found[SCAN]


@pytest.mark.parametrize("version", [1, 2])
def test_the_convolution_costs_what_torch_counts(version: int) -> None:
    net = model(version)
    convs = [layer.mixer.conv1d for layer in net.backbone.layers]
    with FlopCounterMode(display=False) as counter:
        for conv in convs:
            x = torch.zeros(BATCH, conv.in_channels, 16 + conv.kernel_size[0] - 1)
            F.conv1d(x, conv.weight, conv.bias, groups=conv.groups)
    assert mamba_costs(net, BATCH, 16)[CONV].flops == counter.get_total_flops()


def test_the_scan_of_mamba_1_costs_what_its_authors_say() -> None:
    net, T = model(1), BATCH * 64
    assert mamba_costs(net, BATCH, 64)[SCAN].flops == 2 * (9 * T * 64 * 8 + 2 * T * 64)
    # The products alone (C h), which torch does count, are within it.
    assert counted(net, torch.randint(50, (BATCH, 64)))[SCAN] == 2 * (2 * T * 64 * 8)


class Elements(TorchDispatchMode):
    """FLOPs of element-wise operators and products, one for each number that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple = (), kwargs: object = None
    ) -> object:  # type: ignore[type-arg]
        result = func(*args, **(kwargs or {}))  # type: ignore[operator, dict-item]
        name = func._schema.name.rpartition("::")[2]  # type: ignore[attr-defined]
        if name in ("mul", "add", "exp"):
            self.total += result.numel()
        if name == "sum":
            self.total += args[0].numel()
        return result


def test_a_step_costs_what_its_operators_add_up_to() -> None:
    D, N, H, P = 64, 8, 8, 8
    one = torch.rand(BATCH, 1, D)
    with Elements() as seen:
        recurrent_scan(one, one, -torch.rand(D, N), torch.rand(BATCH, 1, N), torch.rand(BATCH, 1, N),
                       torch.rand(BATCH, D, N))  # fmt: skip
    assert seen.total == BATCH * (7 * D * N + D)  # and dt u, which is no matter
    assert mamba_costs(model(1), BATCH, 1, decode=True)[SCAN].flops == 2 * BATCH * (7 * D * N + 2 * D)
    with Elements() as seen:
        states = torch.rand(BATCH, 1, 1, N)
        recurrent_ssd(one.view(BATCH, 1, H, P), torch.rand(BATCH, 1, H), -torch.rand(H), states, states,
                      torch.rand(BATCH, H, P, N))  # fmt: skip
    assert seen.total == BATCH * (5 * D * N + D + 2 * H)
    assert mamba_costs(model(2), BATCH, 1, decode=True)[SCAN].flops == 2 * BATCH * (5 * D * N + 2 * D)


@pytest.mark.parametrize("version", [1, 2])
def test_the_components_are_the_whole_model(version: int) -> None:
    net, ids = model(version), torch.randint(50, (BATCH, 70))
    moved = TrafficByPart()
    with torch.no_grad():
        before = net(ids)
        with opened(list(seams(net)), moved.scope), moved:
            after = net(ids)
        assert torch.equal(net(ids), before)
    assert torch.equal(after, before)
    # Between the components lie the residual sums, and nothing else: two operands and a result in each layer.
    stream = BATCH * 70 * 32 * 4
    assert (moved.read[""], moved.written[""]) == (2 * 2 * stream, 2 * stream)
    costs = mamba_costs(net, BATCH, 70)
    for name in COMPONENTS:
        if version == 1 or name != SELECT:
            assert 0 < costs[name].least_bytes <= moved.read[name] + moved.written[name], name


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_profile_from_end_to_end(version: int, dtype: str) -> None:
    net = model(version)
    config = MambaProfileConfig(lengths=(8, 16), batch=BATCH, dtype=dtype, budget=ONCE)
    told: list[str] = []
    found = profile_mamba({"net": net}, config, "prune profile mamba", told.append)
    assert told[0] == "measuring the roofline" and len(told) == 4
    assert [(m.mode, m.length, m.tokens) for m in found.measurements] == [
        ("prefill", 8, 16), ("prefill", 16, 32), ("decode", 1, 2),
    ]  # fmt: skip
    for m in found.measurements:
        assert [p.name for p in m.views[VIEW]] == [*COMPONENTS, REST]
        spent = sum(p.latency.median_ms for p in m.views[VIEW])
        assert spent == pytest.approx(m.watched.median_ms) and m.peak_bytes > 0
        calls = {p.name: p.calls for p in m.views[VIEW]}
        assert calls[SCAN] == 2 and calls[GATE] == 2 + 2 + 1 and calls[EMBED] == 2
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    tied = sum(p.numel() for p in net.parameters())  # parameters() names a tied weight once
    assert found.measurements[0].weight_bytes == size * tied
    assert found.settings["models"]["net"]["version"] == version
    assert Profile.from_json(found.to_json()) == found
    assert set(found.growth("net", VIEW)) >= {SCAN, "whole", "peak_bytes"}


def test_memory_grows_with_the_length_but_decoding_does_not() -> None:
    config = MambaProfileConfig(lengths=(8, 256, 512), budget=ONCE)
    _, half, whole, decode = profile_mamba({"n": model(1)}, config).measurements
    assert 1.5 < whole.peak_bytes / half.peak_bytes < 2.5 and decode.peak_bytes < half.peak_bytes / 10
    alone = profile_mamba({"n": model(1)}, replace(config, lengths=(8,), modes=("decode",))).measurements[0]
    assert alone.peak_bytes == decode.peak_bytes


def test_layers_that_differ_are_counted_as_they_are() -> None:
    net = model(1)
    whole = mamba_costs(net, 1, 10)
    other = MambaLM(replace(net.sizes, d_state=(8, 2)))
    saved = whole[SCAN].flops - mamba_costs(other, 1, 10)[SCAN].flops
    assert saved == 9 * 10 * 64 * 6
    mixer = other.backbone.layers[1].mixer
    assert isinstance(mixer, Mamba1Mixer)
    assert whole[SELECT].flops - mamba_costs(other, 1, 10)[SELECT].flops == 2 * 10 * 64 * 2 * 6


def test_sizes_and_settings_that_make_no_sense() -> None:
    endless = MambaProfileConfig(lengths=(1 << 20,), batch=1 << 24, budget=ONCE)
    for wrong, error, told in (
        (lambda: MambaSizes(version=2, d_model=40).build(), ArchitectureError, "heads of 64"),
        (lambda: MambaSizes(version=3).build(), ArchitectureError, "Mamba-3"),
        (lambda: MambaProfileConfig(modes=("train",)), UsageError, "mode train"),
        (lambda: MambaProfileConfig(lengths=()), UsageError, "lengths"),
        (lambda: profile_mamba({}, MambaProfileConfig(device="cuda:7")), UsageError, "--device cuda:7"),
        (lambda: profile_mamba({}, MambaProfileConfig(dtype="int8")), UsageError, "--dtype int8"),
        (lambda: profile_mamba({"net": model(1)}, endless), UsageError, "do not fit into memory"),
    ):
        with pytest.raises(error, match=told) as caught:
            wrong()
        assert caught.value.hint


def test_weights_follow_from_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = MambaSizes(version=1, d_model=16, layers=1).build(3)
    assert torch.equal(torch.rand(1), expected)
    second = MambaSizes(version=1, d_model=16, layers=1).build(3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert MODES == ("prefill", "decode")
