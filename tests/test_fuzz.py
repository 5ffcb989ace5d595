"""Fuzzing: parsers meet bytes, damaged honest inputs and made-up structures; only errors of ours come out.

``benchmarks/fuzz.py`` does the same for as long as one likes, guided by what the code covers.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.honest import program
from tests.hostile.mutations import mutated
from tests.hostile.pickle_words import named, number, text
from tests.parsers import PARSERS, seeds

FEW = settings(max_examples=60, deadline=None, database=None, derandomize=True,
               suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip
SEEDS = cache(seeds)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PIECES = st.sampled_from([
    b"(", b")", b"]", b"}", b"\x8f", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"0", b"1", b"2", b"b", b"R",
    b"o", b"\x81", b"\x92", b"\x93", b"\x94", b"Q", b"N", b"\x88", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"l", b"d", b"\x91",
    number(3), text("a"), text("latin1"), named("os", "system"), named("numpy", "dtype"), named("_codecs", "encode"),
    named("numpy.core.multiarray", "_reconstruct"), b"\x82\x01", b"L9L\n", b"S'a'\n", b"p5\n", b"g5\n", b"\x80\x02", b".",
])  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
@FEW
@given(data=st.binary(max_size=300))
def test_bytes(name: str, data: bytes) -> None:
    PARSERS[name](data)


@pytest.mark.parametrize("name", PARSERS)
@FEW
@given(seed=st.integers(0, 1 << 32), which=st.integers(0, 9))
def test_damaged_honest_inputs(name: str, seed: int, which: int) -> None:
    honest = SEEDS()[name]
    PARSERS[name](mutated(honest[which % len(honest)], random.Random(seed))[1])


@pytest.mark.parametrize("name", ["graph", "plan", "report", "manifest", "specification in JSON"])
@FEW
@given(data=JSON)
def test_made_up_json(name: str, data: Any) -> None:
    PARSERS[name](json.dumps(data).encode())


@settings(FEW, max_examples=150)
@given(value=JSON, place=st.integers(0, 1 << 20))
def test_a_graph_with_anything_anywhere(value: Any, place: int) -> None:
    graph = copy.deepcopy(program().to_json())
    spots = [
        (at, key) for at in _containers(graph) for key in (at if isinstance(at, dict) else range(len(at)))
    ]
    at, key = spots[place % len(spots)]
    at[key] = value
    PARSERS["graph"](json.dumps(graph).encode())


def _containers(value: Any) -> list[Any]:
    if not isinstance(value, (dict, list)):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(c for v in inner for c in _containers(v))]


@settings(FEW, max_examples=300)
@given(pieces=st.lists(PIECES, max_size=40))
def test_opcodes_in_any_order(pieces: list[bytes]) -> None:
    data = b"\x80\x02" + b"".join(pieces) + b"."
    PARSERS["opcodes"](data)
    PARSERS["cifar pickle"](data)


@settings(FEW, max_examples=100)
@given(value=st.recursive(st.none() | st.integers() | st.text(max_size=5) | st.binary(max_size=5), lambda v: (
    st.lists(v, max_size=3) | st.tuples(v, v) | st.dictionaries(st.text(max_size=3), v, max_size=3)), max_leaves=20),
    protocol=st.integers(0, 5))  # fmt: skip
def test_what_python_pickles_is_followed(value: Any, protocol: int) -> None:
    from io import BytesIO

    from prune.opcodes import names_in

    assert names_in(BytesIO(pickle.dumps(value, protocol))) <= {
        "_codecs.encode",
        "__builtin__.bytes",
        "builtins.bytes",
    }
