"""The roofline: its arithmetic, and that what is measured hangs together. No figure is asserted."""

from __future__ import annotations

import pytest
import torch

from graph.errors import UsageError
from profilers.device import find_device, find_dtype, synchronizer, threads, told
from profilers.roofline import Roofline, measure_roofline

pytestmark = pytest.mark.smoke

ROOF = Roofline("a machine", "float32", 1, 100e9, 10e9, 40e9, 512, 1 << 26)


def test_below_the_ridge_memory_is_the_limit() -> None:
    assert ROOF.ridge == 10
    assert ROOF.attainable(1) == 10e9 and ROOF.attainable(10) == ROOF.attainable(1000) == 100e9
    assert ROOF.bound(9, 1) == "memory" and ROOF.bound(11, 1) == "compute" and ROOF.bound(0, 5) == "memory"
    assert ROOF.least_ms(100_000_000, 1) == pytest.approx(1.0)
    assert ROOF.least_ms(1, 10_000_000) == pytest.approx(1.0)


def test_a_machine_is_measured() -> None:
    found = measure_roofline(torch.device("cpu"), clock="cpu", repeats=1, most_side=512)
    assert found.gemm in (256, 512) and found.dtype == "float32" and found.device == told(torch.device("cpu"))
    assert found.flops_per_s > 0 and 0 < found.bytes_per_s <= found.cached_bytes_per_s
    assert found.triad_bytes >= 1 << 26 and found.threads == torch.get_num_threads()
    assert set(found.to_json()) == set(Roofline.__dataclass_fields__)


def test_devices_and_types_by_name() -> None:
    assert find_device("cpu") == torch.device("cpu") and find_dtype("bfloat16") is torch.bfloat16
    assert synchronizer(torch.device("cpu")) is None
    for name in ("tpu", "cpu:x", "cuda:", "cuda:99", "cpu:1"):
        with pytest.raises(UsageError, match="--device") as caught:
            find_device(name)
        assert caught.value.hint
    with pytest.raises(UsageError, match="int8"):
        find_dtype("int8")


def test_threads_are_set_and_given_back() -> None:
    cpu, before = torch.device("cpu"), torch.get_num_threads()
    with threads(before + 1, "wall", cpu):
        assert torch.get_num_threads() == before + 1
    with threads(None, "cpu", cpu):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    for count, clock, device in ((2, "cpu", cpu), (None, "cpu", torch.device("cuda")), (None, "sun", cpu)):
        with pytest.raises(UsageError, match="--clock"), threads(count, clock, device):
            pass
