"""Options that several commands share, and which model they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graph.errors import UsageError

if TYPE_CHECKING:
    from prune.load import ModelSource

MODEL = (
    "FILE (.safetensors, .pt, .pth, .pt2), folder of a run, hf:DIR (transformers checkpoint), timm:NAME, "
    "torchvision:NAME or package.module:factory"
)
ModelArgument = Annotated[str, typer.Argument(help=f"{MODEL}.", show_default=False)]
ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="Architecture of bare weights: a zoo name, timm:NAME, torchvision:NAME or "
        "package.module:factory. With hf:DIR: a class of transformers.",
    ),
]
ArchArgsOption = Annotated[
    str | None,
    typer.Option("--arch-args", help="Arguments of the architecture as JSON: '{\"width\": 8}'."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="File with the weights of a network that is named (timm:NAME, package.module:factory).",
        show_default="random, or what the factory returns",
    ),
]
PretrainedOption = Annotated[
    bool, typer.Option("--pretrained", help="Take the weights that timm or torchvision has for it.")
]
ShapeOption = Annotated[
    str | None,
    typer.Option(
        "--input-shape", help="Of the one input: 3x224x224, 1x3x224x224, 1x80x100 (sound), 1x128 (tokens)."
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--input-dtype", help="Of the one input, such as int64 for tokens.", show_default="float32"),
]
SpecOption = Annotated[
    Path | None,
    typer.Option(
        "--input-spec",
        help="Several or integer inputs: a .json or .toml file with shape, dtype, low and high of each "
        "by name, or a .safetensors or .npz file with an example.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="Keep the channels of modules that match, such as 'layer1.*'.")
]
OnlyOption = Annotated[
    list[str] | None, typer.Option(help="Prune only what modules that match make, such as '*.mlp.*'.")
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Keep at least this share, or this number, of the channels of modules that match: "
        "'layer1.*=0.5', fc=64.",
    ),
]
KindsOption = Annotated[
    str | None,
    typer.Option(
        help="Prune only groups of these kinds: channel, residual, mlp, head, lane, expert, state; such as "
        "'head,mlp'.",
        show_default=False,
    ),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Load files that run code when loaded (pickled modules, .pt2).")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits, glyphs, cifar10:PATH, imagefolder:PATH, package.module:factory or none; for segmenters "
        "shapes or maskfolder:PATH; for language models pystdlib, text:PATH or tokens:FILE. Left out: the "
        "data that the model names, else none.",
        show_default=False,
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files of an earlier run.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else on stdout.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="File with options: prune.toml, or pyproject.toml with a table tool.prune.",
        show_default="the one in the working directory",
    ),
]

SupernetArgument = Annotated[Path, typer.Argument(help="Folder of a supernet.", show_default=False)]
SupernetDataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="Data set, as for compress.", show_default="what the model or the supernet names"
    ),
]
SupernetForceOption = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]


def model_source(
    model: str,
    arch: str | None,
    arch_args: str | None,
    weights: Path | None,
    pretrained: bool,
    shape: str | None,
    dtype: str | None,
    spec: Path | None,
    trust_code: bool,
) -> ModelSource:
    """The options that say which model it is and what it takes."""
    from prune.input_spec import read_input_spec
    from prune.inputs import InputRequest, parse_shape
    from prune.load import ModelSource

    request = InputRequest(
        shape=None if shape is None else parse_shape(shape),
        dtype=dtype,
        inputs=None if spec is None else read_input_spec(spec),
        path=None if spec is None else str(spec),
    )
    return ModelSource(
        model=model,
        arch=arch,
        arch_args=architecture_arguments(arch_args),
        weights=weights,
        pretrained=pretrained,
        request=request,
        trust_code=trust_code,
    )


def architecture_arguments(text: str | None) -> dict[str, Any]:
    """What ``--arch-args`` says.

    Raises:
        UsageError: it is no JSON object.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        raise UsageError(f"--arch-args: {err}", hint="such as --arch-args '{\"width\": 8}'") from err
    if not isinstance(value, dict):
        raise UsageError("--arch-args: must be a JSON object", hint="such as --arch-args '{\"width\": 8}'")
    return value
