"""Load: a trained model from a file, without running code that the file brings.

What a file is, its content says, not its name. Weights (``.safetensors``, a state dict of ``torch.save``) are
read with nothing executed. A pickled module, TorchScript and a ``.pt2`` run code when they are loaded, so
each is refused unless the caller trusts it; there is no silent way from the first kind to the second.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from graph.errors import ArchitectureError, ModelFileError, UntrustedCodeError, UsageError
from models_zoo import registry
from prune.files import sha256, write_file

_FORMAT, _VERSION = "prune-model", 1
_HEADER_KEY = "prune"  # of a safetensors file's metadata

# Where checkpoints keep the state dict, and what wrappers put before its names.
_INNER = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")

# The first bytes of a file of `torch.save` before version 1.6: a pickled magic number.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_RATIO = 20  # torch.save does not compress; other writers gain a factor of 2 or 3
_MAX_GAIN = 4 << 30  # bytes that unpacking may add to what is on disk
_MAX_SIDE = 1 << 16  # channels or pixels


@dataclass(frozen=True)
class LoadedModel:
    """A model as it came from a file.

    Attributes:
        module: in eval mode, on the CPU, float32.
        arch: a name in the zoo, ``package.module:factory``, or the class of a pickled or exported module.
        arch_args: what the architecture was built with.
        input_shape: (C, H, W) of one image, without the batch.
        data: name of the data that it was trained on, where the file says.
        metrics: what was measured when it was saved; empty where the file does not say.
        path: the file.
        sha256: of the file, in hexadecimal.
        size_bytes: of the file.
    """

    module: nn.Module
    arch: str
    arch_args: Mapping[str, Any]
    input_shape: tuple[int, ...]
    data: str | None
    metrics: Mapping[str, Any]
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class _Metadata:
    """What a file says about itself; everything is optional in foreign files."""

    arch: str | None = None
    arch_args: Mapping[str, Any] | None = None
    input_shape: tuple[int, ...] | None = None
    data: str | None = None
    metrics: Mapping[str, Any] | None = None


def load_model(
    path: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    trust_code: bool = False,
) -> LoadedModel:
    """Read a model file.

    Args:
        path: ``.safetensors`` or a file of ``torch.save``; with ``trust_code`` also ``.pt2``, pickled modules
            and, for the weights alone, TorchScript.
        arch: a name in the zoo, or ``package.module:factory``, which is imported (also from the working
            directory) because the caller names it. Needed unless the file names one of the zoo.
        arch_args: arguments of the architecture; they go before those in the file. The zoo's ``num_classes``
            and ``in_channels`` are read off the weights when nobody gives them.
        input_shape: (C, H, W); from the file or the zoo when left out.
        trust_code: the file may run code: it comes from someone the user trusts.

    Raises:
        ModelFileError: the file is missing, broken, or no model.
        UntrustedCodeError: loading it would run code, and ``trust_code`` is not given.
        ArchitectureError: no architecture, an unknown one, or one that the weights do not fit.
        UsageError: an input shape that is malformed, or missing where nothing else tells it.
    """
    path = Path(path)
    shape = None if input_shape is None else _shape(input_shape)
    size = _check_readable(path)
    digest = sha256(path)
    content, meta = _read(path, size, trust_code)
    if isinstance(content, torch.jit.ScriptModule) and arch is None:
        raise ModelFileError(
            f"{path} is a TorchScript model, which torch.export cannot capture",
            hint="save model.state_dict(); or give --arch to use only the weights that are in it",
        )

    args: dict[str, Any] = {}
    if isinstance(content, nn.Module) and arch is None:
        module, name = content, type(content).__name__
    else:
        state = content.state_dict() if isinstance(content, nn.Module) else content
        state = _checked_weights(path, size, state)
        name = _architecture(path, arch, meta)
        if name == meta.arch:  # the file's arguments are for the file's architecture
            args.update(meta.arch_args or {})
        module, args = _build(name, args | dict(arch_args or {}), state)
    module = module.float().eval()
    _check_finite(path, module)
    return LoadedModel(
        module=module,
        arch=name,
        arch_args=args,
        input_shape=shape or meta.input_shape or _default_shape(name, args),
        data=meta.data,
        metrics=meta.metrics or {},
        path=str(path),
        sha256=digest,
        size_bytes=size,
    )


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
        input_shape: (C, H, W).
        data: name of the data that it was trained on.
        metrics: what was measured.

    Raises:
        UsageError: another ending, or values that are not plain.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    header: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "arch": arch,
        "arch_args": dict(arch_args),
        "input_shape": list(input_shape),
        "data": data,
        "metrics": dict(metrics),
    }
    try:
        _metadata(path, header)
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
        blob = safetensors.torch.save(state, {_HEADER_KEY: text})
    else:
        raise UsageError(f"{path} ends in neither .pt nor .safetensors", hint="choose one of the two")

    def write(temporary: Path) -> None:
        temporary.write_bytes(blob)

    write_file(path, write)


# What kind of file it is


def _check_readable(path: Path) -> int:
    """Size in bytes of a file that can be opened and is not empty."""
    try:
        if path.is_dir():
            raise ModelFileError(f"{path} is a folder, not a model file", hint="name the file inside it")
        with path.open("rb") as file:
            file.read(1)
        size = path.stat().st_size
    except OSError as err:
        reason = "no such file" if isinstance(err, FileNotFoundError) else err.strerror
        raise ModelFileError(f"cannot read {path}: {reason}", hint="check the path") from err
    if not size:
        raise ModelFileError(f"{path} is empty", hint="copy or download it again")
    return size


def _read(path: Path, size: int, trust_code: bool) -> tuple[Any, _Metadata]:
    """A state dict (still to be checked) or, where the file is trusted, a module; and its metadata."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        members = _check_zip(path, size)
        if "data.pkl" in members and (
            "constants.pkl" in members or any(m.startswith("code/") for m in members)
        ):
            return _read_torchscript(path, trust_code), _Metadata()
        if members & {"models/model.json", "archive_format", "serialized_exported_program.json"}:
            return _read_exported(path, trust_code)
        if "data.pkl" not in members:
            raise ModelFileError(
                f"{path} is a zip archive, but not a model file: it has no data.pkl",
                hint="give the .pt or .safetensors file; unpack the archive if it is inside",
            )
        return _read_checkpoint(path, trust_code)
    if head.startswith(_LEGACY_MAGIC):
        return _read_checkpoint(path, trust_code)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return _read_safetensors(path)
    _refuse(path, head)


def _refuse(path: Path, head: bytes) -> NoReturn:
    """Say what a file is that is no model file."""
    text = head.lstrip().lower()
    again = "copy or download it again"
    if text.startswith(b"version https://git-lfs"):
        raise ModelFileError(
            f"{path} is not a model file but a Git-LFS pointer to it", hint="run: git lfs pull"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ModelFileError(f"{path} is not a model file but a web page", hint=again)
    if head[257:262] == b"ustar":
        raise ModelFileError(
            f"{path} is a tar archive (torch wrote such files before 0.2), which is not read",
            hint="unpack it if the model is inside, else load it with an old torch and save the state_dict",
        )
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise ModelFileError(
            f"{path} is not a model file but a bare pickle, which is not read",
            hint="save the state_dict with torch.save or safetensors",
        )
    kind = (
        "text" if all(b >= 32 or b in b"\t\n\r\f" for b in head) else "neither a torch nor a safetensors file"
    )
    raise ModelFileError(f"{path} is not a model file: it is {kind}", hint=again)


def _check_zip(path: Path, size: int) -> set[str]:
    """Member names without the archive's own folder, after every check that torch does not make.

    ``torch.load`` compares no checksum: a flipped bit would go through.
    """
    broken = "copy or download it again"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [m.filename for m in members]
            if len(set(names)) < len(names):
                twice = next(n for n in names if names.count(n) > 1)
                raise ModelFileError(f"{path} has two members named {twice!r}", hint="do not use this file")
            for member in members:
                if ".." in re.split(r"[/\\]", member.filename) or member.filename.startswith(("/", "\\")):
                    raise ModelFileError(
                        f"{path} has a member that points outside: {member.filename!r}",
                        hint="do not use this file",
                    )
                if member.flag_bits & 1:
                    raise ModelFileError(f"{path} is encrypted", hint="unpack and save it without a password")
            _check_gain(path, size, sum(m.file_size for m in members))
            if (damaged := archive.testzip()) is not None:
                raise ModelFileError(f"{path} is damaged: {damaged} fails its checksum", hint=broken)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as err:
        raise ModelFileError(
            f"{path} is a broken or truncated zip archive: {_line(err)}", hint=broken
        ) from err
    return {name.partition("/")[2] or name for name in names}


def _check_gain(path: Path, size: int, claimed: int) -> None:
    if claimed > size * _MAX_RATIO + (1 << 20) or claimed > size + _MAX_GAIN:
        raise ModelFileError(
            f"{path} has {size:,} bytes but claims to hold {claimed:,}", hint="do not use this file"
        )


# The kinds


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], _Metadata]:
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as err:  # noqa: BLE001 - a hostile file's types and sizes fail in several ways
        raise ModelFileError(
            f"{path} is a broken or truncated safetensors file: {_line(err)}",
            hint="copy or download it again",
        ) from err
    if _HEADER_KEY not in header:
        return state, _Metadata()
    try:
        found = json.loads(header[_HEADER_KEY])
    except (ValueError, RecursionError) as err:
        raise ModelFileError(f"{path}: its metadata is not JSON: {_line(err)}", hint="save it anew") from err
    return state, _metadata(path, found)


def _read_checkpoint(path: Path, trust_code: bool) -> tuple[Any, _Metadata]:
    """A file of ``torch.save``: a state dict, plain or inside a checkpoint."""
    content = _unpickle(path, trust_code)
    if not isinstance(content, Mapping):
        return content, _Metadata()
    if isinstance(content.get("format"), str) and content["format"] == _FORMAT:
        return content.get("state_dict"), _metadata(path, content)
    inner = (content[k] for k in _INNER if isinstance(content.get(k), Mapping | nn.Module))
    return next(inner, content), _Metadata()


def _unpickle(path: Path, trust_code: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on its own storages in old files
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # noqa: BLE001 - broken files raise seven kinds of exception and more
        safe_error = err
    if trust_code:
        return _unpickle_trusted(path)
    if unsafe := _unsafe_globals(path, safe_error):
        raise UntrustedCodeError(
            f"{path} would run code when loaded: it is a pickle that calls {', '.join(unsafe)}",
            hint="save model.state_dict() and give --arch; or, if you trust the file, --trust-code",
        ) from safe_error
    # Torch's own first line recommends to load the file unsafely.
    told = re.search(r"WeightsUnpickler error: *(.+)", str(safe_error))
    raise ModelFileError(
        f"{path} cannot be read by torch.load: {told[1] if told else _line(safe_error)}",
        hint="copy it again, or save model.state_dict() anew",
    ) from safe_error


def _unpickle_trusted(path: Path) -> Any:
    _search_working_directory()
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as err:  # noqa: BLE001 - the file's code raises what it likes
        raise ModelFileError(
            f"{path} cannot be unpickled: {_line(err)}",
            hint="run where its classes can be imported, or save model.state_dict() and give --arch",
        ) from err


def _unsafe_globals(path: Path, err: Exception) -> list[str]:
    """What a checkpoint would import or call beyond what weights need; empty when that is not its fault."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 - files from before torch 1.6 and broken ones: the error tells one name
        return re.findall(r"GLOBAL ([\w.]+)", str(err))[:1]


def _read_torchscript(path: Path, trust_code: bool) -> nn.Module:
    if not trust_code:
        raise UntrustedCodeError(
            f"{path} is a TorchScript archive, which runs code when loaded",
            hint="save model.state_dict() and give --arch; or --arch and, if you trust it, --trust-code",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return cast(nn.Module, torch.jit.load(path, map_location="cpu"))  # type: ignore[no-untyped-call]
    except Exception as err:  # noqa: BLE001 - the file's code raises what it likes
        raise ModelFileError(
            f"{path} cannot be loaded by torch.jit: {_line(err)}", hint="save it anew"
        ) from err


def _read_exported(path: Path, trust_code: bool) -> tuple[nn.Module, _Metadata]:
    if not trust_code:
        raise UntrustedCodeError(
            f"{path} is a .pt2 program, and torch.export.load can run code that is in it",
            hint="save model.state_dict() and give --arch; or, if you trust the file, --trust-code",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.load(path)
            module = exported.module()
    except Exception as err:  # noqa: BLE001 - broken files raise whatever
        raise ModelFileError(
            f"{path} cannot be loaded by torch.export: {_line(err)}", hint="export it anew with this torch"
        ) from err
    # An exported module refuses train() and eval(); the capture needs only that they do no harm.
    for method in ("train", "eval"):
        vars(module).pop(method, None)
    examples = exported.example_inputs[0] if exported.example_inputs else ()
    shape = tuple(examples[0].shape[1:]) if examples and isinstance(examples[0], Tensor) else ()
    return module, _Metadata(input_shape=shape or None)


# What the file says


def _metadata(path: Path, found: Any) -> _Metadata:
    """Check the types of our own metadata: a file may say anything."""

    def wrong(what: str) -> ModelFileError:
        return ModelFileError(f"{path}: its metadata is malformed: {what}", hint="save it anew")

    if not isinstance(found, Mapping) or found.get("format") != _FORMAT:
        raise wrong(f"it is not of the format {_FORMAT}")
    version = found.get("version")
    if not isinstance(version, int):
        raise wrong("version is not a number")
    if version != _VERSION:
        raise ModelFileError(
            f"{path} has version {version} of the format {_FORMAT}, only {_VERSION} is known",
            hint="use a newer prune",
        )
    arch, args, shape = found.get("arch"), found.get("arch_args"), found.get("input_shape")
    data, metrics = found.get("data"), found.get("metrics")
    if not isinstance(arch, str) or not arch:
        raise wrong("arch is not a text")
    if not isinstance(args, dict) or not _plain(args):
        raise wrong("arch_args is not a dict of plain values")
    if not isinstance(shape, list | tuple) or not _is_shape(shape):
        raise wrong("input_shape is not three positive whole numbers")
    if data is not None and not isinstance(data, str):
        raise wrong("data is not a text")
    if not isinstance(metrics, dict) or not _plain(metrics):
        raise wrong("metrics is not a dict of plain values")
    return _Metadata(arch, args, tuple(shape), data, metrics)


def _plain(value: Any, depth: int = 8) -> bool:
    """Whether it is made of what JSON knows, not nested too deep (a pickle may contain itself)."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(k, str) and _plain(v, depth - 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_plain(v, depth - 1) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _is_shape(shape: Sequence[Any]) -> bool:
    return len(shape) == 3 and all(type(n) is int and 0 < n <= _MAX_SIDE for n in shape)


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    if not _is_shape(shape):
        raise UsageError(
            f"an input shape is three positive whole numbers up to {_MAX_SIDE}, not {tuple(shape)}",
            hint="give channels, height and width, such as 3,32,32",
        )
    return tuple(shape)


# Weights and architecture


def _checked_weights(path: Path, size: int, content: Any) -> dict[str, Tensor]:
    """A state dict whose tensors are what they seem, in float32 where they are floating point."""
    if not isinstance(content, Mapping) or not content:
        kind = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ModelFileError(f"{path} holds {kind}, not a state dict", hint="save model.state_dict()")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            found = ", ".join(str(k) for k in list(content)[:5])
            raise ModelFileError(
                f"{path} holds no state dict: {name!r} is a {type(tensor).__name__} (it has: {found})",
                hint=f"save model.state_dict(), alone or under one of: {', '.join(_INNER)}",
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ModelFileError(
                f"{path}: tensor {name!r} is sparse, quantized or without data", hint="save ordinary weights"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelFileError(
                f"{path}: tensor {name!r} claims {tensor.numel():,} numbers but the file stores fewer",
                hint="save it anew, after .contiguous()",
            )
    _check_gain(path, size, sum(t.numel() * t.element_size() for t in content.values()))
    return {k: t.float() if t.is_floating_point() else t for k, t in content.items()}


def _check_finite(path: Path, module: nn.Module) -> None:
    if not any(p.numel() for p in module.parameters()):
        raise ModelFileError(f"{path}: the model has no parameters", hint="there is nothing to compress")
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelFileError(
                f"{path}: tensor {name!r} has NaN or infinite values", hint="take an earlier checkpoint"
            )


def _architecture(path: Path, arch: str | None, meta: _Metadata) -> str:
    """The architecture that the caller names, else the file's own if it is of the zoo."""
    if arch is not None:
        return arch if ":" in arch else registry.find(arch).name
    if meta.arch is None:
        raise ArchitectureError(
            f"{path} holds weights but not the architecture they belong to",
            hint=f"give --arch NAME or --arch package.module:factory; names: {', '.join(registry.names())}",
        )
    if meta.arch not in registry.ZOO:
        raise ArchitectureError(
            f"{path} names the architecture {meta.arch!r}, which the zoo does not have; it is not imported "
            "because a file says so",
            hint="if you trust that code, name it yourself: --arch package.module:factory",
        )
    return meta.arch


def _build(arch: str, args: dict[str, Any], state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Any]]:
    """The architecture with these weights, and all the arguments it took."""
    if ":" in arch:
        module = _call_factory(arch, args)
        state = _fitted(arch, module, state)
    else:
        # On the meta device first: arguments that a file brings must not decide how much memory we take.
        try:
            with torch.device("meta"):
                args = _inferred(arch, args, state)
                state = _fitted(arch, registry.build(arch, **args), state)
        except (RuntimeError, ValueError, TypeError, OverflowError) as err:
            raise ArchitectureError(
                f"{arch} cannot be built with {args}: {_line(err)}", hint="check the architecture's arguments"
            ) from err
        module = registry.build(arch, **args)
    module.load_state_dict(state)
    return module, args


def _call_factory(arch: str, args: Mapping[str, Any]) -> nn.Module:
    module_name, _, factory = arch.partition(":")
    _search_working_directory()
    try:
        built = getattr(importlib.import_module(module_name), factory)(**args)
    except Exception as err:  # noqa: BLE001 - the user's code raises what it likes
        raise ArchitectureError(
            f"the architecture {arch} cannot be built: {type(err).__name__}: {_line(err)}",
            hint="--arch package.module:factory is imported from the working directory or the environment "
            "and called with the architecture's arguments",
        ) from err
    if not isinstance(built, nn.Module):
        raise ArchitectureError(
            f"{arch} returns a {type(built).__name__}, not an nn.Module", hint="name a function or class"
        )
    return built


def _search_working_directory() -> None:
    """Let imports find the user's own code, as ``python -m`` would; also later ones, inside functions."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _inferred(arch: str, args: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments, with ``num_classes`` and ``in_channels`` read off the weights where not given."""
    entry = registry.find(arch)
    accepted = inspect.signature(entry.build).parameters
    prototype = registry.build(arch, **args)
    state = _stripped(state, prototype.state_dict())
    result = dict(args)
    linears = [k for k, m in prototype.named_modules() if isinstance(m, nn.Linear)]
    convs = [k for k, m in prototype.named_modules() if isinstance(m, nn.Conv2d)]
    for argument, layers, dim in (("num_classes", linears[-1:], 0), ("in_channels", convs[:1], 1)):
        weight = state.get(f"{layers[0]}.weight") if layers else None
        if argument in accepted and argument not in args and weight is not None and weight.dim() > dim:
            result[argument] = weight.shape[dim]
    return result


def _stripped(state: Mapping[str, Tensor], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict without the prefixes that DataParallel, compile and Lightning put before each name."""
    result = dict(state)
    for prefix in _PREFIXES:
        if all(k.startswith(prefix) for k in result) and not any(k.startswith(prefix) for k in expected):
            result = {k.removeprefix(prefix): t for k, t in result.items()}
    return result


def _fitted(arch: str, module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the names of the module.

    Raises:
        ArchitectureError: names or shapes differ; it tells the first of each kind.
    """
    expected = module.state_dict()
    state = _stripped(state, expected)
    # Files from before torch 0.4.1 do not count batches; load_state_dict fills that in.
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in expected]
    shapes = [k for k in state if k in expected and state[k].shape != expected[k].shape]
    complaints = [
        f"{len(names)} {what} (first: {names[0]})"
        for what, names in (("missing", missing), ("unexpected", extra))
        if names
    ]
    if shapes:
        first = shapes[0]
        complaints.append(
            f"{len(shapes)} of another shape (first: {first} is {tuple(state[first].shape)} in the file and "
            f"{tuple(expected[first].shape)} in the architecture)"
        )
    if complaints:
        raise ArchitectureError(
            f"the weights do not fit {arch}: {'; '.join(complaints)}",
            hint="check --arch and its arguments (num_classes, in_channels, width, ...)",
        )
    return state


def _default_shape(arch: str, args: Mapping[str, Any]) -> tuple[int, ...]:
    if arch not in registry.ZOO:
        raise UsageError(
            f"nothing tells the shape of the images that {arch} takes",
            hint="give --input-shape, such as 3,32,32",
        )
    channels, height, width = registry.ZOO[arch].input_shape
    return (cast(int, args.get("in_channels", channels)), height, width)


def _line(err: BaseException) -> str:
    """One line of an error that may have many, or none."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(err).__name__
