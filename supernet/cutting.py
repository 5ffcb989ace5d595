"""Cutting: a subnetwork is a list of slices of the supernet's tensors, and nodes with smaller sizes.

Where prefixes are what the rules of the graph would keep, the slices are read off the labels: a view of each
tensor, in milliseconds. That they are is tried on a few choices when the supernet is made; where they are
not, each cut runs the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.labels import Field
from graph.program import TENSOR, Program
from graph.replay import replay
from graph.residual import without_branches
from prune.slicing import Slicer
from prune.surgery import gather
from supernet.elastic import Elastic, Subnet

Slices = tuple[tuple[int, tuple[int, int] | Tensor], ...]  # dimension; begin and length, or positions
_TRIALS = 3
_KNOWN = 256  # cuts that are remembered


@dataclass(frozen=True)
class Cut:
    """A subnetwork without its weights.

    Attributes:
        program: its nodes; the tensors are those of the supernet, in shape and value.
        slices: what it takes of the tensors that it has only parts of.
        gathered: likewise where no slices do: old and new labels.
    """

    program: Program
    slices: Mapping[str, Slices]
    gathered: Mapping[str, tuple[Mapping[int, Field], Mapping[int, Field]]]

    def table(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its tensors: views of the supernet's wherever a slice is a prefix; gradients pass."""
        found = {name: tensors[name] for name in self.program.tensors}
        for name, slices in self.slices.items():
            if name in found:
                found[name] = taken(found[name], slices)
        for name, (whole, kept) in self.gathered.items():
            if name in found:
                found[name] = gather(found[name], whole, kept)
        return found

    def extracted(self, tensors: Mapping[str, Tensor]) -> Program:
        """The subnetwork as a program of its own that shares memory with the supernet."""
        table = self.table(tensors)
        return replace(self.program, tensors={k: t.detach() for k, t in table.items()})


def taken(tensor: Tensor, slices: Slices) -> Tensor:
    """A tensor's slices along some dimensions: a view where they are without gaps, else a copy."""
    for dim, places in slices:
        if isinstance(places, Tensor):
            tensor = tensor.index_select(dim, places)
        else:
            tensor = tensor.narrow(dim, *places)
    return tensor


class Cutter:
    """Cuts subnetworks out of one supernet; the last ones are remembered.

    Args:
        elastic: what can be chosen.

    Attributes:
        direct: whether slices are read off the labels.
    """

    def __init__(self, elastic: Elastic) -> None:
        self.elastic, self.axes = elastic, elastic.axes
        self._slicer = Slicer(self.axes)
        self._known: dict[Subnet, Cut] = {}
        used = {str(n.args[0]): n.name for n in self.axes.program.nodes if n.op == TENSOR}
        self._fields = {name: (used[name], f) for name, f in self.axes.weights.items() if name in used and f}
        single = all(
            f.labels.size == f.labels.shape[d] for _, fs in self._fields.values() for d, f in fs.items()
        )
        self.direct = single and all(self._agrees(choice) for choice in self._tried())

    def __call__(self, subnet: Subnet) -> Cut:
        """Cut one out.

        Raises:
            PlanError: the channels that remain do not fit each other.
        """
        found = self._known.pop(subnet, None) or self._made(subnet)
        self._known[subnet] = found
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        return found

    def forget(self) -> None:
        """Forget the subnetworks that were cut out, so that the next cut takes as long as a first one."""
        self._known.clear()

    def _made(self, subnet: Subnet) -> Cut:
        keep = self.elastic.keep(subnet)
        slices: dict[str, Slices] = {}
        gathered: dict[str, tuple[Mapping[int, Field], Mapping[int, Field]]] = {}
        if self.direct:
            nodes, slices = self._slicer.nodes(keep), self._slices(keep)
        else:
            run, nodes = replay(self.axes, keep)
            gathered = {name: (whole, run.fields[node]) for name, (node, whole) in self._fields.items()}
        program = replace(self.axes.program, nodes=nodes)
        if subnet.dropped:
            program = without_branches(program, [self.elastic.layers[i] for i in subnet.dropped])
        return Cut(program, slices, gathered)

    def _slices(self, keep: NDArray[np.bool_]) -> dict[str, Slices]:
        found = {}
        for name, (_, fields) in self._fields.items():
            slices = []
            for dim, field in sorted(fields.items()):
                stays = keep[field.labels.ravel()]
                if not stays.all():
                    slices.append((dim, _run(np.flatnonzero(stays))))
            if slices:
                found[name] = tuple(slices)
        return found

    def _tried(self) -> list[Subnet]:
        """Choices on which slices and rules are compared: the smallest one and random ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            drawn = [self.elastic.random(0.0) for _ in range(_TRIALS)]
        return [Subnet(self.elastic.smallest.levels), *drawn]

    def _agrees(self, subnet: Subnet) -> bool:
        """Whether the rules keep what the labels say, in the same order."""
        keep = self.elastic.keep(subnet)
        run, nodes = replay(self.axes, keep)
        if self._slicer.nodes(keep) != nodes:
            return False
        return all(
            np.array_equal(f.labels.ravel()[keep[f.labels.ravel()]], run.fields[node][dim].labels.ravel())
            for node, fields in self._fields.values()
            for dim, f in fields.items()
        )


def _run(places: NDArray[np.int64]) -> tuple[int, int] | Tensor:
    """Positions, as begin and length where they have no gaps."""
    if len(places) and int(places[-1] - places[0]) + 1 == len(places):
        return int(places[0]), len(places)
    return torch.from_numpy(places)
