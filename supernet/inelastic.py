"""Inelastic: what cannot be chosen of a supernet, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graph.channels import Axes
from graph.errors import UsageError
from graph.groups import Kind
from graph.residual import Branch


def missing_kinds(axes: Axes, layers: Sequence[Branch], kinds: Iterable[Kind]) -> dict[Kind, str]:
    """For each kind of groups without an elastic width the reason.

    Args:
        axes: of the program.
        layers: of it.
        kinds: that have none.
    """
    return {kind: _reason(axes, layers, kind) for kind in kinds}


def _reason(axes: Axes, layers: Sequence[Branch], kind: Kind) -> str:
    groups = [g for g in axes.groups if g.kind == kind]
    if groups:
        most = max(len(g.units) for g in groups)
        return f"its {len(groups)} groups, of at most {most} units, have only one width each that is offered"
    inner = frozenset[str]().union(*(layer.tensors for layer in layers))
    stuck = [p for p in axes.pinned if p.tensor in inner]
    if stuck and kind in ("head", "mlp", "residual"):
        return f"the model has no group of it; {stuck[0].tensor} is pinned: {stuck[0].reason}"
    return "the model has no group of it"


def nothing_elastic(missing: dict[Kind, str], layers: int, least_depth: float) -> UsageError:
    """The error where neither a layer nor a width can go.

    Args:
        missing: see ``missing_kinds``.
        layers: how many there are.
        least_depth: the share of them that runs at least.
    """
    depth = f"--least-depth {least_depth:g} keeps all of its {layers} layers"
    why = [depth if layers else "it has no layer that can be bypassed"]
    why += [f"no width of kind {kind}: {reason}" for kind, reason in missing.items()]
    lower = "lower --least-depth, " if layers else ""
    return UsageError(
        f"nothing of this model is elastic: {'; '.join(why)}",
        hint=f"{lower}lower --least, or name other groups with --kinds: `prune inspect` shows them",
    )
