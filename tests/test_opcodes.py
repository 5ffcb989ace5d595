"""Opcodes: what a pickle would import is known, and torch agrees on every honest file."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graph.errors import ArchitectureError
from prune.bounded import no_larger_than
from prune.opcodes import PickleError, names_in
from tests.hostile.pickle_words import called, named, number, whole


@pytest.mark.parametrize("protocol", range(6))
def test_the_names_of_a_pickle_are_those_that_python_imports(protocol: int) -> None:
    value: Any = [OrderedDict(a=Path), {3, 4}, np.float32, complex, (1, [2.5, None, b"x"], {"k": "v"})]
    imported: set[str] = set()

    class Watched(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            imported.add(f"{module}.{name}")
            return super().find_class(module, name)

    data = pickle.dumps(value, protocol)
    Watched(io.BytesIO(data)).load()
    assert imported and names_in(io.BytesIO(data)) == imported


def test_several_pickles_follow_each_other() -> None:
    file = io.BytesIO(whole(named("a", "b")) + whole(named("c", "d")) + b"rest")
    assert (names_in(file), names_in(file), file.read()) == ({"a.b"}, {"c.d"}, b"rest")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "pickle exhausted"),
        (whole(b"]q\x00h\x00a"), "contains itself"),
        (whole(b"(h\x03."), "not there"),
        (whole(called(named("_codecs", "encode"), "a", "idna")), "latin1"),
        (whole(b"]" + number(1) + b"r\xff\xff\xff\x7fa"), "remembers"),
    ],
)
def test_what_is_no_pickle_or_a_busy_one(data: bytes, says: str) -> None:
    with pytest.raises(PickleError, match=says):
        names_in(io.BytesIO(data))


def test_a_network_larger_than_its_weights_is_not_built() -> None:
    state = {"a": torch.ones(10)}
    with no_larger_than(state, "it"):
        nn.Sequential(nn.Linear(100, 100), nn.BatchNorm2d(100))  # there is room for a mistake
    made = 0

    class Layer(nn.Linear):
        def __init__(self) -> None:
            nonlocal made
            made += 1
            super().__init__(2, 2)

    with pytest.raises(ArchitectureError, match="more than 1,004 parameters"), no_larger_than(state, "it"):
        nn.Sequential(*(Layer() for _ in range(10_000)))
    assert made < 600
    with pytest.raises(ArchitectureError, match="elements of parameters"), no_larger_than(state, "it"):
        nn.Linear(1 << 13, 1 << 13, device="meta")
    nn.Linear(1 << 13, 1 << 13, device="meta")  # afterwards everything can be built
