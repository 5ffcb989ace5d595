"""Elastic: what can be chosen of a supernet, widths and the layers that run, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graph.channels import Axes
from graph.cost_model import CostModel
from graph.errors import UsageError
from graph.groups import Kind
from graph.program import TENSOR
from graph.residual import Branch, without_branches
from supernet.inelastic import missing_kinds, nothing_elastic

Widths = NDArray[np.int64]  # (groups,): units that each group keeps


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """Which choices a supernet offers.

    Attributes:
        kinds: of the groups whose widths are elastic.
        least: the smallest share of the units of an axis.
        steps: into how many equal steps a whole width is divided.
        least_depth: the smallest share of the layers that run.
        uniform: layers that are alike have the same width, as configurations of transformers say it.

    Raises:
        UsageError: a value out of range.
    """

    kinds: tuple[Kind, ...] = ("head", "mlp")
    least: float = 0.25
    steps: int = 8
    least_depth: float = 0.5
    uniform: bool = False

    def __post_init__(self) -> None:
        for name, share in (("--least", self.least), ("--least-depth", self.least_depth)):
            if not 0 < share <= 1:
                raise UsageError(f"{name} {share}: a share lies in (0, 1]", hint=f"such as {name} 0.5")
        if not 1 <= self.steps <= 64:
            raise UsageError(f"--steps {self.steps}: from 1 to 64", hint="such as --steps 8")


@dataclass(frozen=True)
class Axis:
    """One width that can be chosen.

    Attributes:
        name: of its first group.
        kind: of its groups.
        groups: indices of the groups that it sets.
        layouts: for each choice how many units each group keeps, from the narrowest to the whole.
        layer: the layer that it goes with; None for what all layers share.
    """

    name: str
    kind: Kind
    groups: tuple[int, ...]
    layouts: tuple[tuple[int, ...], ...]
    layer: int | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of its units that each choice keeps."""
        whole = sum(self.layouts[-1])
        return tuple(sum(layout) / whole for layout in self.layouts)


@dataclass(frozen=True)
class Subnet:
    """A choice.

    Attributes:
        levels: for each axis the position among its layouts.
        dropped: places of the layers that do not run, ascending.
    """

    levels: tuple[int, ...]
    dropped: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"levels": list(self.levels), "dropped": list(self.dropped)}


@dataclass(frozen=True)
class Cost:
    """What a subnetwork costs: multiply-adds for one record, and parameters."""

    macs: int
    params: int


class Elastic:
    """All the choices of a supernet.

    Args:
        axes: of the whole program.
        layers: that can be bypassed.
        salience: of each layer; those with the least go first.
        config: which choices are offered.

    Attributes:
        choices: the axes of choice.
        depth_order: places of the layers, the least salient first.
        least_layers: how many layers run at least.

    Raises:
        UsageError: there is nothing to choose.
    """

    def __init__(
        self, axes: Axes, layers: Sequence[Branch], salience: Sequence[float], config: ElasticConfig
    ) -> None:
        self.axes, self.layers, self.config = axes, tuple(layers), config
        self.depth_order = tuple(sorted(range(len(layers)), key=lambda i: salience[i]))
        self.salience = tuple(salience)
        self.least_layers = max(1, int(np.ceil(config.least_depth * len(layers) - 1e-9))) if layers else 0
        self.choices = (_tied if config.uniform else tuple)(_axes(axes, self.layers, config))
        if not self.choices and self.least_layers == len(layers):
            raise nothing_elastic(self.missing, len(layers), config.least_depth)
        self._model = CostModel(axes)

    @property
    def missing(self) -> dict[Kind, str]:
        """Kinds that were asked for and have no elastic width, each with the reason."""
        gone = set(self.config.kinds) - {c.kind for c in self.choices}
        return missing_kinds(self.axes, self.layers, sorted(gone))

    @property
    def largest(self) -> Subnet:
        """The whole network."""
        return Subnet(tuple(len(c.layouts) - 1 for c in self.choices))

    @property
    def smallest(self) -> Subnet:
        """The narrowest widths, and the most salient layers alone."""
        return self.canonical(Subnet((0,) * len(self.choices), self.first_gone(self.least_layers)))

    def first_gone(self, kept: int) -> tuple[int, ...]:
        """The layers that go where so many are to stay."""
        return tuple(sorted(self.depth_order[: len(self.layers) - kept]))

    def at(self, share: float, kept: int | None = None) -> Subnet:
        """Every width at the greatest share that is no more than the one given."""
        levels = tuple(
            max([i for i, s in enumerate(c.shares) if s <= share + 1e-9], default=0) for c in self.choices
        )
        return self.canonical(Subnet(levels, self.first_gone(len(self.layers) if kept is None else kept)))

    def random(self, removal: float = 0.5) -> Subnet:
        """A choice drawn from torch's global generator.

        Every width is drawn evenly. A layer goes with a probability that falls in a line from ``removal`` for
        the least salient one to a tenth of it for the most salient one (SuperSAM, arXiv:2501.08504, removes
        layers with probabilities of their own; the line is ours).
        """
        drawn = torch.rand(len(self.choices) + len(self.layers)).tolist()
        levels = tuple(int(d * len(c.layouts)) for d, c in zip(drawn, self.choices, strict=False))
        gone = [i for i, d in zip(self.depth_order, drawn[len(levels) :], strict=True)
                if d < self.removal(i, removal)]  # fmt: skip
        return self.canonical(Subnet(levels, tuple(sorted(gone[: len(self.layers) - self.least_layers]))))

    def removal(self, layer: int, most: float) -> float:
        """With which probability a layer goes."""
        rank = self.depth_order.index(layer) / max(1, len(self.layers) - 1)
        return most * (1 - 0.9 * rank)

    def canonical(self, subnet: Subnet) -> Subnet:
        """The same subnetwork, with whole widths in layers that do not run."""
        levels = (
            len(c.layouts) - 1 if c.layer is not None and c.layer in subnet.dropped else level
            for c, level in zip(self.choices, subnet.levels, strict=True)
        )
        return Subnet(tuple(levels), subnet.dropped)

    def parse(self, data: Mapping[str, Any]) -> Subnet:
        """Read what ``Subnet.to_json`` wrote.

        Raises:
            UsageError: it is no choice of this supernet.
        """
        try:
            found = Subnet(tuple(map(int, data["levels"])), tuple(map(int, data["dropped"])))
            self.check(found)
        except (LookupError, TypeError, ValueError) as err:
            raise UsageError(f"not a subnetwork of this supernet: {err}", hint="search anew") from err
        return found

    def check(self, subnet: Subnet) -> None:
        """Check that a choice is one of these.

        Raises:
            ValueError: it is not.
        """
        if len(subnet.levels) != len(self.choices):
            raise ValueError(f"{len(subnet.levels)} widths for {len(self.choices)} axes")
        for level, choice in zip(subnet.levels, self.choices, strict=True):
            if not 0 <= level < len(choice.layouts):
                raise ValueError(f"{choice.name} has no width {level}")
        gone = set(subnet.dropped)
        if list(subnet.dropped) != sorted(gone) or not gone <= set(range(len(self.layers))):
            raise ValueError(f"there are no layers {list(subnet.dropped)}")
        if len(self.layers) - len(gone) < self.least_layers:
            raise ValueError(f"fewer than {self.least_layers} layers")

    def widths(self, subnet: Subnet) -> Widths:
        """How many units each group keeps: (groups,)."""
        kept = np.array([len(g.units) for g in self.axes.groups], dtype=np.int64)
        for level, choice in zip(subnet.levels, self.choices, strict=True):
            kept[list(choice.groups)] = choice.layouts[level]
        return kept

    def keep(self, subnet: Subnet) -> NDArray[np.bool_]:
        """For each class of the axes whether it stays: the first units of each group."""
        keep = np.zeros(self.axes.classes, dtype=bool)
        for group, width in zip(self.axes.groups, self.widths(subnet), strict=True):
            keep[list(group.units[:width])] = True
        return self.axes.closed(keep)

    def cost(self, subnet: Subnet) -> Cost:
        """What a choice costs, without building it."""
        widths = self.widths(subnet)
        terms, params = self._model.macs_per_term(widths), self._model.params_per_tensor(widths)
        for layer in subnet.dropped:
            nodes, tensors = self._lost[layer]
            terms, params = np.where(nodes, 0.0, terms), np.where(tensors, 0.0, params)
        return Cost(int(np.rint(terms.sum())), int(np.rint(params.sum())))

    @cached_property
    def _lost(self) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """For each layer the MAC terms and the tensors that go with it."""
        found = []
        for layer in self.layers:
            left = without_branches(self.axes.program, [layer])
            nodes = {n.name for n in left.nodes}
            tensors = {str(n.args[0]) for n in left.nodes if n.op == TENSOR}
            found.append(
                (
                    np.array([name not in nodes for name in self._model.macs_by_term]),
                    np.array([name not in tensors for name in self._model.tensor_names]),
                )
            )
        return found


def _axes(axes: Axes, layers: Sequence[Branch], config: ElasticConfig) -> tuple[Axis, ...]:
    """An axis for each bundle of the kinds that are elastic, where it has several widths."""
    found = []
    for bundle in axes.bundles:
        groups = [axes.groups[g] for g in bundle.groups]
        layouts = _offered(bundle.layouts, config)
        if groups[0].kind in config.kinds and len(layouts) > 1:
            tensors = {name for g in groups for name, _ in g.tensors}
            layer = next((i for i, b in enumerate(layers) if tensors <= b.tensors), None)
            found.append(Axis(bundle.name, groups[0].kind, bundle.groups, layouts, layer))
    return tuple(found)


def _offered(layouts: Sequence[tuple[int, ...]], config: ElasticConfig) -> tuple[tuple[int, ...], ...]:
    """The widest layouts within each step, from the least share on, and the whole one."""
    totals = [sum(layout) for layout in layouts]
    limits = [totals[-1] * s / config.steps for s in range(1, config.steps + 1)]
    found = {
        max((i for i, t in enumerate(totals) if t <= limit + 1e-9), default=-1)
        for limit in limits
        if limit >= config.least * totals[-1] - 1e-9
    }
    return tuple(layouts[i] for i in sorted(found) if i >= 0)


def _tied(choices: Sequence[Axis]) -> tuple[Axis, ...]:
    """One axis for those that are alike in all layers of a stack; widths outside of layers stay whole."""
    alike: dict[tuple[Any, ...], list[Axis]] = {}
    for choice in choices:
        if choice.layer is None and choice.kind != "residual":
            continue
        role = re.sub(r"\d+", "#", choice.name)
        alike.setdefault((role, choice.kind, choice.layouts), []).append(choice)
    return tuple(
        Axis(
            found[0].name,
            found[0].kind,
            tuple(g for c in found for g in c.groups),
            tuple(sum((c.layouts[i] for c in found), ()) for i in range(len(found[0].layouts))),
            found[0].layer if len(found) == 1 else None,
        )
        for found in alike.values()
    )
