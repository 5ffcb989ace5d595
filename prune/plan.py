"""Plans: how many and which channels each group keeps.

``prune.widths`` says which widths there are, ``prune.budget`` which of them a user allows; ``make_plan``
chooses the most important channels of each width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.errors import PlanError
from prune.importance import CRITERIA, Criterion
from prune.widths import Levels, Widths, WidthSpace


@dataclass(frozen=True)
class Plan:
    """Which units each group keeps.

    Attributes:
        kept: for each group by name, the positions of the kept units within the group, ascending.
        widths: for each group by name, how many units the whole program has.
        method: what chose it, such as ``uniform`` or ``ppo``.
        macs: of the pruned program, for one record.
        base_macs: of the whole program.
        importance: criterion that ranked the units, where it is not the one that was asked for.
    """

    kept: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, int]
    method: str
    macs: int
    base_macs: int
    importance: Criterion | None = None

    @property
    def ratio(self) -> float:
        """Share of the MACs that remains."""
        return self.macs / self.base_macs

    def keep_mask(self, axes: Axes) -> NDArray[np.bool_]:
        """For each class of the axes whether it stays.

        Raises:
            PlanError: the plan was made for another program.
        """
        mask = np.zeros(axes.classes, dtype=bool)
        mask[0] = True
        if set(self.widths) != {g.name for g in axes.groups}:
            raise PlanError("the plan was made for another model: its groups have other names")
        for group in axes.groups:
            kept = self.kept.get(group.name)
            if kept is None:
                raise PlanError(f"the plan does not say what to keep of group {group.name!r}")
            if self.widths[group.name] != len(group.units):
                raise PlanError(
                    f"the plan was made for another model: group {group.name!r} has {len(group.units)} "
                    f"units, the plan says {self.widths[group.name]}"
                )
            if list(kept) != sorted(set(kept)) or (kept and not 0 <= kept[0] <= kept[-1] < len(group.units)):
                raise PlanError(f"the plan keeps impossible units of group {group.name!r}")
            mask[np.array(group.units)[list(kept)]] = True
        return axes.closed(mask)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "format": "prune-plan",
            "version": 1,
            "method": self.method,
            "macs": self.macs,
            "base_macs": self.base_macs,
            "groups": {
                name: {"width": self.widths[name], "kept": list(kept)} for name, kept in self.kept.items()
            },
            **({"importance": self.importance} if self.importance else {}),
        }

    @staticmethod
    def from_json(data: Any) -> Plan:
        """Read back what ``to_json`` wrote.

        Raises:
            PlanError: malformed data.
        """
        try:
            if data["format"] != "prune-plan" or data["version"] != 1:
                raise PlanError("not a plan of version 1")
            groups = data["groups"]
            return Plan(
                {str(k): tuple(int(i) for i in g["kept"]) for k, g in groups.items()},
                {str(k): int(g["width"]) for k, g in groups.items()},
                str(data["method"]),
                int(data["macs"]),
                int(data["base_macs"]),
                _criterion(data.get("importance")),
            )
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as err:
            raise PlanError(f"malformed plan: {type(err).__name__}: {err}") from err


def _criterion(found: Any) -> Criterion | None:
    """A criterion that was read.

    Raises:
        PlanError: there is none of that name.
    """
    if found is not None and found not in CRITERIA:
        raise PlanError(f"malformed plan: no criterion is named {str(found)[:40]!r}")
    return found  # type: ignore[no-any-return]


def make_plan(
    space: WidthSpace,
    levels: Levels,
    scores: NDArray[np.float64],
    method: str,
    importance: Criterion | None = None,
) -> Plan:
    """Choose the most important units of each group.

    Args:
        space: of the whole program.
        levels: a level for each bundle.
        scores: importance of each class of the axes; higher stays.
        method: named in the plan.
        importance: named in the plan: the criterion of the scores, where it is not the one asked for.
    """
    widths = space.widths(levels)
    kept = {}
    for group, width in zip(space.axes.groups, widths, strict=True):
        order = np.argsort(-scores[list(group.units)], kind="stable")[:width]
        kept[group.name] = tuple(sorted(int(i) for i in order))
    return Plan(
        kept,
        {g.name: len(g.units) for g in space.axes.groups},
        method,
        int(space.cost.macs(widths)),
        space.base_macs,
        importance,
    )


def kept_widths(axes: Axes, plan: Plan) -> Widths:
    """How many units a plan keeps of each group: (groups,)."""
    return np.array([len(plan.kept[group.name]) for group in axes.groups], dtype=np.int64)


def kept_ratios(space: WidthSpace, plan: Plan) -> NDArray[np.float64]:
    """The share of its units that a plan keeps of each bundle: (bundles,)."""
    widths = kept_widths(space.axes, plan)
    kept = [widths[list(bundle.groups)].sum() for bundle in space.axes.bundles]
    result: NDArray[np.float64] = np.array(kept, dtype=np.float64) / space.sizes
    return result
