"""Checkpoints of transformers: ``hf:DIR`` is a folder with config.json and safetensors; nothing else counts.

The weights are read here and handed to the library as tensors, so that it opens no file of its own: no
pickle, no adapter, no code from the folder, no network. The library itself is imported when it is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graph.errors import ArchitectureError, ModelFileError, UntrustedCodeError, first_line
from prune.bounded import no_larger_than
from prune.checkpoint import check_readable, checked_weights, read_safetensors
from prune.files import read_json

CONFIG = "config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LABELS = 1 << 20  # that a configuration may have
_CONVERT = "save it anew with model.save_pretrained(DIR), which writes safetensors"


def load_checkpoint(folder: Path, arch: str | None) -> tuple[nn.Module, tuple[Path, ...]]:
    """A model in float32 with the checkpoint's weights, and the files that these come from.

    Args:
        folder: with config.json and model.safetensors, or shards and their index.
        arch: class of the library that goes before the one in the configuration.

    Raises:
        ModelFileError: the folder or a file of it is missing or broken.
        UntrustedCodeError: the checkpoint needs code of its own, or its weights are pickled.
        ArchitectureError: the library is missing, does not have the class, or the weights do not fit it.
    """
    settings = read_settings(folder)
    check_settings(folder, settings)
    files = weight_files(folder)
    name = _class_name(folder, settings, arch)
    model_class = _model_class(name)
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_weights(file)
    return _filled(folder, model_class, settings, state), files


def read_settings(folder: Path) -> dict[str, Any]:
    """The configuration of a checkpoint.

    Raises:
        ModelFileError: the folder or the file is missing or broken.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise ModelFileError(
            f"hf:{folder}: {what}",
            hint="give a folder with config.json; models of the hub are to be downloaded first",
        )
    if not (folder / CONFIG).is_file():
        raise ModelFileError(
            f"hf:{folder} holds no {CONFIG}", hint="give the folder that model.save_pretrained wrote"
        )
    return read_json(folder / CONFIG, "configuration", constants=True)


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse what would need code from the folder, or weights of another kind.

    Raises:
        UntrustedCodeError: it asks for code of its own.
        ModelFileError: the weights are quantized.
    """
    for part in (settings, *(v for v in settings.values() if isinstance(v, Mapping))):
        if "auto_map" in part or part.get("trust_remote_code"):
            raise UntrustedCodeError(
                f"hf:{folder} asks for code of its own ({CONFIG} has auto_map), which is never run",
                hint="if you trust the code, write a function that loads the model and name it: "
                "prune ... package.module:function",
            )
        labels = part.get("num_labels")
        if isinstance(labels, int) and labels > _LABELS:  # each gets a name before the model is built
            raise ModelFileError(f"hf:{folder}: {CONFIG} says {labels:,} labels", hint="check num_labels")
        if "quantization_config" in part:
            raise ModelFileError(
                f"hf:{folder} holds quantized weights ({CONFIG} has quantization_config)",
                hint="prune the model first and quantize the result",
            )


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint, in order.

    Raises:
        UntrustedCodeError: there are only pickled weights.
        ModelFileError: there are none, or a shard is missing.
    """
    if (folder / _INDEX).is_file() and not (folder / _WEIGHTS).is_file():
        return _shards(folder)
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    names = sorted(p.name for p in folder.iterdir())
    if pickled := [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"))]:
        raise UntrustedCodeError(
            f"hf:{folder} has its weights only as {pickled[0]}, which is not read: such files can run code",
            hint=_CONVERT,
        )
    if "adapter_config.json" in names:
        raise ModelFileError(
            f"hf:{folder} holds an adapter, not a model", hint="merge it into its model and save that"
        )
    raise ModelFileError(
        f"hf:{folder} holds no weights: there is no {_WEIGHTS}", hint="download the folder again"
    )


def _shards(folder: Path) -> tuple[Path, ...]:
    """The files that an index names, each of them a plain file of the folder."""
    found = read_json(folder / _INDEX, "index of the weights").get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(v, str) for v in found.values()):
        raise ModelFileError(f"{folder / _INDEX} has no weight_map", hint="download the folder again")
    files = []
    for name in dict.fromkeys(found.values()):
        if name != os.path.basename(name) or not name.endswith(".safetensors"):
            raise ModelFileError(
                f"{folder / _INDEX} names {name!r}, which is no safetensors file of the folder",
                hint="do not use this checkpoint",
            )
        if not (folder / name).is_file():
            raise ModelFileError(f"hf:{folder} lacks the shard {name}", hint="download it again")
        files.append(folder / name)
    return tuple(files)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, real ones as float32.

    Raises:
        ModelFileError: it is broken.
    """
    size = check_readable(path)
    content, _ = read_safetensors(path)
    return checked_weights(path, size, content)


def _class_name(folder: Path, settings: Mapping[str, Any], arch: str | None) -> str:
    if arch is not None:
        return arch.removeprefix("transformers:")
    found = settings.get("architectures")
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
        raise ArchitectureError(
            f"{CONFIG} of hf:{folder} names no architecture" if not found else f"{CONFIG} names {found}",
            hint="name the class: --arch BertForMaskedLM",
        )
    return str(found[0])


def _model_class(name: str) -> Any:
    try:
        import transformers
    except ImportError as err:
        raise ArchitectureError(
            "hf: needs the package transformers", hint="python -m pip install 'transformers>=5'"
        ) from err
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise ArchitectureError(
            f"transformers {transformers.__version__} has no model {name!r}",
            hint="name a class of it (--arch BertForMaskedLM), or use a version that has it",
        )
    if getattr(found, "config_class", None) is None:
        raise ArchitectureError(f"{name} is no model that has weights", hint="name its class for a task")
    return found


def _filled(
    folder: Path, model_class: Any, settings: Mapping[str, Any], state: dict[str, Tensor]
) -> nn.Module:
    """The model with these weights.

    Raises:
        ArchitectureError: the configuration is impossible, or names or shapes differ; the first are named.
    """
    name = model_class.__name__
    # How attention is computed is ours to choose: a checkpoint could name kernels to be downloaded.
    plain = {k: v for k, v in settings.items() if "attn_implementation" not in k and "experts_impl" not in k}
    own = _part(model_class.config_class, plain)
    try:
        with _quiet(), no_larger_than(state, name):
            config = model_class.config_class.from_dict(own)
            model, found = _built(model_class, config, state)
    except ArchitectureError:
        raise
    except Exception as err:  # noqa: BLE001 - the library raises what it likes
        raise ArchitectureError(
            f"hf:{folder}: transformers cannot build {name}: {first_line(err)}",
            hint="check config.json, and that your transformers is not older than the checkpoint",
        ) from err
    if own is not plain:
        found["unexpected_keys"] = set(found["unexpected_keys"]) - _of_others(found["unexpected_keys"], state)
    complaints = []
    for key, what in (("missing_keys", "missing"), ("unexpected_keys", "unexpected")):
        if names := sorted(found[key]):
            complaints.append(f"{len(names)} {what} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})")
    if wrong := sorted(found["mismatched_keys"], key=str):
        key, got, wanted = wrong[0]
        complaints.append(
            f"{len(wrong)} of another shape ({key} is {tuple(got)} in the file, {tuple(wanted)} in the model)"
        )
    if complaints or found.get("error_msgs"):
        told = "; ".join(complaints) or str(found["error_msgs"][0])
        raise ArchitectureError(
            f"the weights of hf:{folder} do not fit {name}: {told}",
            hint="name the class that they were saved from: --arch BertModel",
        )
    module: nn.Module = model.float().eval()
    return module


def _part(config_class: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a class is for, of a checkpoint of several parts: ``vision_config`` of a SAM."""
    own = settings.get(getattr(config_class, "base_config_key", ""))
    whole = settings.get("model_type") == config_class.model_type
    return own if isinstance(own, dict) and not whole else settings


def _of_others(unexpected: Iterable[str], state: Mapping[str, Tensor]) -> set[str]:
    """Of weights that a part has no use for, those below modules of which it uses nothing."""
    left = set(unexpected)
    used = {name.partition(".")[0] for name in state if name not in left}
    return {name for name in left if name in state and name.partition(".")[0] not in used}


def _built(model_class: Any, config: Any, state: dict[str, Tensor]) -> tuple[Any, dict[str, Any]]:
    """The library's model and what it says of the weights; attention in one operator where it can be."""
    kind = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    result: tuple[Any, dict[str, Any]] = model_class.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=torch.float32,
        attn_implementation=kind,
        ignore_mismatched_sizes=True,  # they are reported, and refused by us
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and advice from the user."""
    from transformers.utils import logging as library

    told: Any = library

    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity(logging.CRITICAL)
    told.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()


def built_from(name: str, settings: Mapping[str, Any], state: dict[str, Tensor]) -> Any:
    """A stock model of the library with a changed configuration and these weights, in eval mode.

    Args:
        name: of its class.
        settings: its configuration.
        state: weights by the names that the class gives them.

    Raises:
        ArchitectureError: no such class, no such configuration, or names or shapes differ.
    """
    return _filled(Path(name), _model_class(name), settings, state)


def save_stock(model: Any, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Write a stock model as a checkpoint: config.json and model.safetensors.

    Args:
        model: of the library, in float32; its weights change their type.
        folder: where to.
        settings: configuration of the checkpoint that it comes from: its floating-point type is kept.
    """
    given = (settings or {}).get("dtype", (settings or {}).get("torch_dtype"))
    if given in ("bfloat16", "float16"):
        model = model.to(getattr(torch, given))
    with _quiet():
        model.save_pretrained(folder, safe_serialization=True)
