"""Load: what a model argument means, and the model that it names.

| argument | model |
|---|---|
| FILE | a checkpoint: weights, or with the user's trust a pickled module or a ``.pt2`` |
| DIR | what ``prune compress`` wrote |
| ``hf:DIR`` | a checkpoint of transformers, or of ``mamba_ssm`` |
| ``timm:NAME``, ``torchvision:NAME`` | a network of these libraries |
| ``package.module:factory`` | what the user's own function returns |
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.export import ExportedProgram

from graph.adapter import adapt
from graph.errors import ModelFileError, UsageError
from graph.program import ProgramModule
from models_zoo.mamba_lm import MambaLM
from models_zoo.transformers import CausalLM
from prune.architectures import architecture, build, call_factory, default_inputs, tokens_input
from prune.checkpoint import check_finite, check_readable, checked_weights, read_file
from prune.configured import is_configured
from prune.exported import open_exported
from prune.files import read_json, sha256, write_file
from prune.given import own_copy, returns_several
from prune.huggingface import CONFIG, load_checkpoint
from prune.inputs import InputRequest, ModelInputs, inputs_of, one_input, settled
from prune.libraries import create, is_library
from prune.mamba import is_mamba, load_mamba
from prune.manifest import MANIFEST_FILE, check_file, check_folder
from prune.metadata import FORMAT, HEADER_KEY, VERSION, Metadata, is_shape, parse
from prune.origin import named_data
from prune.pruned import GRAPH_FILE, WEIGHTS_FILE, load_program
from prune.report import REPORT_FILE

_HUB = "hf:"
_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What the user says about a model.

    Attributes:
        model: a file, a folder, ``hf:DIR``, ``timm:NAME``, ``torchvision:NAME``, ``package.module:factory``.
        arch: of bare weights: a name in the zoo, of a library, or ``package.module:factory``; of ``hf:DIR``
            a class that goes before the one in its configuration.
        arch_args: arguments of the architecture; they go before those in the file. The zoo's
            ``num_classes``, ``vocab_size`` and ``in_channels`` are read off the weights when left out.
        weights: file for a network that is named; its weights are random when left out.
        pretrained: with a library's own weights.
        request: shape and type of the inputs; from the file or the architecture when left out.
        module: the model itself, where it is at hand; ``model`` is then only its name. It is copied.
        predicts: it is measured by what it predicts: of several outputs, that is to be the first.
        trust_code: files may run code: they come from someone the user trusts.
    """

    model: str
    arch: str | None = None
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    pretrained: bool = False
    request: InputRequest = InputRequest()
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    predicts: bool = False
    trust_code: bool = False

    @property
    def path(self) -> Path:
        """The file or folder that the argument names."""
        return Path(self.model.removeprefix(_HUB))

    @property
    def is_named(self) -> bool:
        """Whether it is a network's name rather than a file."""
        return is_library(self.model) or (
            not self.model.startswith(_HUB)
            and not os.path.exists(self.model)
            and _FACTORY.fullmatch(self.model) is not None
        )

    @property
    def stem(self) -> str:
        """A short name for the results."""
        if self.is_named:
            return self.model.rpartition(":")[2]
        return self.path.resolve().name if self.path.is_dir() else self.path.stem


@dataclass(frozen=True)
class LoadedModel:
    """A model as it was loaded.

    Attributes:
        module: in eval mode, on the CPU, float32; takes its inputs as tensors, by position.
        arch: a name in the zoo, of a library, ``package.module:factory``, or the class of the module.
        arch_args: what the architecture was built with.
        inputs: what it takes.
        data: name of the data that it was trained on, where the file says.
        metrics: what was measured when it was saved; empty where the file does not say.
        path: the file, or whatever the user named.
        sha256: of the weight files, in hexadecimal; empty where there is none.
        size_bytes: of the weight files.
        notes: what the user should know.
    """

    module: nn.Module
    arch: str
    arch_args: Mapping[str, Any]
    inputs: ModelInputs
    data: str | None
    metrics: Mapping[str, Any]
    path: str
    sha256: str
    size_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record of the first input, such as (C, H, W)."""
        return self.inputs.items[0].record


@dataclass(frozen=True)
class _Found:
    """A module with what its origin says of it."""

    module: nn.Module
    arch: str
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    inputs: ModelInputs | None = None
    meta: Metadata = Metadata()
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def load_model(
    path: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    trust_code: bool = False,
) -> LoadedModel:
    """Load a model that takes one tensor, with the most common of the options.

    Args:
        path: the model argument.
        arch: as in ``ModelSource``, like ``arch_args`` and ``trust_code``.
        arch_args: arguments of the architecture.
        input_shape: of one record, such as (C, H, W).
        trust_code: files may run code.

    Raises:
        PruneError: as ``load``.
    """
    if input_shape is not None and not is_shape(input_shape):
        raise UsageError(
            f"an input shape is a few positive whole numbers, not {tuple(input_shape)}",
            hint="give the shape of one record, such as 3,32,32",
        )
    request = InputRequest(shape=None if input_shape is None else tuple(input_shape))
    return load(
        ModelSource(
            model=str(path), arch=arch, arch_args=arch_args or {}, request=request, trust_code=trust_code
        )
    )


def load(source: ModelSource) -> LoadedModel:
    """Load a model.

    Raises:
        ModelFileError: a file is missing, broken, or no model.
        UntrustedCodeError: loading it would run code, and ``trust_code`` is not given.
        ArchitectureError: no architecture, an unknown one, or one that the weights do not fit.
        UsageError: options that do not go together, or inputs that nothing tells.
    """
    found = _find(source)
    module = found.module.float().eval()
    check_finite(source.model, module)
    inputs = settled(source.request, found.inputs, module, found.arch if source.is_named else source.model)
    if inputs.named or is_configured(module):
        module = adapt(module, inputs.names if inputs.named else None).eval()
    elif source.predicts and returns_several(module, inputs):
        module = adapt(module, every=True).eval()
    return LoadedModel(
        module=module,
        arch=found.arch,
        arch_args=found.arch_args,
        inputs=inputs,
        data=found.meta.data,
        metrics=found.meta.metrics or {},
        path=source.model,
        sha256=_digest(found.files),
        size_bytes=sum(f.stat().st_size for f in found.files),
        notes=found.notes,
    )


def _digest(files: Sequence[Path]) -> str:
    """The hash of a file; of several, that of their hashes in order."""
    digests = [sha256(f) for f in files]
    return (
        digests[0]
        if len(digests) == 1
        else hashlib.sha256("".join(digests).encode()).hexdigest() * bool(digests)
    )


def _find(source: ModelSource) -> _Found:
    if source.module is not None:
        module = own_copy(source.module)
        return _Found(module, type(module).__name__, {}, default_inputs("", {}, module))
    if source.is_named:
        return _named(source)
    for option, given in (("--weights", source.weights), ("--pretrained", source.pretrained)):
        if given:
            raise UsageError(
                f"{option} goes with a network's name, not with {source.model}",
                hint="such as prune inspect timm:resnet18 --weights FILE; weights in FILE need --arch NAME",
            )
    if source.model.startswith(_HUB):
        return _checkpoint_folder(source)
    if os.path.isdir(source.path):
        return _run_folder(source)
    return _file(source)


def _named(source: ModelSource) -> _Found:
    """A network of a library or of the user's own function."""
    name, args = source.model, dict(source.arch_args)
    if source.arch is not None:
        raise UsageError(f"--arch: {name} names the architecture already", hint="leave out --arch")
    if source.pretrained and (source.weights is not None or not is_library(name)):
        what = "--weights" if source.weights is not None else name
        raise UsageError(
            f"--pretrained does not go with {what}",
            hint="it takes the weights that a library has: timm:NAME, torchvision:NAME",
        )
    if source.weights is not None:
        return _from_weights(source, source.weights, name)
    if not is_library(name):
        module = call_factory(name, args)
        return _Found(module, name, args, default_inputs(name, args, module))
    module = create(name, args, pretrained=source.pretrained)
    notes = () if source.pretrained else ("the weights are random: give --weights FILE or --pretrained",)
    return _Found(module, name, args, default_inputs(name, args, module), notes=notes)


def _checkpoint_folder(source: ModelSource) -> _Found:
    if source.arch_args:
        raise UsageError("--arch-args does not go with hf:DIR", hint="change config.json")
    if source.arch is None and is_mamba(source.path):
        mamba, files = load_mamba(source.path)
        return _Found(mamba, f"mamba{mamba.sizes.version}", {}, tokens_input(mamba), files=files)
    module, files = load_checkpoint(source.path, source.arch)
    known = None if source.request.inputs is not None else default_inputs("", {}, module)
    meta = Metadata(data=named_data(source.path))
    return _Found(module, f"transformers:{type(module).__name__}", {}, known, meta, files)


def _run_folder(source: ModelSource) -> _Found:
    """What ``prune compress`` wrote: a program that needs neither class nor architecture."""
    folder = source.path
    if not (folder / GRAPH_FILE).is_file():
        hint = "give the folder that `prune compress` wrote, or a file"
        if (folder / CONFIG).is_file():
            hint = f"a checkpoint of transformers is named hf:{folder}"
        raise ModelFileError(f"{folder} is a folder without {GRAPH_FILE}", hint=hint)
    if source.arch is not None or source.arch_args:
        raise UsageError(
            f"--arch does not go with {folder}", hint="the folder of a run holds its own architecture"
        )
    listed = check_folder(folder)
    program = load_program(folder)
    about: Mapping[str, Any] = {}
    data: Any = named_data(folder)
    if (folder / REPORT_FILE).is_file():
        report = read_json(folder / REPORT_FILE, "a report")
        about = report["model"] if isinstance(report.get("model"), dict) else {}
        data = report["data"].get("name") if isinstance(report.get("data"), dict) else None
    arch = about.get("arch")
    return _Found(
        ProgramModule(program),
        arch if isinstance(arch, str) else "program",
        {},
        inputs_of(program),
        Metadata(data=data if isinstance(data, str) else None),
        (folder / WEIGHTS_FILE,),
        () if listed else (f"{folder} has no {MANIFEST_FILE}: damage to its files would not be noticed",),
    )


def _file(source: ModelSource) -> _Found:
    path, arch = source.path, source.arch
    size = check_readable(path)
    check_file(path)
    content, meta = read_file(path, size, source.trust_code)
    if isinstance(content, torch.jit.ScriptModule) and arch is None:
        raise ModelFileError(
            f"{path} is a TorchScript model, which torch.export cannot capture",
            hint="save model.state_dict(); or give --arch to use only the weights that are in it",
        )
    if isinstance(content, ExportedProgram) and arch is None:
        module, inputs = open_exported(path, content)
        return _Found(module, "ExportedProgram", {}, inputs, files=(path,))
    if isinstance(content, nn.Module) and arch is None:
        known = default_inputs(type(content).__name__, {}, content)
        return _Found(content, type(content).__name__, {}, known, files=(path,))
    return _with_weights(source, path, content, meta, arch)


def _from_weights(source: ModelSource, path: Path, arch: str) -> _Found:
    content, meta = read_file(path, check_readable(path), source.trust_code)
    return _with_weights(source, path, content, meta, arch)


def _with_weights(source: ModelSource, path: Path, content: Any, meta: Metadata, arch: str | None) -> _Found:
    """An architecture with the weights of a file."""
    state = content.state_dict() if isinstance(content, nn.Module) else content
    if isinstance(content, ExportedProgram):
        state = dict(content.state_dict)
    state = checked_weights(path, path.stat().st_size, state)
    name = architecture(path, arch, meta)
    args: dict[str, Any] = {}
    if name == meta.arch:  # the file's arguments are for the file's architecture
        args.update(meta.arch_args or {})
    module, args = build(name, args | dict(source.arch_args), state)
    inputs = one_input(meta.input_shape) if meta.input_shape else default_inputs(name, args, module)
    if isinstance(module, (MambaLM, CausalLM)) and meta.input_shape:
        inputs = tokens_input(module, meta.input_shape[0])
    return _Found(module, name, args, inputs, meta, (path,))


def save_model(
    path: str | Path,
    module: nn.Module,
    *,
    arch: str,
    arch_args: Mapping[str, Any],
    input_shape: Sequence[int],
    data: str | None,
    metrics: Mapping[str, Any],
) -> None:
    """Write weights with all that ``load_model`` needs to read them back; whole or not at all.

    Args:
        path: ends in ``.pt`` or ``.safetensors``, which decides the format.
        module: only its state dict is stored, on the CPU.
        arch: as in ``LoadedModel``, like all that follows; plain values only.
        arch_args: what the architecture is built with.
        input_shape: of one record, such as (C, H, W).
        data: name of the data that it was trained on.
        metrics: what was measured.

    Raises:
        UsageError: another ending, or values that are not plain.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "arch": arch,
        "arch_args": dict(arch_args),
        "input_shape": list(input_shape),
        "data": data,
        "metrics": dict(metrics),
    }
    try:
        parse(path, header)
    except ModelFileError as err:
        raise UsageError(str(err), hint="use numbers, texts, and lists and dicts of them") from err
    text = json.dumps(header)
    state = {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}
    if path.suffix == ".pt":
        buffer = io.BytesIO()  # torch.save's own errors on a full disk are obscure
        # Through JSON, for a float of numpy's would be a global that a safe load refuses.
        torch.save(json.loads(text) | {"state_dict": state}, buffer)
        blob = buffer.getvalue()
    elif path.suffix == ".safetensors":
        blob = safetensors.torch.save(state, {HEADER_KEY: text})
    else:
        raise UsageError(f"{path} ends in neither .pt nor .safetensors", hint="choose one of the two")

    def write(temporary: Path) -> None:
        temporary.write_bytes(blob)

    write_file(path, write)
