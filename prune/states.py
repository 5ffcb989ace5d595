"""States: how many and which states each state-space layer keeps, decided before anything else is.

States are units of the graph like channels, so a plan, surgery and the proof treat them as any other. What is
special is how their worth is measured (``prune.state_scores``) and that one number for all layers makes an
ordinary checkpoint, with another ``state_size``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.errors import UsageError
from graph.suggest import suggestion
from models_zoo.data import DataSet
from models_zoo.mamba_lm import MambaLM
from prune.counts import check_count, kept_count
from prune.importance import Scores, magnitude, sampled
from prune.load import LoadedModel
from prune.state_scores import BLIND, STATE_CRITERIA, StateCriterion, StateScores, state_scores
from prune.widths import WidthSpace

Scope = Literal["layer", "global"]
SCOPES: tuple[Scope, ...] = ("layer", "global")
CALIBRATION = 64  # windows of 256 tokens that states are judged on, or as many tokens in others
DEFAULT: StateCriterion = "elimination"
_STARTS = {"states-half": 0.5, "states-quarter": 0.25}


@dataclass(frozen=True, kw_only=True)
class StateConfig:
    """What a user wants of the states.

    Attributes:
        text: the share of the states of every layer that stays, or their number, as the user gave it; None
            where the limits alone decide how many.
        criterion: which of them stay; left out, ``elimination``, or ``magnitude`` without text.
        scope: ``layer``, the same number in each, or ``global``, one threshold over all layers.
        compensate: fit what remains to the original on calibration text, in closed form.

    Raises:
        UsageError: an unknown criterion or scope, or options that do not go together.
        TargetError: the text is no share and no number.
    """

    text: str | None = None
    criterion: StateCriterion | None = None
    scope: Scope = "layer"
    compensate: bool = True

    def __post_init__(self) -> None:
        if self.criterion is not None and self.criterion not in STATE_CRITERIA:
            raise UsageError(
                f"--state-criterion {self.criterion}: unknown",
                hint=suggestion(self.criterion, STATE_CRITERIA),
            )
        if self.scope not in SCOPES:
            raise UsageError(f"--state-scope {self.scope}: unknown", hint=suggestion(self.scope, SCOPES))
        if self.scope != "layer" and self.text is None:
            raise UsageError(
                "--state-scope says how --states are spread", hint="give --states, such as --states 0.5"
            )
        if self.text is not None:
            check_count("--states", self.text, "states")

    @property
    def is_given(self) -> bool:
        """Whether the user says anything about states."""
        return self.text is not None or self.criterion is not None

    def kept(self, states: int) -> int:
        """How many of a number of states stay.

        Raises:
            TargetError: none would stay, or all.
        """
        assert self.text is not None
        return kept_count("--states", self.text, states, "states")


@dataclass(frozen=True)
class StateLayer:
    """The states of one layer.

    Attributes:
        name: of the group that they are, or of the first of several.
        units: class of the axes of each state, (G, N); rows keep equally many.
    """

    name: str
    units: NDArray[np.int64]


@dataclass(frozen=True)
class StateChoice:
    """Which states are to stay.

    Attributes:
        config: what was asked.
        criterion: what judged them.
        layers: their states.
        kept: how many each layer keeps; empty where the limits decide.
        scores: importance of all classes, with that of the states in its place.
        tokens: of calibration text.
    """

    config: StateConfig
    criterion: StateCriterion
    layers: tuple[StateLayer, ...]
    kept: tuple[int, ...]
    scores: Scores
    tokens: int

    def fixed(self, axes: Axes) -> dict[str, int]:
        """For each group of states by name how many stay, where that is decided."""
        group_of = axes.group_of_class()
        return {
            axes.groups[group_of[row[0]]].name: count
            for layer, count in zip(self.layers, self.kept, strict=False)
            for row in layer.units
        }

    def to_json(self) -> dict[str, Any]:
        """What was asked and how it was judged."""
        return {
            "asked": self.config.text,
            "criterion": self.criterion,
            "scope": self.config.scope,
            "tokens": self.tokens,
        }


def choose_states(
    config: StateConfig, axes: Axes, loaded: LoadedModel, data: DataSet | None, scores: Scores, seed: int = 0
) -> StateChoice:
    """Judge the states of a model, and say how many stay.

    Args:
        config: what the user wants.
        axes: of the whole program.
        loaded: the model that it was captured from.
        data: calibration text is taken from its train split.
        scores: importance of each class by the criterion for channels; left as they are.
        seed: of the criterion ``random``.

    Raises:
        UsageError: the model has no states, or the criterion needs text or our own class.
        TargetError: none would stay.
    """
    module = loaded.module
    own = module if isinstance(module, MambaLM) else None
    layers = state_layers(axes, loaded)
    criterion = config.criterion or (DEFAULT if own is not None and data is not None else "magnitude")
    judged: StateScores
    tokens = 0
    if own is not None:
        if criterion in BLIND:
            judged = state_scores(own, criterion, seed=seed)
        elif data is None:
            raise UsageError(
                f"--state-criterion {criterion} needs text, and {loaded.path} has none",
                hint="name it: --data pystdlib, text:PATH or tokens:FILE; or --state-criterion magnitude",
            )
        else:
            batches = list(sampled(data, CALIBRATION))
            tokens = sum(x.numel() for x, _ in batches)
            judged = state_scores(own, criterion, batches, seed=seed)
    elif criterion not in BLIND:
        raise UsageError(
            f"--state-criterion {criterion} looks into our own Mamba classes, {loaded.path} is "
            f"{type(module).__name__}",
            hint="open a checkpoint as hf:DIR without --arch, or take --state-criterion magnitude",
        )
    elif criterion == "random":
        random = np.random.default_rng(seed)
        judged = tuple(random.random(layer.units.shape) for layer in layers)
    else:
        every = magnitude(axes)
        judged = tuple(every[layer.units] for layer in layers)
    found = scores.copy()
    # Beside channels under one limit, states are weighed on the scale that those have.
    for layer, own_scores in zip(layers, judged, strict=True):
        scale = scores[layer.units].mean() / max(float(own_scores.mean()), 1e-300)
        found[layer.units] = own_scores * scale
    kept = () if config.text is None else _counts(config, layers, judged)
    return StateChoice(config, criterion, layers, kept, found, tokens)


def state_layers(axes: Axes, loaded: LoadedModel) -> tuple[StateLayer, ...]:
    """The states of a model, layer by layer.

    Raises:
        UsageError: it has none, or they are pinned.
    """
    own = loaded.module
    layers = own_layers(axes, own) if isinstance(own, MambaLM) else captured_layers(axes)
    if not layers:
        raise UsageError(
            f"{loaded.path} has no states that could go: no state-space layer was found",
            hint="--states is for Mamba; `prune inspect` lists the groups of a model",
        )
    return layers


def own_layers(axes: Axes, model: MambaLM) -> tuple[StateLayer, ...]:
    """The states of our own class, by the places of their rows in its weights, in the order of the layers.

    Raises:
        UsageError: some states are pinned.
    """
    sizes, found = model.sizes, []
    lane_of = np.arange(axes.classes)  # a state of one of several groups may be that group's lane
    lane_of[axes.derived[:, 0]] = axes.derived[:, 2]
    for index, count in enumerate(sizes.states):
        mixer = f"backbone.layers.{index}.mixer"
        if sizes.version == 1:
            units = axes.weights[f"{mixer}.A_log"][1].labels.ravel()[None]
        else:
            rows = axes.weights[f"{mixer}.conv1d.weight"][0].labels.ravel()
            units = rows[sizes.d_inner :][: sizes.ngroups * count].reshape(sizes.ngroups, count)
        units = lane_of[units]
        groups = axes.group_of_class()[units]
        if (groups < 0).any() or (groups != groups[:, :1]).any():
            raise UsageError(
                f"the states of {mixer} have to stay",
                hint="`prune inspect` says what is pinned and why; --exclude and --only pin, too",
            )
        found.append(StateLayer(axes.groups[groups[0, 0]].name, units.astype(np.int64)))
    return tuple(found)


def captured_layers(axes: Axes) -> tuple[StateLayer, ...]:
    """The states of any program: bundles of groups of that kind."""
    found = []
    for bundle in axes.bundles:
        groups = [axes.groups[g] for g in bundle.groups]
        if all(g.kind == "state" for g in groups) and len({len(g.units) for g in groups}) == 1:
            found.append(StateLayer(bundle.name, np.array([g.units for g in groups], dtype=np.int64)))
    return tuple(found)


def _counts(config: StateConfig, layers: Sequence[StateLayer], judged: StateScores) -> tuple[int, ...]:
    """How many states each layer keeps."""
    sizes = [layer.units.shape[1] for layer in layers]
    each = tuple(config.kept(size) for size in sizes)
    if config.scope == "layer":
        return each
    # A layer's k-th state is worth what its groups' k-th best are worth together, on the layer's own scale:
    # scores of different layers are of different sizes for no other reason than their channels.
    ranked = [np.sort(s, axis=1)[:, ::-1].mean(axis=0) for s in judged]
    ranked = [r / max(float(r.mean()), 1e-300) for r in ranked]
    worth = np.concatenate([r[1:] for r in ranked])
    layer_of = np.concatenate([np.full(len(r) - 1, i) for i, r in enumerate(ranked)])
    best = np.argsort(-worth, kind="stable")[: sum(each) - len(sizes)]  # each keeps its best one anyway
    return tuple(int(1 + (layer_of[best] == i).sum()) for i in range(len(sizes)))


def state_starts(space: WidthSpace) -> dict[str, list[float]]:
    """Keep ratios, for a search to begin with, of plans that take the states first and then the channels.

    States are by far the cheapest part of a Mamba to lose, and equal shares know nothing of it.

    Returns:
        By name the ratio of each bundle; none where the number of states is the only choice.
    """
    states = [all(space.axes.groups[g].kind == "state" for g in b.groups) for b in space.axes.bundles]
    if all(states):
        return {}
    return {name: [share if own else 1.0 for own in states] for name, share in _STARTS.items()}


def kept_states(layers: Sequence[StateLayer], keep: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Positions of the states that stay in each layer, (G, K), of a choice of classes."""
    return [np.array([np.flatnonzero(keep[row]) for row in layer.units]) for layer in layers]
