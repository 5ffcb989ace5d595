"""Targets: whether what a model returns goes with the labels of its data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graph.adapter import prediction
from graph.errors import DataError

_NOISE = 1e-5  # of the largest output: rounding, where a convolution is computed by FFT


def labelled(module: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The model's outputs (B, K) and the labels (B,), after a check that they fit each other.

    Of text, every token counts as a record: (B, L, K) becomes (B L, K); so do the pixels of masks.

    Raises:
        DataError: they do not.
    """
    out = prediction(module(x))
    if not isinstance(out, Tensor) or out.dim() != y.dim() + 1 or out.shape[:-1] != y.shape:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        wanted = {1: "images, not (B, K)", 2: "windows of text, not (B, L, K)"}.get(
            y.dim(), "images with masks, not (B, H, W, K)"
        )
        raise DataError(
            f"the model returns {shape} for {len(y)} {wanted}",
            hint=f"it must be a {('classifier', 'language model', 'segmenter')[min(y.dim(), 3) - 1]}",
        )
    if y.numel() and int(y.max()) >= out.shape[-1]:
        raise DataError(
            f"the data has a class {int(y.max())}, the model only {out.shape[-1]} outputs, counted from 0",
            hint="use the data that the model was made for",
        )
    return out.flatten(0, -2), y.flatten()


def check_causal(module: nn.Module, tokens: Tensor, vocabulary: int, path: str) -> None:
    """Refuse a model that sees the tokens that it is to foretell: its figures on text would mean nothing.

    The second half of the tokens is replaced; what the model returns before it has to stay.

    Args:
        module: returns (B, L, K) for (B, L); what returns another shape is left to ``labelled``.
        tokens: a few windows (B, L).
        vocabulary: how many tokens there are.
        path: of the model, for the message.

    Raises:
        DataError: the model sees them.
    """
    half = tokens.shape[1] // 2
    other = tokens.clone()
    other[:, half:] = (other[:, half:] + 1) % vocabulary
    training = module.training
    try:
        with torch.no_grad():
            seen, changed = (prediction(module.eval()(x)) for x in (tokens, other))
    finally:
        module.train(training)
    if not isinstance(seen, Tensor) or seen.dim() != 3 or seen.shape[:2] != tokens.shape:
        return
    moved = (seen - changed)[:, :half].abs().amax()
    if half and moved > _NOISE * seen.abs().amax():
        raise DataError(
            f"{path} sees the tokens that it is to foretell: text is data for models that look back alone",
            hint="give --data none, or a causal language model (a class ...ForCausalLM)",
        )
