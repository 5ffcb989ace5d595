"""What libraries say when the machine fails, as one clear line."""

from __future__ import annotations

import errno
import os
import signal

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from graph.errors import DataError, MemoryLimitError, OutputError, PruneError
from graph.shortage import is_out_of_memory
from models_zoo.data import MapSplit
from prune.failures import named

pytestmark = pytest.mark.smoke


def test_torch_has_no_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    found = named(caught.value)
    assert (
        isinstance(found, MemoryLimitError) and "out of memory" in str(found) and "--batch-size" in found.hint
    )
    assert isinstance(named(MemoryError()), MemoryLimitError)
    assert isinstance(named(torch.OutOfMemoryError("CUDA out of memory. Tried")), MemoryLimitError)
    assert not is_out_of_memory(MemoryLimitError("out of memory"))  # ours: said already


def test_a_worker_of_a_loader_is_killed() -> None:
    class Deadly(Dataset[Tensor]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Tensor:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(Deadly(), num_workers=1))
    found = named(caught.value)
    assert isinstance(found, DataError) and "a worker of the data set's own loader died" in str(found)
    assert "\n" not in str(found) and found.hint


def test_an_item_that_cannot_be_read() -> None:
    class Holes:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index == 2:
                raise OSError("broken.png: truncated")
            return torch.zeros(1, 2, 2), 0

    with pytest.raises(DataError, match=r"item 2 of the data set cannot be read: broken\.png: truncated"):
        list(MapSplit(Holes()).batches(2))


def test_full_disks_and_what_has_no_name() -> None:
    found = named(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x"))
    assert isinstance(found, OutputError) and str(found) == "No space left on device: /tmp/x"
    error = PruneError("ours")
    assert named(error) is error
    assert named(ValueError("out of range")) is None and named(RuntimeError("bug")) is None
