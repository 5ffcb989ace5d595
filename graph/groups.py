"""What inference yields: groups of interchangeable channels, bundles of groups, and what is pinned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pinned:
    """Channels that cannot be removed, and why.

    Attributes:
        tensor: the parameter whose output channels they are.
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
        kind: what a unit is: ``channel``.
        units: for each unit the class of labels that goes with it.
        tensors: the parameters with a slice for each unit, as (name, dimension).
    """

    name: str
    kind: str
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
    """A place where channels are consumed: argument ``operand`` of ``node`` is summed over ``dim``."""

    node: str
    operand: int
    value: str
    dim: int
    weight: str | None
    weight_dim: int
