"""The adapter: a model with keyword inputs and a rich output becomes one from tensors to tensors.

Libraries return dataclasses, dicts and caches; a program returns what its user looks at. The adapter is an
ordinary module around the model, and ``graph.capture`` knows it: names of parameters stay the model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from graph.errors import CaptureError

# The model's submodule within the adapter: the prefix that capture takes off every name.
INNER = "module"
# What a head predicts, under the names that libraries give it. An output may hold several of these.
_PREDICTIONS = (
    "logits", "prediction_logits", "prediction_scores", "logits_per_image", "start_logits", "end_logits",
    "pred_boxes", "pred_masks", "class_queries_logits", "masks_queries_logits", "predicted_depth",
    "reconstruction", "spectrogram",
)  # fmt: skip
_FEATURES = ("last_hidden_state",)
_FIXED = {"use_cache": False, "return_dict": True}
# Of a configuration: a cache makes no sense in one forward; experts are multiplied in a batch, not by a
# kernel of the library's own nor in a loop over those that the tokens happen to choose.
_SETTINGS = {"use_cache": False, "_experts_implementation": "batched_mm"}


def adapt(module: nn.Module, names: Sequence[str] | None = None, *, every: bool = False) -> nn.Module:
    """Wrap a model so that its forward takes tensors by position and returns its main tensor.

    The main tensor is the prediction where the output has one (``logits``, ``pred_boxes``; a tuple where it
    has several), else the last features, else the first tensor. A model that returns a tensor is unchanged
    but for its inputs.

    Args:
        module: left as it was; shared, not copied.
        names: the keyword of each input; by position when left out.
        every: return all tensors of the output, the main one first.

    Raises:
        CaptureError: the model's forward takes no input of such a name.
    """
    wanted = None if names is None else tuple(names)
    if isinstance(module, Adapter):
        return Adapter(module.inner, module.names if wanted is None else wanted, every)
    return Adapter(module, wanted, every)


class Adapter(nn.Module):
    """The module that ``adapt`` returns."""

    def __init__(self, module: nn.Module, names: tuple[str, ...] | None, every: bool = False) -> None:
        super().__init__()
        parameters = inspect.signature(module.forward).parameters
        free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        if names is not None and not free and (unknown := [n for n in names if n not in parameters]):
            takes = ", ".join(p for p in parameters if p not in _FIXED)
            raise CaptureError(
                f"{type(module).__name__} takes no input {unknown[0]!r}", hint=f"it takes: {takes}"
            )
        self.add_module(INNER, module)
        self.names, self.every = names, every
        self.fixed = {k: v for k, v in _FIXED.items() if k in parameters}
        self.training = module.training

    @property
    def inner(self) -> nn.Module:
        """The model itself."""
        found = self._modules[INNER]
        assert found is not None
        return found

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the model and pick what it predicts."""
        with _plain(self.inner):
            if self.names is None:
                result = self.inner(*inputs, **self.fixed)
            else:
                result = self.inner(**dict(zip(self.names, inputs, strict=True)), **self.fixed)
        return (main_first if self.every else main)(result)


def main(result: Any) -> Tensor | tuple[Tensor, ...]:
    """The tensors of a model's output that its user looks at.

    Raises:
        CaptureError: there is no tensor in it.
    """
    if isinstance(result, Tensor):
        return result
    named = _named(result)
    found = [named[k] for k in _PREDICTIONS if isinstance(named.get(k), Tensor)]
    if not found:
        features = (next(_tensors(named[k]), None) for k in _FEATURES if k in named)
        found = [t for t in features if t is not None]
    if not found:
        tensors = list(_tensors(result))
        # Masks and indices are no result as long as there is another one.
        found = [t for t in tensors if t.is_floating_point()][:1] or tensors[:1]
    if not found:
        raise CaptureError(
            f"the model returns no tensor but {type(result).__name__}",
            hint="wrap it in a module that returns a tensor",
        )
    return found[0] if len(found) == 1 else tuple(found)


def main_first(result: Any) -> Tensor | tuple[Tensor, ...]:
    """All tensors of a model's output, what its user looks at before the others.

    Raises:
        CaptureError: there is no tensor in it.
    """
    found = main(result)
    first = found if isinstance(found, tuple) else (found,)
    rest = [t for t in _tensors(result) if all(t is not f for f in first)]
    return (*first, *rest) if rest else found


def prediction(result: Any) -> Tensor:
    """What is compared with labels: the first of several outputs."""
    found: Tensor = result[0] if isinstance(result, (tuple, list)) else result
    return found


def _named(result: Any) -> Mapping[str, Any]:
    if isinstance(result, Mapping):
        return result
    if is_dataclass(result):
        return {f.name: getattr(result, f.name) for f in fields(result)}
    if hasattr(result, "_asdict"):  # a named tuple
        return dict(result._asdict())
    return {}


def _tensors(result: Any) -> Iterator[Tensor]:
    """The tensors within nested results, in order."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for part in result:
            yield from _tensors(part)
    else:
        for part in _named(result).values():
            yield from _tensors(part)


@contextmanager
def _plain(module: nn.Module) -> Iterator[None]:
    """Settings for a single forward in plain operators; the configurations get their own back afterwards."""
    configs = {id(c): c for m in module.modules() if (c := getattr(m, "config", None)) is not None}
    before = [(c, k, getattr(c, k)) for c in configs.values() for k in _SETTINGS if hasattr(c, k)]
    try:
        for config, key, _ in before:
            setattr(config, key, _SETTINGS[key])
        yield
    finally:
        for config, key, value in before:
            setattr(config, key, value)
