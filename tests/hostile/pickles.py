"""Pickles that would call something, or keep their reader busy, in every container that is read."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case, Payload
from tests.hostile.honest import zoo_file
from tests.hostile.pickle_words import (
    EMPTY_TUPLE,
    MARK,
    REDUCE,
    STOP,
    TUPLE,
    called,
    in_archive,
    in_legacy,
    named,
    number,
    plain_state,
    stacked,
    text,
    value,
    whole,
)
from tests.hostile.routes import ROUTES

Body = Callable[[Payload], bytes]
CIFAR = ("eval", "zoo.pt", "--data", "cifar10:.")
CALLS = "would run code when loaded"
BROKEN = "cannot be read by torch.load"


def _exec(p: Payload) -> bytes:
    return called(named("builtins", "exec"), p.python)


def _system(p: Payload) -> bytes:
    return called(named("os", "system"), p.shell)


def _tricks() -> Iterator[tuple[str, str, Body, str]]:
    """Name, reason, the whole pickle, what the error says."""
    yield (
        "stack global",
        "the name comes from the stack",
        lambda p: whole(called(stacked("os", "system"), p.shell), 4),
        CALLS,
    )
    yield (
        "stack global of memo",
        "the name comes from the memo",
        lambda p: whole(
            text("os")
            + b"\x94"
            + b"0"
            + text("system")
            + b"\x94"
            + b"0"
            + b"h\x00h\x01\x93"
            + MARK
            + text(p.shell)
            + TUPLE
            + REDUCE,
            4,
        ),
        CALLS,
    )
    yield "protocol 0", "text opcodes only", lambda p: b"cos\nsystem\n(V" + p.shell.encode() + b"\ntR.", CALLS
    yield "no protocol", "PROTO left out", lambda p: _exec(p) + STOP, CALLS
    yield "two protocols", "PROTO twice", lambda p: b"\x80\x02\x80\x04" + _exec(p) + STOP, CALLS
    yield "protocol 255", "an impossible protocol", lambda p: b"\x80\xff" + _exec(p) + STOP, CALLS
    yield (
        "inst",
        "INST imports and calls at once",
        lambda p: whole(MARK + text(p.shell) + b"ios\nsystem\n"),
        CALLS,
    )
    yield (
        "obj",
        "OBJ calls what lies above a mark",
        lambda p: whole(MARK + named("os", "system") + text(p.shell) + b"o"),
        CALLS,
    )
    yield (
        "newobj",
        "NEWOBJ makes an object",
        lambda p: whole(named("subprocess", "Popen") + value((["touch", str(p.canary)],)) + b"\x81"),
        CALLS,
    )
    yield (
        "newobj ex",
        "NEWOBJ with keywords",
        lambda p: whole(
            named("subprocess", "Popen") + value(()) + value({"args": ["touch", str(p.canary)]}) + b"\x92", 4
        ),
        CALLS,
    )
    yield "ext1", "an extension code of copyreg", lambda p: whole(b"\x82\x01" + EMPTY_TUPLE + REDUCE), CALLS
    yield (
        "ext4",
        "a long extension code",
        lambda p: whole(b"\x84\xff\xff\xff\x7f" + EMPTY_TUPLE + REDUCE),
        CALLS,
    )
    yield (
        "build",
        "BUILD hands a state to __setstate__",
        lambda p: whole(
            named("collections", "OrderedDict")
            + EMPTY_TUPLE
            + REDUCE
            + value({"__class__": "x"})
            + b"b"
            + _system(p)
            + b"0"
        ),
        CALLS,
    )
    yield (
        "build slots",
        "BUILD sets attributes of a class",
        lambda p: whole(named("torch", "Size") + value(({}, {"__call__": named("os", "system")})) + b"b"),
        CALLS,
    )
    yield (
        "popped",
        "the call's result is dropped, a state dict remains",
        lambda p: whole(_exec(p) + b"0" + value({"w": 1})),
        CALLS,
    )
    yield (
        "in a key",
        "the call makes the key of a dict",
        lambda p: whole(b"}" + _exec(p) + number(1) + b"s"),
        CALLS,
    )
    yield "in persistent id", "the call makes a persistent id", lambda p: whole(_exec(p) + b"Q"), CALLS
    yield "after stop", "a second pickle behind the first", lambda p: whole(value({})) + whole(_exec(p)), ""
    yield (
        "nested",
        "a pickle within a pickle, to be loaded by pickle.loads",
        lambda p: whole(
            called(named("pickle", "loads"), b"B" + struct.pack("<I", len(whole(_exec(p)))) + whole(_exec(p)))
        ),
        CALLS,
    )
    yield (
        "getattr chain",
        "getattr finds what is not named",
        lambda p: whole(called(named("builtins", "getattr"), named("torch", "serialization"), "os")),
        CALLS,
    )
    yield (
        "dotted name",
        "a name with a dot walks through modules",
        lambda p: whole(called(stacked("torch", "serialization.os.system"), p.shell), 4),
        CALLS,
    )
    yield (
        "through torch",
        "a module of torch that imports os",
        lambda p: whole(called(named("torch.serialization", "os.system"), p.shell)),
        CALLS,
    )
    yield (
        "looks like torch",
        "a module whose name begins like torch's",
        lambda p: whole(called(named("torch._utils_evil", "_rebuild_tensor_v2"), p.shell)),
        CALLS,
    )
    yield (
        "homoglyph",
        "a Cyrillic o in the name of the module",
        lambda p: whole(called(named("t\u043erch._utils", "_rebuild_tensor_v2"), 1)),
        BROKEN,
    )
    yield (
        "escape sequence",
        "the name clears the terminal",
        lambda p: whole(called(named("os\x1b[2J\x1b[H", "system\x07"), p.shell)),
        r"os\x1b[2J",
    )
    yield (
        "name of a megabyte",
        "the name floods the terminal",
        lambda p: whole(called(named("o" * (1 << 20), "s"), 1)),
        CALLS,
    )
    yield (
        "thousand names",
        "the names flood the terminal",
        lambda p: whole(b"".join(named("evil", f"name{i}") + b"0" for i in range(1000)) + b"N"),
        "and 980 more",
    )
    yield (
        "allowed function, hostile argument",
        "OrderedDict of what a call returns",
        lambda p: whole(called(named("collections", "OrderedDict"), _system(p))),
        CALLS,
    )
    yield (
        "rebuild from type",
        "torch's own function calls another",
        lambda p: whole(
            called(named("torch._tensor", "_rebuild_from_type_v2"), named("os", "system"), 1, (p.shell,), {})
        ),
        CALLS,
    )
    yield (
        "numpy scalar",
        "numpy's functions are no weights",
        lambda p: whole(called(named("numpy.core.multiarray", "scalar"), named("numpy", "dtype"), "x")),
        CALLS,
    )


def _tuples(count: int) -> bytes:
    """A tuple of two references to a tuple of two references ...: 2^count parts."""
    body = EMPTY_TUPLE + b"q\x000"
    for i in range(count):
        body += b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) + b"0" * (i < count - 1)
    return body


def _busy() -> Iterator[tuple[str, str, bytes, str]]:
    """Name, reason, the pickle, what the error says: pickles that keep their reader busy."""
    yield (
        "hash bomb",
        "a key that takes 2^60 steps to hash",
        whole(b"}" + _tuples(60) + number(1) + b"s"),
        "parts",
    )
    yield (
        "hash bomb of a set",
        "an element that takes 2^60 steps to hash",
        whole(called(named("builtins", "set"), b"](" + _tuples(60) + b"e")),
        "parts",
    )
    yield (
        "lists of lists",
        "2^40 parts in 40 lists",
        whole(
            b"]q\x00"
            + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(40))
        ),
        "parts",
    )
    yield (
        "contains itself",
        "a dict within itself",
        whole(b"}q\x00X\x01\x00\x00\x00ah\x00s"),
        "contains itself",
    )
    yield (
        "deep tuples",
        "a million levels, which overflow the stack",
        whole(b")" + b"\x85" * 1_000_000),
        "deep",
    )
    yield "deep lists", "100,000 levels", whole(b"]" * 100_000 + b"a" * 99_999), "deep"
    yield (
        "memo of four thousand million",
        "a place in the memo, by which memory is taken",
        whole(b"Nr\xff\xff\xff\xff"),
        "remembers",
    )
    yield "memo in text", "a place in the memo of 30 digits", whole(b"Np" + b"9" * 30 + b"\n"), "remembers"
    yield "negative memo", "a place in the memo below zero", whole(b"Np-1\n"), "remembers"
    yield (
        "idna",
        "an encoding that takes the square of the length",
        whole(called(named("_codecs", "encode"), "ä" * 100_000, "idna")),
        "latin1",
    )
    yield (
        "bytearray",
        "eight gigabytes of zeros",
        whole(called(named("builtins", "bytearray"), b"\x8a\x05\x00\x00\x00\x00\x02")),
        "plain ones",
    )
    yield (
        "tensor of gigabytes",
        "a tensor class called with a size",
        whole(called(named("torch", "FloatTensor"), b"\x8a\x05\x00\x00\x00\x00\x02")),
        "plain ones",
    )
    yield "long int in text", "a number of a million digits", whole(b"L" + b"9" * 1_000_000 + b"L\n"), BROKEN
    yield "negative length", "a text of negative length", whole(b"\x8d" + b"\xff" * 8), BROKEN
    yield "huge length", "a text longer than the file", whole(b"X\xff\xff\xff\xff"), BROKEN
    yield "bytes of 2^62", "bytes longer than all memory", whole(b"\x8e" + struct.pack("<Q", 1 << 62)), BROKEN
    yield "no stop", "the pickle has no end", b"\x80\x02}q\x00", BROKEN
    yield "empty stack", "nothing to return", b"\x80\x02.", BROKEN
    yield "underflow", "more is taken than was given", whole(b"R"), BROKEN
    yield "no mark", "a tuple without a beginning", whole(b"t"), BROKEN
    yield "unknown memo", "a place in the memo that is empty", whole(b"h\x07"), BROKEN
    yield "unknown opcode", "an opcode that does not exist", whole(b"\xff"), BROKEN
    yield "frame", "a frame longer than the file", whole(b"\x95" + b"\xff" * 8 + b"N", 4), ""
    yield "not text", "a name that is not UTF-8", whole(b"c\xff\xfe\n\xfd\n"), BROKEN


def _written(content: bytes, name: str = "m.pt") -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (folder / name).write_bytes(content)


def _packed(
    pack: Callable[[bytes], bytes], body: Body, name: str = "m.pt"
) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (folder / name).write_bytes(pack(body(payload)))


def cases() -> Iterator[Case]:
    """Calls by every route and trick; pickles that are busy or broken."""
    for module, name, args in ROUTES:
        yield Case(
            f"pickle: {module}.{name}", "a function that runs code, writes a file or opens a connection",
            _packed(in_archive, lambda p, m=module, n=name, a=args: whole(called(named(m, n), *a(p)))), says=CALLS,
        )  # fmt: skip
    for trick, why, body, says in _tricks():
        yield Case(f"pickle: {trick}", why, _packed(in_archive, body), says=says)
        yield Case(
            f"legacy pickle: {trick}",
            why,
            _packed(in_legacy, body),
            says="" if trick == "after stop" else says,
        )
    for busy, why, content, says in _busy():
        yield Case(f"pickle: {busy}", why, _written(in_archive(content)), says=says)
        yield Case(f"cifar: {busy}", why, _cifar(content), CIFAR, says="data_batch_1")
    for trick, why, body, _ in _tricks():
        if trick in (
            "stack global",
            "inst",
            "obj",
            "newobj",
            "ext1",
            "popped",
            "dotted name",
            "escape sequence",
        ):
            yield Case(f"cifar: {trick}", why, _cifar_of(body), CIFAR, says="data_batch_1")
    evil = {
        "exec": _exec, "system": _system,
        "in a state dict": lambda p: b"}" + text("w") + _exec(p) + b"s",
        "in the metadata": lambda p: b"}" + text("format") + text("prune-model") + b"s" + text("arch") + _exec(p) + b"s",
    }  # fmt: skip
    for name, body in evil.items():
        yield Case(f"bare pickle: {name}", "no container at all",
                   _packed(lambda b: b, lambda p, b=body: whole(b(p))), says="not a model file")  # fmt: skip
        yield Case(f"safetensors that is a pickle: {name}", "the ending lies",
                   _packed(in_archive, lambda p, b=body: whole(b(p)), "m.safetensors"),
                   ("inspect", "m.safetensors"), says=CALLS)  # fmt: skip
    yield Case("two data.pkl", "the second folder of the archive holds another pickle", _two_folders, says="")
    yield Case("polyglot of zip and legacy", "an old file with an archive behind it", _polyglot, says="")
    yield Case("pickle of a pickle file", "protocol 5, as Python writes it", _bare5, says="bare pickle")


def _cifar(content: bytes) -> Callable[[Path, Payload], object]:
    return _cifar_of(lambda payload: content)


def _cifar_of(body: Body) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        (folder / "zoo.pt").write_bytes(zoo_file())
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            (folder / name).write_bytes(body(payload))

    return make


def _two_folders(folder: Path, payload: Payload) -> None:
    (folder / "m.pt").write_bytes(in_archive(whole(b"}"), [("../b/data.pkl", whole(_exec(payload)))]))


def _polyglot(folder: Path, payload: Payload) -> None:
    (folder / "m.pt").write_bytes(in_legacy(whole(_exec(payload)), pickle.dumps([], 2) + plain_state()))


def _bare5(folder: Path, payload: Payload) -> None:
    (folder / "m.pt").write_bytes(pickle.dumps({"w": [1.0]}, 5))
