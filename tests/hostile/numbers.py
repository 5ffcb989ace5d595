"""Tensors that lie: shapes, strides, offsets and types, in safetensors and in files of torch; weights that are none."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from tests.hostile.archives import NAMED
from tests.hostile.case import Case, Payload
from tests.hostile.honest import state, torch_file, zoo_file
from tests.hostile.pickle_words import in_archive, in_legacy, storage, tensor, text, value, whole

BROKEN = "broken or truncated safetensors"
SAFE = ("inspect", "m.safetensors", *NAMED[2:])


def _safetensors(header: object, data: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def _one(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def _headers() -> dict[str, tuple[str, Callable[[], bytes], str]]:
    deep = b'{"w":' + b"[" * 100_000
    return {
        "length of 2^63": ("header longer than any file", lambda: _safetensors(b"{", length=1 << 63), "not a model file"),
        "length of 4 GB": ("header longer than the file", lambda: _safetensors(b"{", length=(1 << 32) - 1), BROKEN),
        "length 0": ("no header", lambda: struct.pack("<Q", 0) + b"{}", BROKEN),
        "length 1": ("half a header", lambda: _safetensors(b"{}", length=1), BROKEN),
        "not JSON": ("garbage", lambda: _safetensors(b"{garbage}"), BROKEN),
        "deep": ("nested 100,000 times", lambda: _safetensors(deep), BROKEN),
        "shape of 2^62": ("lies about its shape", lambda: _safetensors(_one(shape=(1 << 62,))), BROKEN),
        "shape that overflows": ("2^64 elements are 0", lambda: _safetensors(_one(shape=(1 << 32, 1 << 32))), BROKEN),
        "negative shape": ("below zero", lambda: _safetensors(_one(shape=(-2,))), BROKEN),
        "fractional shape": ("2.5", lambda: _safetensors(_one(shape=(2.5,))), BROKEN),
        "shape of text": ("no number", lambda: _safetensors(_one(shape="2")), BROKEN),
        "offsets behind the end": ("reads what follows", lambda: _safetensors(_one(offsets=(0, 1 << 40))), BROKEN),
        "offsets swapped": ("from 8 to 0", lambda: _safetensors(_one(offsets=(8, 0))), BROKEN),
        "negative offsets": ("below zero", lambda: _safetensors(_one(offsets=(-8, 0))), BROKEN),
        "offsets overlap": ("two tensors share bytes",
                            lambda: _safetensors({"a": _one()["w"], "b": _one(offsets=(4, 12))["w"]}, b"\0" * 12), BROKEN),
        "hole": ("bytes between tensors hide something",
                 lambda: _safetensors({"a": _one()["w"], "b": _one(offsets=(16, 24))["w"]}, b"\0" * 24), BROKEN),
        "bytes behind": ("something is behind the tensors", lambda: _safetensors(_one(), b"\0" * 8 + b"evil"), BROKEN),
        "same name twice": ("which one counts?",
                            lambda: _safetensors(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                                                 b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'), ""),
        "unknown type": ("F99", lambda: _safetensors(_one("F99")), BROKEN),
        "wrong size for its type": ("8 bytes for two F64", lambda: _safetensors(_one("F64")), BROKEN),
        "no type": ("it is missing", lambda: _safetensors({"w": {"shape": [2], "data_offsets": [0, 8]}}), BROKEN),
        "metadata of lists": ("no texts", lambda: _safetensors({"__metadata__": {"a": [1]}, **_one()}), BROKEN),
        "list in place of a table": ("header is a list", lambda: _safetensors(b"[1, 2]"), "not a model file"),
        "no tensors": ("an empty table", lambda: _safetensors(b"{}", b""), "nothing"),
        "hundred thousand tensors": ("empty ones", lambda: _safetensors(
            {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}, b""), "tensors"),
        "name of a megabyte": ("floods the terminal", lambda: _safetensors({"n" * (1 << 20): _one()["w"]}), "do not fit"),
        "name with escapes": ("clears the terminal", lambda: _safetensors({"\x1b[2J\n\x07": _one()["w"]}), r"\x1b[2J"),
        "a billion dimensions": ("of size 1", lambda: _safetensors(_one(shape=(1,) * 100_000)), ""),
    }  # fmt: skip


def _ours(header: object) -> bytes:
    said = header if isinstance(header, str) else json.dumps(header)
    return save({"w": torch.ones(2)}, {"prune": said})


def _facts(**changes: object) -> dict[str, object]:
    facts = {"format": "prune-model", "version": 1, "arch": "resnet20", "arch_args": {"width": 4}}
    return facts | {"input_shape": [3, 32, 32], "data": None, "metrics": {}} | changes


def _metadata() -> dict[str, tuple[object, str]]:
    nested: dict[str, object] = {}
    for _ in range(50):
        nested = {"a": nested}
    return {
        "not JSON": ("{", "not JSON"),
        "deep": ("[" * 100_000, "not JSON"),
        "number of 5,000 digits": ('{"version": ' + "9" * 5000 + "}", "not JSON"),
        "a list": ([1], "not of the format"),
        "version of text": (_facts(version="1"), "version is not"),
        "nested arguments": (_facts(arch_args=nested), "arch_args is not"),
        "width of 10^9": (_facts(arch_args={"width": 10**9}), "resnet20"),
        "width below zero": (_facts(arch_args={"width": -4}), "resnet20"),
        "classes of 10^12": (_facts(arch_args={"num_classes": 10**12}), "resnet20"),
        "unknown argument": (_facts(arch_args={"__class__": "x"}), "no argument"),
        "a function to import": (_facts(arch="os:system"), "not imported because a file says so"),
        "a module to import": (_facts(arch="antigravity:x"), "not imported because a file says so"),
        "weights of a library": (_facts(arch="timm:no/such"), ""),
        "shape of gigabytes": (_facts(input_shape=[3, 100_000, 100_000]), "input_shape is not"),
        "shape below zero": (_facts(input_shape=[3, -1, 8]), "input_shape is not"),
        "shape of seven dimensions": (_facts(input_shape=[1] * 7), "input_shape is not"),
        "data to import": (_facts(data="os:system"), ""),
    }


def _lying() -> Iterator[tuple[str, str, bytes, str]]:
    """Tensors of torch's own format, each in a state dict."""

    def state_of(call: bytes) -> bytes:
        return whole(b"}" + text("w") + call + b"s")

    def packed(call: bytes, data: bytes = b"\0" * 32) -> bytes:
        return in_archive(state_of(call), [("data/0", data)])

    long = b"\x8a\x05\x00\x00\x00\x00\x04"  # 2^34
    yield (
        "stride 0",
        "2^32 elements of 4 bytes",
        packed(tensor(storage("0", 1), 0, (1 << 16, 1 << 16), (0, 0)), b"\0" * 4),
        "claims",
    )
    yield (
        "size behind the storage",
        "reads what follows",
        packed(tensor(storage("0", 8), 0, (1 << 20,), (1,))),
        "",
    )
    yield (
        "offset behind the storage",
        "reads elsewhere",
        packed(tensor(storage("0", 8), 1 << 20, (4,), (1,))),
        "",
    )
    yield "negative offset", "reads what lies before", packed(tensor(storage("0", 8), -64, (4,), (1,))), ""
    yield "negative stride", "reads backwards", packed(tensor(storage("0", 8), 7, (8,), (-1,))), ""
    yield "stride of 2^30", "reads elsewhere", packed(tensor(storage("0", 8), 0, (2,), (1 << 30,))), ""
    yield "negative size", "below zero", packed(tensor(storage("0", 8), 0, (-4,), (1,))), ""
    yield (
        "more sizes than strides",
        "they do not go together",
        packed(tensor(storage("0", 8), 0, (2, 2, 2), (1,))),
        "",
    )
    yield "sizes of text", "no numbers", packed(tensor(storage("0", 8), 0, ("2",), (1,))), ""
    yield (
        "storage larger than its file",
        "8 numbers of which 2 are there",
        packed(tensor(storage("0", 8), 0, (8,), (1,)), b"\0" * 8),
        "",
    )
    yield "storage of 2^34", "64 GB in an archive", packed(tensor(storage("0", long), 0, (4,), (1,))), ""
    yield "storage of below zero", "a count below zero", packed(tensor(storage("0", -1), 0, (4,), (1,))), ""
    yield (
        "storage elsewhere",
        "the key is a path",
        packed(tensor(storage("../../../etc/passwd", 8), 0, (8,), (1,))),
        "",
    )
    yield (
        "storage on another device",
        "it is not there",
        packed(tensor(storage("0", 8, device="cuda:99"), 0, (8,), (1,))),
        "",
    )
    yield "storage on meta", "no data", packed(tensor(storage("0", 8, device="meta"), 0, (8,), (1,))), ""
    yield (
        "unknown device",
        "no such device",
        packed(tensor(storage("0", 8, device="evil"), 0, (8,), (1,))),
        "",
    )
    yield (
        "storage of no type",
        "torch has no such class",
        packed(tensor(storage("0", 8, "EvilStorage"), 0, (8,), (1,))),
        "",
    )
    yield "persistent id of a number", "no tuple", in_archive(state_of(value(7) + b"Q")), ""
    yield "persistent id of three", "too short", in_archive(state_of(value(("storage", "x", "y")) + b"Q")), ""
    legacy = value(("storage", b"ctorch\nFloatStorage\n", "0", "cpu", long, None)) + b"Q"
    yield (
        "legacy storage of 2^34",
        "64 GB before anything is read",
        in_legacy(state_of(tensor(legacy, 0, (4,), (1,)))),
        "",
    )
    short = value(("storage", b"ctorch\nFloatStorage\n", "0", "cpu", 8, None)) + b"Q"
    yield "legacy storage without data", "it ends", in_legacy(state_of(tensor(short, 0, (4,), (1,)))), ""


def _weights() -> dict[str, tuple[str, dict[str, Any], str]]:
    """Changes of an honest state dict."""
    w = "linear.bias"
    own: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch on its own kinds of tensors
        rows = torch.ones(10, 16).to_sparse_csr()
        quantized = torch.quantize_per_tensor(torch.ones(10), 0.1, 0, torch.qint8)
    nest: Any = {"w": torch.ones(1)}
    for _ in range(30):
        nest = {"state_dict": nest}
    return {
        "NaN": ("no number", {w: torch.full((10,), torch.nan)}, "NaN"),
        "infinite": ("no number", {w: torch.full((10,), torch.inf)}, "NaN or infinite"),
        "infinite once in float32": (
            "1e300",
            {w: torch.full((10,), 1e300, dtype=torch.float64)},
            "NaN or infinite",
        ),
        "NaN in statistics": ("of batch norm", {"bn1.running_var": torch.full((4,), torch.nan)}, "NaN"),
        "whole numbers": (
            "int8 in place of real ones",
            {w: torch.ones(10, dtype=torch.int8)},
            "another type",
        ),
        "truth values": ("bool", {w: torch.ones(10, dtype=torch.bool)}, "another type"),
        "complex": ("complex64", {w: torch.ones(10, dtype=torch.complex64)}, "another type"),
        "sparse": ("no ordinary tensor", {w: torch.ones(10).to_sparse()}, "sparse"),
        "sparse rows": ("CSR", {"linear.weight": rows}, "sparse"),
        "quantized": ("qint8", {w: quantized}, "quantized"),
        "meta": ("no data", {w: torch.empty(10, device="meta")}, "without data"),
        "expanded": ("one number for 2^30", {w: torch.ones(1).expand(1 << 30)}, "claims"),
        "a number": ("no tensor", {w: 3}, "is a int"),
        "a text": ("no tensor", {w: "evil"}, "is a str"),
        "a list": ("no tensor", {w: [1.0] * 10}, "is a list"),
        "another shape": ("11 in place of 10", {w: torch.ones(11)}, "another shape"),
        "no dimensions": ("a number as a tensor", {w: torch.tensor(1.0)}, "another shape"),
        "extra": ("an unknown key", {"evil": torch.ones(1)}, "unexpected"),
        "key of a number": ("no text", {7: torch.ones(1)}, "no state dict"),
        "key of a tuple": ("no text", {("a", "b"): torch.ones(1)}, "no state dict"),
        "key with escapes": ("clears the terminal", {"\x1b[2Jevil": torch.ones(1)}, r"\x1b[2J"),
        "nothing else": ("empty", own, ""),
        "wrapped thirty times": ("state_dict in state_dict", nest, "no state dict"),
    }


def cases() -> Iterator[Case]:
    """Tensors and weights that lie."""
    for name, (why, make, says) in _headers().items():
        yield Case(
            f"safetensors: {name}", why, _put(make, "m.safetensors"), SAFE, says=says, harmless=says == ""
        )
    for name, (said, says) in _metadata().items():
        yield Case(f"metadata: {name}", "a file says it of itself", _put(lambda h=said: _ours(h), "m.safetensors"),
                   ("inspect", "m.safetensors"), says=says)  # fmt: skip
    for name, why, blob, says in _lying():
        yield Case(f"tensor: {name}", why, _put(lambda b=blob: b), NAMED, says=says)
    for name, (why, changes, says) in _weights().items():
        whole_state = {} if name in ("nothing else", "wrapped thirty times") else state()
        yield Case(
            f"weight: {name}",
            why,
            _put(lambda s=whole_state, c=changes: torch_file({**s, **c})),
            NAMED,
            says=says,
        )
    yield Case(
        "weights: half",
        "keys are missing",
        _put(lambda: torch_file(dict(list(state().items())[:20]))),
        NAMED,
        says="missing",
    )
    yield Case(
        "weights: other architecture",
        "of another depth",
        _put(zoo_file),
        ("inspect", "m.pt", "--arch", "resnet110"),
        says="missing",
    )
    yield Case(
        "weights: unknown architecture",
        "nobody knows it",
        _put(zoo_file),
        ("inspect", "m.pt", "--arch", "evil"),
        says="unknown architecture",
    )
    yield Case(
        "weights: no architecture",
        "it is not told",
        _put(lambda: torch_file(state())),
        says="not the architecture",
    )
    yield Case(
        "weights: a list", "no state dict", _put(lambda: torch_file([torch.ones(2)])), NAMED, says="a list"
    )
    yield Case(
        "weights: a tensor", "no state dict", _put(lambda: torch_file(torch.ones(2))), NAMED, says="a Tensor"
    )
    yield Case("weights: a text", "no state dict", _put(lambda: torch_file("evil")), NAMED, says="a str")


def _put(make: Callable[[], bytes], name: str = "m.pt") -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (folder / name).write_bytes(make())
