"""Segmenting: an encoder of images, such as SAM's, gets a head, so that it can be trained on masks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graph.adapter import Adapter, adapt, prediction
from graph.errors import DataError
from graph.program import INPUT, TENSOR, Program, Ref
from graph.residual import ancestors
from models_zoo.data import DataSet
from models_zoo.transformers import MaskHead
from prune.load import LoadedModel

_HEAD = "mask_head"  # the submodule, whose name none of the encoder's weights begins with
_INNER = 32  # width of the features once they are enlarged, at most: that of seg_tiny


class Segmenting(Adapter):
    """An encoder under its own names of weights, and a head behind it that is ours."""

    def __init__(self, encoder: Adapter, head: MaskHead) -> None:
        super().__init__(encoder.inner, encoder.names)
        self.add_module(_HEAD, head)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Segment: (B, C, H, W) -> (B, H, W, K)."""
        found: Tensor = self.get_submodule(_HEAD)(prediction(super().forward(*inputs)))
        return found


def for_masks(loaded: LoadedModel, data: DataSet | None) -> LoadedModel:
    """A model that masks can train: a segmenter as it is, an encoder with a head that knows nothing yet.

    Args:
        loaded: a segmenter returns (B, H, W, K), an encoder features (B, D, h, w) of a grid over the image.
        data: with other data, or none, every model stays as it is.

    Raises:
        DataError: it is neither.
    """
    if data is None or data.unit != "pixels":
        return loaded
    _, height, width = data.input_shape
    with torch.no_grad():
        out = prediction(loaded.module(*loaded.inputs.example()))
    if out.dim() == 4 and out.shape[1:3] == (height, width):
        return loaded
    scale = height // out.shape[2] if out.dim() == 4 else 0
    if not scale or (out.shape[2] * scale, out.shape[3] * scale) != (height, width):
        raise DataError(
            f"{loaded.path} returns {tuple(out.shape)} for {len(out)} images with masks of {height}x{width}",
            hint="masks are for segmenters (B, H, W, K) and for encoders (B, D, h, w) whose grid divides the "
            "image: of a whole SAM, --arch SamVisionModel",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = MaskHead(out.shape[1], min(_INNER, out.shape[1]), len(data.classes), scale).eval()
    encoder = loaded.module if isinstance(loaded.module, Adapter) else adapt(loaded.module)
    assert isinstance(encoder, Adapter)
    count = sum(p.numel() for p in head.parameters())
    note = f"a head for masks of {count:,} parameters was put behind the encoder: the training teaches it"
    return replace(loaded, module=Segmenting(encoder, head).eval(), notes=(*loaded.notes, note))


def encoder_of(program: Program) -> Program | None:
    """The encoder alone of a program with a head of ours; None where it has none."""
    first = f"{_HEAD}.decoder.weight"
    weight = next((n.name for n in program.nodes if n.op == TENSOR and n.args[0] == first), None)
    if weight is None:
        return None
    features = next(n.args[0] for n in program.nodes if weight in n.refs)
    assert isinstance(features, Ref)
    place = {n.name: i for i, n in enumerate(program.nodes)}
    used = ancestors(program)[place[features.name]]
    nodes = tuple(n for n in program.nodes if n.op == INPUT or used >> place[n.name] & 1)
    names = {str(n.args[0]) for n in nodes if n.op == TENSOR}
    tensors = {name: t for name, t in program.tensors.items() if name in names}
    return replace(
        program, nodes=nodes, output=features, tensors=tensors, trainable=program.trainable & tensors.keys()
    )
