"""Layers: how wide each one was, how wide it is now, and which kind of units went."""

from __future__ import annotations

from typing import Any

from graph.channels import Axes
from graph.program import Program
from prune.plan import Plan


def layer_widths(axes: Axes, plan: Plan, pruned: Program) -> list[dict[str, Any]]:
    """The weights of two dimensions and more, in the order in which the program uses them.

    Args:
        axes: of the whole program.
        plan: what each group keeps.
        pruned: the program after surgery.

    Returns:
        For each weight its ``name``, its output ``channels`` as [kept, whole], and the ``kind`` of the group
        that they belong to; None where they cannot be removed.
    """
    consumed = {(site.weight, site.weight_dim) for site in axes.sites}
    # Of several groups in one dimension (heads and their lanes) the one that lost something tells more.
    lost = {g.name: plan.widths[g.name] - len(plan.kept[g.name]) > 0 for g in axes.groups}
    kinds: dict[tuple[str, int], str] = {}
    for group in sorted(axes.groups, key=lambda g: not lost[g.name]):
        for sliced in group.tensors:
            kinds.setdefault(sliced, group.kind)
    found = []
    for name in dict.fromkeys(node.args[0] for node in _used(axes.program)):
        tensor = axes.program.tensors[name]
        if tensor.dim() < 2 or name not in axes.program.trainable:
            continue
        made = [d for d in range(tensor.dim()) if (name, d) not in consumed]
        grouped = [d for d in made if (name, d) in kinds]
        dim = (grouped or made or [0])[0]
        found.append(
            {
                "name": name.removesuffix(".weight"),
                "channels": [
                    pruned.tensors[name].shape[dim] if name in pruned.tensors else 0,
                    tensor.shape[dim],
                ],
                "kind": kinds.get((name, dim)),
            }
        )
    return found


def _used(program: Program) -> list[Any]:
    tensors = {node.name: node for node in program.nodes if node.op == "tensor"}
    return [tensors[ref] for node in program.nodes for ref in node.refs if ref in tensors]
