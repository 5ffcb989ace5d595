"""Sensitivity: what a network loses when one group of its channels is cut and all others stay whole."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from prune.plan import make_plan
from prune.trials import Problem
from rl.reward import Evaluator, Score

SHARES = (0.75, 0.5, 0.25)
METHOD = "sensitivity"


def sensitivity(problem: Problem, evaluator: Evaluator, most: int | None = None) -> dict[str, Any] | None:
    """Score each bundle of groups alone at three widths, on the images that plans are scored on.

    Which channels stay, ``problem.scores`` says; nothing is fitted or tuned. Li et al. 2017, section 3.2
    (arXiv:1608.08710), prune layer by layer like this to find the sensitive ones.

    Args:
        problem: the program and the importance of its channels; its limits do not matter.
        evaluator: scores plans.
        most: the most plans that it may take; any number when left out.

    Returns:
        As JSON data: the whole network's accuracy and loss and, for each bundle in the order of the program,
        its name, kind, units and layers and for each width the share of the units that was asked for, the
        one that it keeps, MACs, accuracy and loss.
        None where there is nothing to prune, or it would take more plans.
    """
    space, axes = problem.space, problem.space.axes
    chosen = []
    for bundle in range(space.bundles):
        for share in SHARES:
            widths = space.widest.copy()
            widths[bundle] = space.levels(np.full(space.bundles, share))[bundle]
            if space.ratios(widths)[bundle] <= share:  # else it has to keep more
                chosen.append((bundle, share, widths))
    if not chosen or (most is not None and len(chosen) > most):
        return None
    plans = [make_plan(space, widths, problem.scores, METHOD) for *_, widths in chosen]
    whole = make_plan(space, space.widest, problem.scores, METHOD)
    first, *scores = evaluator.many([plan.keep_mask(axes) for plan in (whole, *plans)])
    groups = []
    for bundle, found in enumerate(axes.bundles):
        cuts = [
            {"share": share, "ratio": float(space.ratios(widths)[bundle]), "macs": plan.macs, **_told(score)}
            for (index, share, widths), plan, score in zip(chosen, plans, scores, strict=True)
            if index == bundle
        ]
        tensors = {name for g in found.groups for name, _ in axes.groups[g].tensors}
        groups.append(
            {
                "name": found.name,
                "kind": axes.groups[found.groups[0]].kind,
                "units": int(space.sizes[bundle]),
                "layers": sorted({n.rpartition(".")[0] for n in tensors if n.endswith("weight")}),
                "cuts": cuts,
            }
        )
    return {
        "records": evaluator.images,
        "unit": problem.data.unit,
        "whole": _told(first),
        "groups": [g for g in groups if g["cuts"]],
    }


def _told(score: Score) -> dict[str, float | None]:
    return {"accuracy": score.accuracy, "loss": score.loss if math.isfinite(score.loss) else None}
