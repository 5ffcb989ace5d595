"""Found: what searches wrote down, read back, and what is told of a subnetwork that is cut out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph.errors import TargetError, UsageError
from prune.evaluation import Evaluation
from prune.files import read_json
from supernet.elastic import Elastic, Subnet
from supernet.limits import Limits
from supernet.scoring import chosen, trial_of

_OF_SEARCH = ("agent", "scored", "seconds", "too_slow", "whole", "whole_latency_ms")


@dataclass(frozen=True)
class Picked:
    """A subnetwork that is to be cut out.

    Attributes:
        subnet: the choice.
        about: as JSON data who proposed it, how good it is, what the search for it cost.
    """

    subnet: Subnet
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {**self.subnet.to_json(), "about": dict(self.about)}


def picked(elastic: Elastic, result: Mapping[str, Any], best: Mapping[str, Any] | None = None) -> Picked:
    """The best subnetwork of a search, or another one of it.

    Args:
        elastic: of the supernet.
        result: as ``Found.to_json`` gives it.
        best: one of its trials, where it is not its best.

    Raises:
        UsageError: it is no choice of this supernet, or malformed.
    """
    found = result.get("best") if best is None else best
    found = found if isinstance(found, dict) else {}
    subnet = elastic.parse(found)
    about = {k: v for k, v in found.items() if k not in ("levels", "dropped")}
    about |= {k: result.get(k) for k in _OF_SEARCH}
    told = _evaluation(found).told() if "accuracy" in found else "not scored"
    return Picked(subnet, about | {"told": told})


def read_found(path: Path, elastic: Elastic, limits: Limits | None = None) -> Picked:
    """What a search wrote: its best subnetwork, or the best of all that it scored within limits.

    Raises:
        UsageError: the file is missing or malformed, or of another supernet.
        TargetError: none of its subnetworks keeps the limits.
    """
    if not path.exists():
        raise UsageError(
            f"which subnetwork? {path} does not exist",
            hint="give a limit (--flops 0.5) or --budgets FILE, or search first: prune supernet search",
        )
    result = read_json(path, "result of a search")
    if limits is None:
        return picked(elastic, result)
    try:
        listed = [dict(t) for t in result.get("trials", ())]
    except (TypeError, ValueError) as err:
        raise UsageError(f"{path} is malformed: {err}", hint="search anew") from err
    trials = {trial_of(elastic, elastic.parse(t), "", _evaluation(t)): t for t in listed}
    fitting = [t for t in trials if limits.kept(t.subnet)]
    if not fitting:
        raise TargetError(
            f"none of the {len(trials)} subnetworks in {path} keeps {' '.join(map(str, limits.demands))}",
            hint="without --found the supernet is searched within these limits",
        )
    return picked(elastic, result, trials[chosen(fitting)])


def _evaluation(data: Mapping[str, Any]) -> Evaluation:
    """Read what ``Evaluation.to_json`` wrote.

    Raises:
        UsageError: malformed.
    """
    try:
        loss = math.inf if data["loss"] is None else float(data["loss"])
        scale = None
        if (bits := data.get("bits")) and data["unit"] == "tokens":  # counted for bytes where they are known
            scale = loss / math.log(2) / float(bits)
        iou, dice = (None if data.get(k) is None else float(data[k]) for k in ("mean_iou", "mean_dice"))
        return Evaluation(
            float(data["accuracy"]), loss, int(data["records"]), str(data["unit"]),
            None if scale is None or math.isclose(scale, 1.0) else scale, iou, dice,
        )  # fmt: skip
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as err:
        raise UsageError(f"not the result of a search: {err}", hint="search anew") from err
