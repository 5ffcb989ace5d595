"""Checkpoints: reading the bytes of a weight file without running code that it brings.

What a file is, its content says, not its name. Weights (``.safetensors``, a state dict of ``torch.save``) are
read with nothing executed. A pickled module, TorchScript and a ``.pt2`` run code when they are loaded, so
each is refused unless the caller trusts it; there is no silent way from the first kind to the second.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.export import ExportedProgram

from graph.errors import ModelFileError, UntrustedCodeError, first_line
from prune.archives import check_gain, check_zip, is_tar
from prune.metadata import FORMAT, HEADER_KEY, Metadata, parse
from prune.pickles import check_pickles
from prune.regular import regular_size

# Where checkpoints keep the state dict.
_INNER = ("state_dict", "model_state_dict", "model", "net")

# The first bytes of a file of `torch.save` before version 1.6: a pickled magic number.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TENSORS_AT_MOST = 1 << 15  # of a file


def check_readable(path: Path) -> int:
    """Size in bytes of a file that can be opened and is not empty.

    Raises:
        ModelFileError: it is not such a file.
    """
    try:
        if path.is_dir():
            raise ModelFileError(f"{path} is a folder, not a model file", hint="name the file inside it")
        size = regular_size(path)
        with path.open("rb") as file:
            file.read(1)
    except OSError as err:
        reason = "no such file" if isinstance(err, FileNotFoundError) else err.strerror
        raise ModelFileError(f"cannot read {path}: {reason}", hint="check the path") from err
    if not size:
        raise ModelFileError(f"{path} is empty", hint="copy or download it again")
    return size


def read_file(path: Path, size: int, trust_code: bool) -> tuple[Any, Metadata]:
    """A state dict (still to be checked) or, where it is trusted, a module or program; and the metadata.

    Raises:
        ModelFileError: the file is broken or no model.
        UntrustedCodeError: loading it would run code, and ``trust_code`` is not given.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        members = check_zip(path, size)
        if "data.pkl" in members and (
            "constants.pkl" in members or any(m.startswith("code/") for m in members)
        ):
            return _read_torchscript(path, trust_code), Metadata()
        if members & {"models/model.json", "archive_format", "serialized_exported_program.json"}:
            return _read_exported(path, trust_code), Metadata()
        if "data.pkl" not in members:
            raise ModelFileError(
                f"{path} is a zip archive, but not a model file: it has no data.pkl",
                hint="give the .pt or .safetensors file; unpack the archive if it is inside",
            )
        return _read_checkpoint(path, trust_code)
    if head.startswith(_LEGACY_MAGIC) and not is_tar(head):
        return _read_checkpoint(path, trust_code)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return read_safetensors(path)
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
    if is_tar(head):
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


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """The tensors of a safetensors file and our own metadata, where it has some.

    Raises:
        ModelFileError: it is broken.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            if len(names) > _TENSORS_AT_MOST:
                raise ModelFileError(
                    f"{path} has {len(names):,} tensors, more than {_TENSORS_AT_MOST:,}",
                    hint="do not use this file",
                )
            state = {name: file.get_tensor(name) for name in names}
    except ModelFileError:
        raise
    except Exception as err:  # noqa: BLE001 - a hostile file's types and sizes fail in several ways
        raise ModelFileError(
            f"{path} is a broken or truncated safetensors file: {first_line(err)}",
            hint="copy or download it again",
        ) from err
    if HEADER_KEY not in header:
        return state, Metadata()
    try:
        found = json.loads(header[HEADER_KEY])
    except (ValueError, RecursionError) as err:
        raise ModelFileError(
            f"{path}: its metadata is not JSON: {first_line(err)}", hint="save it anew"
        ) from err
    return state, parse(path, found)


def _read_checkpoint(path: Path, trust_code: bool) -> tuple[Any, Metadata]:
    """A file of ``torch.save``: a state dict, plain or inside a checkpoint."""
    content = _unpickle(path, trust_code)
    if not isinstance(content, Mapping):
        return content, Metadata()
    if isinstance(content.get("format"), str) and content["format"] == FORMAT:
        return content.get("state_dict"), parse(path, content)
    inner = (content[k] for k in _INNER if isinstance(content.get(k), Mapping | nn.Module))
    return next(inner, content), Metadata()


def _unpickle(path: Path, trust_code: bool) -> Any:
    if not trust_code:
        check_pickles(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on its own storages in old files
            with path.open("rb") as file:  # of a path, torch would take the ending for the format
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:  # noqa: BLE001 - broken files raise seven kinds of exception and more
        safe_error = err
    if trust_code:
        return _unpickle_trusted(path)
    # Torch's own first line recommends to load the file unsafely.
    told = re.search(r"WeightsUnpickler error: *(.+)", str(safe_error))
    raise ModelFileError(
        f"{path} cannot be read by torch.load: {told[1] if told else first_line(safe_error)}",
        hint="copy it again, or save model.state_dict() anew",
    ) from safe_error


def _unpickle_trusted(path: Path) -> Any:
    search_working_directory()
    try:
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=False)
    except Exception as err:  # noqa: BLE001 - the file's code raises what it likes
        raise ModelFileError(
            f"{path} cannot be unpickled: {first_line(err)}",
            hint="run where its classes can be imported, or save model.state_dict() and give --arch",
        ) from err


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
            f"{path} cannot be loaded by torch.jit: {first_line(err)}", hint="save it anew"
        ) from err


def _read_exported(path: Path, trust_code: bool) -> ExportedProgram:
    if not trust_code:
        raise UntrustedCodeError(
            f"{path} is a .pt2 program, and torch.export.load can run code that is in it",
            hint="save model.state_dict() and give --arch; or, if you trust the file, --trust-code",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except Exception as err:  # noqa: BLE001 - broken files raise whatever
        raise ModelFileError(
            f"{path} cannot be loaded by torch.export: {first_line(err)}",
            hint="export it anew with this torch",
        ) from err


def checked_weights(path: Path, size: int, content: Any) -> dict[str, Tensor]:
    """A state dict whose tensors are what they seem, in float32 where they are floating point.

    Raises:
        ModelFileError: it is no state dict, or a tensor is not stored in an ordinary way.
    """
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
    check_gain(path, size, sum(t.numel() * t.element_size() for t in content.values()))
    return {k: t.float() if t.is_floating_point() else t for k, t in content.items()}


def check_finite(path: Path | str, module: nn.Module) -> None:
    """Refuse a model without parameters, or with weights that are no numbers.

    Raises:
        ModelFileError: it names the tensor.
    """
    if not any(p.numel() for p in module.parameters()):
        raise ModelFileError(f"{path}: the model has no parameters", hint="there is nothing to compress")
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelFileError(
                f"{path}: tensor {name!r} has NaN or infinite values", hint="take an earlier checkpoint"
            )


def search_working_directory() -> None:
    """Let imports find the user's own code, as ``python -m`` would; also later ones, inside functions."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
