"""The cost model: MACs, parameters and memory of a program for any choice of widths, exactly.

Each cost is a sum of products of dimension sizes (see ``graph.sizes``), so a plan is priced without building
anything. What is predicted here, ``graph.cost.costs`` counts again on the pruned program.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.cost import all_dims, lifetimes, mac_factors, records_of
from graph.program import TENSOR
from graph.sizes import Kept, SizeTable

Counts = NDArray[np.int64]


class CostModel:
    """Prices any choice of widths of a program without building it.

    Widths are (groups,), or (..., groups) for many choices at once; results have the leading shape.

    Attributes:
        widths: how many units each group of the whole program has.
        macs_by_term: names of the operators behind the MAC terms.
        tensor_names: of the tensors that the program reads.
    """

    def __init__(self, axes: Axes) -> None:
        program, shapes = axes.program, axes.shapes
        self._table = table = SizeTable(axes)
        self.widths = table.widths
        self._per_record = records_of(program)
        macs = [(node.name, term) for node in program.nodes for term in (mac_factors(node, shapes) or [])]
        self.macs_by_term = tuple(name for name, _ in macs)
        self._macs = table.products([term for _, term in macs])

        node_of = {str(n.args[0]): n.name for n in program.nodes if n.op == TENSOR}
        read = [(name, t) for name, t in program.tensors.items() if name in node_of]
        unread = [(name, t) for name, t in program.tensors.items() if name not in node_of]
        self.tensor_names = tuple(name for name, _ in read)
        self._tensors = table.products([all_dims(node_of[name], shapes) for name, _ in read])
        self._is_param = np.array([name in program.trainable for name, _ in read], dtype=np.float64)
        self._tensor_bytes = np.array([t.element_size() for _, t in read], dtype=np.float64)
        self._unread_params = sum(t.numel() for name, t in unread if name in program.trainable)
        self._unread_bytes = sum(t.numel() * t.element_size() for _, t in unread)

        lives = list(lifetimes(program, shapes))
        self._activations = table.products([all_dims(name, shapes) for name, _, _ in lives])
        # Each activation is added where it is born and taken away after its last use.
        element = np.array([shapes[name].element_size() for name, _, _ in lives], dtype=np.float64)
        self._events = np.array([born for _, born, _ in lives] + [last + 1 for *_, last in lives])
        self._order = np.argsort(self._events, kind="stable")
        self._signed_bytes = np.concatenate([element, -element])
        ordered = self._events[self._order]
        self._moments = np.flatnonzero(np.diff(ordered, append=-1))  # the last event of each node

    def macs(self, kept: Kept) -> Counts:
        """MACs for one record when group g keeps ``kept[..., g]`` units."""
        return _rounded(self._macs(self._table.sizes(kept)).sum(axis=-1)) // self._per_record

    def macs_per_term(self, kept: Kept) -> NDArray[np.float64]:
        """The same for each term, in the order of ``macs_by_term``: (..., terms)."""
        return self._macs(self._table.sizes(kept)) / self._per_record

    def params(self, kept: Kept) -> Counts:
        """Elements of the trainable tensors."""
        return _rounded(self._tensors(self._table.sizes(kept)) @ self._is_param) + self._unread_params

    def params_per_tensor(self, kept: Kept) -> NDArray[np.float64]:
        """The same for each tensor, in the order of ``tensor_names``; 0 for those that are no parameters."""
        return self._tensors(self._table.sizes(kept)) * self._is_param

    def weight_bytes(self, kept: Kept) -> Counts:
        """Bytes of all tensors: parameters, buffers and constants."""
        return _rounded(self._tensors(self._table.sizes(kept)) @ self._tensor_bytes) + self._unread_bytes

    def peak_activation_bytes(self, kept: Kept) -> Counts:
        """The most bytes of activations that are alive at one time, for one record."""
        elements = self._activations(self._table.sizes(kept))
        changes = np.concatenate([elements, elements], axis=-1) * self._signed_bytes
        alive = np.cumsum(changes[..., self._order], axis=-1)[..., self._moments]
        return _rounded(alive.max(axis=-1)) // self._per_record

    def memory_bytes(self, kept: Kept) -> Counts:
        """Bytes of weights, and of activations at the worst moment, for one record."""
        return self.weight_bytes(kept) + self.peak_activation_bytes(kept)


def _rounded(values: NDArray[np.float64]) -> Counts:
    """The whole numbers that sums of products of whole numbers are, but for the last bits."""
    result: Counts = np.rint(values).astype(np.int64)
    return result
