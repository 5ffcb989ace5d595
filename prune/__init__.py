"""Structured pruning of PyTorch models: from a trained model to a smaller, verified one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from front.api import compress, evaluate, inspect
    from front.result import Result
    from graph.errors import PruneError
    from models_zoo.data import DataSet
    from prune.native import native_module
    from prune.pruned import load_native, load_pruned

__version__ = "0.1.0"
__all__ = [
    "DataSet",
    "PruneError",
    "Result",
    "__version__",
    "compress",
    "evaluate",
    "inspect",
    "load_native",
    "load_pruned",
    "native_module",
]
# Where each public name is defined. This module is the door of the whole package: some rooms behind it lie
# above this one.
_HOMES = {
    "DataSet": "models_zoo.data",
    "PruneError": "graph.errors",
    "Result": "front.result",
    "compress": "front.api",
    "evaluate": "front.api",
    "inspect": "front.api",
    "load_native": "prune.pruned",
    "load_pruned": "prune.pruned",
    "native_module": "prune.native",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for, so that ``import prune`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
