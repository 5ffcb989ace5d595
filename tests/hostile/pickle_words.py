"""Pickles by hand: opcodes put together, for Python's own pickler writes no hostile ones."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterable

import torch

STOP, MARK, TUPLE, REDUCE, EMPTY_TUPLE = b".", b"(", b"t", b"R", b")"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """BININT."""
    return b"J" + struct.pack("<i", value)


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def stacked(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def value(arg: object) -> bytes:
    """A plain value."""
    match arg:
        case bytes():
            return arg
        case bool():
            return b"\x88" if arg else b"\x89"
        case str():
            return text(arg)
        case int():
            return number(arg)
        case None:
            return b"N"
        case dict():
            return b"}" + b"".join(value(k) + value(v) + b"s" for k, v in arg.items())
        case list():
            return b"]" + b"".join(value(v) + b"a" for v in arg)
        case tuple():
            return MARK + b"".join(value(v) for v in arg) + TUPLE
    raise TypeError(type(arg))


def called(function: bytes, *args: object) -> bytes:
    """REDUCE."""
    return function + MARK + b"".join(value(a) for a in args) + TUPLE + REDUCE


def whole(body: bytes, protocol: int = 2) -> bytes:
    """A complete pickle."""
    return b"\x80" + bytes([protocol]) + body + STOP


def in_archive(data: bytes, members: Iterable[tuple[str, bytes]] = ()) -> bytes:
    """The archive that torch.save writes, around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in (("byteorder", b"little"), ("version", b"3\n"), *members):
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def in_legacy(data: bytes, behind: bytes = b"") -> bytes:
    """What torch.save wrote before version 1.6, around a pickle."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(p, 2) for p in (LEGACY_MAGIC, 1001, info)]
    return b"".join([*parts, data, behind or pickle.dumps([], 2)])


def tensor(storage: bytes, offset: object, size: object, stride: object) -> bytes:
    """A call of torch's own that makes a tensor of a storage, with whatever sizes."""
    rest = (False, called(named("collections", "OrderedDict")))
    return called(named("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, *rest)


def storage(key: str, count: object, kind: str = "FloatStorage", device: str = "cpu") -> bytes:
    """A storage of the archive, with whatever number of elements."""
    return value(("storage", named("torch", kind), key, device, count)) + b"Q"


def plain_state() -> bytes:
    """A file of torch.save with one honest tensor."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(8.0)}, buffer)
    return buffer.getvalue()
