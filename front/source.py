"""Sources: which model a Python caller means, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from graph.errors import UsageError
from models_zoo.data import DataSet
from prune.architectures import default_inputs
from prune.given import Examples, example_inputs, unwrapped
from prune.inputs import InputRequest, ModelInputs, parse_shape, times
from prune.load import ModelSource
from prune.loaders import Data, data_set
from prune.subject import NO_DATA, measured_on

Model = nn.Module | str | Path
Shape = str | tuple[int, ...]


def opened(
    model: Model,
    data: Data | None,
    inputs: Examples | None = None,
    *,
    input_shape: Shape | None = None,
    input_dtype: str | None = None,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    pretrained: bool = False,
    trust_code: bool = False,
) -> tuple[ModelSource, str | DataSet | None]:
    """The model and the data as the pipeline takes them.

    Args:
        model: a module, or what the command line takes.
        data: as ``prune.loaders.data_set`` takes it. What a module takes that does not say so is what these
            data have.
        inputs: examples of what the model takes.
        input_shape: of the one input.
        input_dtype: of the one input.
        arch: architecture of bare weights.
        arch_args: its arguments.
        weights: file with the weights of a network that is named.
        pretrained: take the library's own weights.
        trust_code: load files that run code when loaded.

    Raises:
        UsageError: options that do not go together.
        DataError: no data of that kind.
    """
    found = data_set(data)
    wanted: ModelInputs | None = None
    if isinstance(model, nn.Module):
        given = {"arch": arch, "arch_args": arch_args, "weights": weights, "pretrained": pretrained}
        for name, value in given.items():
            if value:
                raise UsageError(
                    f"{name} says which network weights are of, and {type(model).__name__} is one",
                    hint=f"leave {name} out",
                )
        inner = unwrapped(model)
        if inputs is not None:
            wanted = example_inputs(inputs, inner)
        elif input_shape is None and found in (None, NO_DATA) and default_inputs("", {}, inner) is None:
            raise UsageError(
                f"nothing tells what {type(inner).__name__} takes",
                hint="give inputs=, such as inputs=torch.randn(1, 3, 224, 224), or data",
            )
    elif not isinstance(model, (str, Path)):
        raise UsageError(f"the model is a {type(model).__name__}", hint="give an nn.Module, a file or a name")
    elif inputs is not None:
        wanted = example_inputs(inputs, None)
    shape = input_shape if input_shape is None or isinstance(input_shape, str) else times(input_shape)
    source = ModelSource(
        model=type(unwrapped(model)).__name__ if isinstance(model, nn.Module) else str(model),
        module=model if isinstance(model, nn.Module) else None,
        arch=arch,
        arch_args=dict(arch_args or {}),
        weights=None if weights is None else Path(weights),
        pretrained=pretrained,
        request=InputRequest(
            shape=None if shape is None else parse_shape(shape), dtype=input_dtype, inputs=wanted
        ),
        trust_code=trust_code,
    )
    return measured_on(source, found), found
