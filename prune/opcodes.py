"""Opcodes: what a pickle would import, call and build, worked out without doing any of it.

A reader that imports nothing harmful can still be kept busy for ever: a tuple of tuples that share their
parts doubles with each line, and one that is the key of a dict is hashed in full; a place in the memo may
have the number four thousand million. Such a pickle is told by its opcodes before anybody reads it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import IO, Any

from graph.errors import first_line

_DEEPEST = 200  # levels of values within values: Python looks at tuples recursively, without a limit
_MOST_PARTS = 10_000_000  # of a value, shared ones counted as often as they are met
_LONGEST = 1_000_000  # opcodes; a tensor takes thirty
_CODECS = ("latin1", "latin-1")  # of which `_codecs.encode` takes a time that grows with the text alone
_CONSTANTS = frozenset({
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT",
    "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_TUPLE", "PERSID",
})  # fmt: skip
_EMPTY = frozenset(["EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"])
_FROM_MARK = frozenset(["LIST", "DICT", "TUPLE", "FROZENSET"])
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "BINPERSID": 1, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3}
_INTO_MARK = frozenset(["APPENDS", "SETITEMS", "ADDITEMS"])
_INTO = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_GETS, _PUTS = frozenset(["GET", "BINGET", "LONG_BINGET"]), frozenset(["PUT", "BINPUT", "LONG_BINPUT"])
_IDLE = frozenset(["PROTO", "FRAME"])


class PickleError(ValueError):
    """A pickle that is broken, or that would keep its reader busy beyond all measure."""


class _Value:
    """A value that would be built: its parts, and the text that it is, if it is a short one."""

    __slots__ = ("depth", "parts", "text")

    def __init__(self, parts: list[_Value], text: str | None = None) -> None:
        self.parts: list[_Value] = []
        self.text = text
        self.depth = 1
        self.take(parts)

    def take(self, parts: list[_Value]) -> None:
        """Take more parts."""
        self.parts += parts
        for part in parts:
            if part.depth >= self.depth:
                self.depth = part.depth + 1
        if self.depth > _DEEPEST:
            raise PickleError(f"its values are nested more than {_DEEPEST} deep")


_LEAF = _Value([])


def names_in(file: IO[bytes]) -> set[str]:
    """What one pickle would import, as ``module.name``; the file stands behind the pickle then.

    Args:
        file: read without a copy where it can be; ``read`` must not allocate more than there is.

    Raises:
        PickleError: it is broken, or its values would be endless.
    """
    names: set[str] = set()
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[int, _Value] = {}
    made: list[_Value] = []
    try:
        for count, (name, arg) in enumerate(_operations(file)):
            if count > _LONGEST:
                raise PickleError(f"it has more than {_LONGEST:,} opcodes")
            if name in _CONSTANTS:
                stack.append(_Value([], arg) if isinstance(arg, str) and len(arg) < 100 else _LEAF)
            elif name in _EMPTY:
                stack.append(_Value([]))
                made.append(_last(stack))
            elif name == "MARK":
                stack.append(None)
            elif name in _FROM_MARK:
                stack.append(_Value(_popped(stack)))
                made.append(_last(stack))
            elif name in _TUPLES:
                value = _Value([_pop(stack) for _ in range(_TUPLES[name])][::-1])
                if name == "REDUCE":
                    _check_call(value)
                stack.append(value)
                made.append(value)
            elif name in _INTO_MARK:
                found = _popped(stack)
                _last(stack).take(found)
            elif name in _INTO:
                found = [_pop(stack) for _ in range(_INTO[name])]
                _last(stack).take(found)
            elif name in _GETS:
                stack.append(memo[int(arg)])
            elif name in _PUTS:
                if not 0 <= int(arg) <= count:
                    raise PickleError(f"it has {count} values and remembers one as number {arg}")
                memo[int(arg)] = _last(stack)
            elif name == "MEMOIZE":
                memo[len(memo)] = _last(stack)
            elif name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                if name == "STACK_GLOBAL":
                    what, module = _pop(stack).text, _pop(stack).text
                    arg = f"{module} {what}"
                names.add(str(arg).replace(" ", "."))
                stack.append(_Value(_popped(stack) if name == "INST" else [], str(arg).replace(" ", ".")))
                made.append(_last(stack))
            elif name == "OBJ":
                stack.append(_Value(_popped(stack)))
                made.append(_last(stack))
            elif name == "POP":
                stack.pop()
            elif name == "POP_MARK":
                _popped(stack)
            elif name == "DUP":
                stack.append(_last(stack))
            elif name.startswith("EXT"):
                names.add(f"copyreg.extension_{arg}")
                stack.append(_Value([]))
            elif name not in _IDLE and name != "STOP":
                raise PickleError(f"it uses {name}")
    except (KeyError, IndexError, AttributeError) as err:
        raise PickleError("it takes values that are not there") from err
    _check_size(made)
    return names


def _operations(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    try:
        for opcode, arg, _ in pickletools.genops(file):
            yield opcode.name, arg
    except PickleError:
        raise
    except Exception as err:  # noqa: BLE001 - ValueError, UnicodeDecodeError, struct.error, OverflowError
        raise PickleError(first_line(err)) from err


def _last(stack: list[_Value | None]) -> _Value:
    if (value := stack[-1]) is None:
        raise IndexError
    return value


def _pop(stack: list[_Value | None]) -> _Value:
    value = _last(stack)
    stack.pop()
    return value


def _popped(stack: list[_Value | None]) -> list[_Value]:
    """What lies above the last mark, which goes, too."""
    found: list[_Value] = []
    while (value := stack.pop()) is not None:
        found.append(value)
    return found[::-1]


def _check_call(value: _Value) -> None:
    """Of the functions that readers let pass, one can be led to take for ever."""
    function, args = value.parts
    if function.text == "_codecs.encode" and (len(args.parts) != 2 or args.parts[1].text not in _CODECS):
        raise PickleError("it encodes a text otherwise than as latin1")


def _check_size(made: list[_Value]) -> None:
    """Refuse values that contain themselves, or so many parts that to look at them takes for ever."""
    sizes: dict[int, int] = {}
    depths: dict[int, int] = {}
    open_: set[int] = set()
    for root in made:
        todo = [(root, False)]
        while todo:
            value, done = todo.pop()
            key = id(value)
            if done:
                open_.discard(key)
                sizes[key] = 1 + sum(sizes[id(p)] for p in value.parts)
                depths[key] = 1 + max((depths[id(p)] for p in value.parts), default=0)
                if depths[key] > _DEEPEST:
                    raise PickleError(f"its values are nested more than {_DEEPEST} deep")
                if sizes[key] > _MOST_PARTS:
                    raise PickleError(f"its values have more than {_MOST_PARTS:,} parts")
            elif key in open_:
                raise PickleError("it has a value that contains itself")
            elif key not in sizes:
                open_.add(key)
                todo.append((value, True))
                todo += [(p, False) for p in value.parts if id(p) not in sizes]
