"""Structured pruning of PyTorch models: from a trained model to a smaller, verified one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune.native import native_module
    from prune.pruned import load_native, load_pruned

__version__ = "0.1.0"
__all__ = ["__version__", "load_native", "load_pruned", "native_module"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for, so that ``import prune`` stays quick."""
    if name in ("load_native", "load_pruned"):
        from prune import pruned

        return getattr(pruned, name)
    if name == "native_module":
        from prune.native import native_module

        return native_module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
