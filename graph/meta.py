"""Meta: what an operator returns on shapes alone, remembered, because networks repeat the same layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor

Frozen = tuple[Any, ...]  # (type, what tells two arguments of that type apart)


class Unfit(Exception):
    """An argument holds more than a shape can tell."""


def on_shapes(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an operator on the meta device, or give back what it returned to the same question.

    Results are shared: no caller may change them in place.

    Args:
        function: an operator; anything else is just called.
        args: its tensors lie on the meta device.
        kwargs: likewise.

    Raises:
        RuntimeError, ValueError, IndexError, TypeError: the operator does not run on these shapes.
    """
    if not isinstance(function, torch._ops.OpOverload):
        return function(*args, **kwargs)
    try:
        return _result(function, frozen(args), frozen(kwargs), torch.get_default_dtype())
    except Exception:  # noqa: BLE001 - the call says what is wrong, if anything is
        with _without_data():
            return function(*args, **kwargs)


@contextmanager
def _without_data() -> Iterator[None]:
    """Where a size depends on a mask, every element of it counts as set."""
    patch = torch.fx.experimental._config.patch  # type: ignore[attr-defined]  # added when it is imported
    with patch(meta_nonzero_assume_all_nonzero=True):
        yield


def frozen(arg: Any) -> Frozen:
    """Arguments as a key: 1, 1.0 and True are three things, and so are tensors of other strides.

    Raises:
        Unfit: a tensor with data, or one that is more than its shape.
    """
    kind = type(arg)
    if kind is Tensor:
        if arg.device.type != "meta" or arg.requires_grad or arg.is_conj() or arg.is_neg():
            raise Unfit
        return Tensor, tuple(arg.shape), arg.stride(), arg.dtype
    if isinstance(arg, (tuple, list)):
        return (list if kind is list else tuple), *map(frozen, arg)
    if kind is dict:
        return dict, tuple(arg), *map(frozen, arg.values())
    if isinstance(arg, Tensor):
        raise Unfit
    return kind, arg


def _thawed(key: Frozen) -> Any:
    kind, *rest = key
    if kind is Tensor:
        shape, stride, dtype = rest
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    if kind in (tuple, list):
        return kind(map(_thawed, rest))
    if kind is dict:
        return dict(zip(rest[0], map(_thawed, rest[1:]), strict=True))
    return rest[0]


@lru_cache(maxsize=20_000)
def _result(function: Callable[..., Any], args: Frozen, kwargs: Frozen, default: torch.dtype) -> Any:
    with _without_data():
        return function(*_thawed(args), **_thawed(kwargs))
