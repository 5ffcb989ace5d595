"""The spy: which whole numbers a module's forward reads, from itself and from what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Any

from torch import Tensor, nn

# Called with an object, the name of an attribute that was read, and its value.
Note = Callable[[object, str, Any], None]
_SIZES = (int, tuple, list)
_NO_HOLDERS = (nn.Module, Tensor, Enum, type)


@contextmanager
def spied(module: nn.Module, note: Note) -> Iterator[None]:
    """Tell each whole number, tuple and list that is read from a module's attributes.

    Python asks an object's class for an attribute, so each object gets a class that tells and then asks the
    real one. All have their own class back afterwards, however the block ends.

    Args:
        module: a copy, with all of its submodules and the objects that they hold (configurations).
        note: is told.
    """
    things: dict[int, object] = {id(m): m for m in module.modules()}
    things |= {id(t): t for m in module.modules() for t in vars(m).values() if _holds(t)}
    spies: dict[type, type] = {}
    opaque: set[int] = set()
    with ExitStack() as scope:
        for thing in things.values():
            kind = type(thing)
            try:
                if kind not in spies:
                    spies[kind] = _spy(kind, note, opaque)
                # Not by way of the class's own __setattr__, which may refuse (a frozen dataclass).
                object.__setattr__(thing, "__class__", spies[kind])
                scope.callback(object.__setattr__, thing, "__class__", kind)
            except TypeError:  # of a class that is laid out otherwise (SimpleNamespace)
                opaque.add(id(thing))
        yield


def held_as(module: nn.Module, thing: object) -> str | None:
    """The attribute under which a module holds an object."""
    return next((k for k, v in vars(module).items() if v is thing), None)


def _holds(value: object) -> bool:
    """Whether an attribute is an object with attributes of its own."""
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, _NO_HOLDERS)


def _spy(kind: type, note: Note, opaque: Set[int]) -> type:
    """A class that tells what is read; who reads an opaque object counts as reading all that it holds."""
    get: Any = kind.__getattribute__

    def read(self: object, name: str) -> Any:
        value = get(self, name)
        if type(value) in _SIZES and not name.startswith("__"):
            note(self, name, value)
        elif id(value) in opaque:
            for key, held in vars(value).items():
                if type(held) in _SIZES:
                    note(value, key, held)
        return value

    return type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})
