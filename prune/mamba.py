"""Mamba checkpoints in both layouts, read and written: that of ``mamba_ssm`` and that of transformers.

The weights have the same names in both, but for the embedding; the settings have others. What a setting means
here, and which values would make another model than ours, is told by the two tables below.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from graph.errors import ArchitectureError, ModelFileError, UntrustedCodeError, UsageError
from models_zoo.mamba_config import MambaConfig, Version
from models_zoo.mamba_lm import MambaLM
from prune.architectures import fitted
from prune.bounded import no_larger_than
from prune.checkpoint import check_finite, check_readable, checked_weights, read_file
from prune.files import OutputFolder, read_json, write_json
from prune.huggingface import CONFIG, check_settings, read_settings, read_weights, weight_files

Layout = Literal["transformers", "mamba_ssm"]
_CLASSES = {"mamba": "MambaForCausalLM", "mamba2": "Mamba2ForCausalLM"}
_EMBEDDINGS, _EMBEDDING = "backbone.embeddings.weight", "backbone.embedding.weight"
_HEAD = "lm_head.weight"
_BIN = "pytorch_model.bin"  # the one name that mamba_ssm reads

# Of transformers: our name, and the value where the configuration has none (transformers 5.23).
_HF_COMMON = {
    "hidden_size": ("d_model", None), "num_hidden_layers": ("n_layer", None),
    "vocab_size": ("vocab_size", None), "conv_kernel": ("d_conv", 4), "expand": ("expand", 2),
    "use_bias": ("bias", False),
    "use_conv_bias": ("conv_bias", True), "layer_norm_epsilon": ("norm_eps", 1e-5),
}  # fmt: skip
_HF_OWN: dict[Version, dict[str, tuple[str, Any]]] = {
    1: {
        "state_size": ("d_state", 16),
        "time_step_rank": ("dt_rank", "auto"),
        "tie_word_embeddings": ("tie_embeddings", True),
    },
    2: {
        "state_size": ("d_state", 128), "head_dim": ("headdim", 64), "n_groups": ("ngroups", 8),
        "chunk_size": ("chunk_size", 256), "time_step_limit": ("dt_limit", (0.0, math.inf)),
        "tie_word_embeddings": ("tie_embeddings", False),
    },
}  # fmt: skip

# Of mamba_ssm: keys of ssm_cfg that are ours, with its defaults; only the first weights depend on the others.
_SSM_COMMON = {"d_conv": 4, "expand": 2, "bias": False, "conv_bias": True}
_SSM_OWN: dict[Version, dict[str, Any]] = {
    1: {"d_state": 16, "dt_rank": "auto"},
    2: {"d_state": 128, "headdim": 64, "ngroups": 1, "chunk_size": 256, "dt_limit": (0.0, math.inf)},
}
_SSM_IDLE = {
    "layer", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init",
    "use_fast_path", "use_mem_eff_path",
}  # fmt: skip
# Settings of which only one value makes a model of ours: that value.
_SSM_FIXED = {"rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False, "d_ssm": None}
_SSM_OUTER_FIXED: dict[str, Any] = {"rms_norm": True, "d_intermediate": 0, "attn_layer_idx": []}
_HF_FIXED = {"hidden_act": "silu"}
_PAD_MULTIPLE = 8  # of the vocabulary, where mamba_ssm's configuration does not say


def is_mamba(folder: Path) -> bool:
    """Whether a folder's configuration is that of a Mamba language model, in either layout."""
    try:
        settings = read_json(folder / CONFIG, "configuration", constants=True)
    except ModelFileError:
        return False
    return _is_reference(settings) or settings.get("model_type") in _CLASSES


def layout_of(folder: Path) -> Layout:
    """The layout of a Mamba checkpoint's folder."""
    return "mamba_ssm" if _is_reference(read_settings(folder)) else "transformers"


def load_mamba(folder: Path) -> tuple[MambaLM, tuple[Path, ...]]:
    """Load a Mamba language model from a folder in either layout, in float32 and eval mode.

    Args:
        folder: with config.json, and safetensors (one file, or shards with their index) or, in the layout of
            ``mamba_ssm``, ``pytorch_model.bin``, of which only tensors are read.

    Returns:
        The model and the files of its weights.

    Raises:
        ModelFileError: the folder or a file of it is missing or broken.
        UntrustedCodeError: the weights cannot be read without running code.
        ArchitectureError: it is no Mamba, one of a kind that we do not have, or the weights do not fit.
    """
    settings = read_settings(folder)
    check_settings(folder, settings)
    reference = _is_reference(settings)
    config = _from_reference(settings) if reference else _from_transformers(folder, settings)
    state, files = _weights(folder, reference)
    if config.n_layer > len(state):
        raise ArchitectureError(
            f"hf:{folder}: {CONFIG} says {config.n_layer:,} layers, there are {len(state)} tensors",
            hint="correct num_hidden_layers (or n_layer) in config.json",
        )
    _check_states(folder, config, state)
    with (
        torch.device("meta"),
        no_larger_than(state, f"the Mamba of hf:{folder}"),
    ):  # a configuration must not decide how much memory we take
        blank = MambaLM(config)
    if config.tie_embeddings:
        head = state.setdefault(_HEAD, state.get(_EMBEDDING, torch.empty(0)))
        if _EMBEDDING in state and not torch.equal(head, state[_EMBEDDING]):
            raise ArchitectureError(
                f"hf:{folder}: {CONFIG} ties the head to the embedding, the file has two different ones",
                hint="correct tie_word_embeddings (or tie_embeddings) in config.json",
            )
    state = fitted(f"the Mamba-{config.version} of hf:{folder}", blank, state)
    model = MambaLM(config)
    model.load_state_dict(state)
    check_finite(f"hf:{folder}", model)
    return model.eval(), files


def save_mamba(folder: Path, model: MambaLM, *, layout: Layout = "transformers", force: bool = False) -> None:
    """Write a model as a checkpoint that transformers, or ``mamba_ssm``, loads without us.

    Args:
        folder: written whole or not at all.
        model: its weights are stored as they are.
        layout: ``transformers`` (config.json, model.safetensors) or ``mamba_ssm`` (config.json,
            pytorch_model.bin). The latter also holds models with other numbers of states in each layer, as
            ``d_state: [...]``, which only we read.
        force: replace an earlier checkpoint.

    Raises:
        UsageError: the layout has no place for what the model is.
        OutputError: the folder cannot be written.
    """
    config = model.sizes
    settings = _to_transformers(config) if layout == "transformers" else _to_reference(config)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    with OutputFolder(folder, force) as out:
        write_json(out.staging / CONFIG, settings)
        if layout == "transformers":
            state[_EMBEDDINGS] = state.pop(_EMBEDDING)
            if config.tie_embeddings:
                del state[_HEAD]
            blob = safetensors.torch.save(state, {"format": "pt"})
            (out.staging / "model.safetensors").write_bytes(blob)
        else:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            (out.staging / _BIN).write_bytes(buffer.getvalue())


def _is_reference(settings: Mapping[str, Any]) -> bool:
    return "d_model" in settings and "n_layer" in settings and "model_type" not in settings


def _weights(folder: Path, reference: bool) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    state: dict[str, Tensor] = {}
    pickled = folder / _BIN
    if reference and pickled.is_file() and not list(folder.glob("*.safetensors*")):
        size = check_readable(pickled)
        content, _ = read_file(pickled, size, trust_code=False)
        state = checked_weights(pickled, size, content)
        files: tuple[Path, ...] = (pickled,)
    else:
        try:
            files = weight_files(folder)
        except UntrustedCodeError as err:
            if not reference:
                raise
            raise ModelFileError(
                f"hf:{folder} has no {_BIN}", hint=f"name the file of the weights {_BIN}"
            ) from err
        for file in files:
            state |= read_weights(file)
    return {_EMBEDDING if k == _EMBEDDINGS else k: v for k, v in state.items()}, files


def _check_states(folder: Path, config: MambaConfig, state: Mapping[str, Tensor]) -> None:
    """Tell a wrong number of states by that name; it shows in many shapes."""
    for layer, wanted in enumerate(config.states):
        name = f"backbone.layers.{layer}.mixer." + ("A_log" if config.version == 1 else "conv1d.weight")
        tensor = state.get(name)
        if tensor is None or tensor.dim() < 2:
            continue
        found = tensor.shape[1] if config.version == 1 else None
        if config.version == 2:
            more, odd = divmod(tensor.shape[0] - config.d_inner, 2 * config.ngroups)
            found = more if not odd and more > 0 else None
        if found is not None and found != wanted:
            raise ArchitectureError(
                f"hf:{folder}: {CONFIG} says {wanted} states, layer {layer} of the weights has {found}",
                hint="correct state_size (or ssm_cfg.d_state) in config.json",
            )


def _from_transformers(folder: Path, settings: Mapping[str, Any]) -> MambaConfig:
    kind = settings.get("model_type")
    if kind not in _CLASSES:
        raise ArchitectureError(
            f"hf:{folder} is no Mamba: its model_type is {kind!r}", hint=f"one of {', '.join(_CLASSES)}"
        )
    named = settings.get("architectures") or [_CLASSES[kind]]
    if named != [_CLASSES[kind]]:
        raise ArchitectureError(
            f"hf:{folder} is a {named[0]}, not a language model", hint=f"such as {_CLASSES[kind]}"
        )
    _check_fixed(settings, _HF_FIXED)
    version: Version = 1 if kind == "mamba" else 2
    values: dict[str, Any] = {"version": version}
    for key, (ours, default) in {**_HF_COMMON, **_HF_OWN[version]}.items():
        if key not in settings and default is None:
            raise ArchitectureError(f"{CONFIG} of hf:{folder} lacks {key}", hint="download the folder again")
        values[ours] = settings.get(key, default)
    heads = settings.get("num_heads")
    if (
        version == 2
        and heads is not None
        and heads * values["headdim"] != values["expand"] * values["d_model"]
    ):
        raise ArchitectureError(
            f"{CONFIG} of hf:{folder}: {heads} heads of {values['headdim']} are not "
            f"{values['expand']} x {values['d_model']} channels",
            hint="correct num_heads, head_dim, expand or hidden_size",
        )
    return _config(values)


def _from_reference(settings: Mapping[str, Any]) -> MambaConfig:
    inner = settings.get("ssm_cfg", {})
    layer = inner.get("layer", "Mamba1") if isinstance(inner, dict) else None
    if layer not in ("Mamba1", "Mamba2"):
        raise ArchitectureError(
            f"{CONFIG}: ssm_cfg {inner!r} is no Mamba-1 and no Mamba-2", hint="its layer is Mamba1 or Mamba2"
        )
    version: Version = 1 if layer == "Mamba1" else 2
    _check_fixed(settings, _SSM_OUTER_FIXED)
    _check_fixed(inner, _SSM_FIXED)
    known = {**_SSM_COMMON, **_SSM_OWN[version]}
    if unknown := sorted(set(inner) - set(known) - _SSM_IDLE - set(_SSM_FIXED)):
        raise ArchitectureError(
            f"{CONFIG}: ssm_cfg has the unknown setting {unknown[0]!r}", hint=f"known: {', '.join(known)}"
        )
    multiple = settings.get("pad_vocab_size_multiple", _PAD_MULTIPLE)
    vocab = settings.get("vocab_size")
    if not isinstance(vocab, int) or not isinstance(multiple, int) or multiple < 1:
        raise ArchitectureError(f"{CONFIG}: vocab_size is {vocab!r}", hint="a positive whole number")
    values: dict[str, Any] = {key: inner.get(key, default) for key, default in known.items()}
    values |= {
        "version": version,
        "d_model": settings["d_model"],
        "n_layer": settings["n_layer"],
        "vocab_size": vocab + -vocab % multiple,
        "tie_embeddings": settings.get("tie_embeddings", True),
    }
    return _config(values)


def _check_fixed(settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for key, wanted in fixed.items():
        if settings.get(key, wanted) != wanted:
            raise ArchitectureError(
                f"{CONFIG}: {key} is {settings[key]!r}; only models with {wanted!r} can be loaded",
                hint="use a Mamba without this variation",
            )


def _config(values: dict[str, Any]) -> MambaConfig:
    """The sizes, from settings that may be anything.

    Raises:
        ArchitectureError: they make no model.
    """
    if values.get("dt_rank") == "auto":
        del values["dt_rank"]
    if isinstance(values["d_state"], list):
        values["d_state"] = tuple(values["d_state"])
    if "dt_limit" in values:
        values["dt_limit"] = _limits(values["dt_limit"])
    for key in ("bias", "conv_bias", "tie_embeddings"):
        if not isinstance(values[key], bool):
            raise ArchitectureError(f"{CONFIG}: {key} is {values[key]!r}", hint="true or false")
    eps = values.get("norm_eps", 1e-5)
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise ArchitectureError(f"{CONFIG}: the norms add {eps!r}", hint="a small number, such as 1e-5")
    return MambaConfig(**values)


def _limits(found: Any) -> tuple[float, float]:
    """A range of time steps; transformers writes an infinite end as ``{"__float__": "Infinity"}``."""
    ends: list[Any] = (
        [e.get("__float__") if isinstance(e, dict) else e for e in found] if _is_pair(found) else []
    )
    try:
        low, high = (float(e) for e in ends)
    except (TypeError, ValueError) as err:
        raise ArchitectureError(
            f"{CONFIG}: the limits of the time step are {found!r}", hint="two numbers"
        ) from err
    return low, high


def _is_pair(found: Any) -> bool:
    return isinstance(found, list | tuple) and len(found) == 2


def _to_transformers(config: MambaConfig) -> dict[str, Any]:
    if not isinstance(config.d_state, int):
        raise UsageError(
            f"transformers has one state_size for all layers, the model has {list(config.states)}",
            hint="prune the same number of states in each layer, or write the layout of mamba_ssm",
        )
    kind = "mamba" if config.version == 1 else "mamba2"
    settings: dict[str, Any] = {"architectures": [_CLASSES[kind]], "model_type": kind}
    for key, (ours, _) in {**_HF_COMMON, **_HF_OWN[config.version]}.items():
        settings[key] = getattr(config, ours)
    settings |= {"hidden_act": "silu", "dtype": "float32", "residual_in_fp32": True}
    if config.version == 1:
        settings["intermediate_size"] = config.d_inner
    else:
        low, high = config.dt_limit
        settings["num_heads"] = config.n_heads
        settings["time_step_limit"] = [low, {"__float__": "Infinity"} if math.isinf(high) else high]
    return settings


def _to_reference(config: MambaConfig) -> dict[str, Any]:
    if config.norm_eps != 1e-5:
        raise UsageError(
            f"mamba_ssm's norms add 1e-05, the model's {config.norm_eps:g}",
            hint="write the layout of transformers",
        )
    inner: dict[str, Any] = {"layer": f"Mamba{config.version}"}
    for key, default in {**_SSM_COMMON, **_SSM_OWN[config.version]}.items():
        value = getattr(config, key)
        if value != default:
            inner[key] = list(value) if isinstance(value, tuple) else value
    if (limits := inner.get("dt_limit")) and math.isinf(limits[1]):
        inner["dt_limit"] = [limits[0], torch.finfo(torch.float32).max]
    return {
        "d_model": config.d_model,
        "d_intermediate": 0,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": inner,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": config.tie_embeddings,
    }
