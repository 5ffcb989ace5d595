"""What inference yields: groups of interchangeable units, bundles of groups, sites, and what is pinned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["channel", "residual", "mlp", "head", "lane", "expert", "state"]


@dataclass(frozen=True)
class Pinned:
    """Channels that cannot be removed, and why.

    Attributes:
        tensor: the parameter whose channels they are.
        channels: how many.
        reason: in words.
    """

    tensor: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Group:
    """Channels whose slices lie in the same places: any of them may go without the others.

    Attributes:
        name: of the layer that makes them.
        kind: what a unit is: a ``channel`` of a convolution, a channel of a ``residual`` stream, of a hidden
            layer (``mlp``), a whole attention ``head``, one ``lane`` within the heads, an ``expert``, or a
            ``state`` of a recurrence.
        units: for each unit the class of labels that goes with it.
        tensors: the parameters with a slice for each unit, as (name, dimension).
    """

    name: str
    kind: Kind
    units: tuple[int, ...]
    tensors: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Bundle:
    """Groups that are pruned in step, because they share rows that must stay equally long.

    Attributes:
        name: of its first group.
        groups: indices into ``Axes.groups``.
        layouts: the kept counts that are possible, one per group, from narrow to whole.
    """

    name: str
    groups: tuple[int, ...]
    layouts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Site:
    """A place where channels are consumed.

    Attributes:
        node: the operator.
        operand: where the operand stands among its arguments: a position, or one within a list.
        value: the operand's name.
        dim: the dimension that is summed, averaged or compared over.
        fills: the number that stands for a removed channel there (0 in a sum, -inf in a maximum); None
            where the operator computes statistics, which must be those of the remaining channels.
        weight: the tensor of the table that meets the operand there, if any.
        weight_dim: the dimension of that tensor.
    """

    node: str
    operand: tuple[int, ...]
    value: str
    dim: int
    fills: float | None = 0.0
    weight: str | None = None
    weight_dim: int = 0
