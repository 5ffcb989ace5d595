"""Archives: bombs, members that point outside, broken directories, and files that are cut or changed."""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case, Payload
from tests.hostile.honest import state, torch_file, zoo_file
from tests.hostile.pickle_words import in_archive, whole

NAMED = ("inspect", "m.pt", "--arch", "resnet20", "--arch-args", '{"width": 4}')


def _file(content: Callable[[], bytes]) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (folder / "m.pt").write_bytes(content())


def _zip(*members: tuple[str, bytes], how: int = zipfile.ZIP_STORED, onto: bytes = b"") -> bytes:
    buffer = io.BytesIO(onto)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a", how) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def _patched(offset: int, content: bytes, signature: bytes = b"PK\x01\x02") -> bytes:
    """An honest archive with other bytes in the last entry of its directory."""
    blob = bytearray(zoo_file())
    at = blob.rindex(signature) + offset
    blob[at : at + len(content)] = content
    return bytes(blob)


def _link() -> bytes:
    buffer = io.BytesIO(zoo_file())
    with zipfile.ZipFile(buffer, "a") as archive:
        info = zipfile.ZipInfo("archive/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def _tar(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in ("pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name if entry == "storages" else entry)
            info.type, info.linkname = (kind, target) if entry == "storages" else (tarfile.REGTYPE, "")
            archive.addfile(info, io.BytesIO(b""))
    return buffer.getvalue()


def _tar_behind_magic() -> bytes:
    """A tar archive whose first name is the magic number of torch's old format."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    blob = bytearray(_tar("storages"))
    blob[:100] = magic.ljust(100, b"\0")
    blob[148:156] = b" " * 8
    blob[148:156] = b"%06o\0 " % sum(blob[:512])
    return bytes(blob)


def _many(count: int) -> bytes:
    """Very many empty members, the last two of the same name."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for i in range(count):
            archive.writestr(f"a/{i}", b"")
        archive.writestr(f"a/{count - 1}", b"")
    return buffer.getvalue()


def _overlapped() -> bytes:
    """Two entries of the directory for the same bytes, as bombs without recursion have them."""
    blob = _zip(("a/data.pkl", b"x" * 1000), ("a/x", b"y" * 10))
    at = blob.rindex(b"PK\x01\x02")
    return blob[: at + 42] + struct.pack("<I", 0) + blob[at + 46 :]


def _cut(content: bytes, at: int) -> bytes:
    return content[:at]


def _flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


def cases() -> Iterator[Case]:
    """Archives that lie, and honest ones that were damaged."""
    pickle = ("archive/data.pkl", whole(b"}"))
    zeros = b"\0" * 50_000_000
    made: dict[str, tuple[str, Callable[[], bytes], str]] = {
        "bomb": ("50 MB in 50 kB", lambda: _zip(("a/data.pkl", zeros), how=zipfile.ZIP_DEFLATED), "claims to hold"),
        "bomb in a storage": (
            "weights that inflate", lambda: _zip(pickle, ("archive/data/0", zeros), how=zipfile.ZIP_DEFLATED),
            "claims to hold"),
        "bomb of many members": (
            "each is small", lambda: _zip(pickle, *((f"archive/data/{i}", zeros[:1_000_000]) for i in range(50)),
                                          how=zipfile.ZIP_DEFLATED), "claims to hold"),
        "overlapping members": ("the same bytes count twice", _overlapped, ""),
        "lzma": ("a dictionary of any size", lambda: _zip(pickle, how=zipfile.ZIP_LZMA), "packed in a way"),
        "bzip2": ("torch does not read it", lambda: _zip(pickle, how=zipfile.ZIP_BZIP2), "packed in a way"),
        "parent folder": ("writes outside", lambda: _zip(("archive/../../evil", b"x"), onto=zoo_file()), "outside"),
        "absolute path": ("writes outside", lambda: _zip(("/tmp/evil", b"x"), onto=zoo_file()), "outside"),
        "backslashes": ("writes outside, on Windows", lambda: _zip(("a\\..\\..\\evil", b"x"), onto=zoo_file()), "outside"),
        "leading backslash": ("the same", lambda: _zip(("\\evil", b"x"), onto=zoo_file()), "outside"),
        "twice data.pkl": ("which one is read?", lambda: _zip(("archive/data.pkl", whole(b"]")), onto=in_archive(whole(b"}"))), "two members"),
        "a hundred thousand members": ("two of one name, sought by trying all", lambda: _many(100_000), "two members"),
        "encrypted": ("flag in the directory", lambda: _patched(8, b"\x01\x08"), "encrypted"),
        "symbolic link inside": ("a member that is a link", _link, ""),
        "wrong checksum": ("of the directory", lambda: _patched(16, b"\0\0\0\0"), "checksum"),
        "size of 4 GB": ("the directory claims it", lambda: _patched(20, b"\xff\xff\xff\x7f\xff\xff\xff\x7f"), ""),
        "unknown method": ("compressed by method 99", lambda: _patched(10, b"\x63\0"), "packed in a way"),
        "offset behind the end": ("a member that is nowhere", lambda: _patched(42, b"\xff\xff\xff\x7f"), ""),
        "directory cut": ("the end is missing", lambda: zoo_file()[:-40], "zip archive"),
        "entries miscounted": ("the end claims 65,535 members", lambda: _patched(8, b"\xff\xff\xff\xff", b"PK\x05\x06"), ""),
        "directory of 4 GB": ("the end claims it", lambda: _patched(12, b"\xff\xff\xff\x7f", b"PK\x05\x06"), ""),
        "empty archive": ("no members", lambda: _zip(), "no data.pkl"),
        "other archive": ("a document", lambda: _zip(("word/document.xml", b"<x/>")), "no data.pkl"),
        "TorchScript by name": ("code in a folder", lambda: in_archive(whole(b"}"), [("code/__torch__.py", b"x")]), "TorchScript"),
        "TorchScript by constants": ("constants.pkl", lambda: in_archive(whole(b"}"), [("constants.pkl", whole(b")"))]), "TorchScript"),
        "pt2 by name": ("models/model.json", lambda: in_archive(whole(b"}"), [("models/model.json", b"{}")]), "pt2"),
        "old pt2 by name": ("serialized_exported_program.json",
                            lambda: in_archive(whole(b"}"), [("serialized_exported_program.json", b"{}")]), "pt2"),
        "tar": ("an archive of before 2017", lambda: _tar("storages"), "tar archive"),
        "tar with a link": ("it would be followed", lambda: _tar("storages", tarfile.SYMTYPE, "/etc/passwd"), "tar archive"),
        "tar with a parent folder": ("writes outside", lambda: _tar("../../evil"), "tar archive"),
        "tar with a pipe": ("opening it waits for ever", lambda: _tar("storages", tarfile.FIFOTYPE), "tar archive"),
        "tar behind a magic number": ("taken for torch's own format", _tar_behind_magic, "tar archive"),
        "gzip": ("a compressed stream", lambda: b"\x1f\x8b\x08\0" + os.urandom(100), "not a model file"),
        "zip behind text": ("a prefix", lambda: b"PK is how it begins\n" + zoo_file(), ""),
        "zip behind a shebang": ("it could be run", lambda: b"#!/bin/sh\ntouch x\n" + zoo_file(), "not a model file"),
        "one byte": ("P", lambda: b"P", "not a model file"),
        "two bytes": ("PK", lambda: b"PK", "zip archive"),
    }  # fmt: skip
    for name, (why, content, says) in made.items():
        maybe = says == ""
        yield Case(f"archive: {name}", why, _file(content), NAMED, says=says, harmless=maybe)
    draw = random.Random(7)
    kept = {"zip": zoo_file(), "legacy": torch_file(state(), zipped=False)}
    for kind, blob in kept.items():
        for i in range(8):
            at = draw.randrange(1, len(blob))
            yield Case(f"{kind} cut at {at}", "truncated", _file(lambda b=blob, a=at: _cut(b, a)), NAMED)
            at, bit = (draw.randrange(len(blob)), draw.randrange(8)) if i else (0, 1)
            # The old format has no checksum: a flipped bit of a weight is another weight.
            yield Case(f"{kind} flipped at {at} bit {bit}", "a flipped bit",
                       _file(lambda b=blob, a=at, n=bit: _flipped(b, a, n)), NAMED, harmless=True)  # fmt: skip
