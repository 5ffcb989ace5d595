"""Inputs of models with a configuration: what ``config`` of a transformers model says about its inputs.

Nothing is imported: a model counts as such by its attributes, so that factories of users' own are understood
as well as checkpoints.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from graph.errors import UsageError
from prune.inputs import BATCH, ModelInput, ModelInputs

_TOKENS = 128  # of an example, where the model takes so many
_SAMPLES = 16_000  # a second of sound


def is_configured(module: nn.Module) -> bool:
    """Whether it is a model of transformers, or like one."""
    return hasattr(getattr(module, "config", None), "model_type") and hasattr(module, "main_input_name")


def inputs_from_config(module: nn.Module) -> ModelInputs:
    """The inputs of a model as its configuration tells them; text has 128 tokens or what the model takes.

    Raises:
        UsageError: the configuration does not tell the shape of one of them.
    """
    parameters = inspect.signature(module.forward).parameters
    config = module.config
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [str(module.main_input_name)]
    names += [n for n, p in parameters.items() if p.kind in kinds and p.default is p.empty]
    parts = {n for n in ("text_config", "vision_config", "audio_config") if _get(config, n) is not None}
    # Models that put images between the tokens run on text alone; the others compare both.
    places = any(_get(config, n) is not None for n in ("image_token_id", "image_token_index"))
    sees = "vision_config" in parts or _get(config, "image_size") is not None
    if sees and not places:
        names += (["input_ids"] if "text_config" in parts else []) + ["pixel_values"]
    if _get(config, "is_encoder_decoder"):
        names += ["decoder_input_ids"]
    known = [n for n in dict.fromkeys(names) if n in parameters]
    items = []
    for name in known:
        shape = _SHAPES[name](config) if name in _SHAPES else None
        if shape is None:
            raise UsageError(
                f"the configuration of {type(module).__name__} does not tell the shape of its input {name!r}",
                hint="give --input-spec FILE with the name, shape and dtype of each input",
            )
        items.append(_item(name, shape, config))
    if not items:
        raise UsageError(f"{type(module).__name__} does not tell its inputs", hint="give --input-spec FILE")
    return ModelInputs(tuple(items), named=True)


def _item(name: str, shape: tuple[int, ...], config: Any) -> ModelInput:
    shape = (BATCH, *shape)
    if name == "attention_mask":
        return ModelInput(name, shape, "int64", 1, 2)
    if name in ("bbox", "token_type_ids"):
        return ModelInput(name, shape, "int64", 0, 1)
    if not name.endswith("input_ids"):
        return ModelInput(name, shape)
    text = _text(config, decoder=name.startswith("decoder"))
    size = _number(text, "vocab_size")
    # Padding and the ends of a sentence switch parts of some models off.
    special = [_get(text, n) for n in ("pad_token_id", "bos_token_id", "eos_token_id")]
    low = 1 + max((n for n in special if isinstance(n, int) and 0 <= n < 10), default=-1)
    return ModelInput(name, shape, "int64", low if size is not None and low < size else 0, size)


def _get(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _number(config: Any, *names: str) -> int | None:
    """The first of these settings that is a positive number."""
    for name in names:
        value = _get(config, name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _text(config: Any, *, decoder: bool = False) -> Any:
    for name in ("decoder", "text_encoder") if decoder else ("encoder", "text_config"):
        part = _get(config, name)
        if part is not None and not isinstance(part, (str, int, float)):
            return part
    return config


def _tokens(config: Any, *, decoder: bool = False) -> tuple[int, ...]:
    """Half of the positions at most: some models begin to count after the padding."""
    text = _text(config, decoder=decoder)
    names = ["max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx"]
    most = _number(text, *(["max_target_positions"] if decoder else []), *names)
    return (min(_TOKENS, max(1, most // 2)) if most is not None else _TOKENS,)


def _side(value: Any) -> tuple[int, int] | None:
    if isinstance(value, Mapping):
        value = (value.get("height"), value.get("width"))
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return (int(value[0]), int(value[1]))
    return None


def _pixels(config: Any) -> tuple[int, ...] | None:
    parts = [config, *(_get(config, n) for n in ("vision_config", "encoder", "backbone_config"))]
    found = [p for p in parts if p is not None and not isinstance(p, str)]
    side = next((s for p in found if (s := _side(_get(p, "image_size"))) is not None), None)
    channels = next((n for p in found if (n := _number(p, "num_channels")) is not None), 3)
    frames = _number(config, "num_frames")
    # Convolutional networks take any size and do not tell one.
    height, width = side or (224, 224)
    return (channels, height, width) if frames is None else (frames, channels, height, width)


def _features(config: Any) -> tuple[int, ...] | None:
    width = _number(config, "input_feat_per_channel", "feature_projection_input_dim", "input_dim")
    if width is not None:
        return (_TOKENS, width)
    bins, most = _number(config, "num_mel_bins"), _number(config, "max_source_positions")
    # Whisper: its encoder halves the frames.
    return (bins, 2 * most) if bins is not None and most is not None else None


def _values(config: Any) -> tuple[int, ...] | None:
    bins, most = _number(config, "num_mel_bins"), _number(config, "max_length")
    return (
        (most, bins) if bins is not None and most is not None and _get(config, "patch_size") else (_SAMPLES,)
    )


def _series(config: Any) -> tuple[int, ...] | None:
    length, channels = _number(config, "context_length"), _number(config, "num_input_channels", "input_size")
    return (length, channels) if length is not None and channels is not None else None


# The shape of one record of each input, by the name that the library gives it.
_SHAPES: Mapping[str, Callable[[Any], tuple[int, ...] | None]] = {
    "input_ids": _tokens,
    "attention_mask": _tokens,
    "token_type_ids": _tokens,
    "decoder_input_ids": lambda config: _tokens(config, decoder=True),
    "bbox": lambda config: (*_tokens(config), 4),
    "pixel_values": _pixels,
    "input_features": _features,
    "input_values": _values,
    "past_values": _series,
}
