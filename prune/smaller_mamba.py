"""A pruned Mamba as a checkpoint in the layout it came from, where its sizes make a configuration."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from graph.errors import ArchitectureError, UsageError
from graph.program import Program
from models_zoo.mamba_config import MambaConfig
from models_zoo.mamba_lm import MambaLM
from prune.load import LoadedModel
from prune.mamba import Layout, layout_of, save_mamba

CHECKPOINT = "checkpoint"
_LAYERS = "backbone.layers."
_MIXER = _LAYERS + "{}.mixer."
# What goes with the weights in a checkpoint's folder and does not depend on them.
_COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
    "generation_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What became of it.

    Attributes:
        layout: of the folder ``checkpoint``; None where there is none.
        reason: why there is none, or who cannot read it; empty if there is nothing to say.
    """

    layout: Layout | None
    reason: str = ""


def write_checkpoint(loaded: LoadedModel, program: Program, folder: Path) -> Checkpoint | None:
    """Write a pruned Mamba into ``folder/checkpoint``.

    Args:
        loaded: the whole model.
        program: pruned from it, with its final weights.
        folder: of the run.

    Returns:
        What was written, or why nothing; None for a model that is no Mamba of ours.
    """
    own = loaded.module
    if not isinstance(own, MambaLM):
        return None
    try:
        model = smaller_mamba(own.sizes, program.tensors)
    except ArchitectureError as err:
        return Checkpoint(None, str(err))
    origin = Path(loaded.path.removeprefix("hf:"))
    layout: Layout = layout_of(origin) if loaded.path.startswith("hf:") else "transformers"
    reason = ""
    if not isinstance(model.sizes.d_state, int) and layout == "transformers":
        layout = "mamba_ssm"
    if not isinstance(model.sizes.d_state, int):
        reason = "its layers have different numbers of states: only prune reads it"
    try:
        save_mamba(folder / CHECKPOINT, model, layout=layout)
    except UsageError as err:  # the layout has no place for what the model is
        return Checkpoint(None, str(err))
    for name in _COMPANIONS:
        if loaded.path.startswith("hf:") and (origin / name).is_file():
            shutil.copyfile(origin / name, folder / CHECKPOINT / name)
    return Checkpoint(layout, reason)


def smaller_mamba(sizes: MambaConfig, tensors: Mapping[str, Tensor]) -> MambaLM:
    """A Mamba with the weights of a pruned one, in eval mode.

    Args:
        sizes: of the original.
        tensors: of the pruned one, under the same names.

    Raises:
        ArchitectureError: no configuration has these sizes.
    """
    found = smaller_sizes(sizes, tensors)
    with torch.device("meta"):
        blank = MambaLM(found)
    state = {k: tensors.get(k) for k in blank.state_dict()}
    if found.tie_embeddings:  # under whichever of its two names
        shared = tensors.get("backbone.embedding.weight", tensors.get("lm_head.weight"))
        state |= {"backbone.embedding.weight": shared, "lm_head.weight": shared}
    for name, wanted in blank.state_dict().items():
        tensor = state[name]
        if tensor is None or tensor.shape != wanted.shape:
            have = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise ArchitectureError(
                f"no Mamba-{sizes.version} has these sizes: {name} is {have}, "
                f"{found.expand} x {found.d_model} inner channels make {tuple(wanted.shape)}",
                hint="prune states alone: --states",
            )
    model = MambaLM(found)
    model.load_state_dict({k: t.detach() for k, t in state.items() if t is not None})
    return model.eval()


def shorter_mamba(model: MambaLM, layers: Sequence[int]) -> MambaLM:
    """A Mamba with some of a model's layers, numbered anew, in eval mode.

    Args:
        model: its weights are copied.
        layers: those that stay, ascending.
    """
    sizes = model.sizes
    states = tuple(sizes.states[i] for i in layers)
    short = MambaLM(replace(sizes, n_layer=len(layers), d_state=states))
    old = model.state_dict()
    place = {new: f"{_LAYERS}{i}." for new, i in enumerate(layers)}
    state = {}
    for name in short.state_dict():
        if name.startswith(_LAYERS):
            number, _, rest = name.removeprefix(_LAYERS).partition(".")
            state[name] = old[place[int(number)] + rest]
        else:
            state[name] = old[name]
    short.load_state_dict(state)
    return short.eval()


def smaller_sizes(sizes: MambaConfig, tensors: Mapping[str, Tensor]) -> MambaConfig:
    """The sizes as far as each is read off one tensor; the others are those of the original."""
    changes: dict[str, int | tuple[int, ...]] = {"d_model": tensors["backbone.norm_f.weight"].shape[0]}
    mixers = [_MIXER.format(i) for i in range(sizes.n_layer)]
    if sizes.version == 1:
        changes["d_state"] = tuple(tensors[m + "A_log"].shape[1] for m in mixers)
        changes["dt_rank"] = tensors[mixers[0] + "dt_proj.weight"].shape[1]
    else:
        inner = [tensors[m + "out_proj.weight"].shape[1] for m in mixers]
        both = [tensors[m + "conv1d.weight"].shape[0] - d for m, d in zip(mixers, inner, strict=True)]
        changes["d_state"] = tuple(b // (2 * sizes.ngroups) for b in both)
    return replace(sizes, **changes)  # type: ignore[arg-type]
