"""Decision: the plan that a run goes with, searched for, made by a baseline, or told by states and blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from models_zoo.data import DataSet
from prune.baselines import baseline_plan
from prune.budget import Budget
from prune.config import CompressConfig, Listener
from prune.importance import scores_of
from prune.journal import Journal
from prune.latency_limit import Checked
from prune.mend import Mender
from prune.plan import Plan, make_plan
from prune.preparation import SEARCH, Prepared
from prune.states import state_starts
from prune.trials import Planner, Problem, SearchResult

STATES, BLOCKS = "states", "blocks"  # the methods of plans that take nothing else


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided.

    Attributes:
        found: the plan, and the search that found it.
        timed: its latency, where that is limited.
    """

    found: SearchResult
    timed: Checked | None


def decide(
    ready: Prepared,
    config: CompressConfig,
    budget: Budget,
    planner: Planner,
    listener: Listener,
    journal: Journal,
    *,
    mender: Mender | None,
    starts: Mapping[str, Sequence[float]],
) -> Decision:
    """Find a plan within the limits; of several that a search offers, the one that is best once mended.

    Args:
        ready: the model, prepared.
        config: what to do.
        budget: what its limits mean for the model.
        planner: searches for the plan.
        listener: sees the run.
        journal: of the run; what it knows is not done again.
        mender: of the data; None without.
        starts: keep ratios by name that a search scores beside the baselines.
    """
    axes, space, scores, states = ready.subject.axes, ready.space, ready.scores, ready.states
    searches = ready.method == SEARCH and bool(config.demands)
    listener.stage("searching" if searches else "planning")
    if not config.demands:  # nothing but states and blocks go, and which is decided
        found = _planned(make_plan(space, space.widest, scores, STATES if states is not None else BLOCKS))
    elif searches and mender is not None:
        free = states is not None and not states.kept
        first = {**(state_starts(space) if free else {}), **starts}
        reranks = compares_rankings(config, mender.data, states=states is not None)
        problem = Problem(
            axes, space, budget, scores, mender.data, listener.trial, first, journal, reranks, config.device
        )
        found = SearchResult.from_json(journal.recall("search", lambda: planner(problem).to_json()))
        for note in found.notes:
            listener.note(note)
    else:
        found = _planned(baseline_plan(ready.method, space, scores, budget))
    if found.finalists and mender is not None:
        listener.stage("mending the best plans")
        plan, loss = mender.finalist(found.finalists, listener.step, journal)
        if math.isfinite(loss):  # else nothing tells them apart
            found = replace(found, plan=plan, mended_loss=loss)
    if ready.clock is None:
        return Decision(found, None)
    listener.stage("timing the plan")
    if (ranked := found.plan.importance) is not None:
        scores = scores_of(axes, ranked, ready.data, config.device)
    timed = ready.clock.checked(found.plan, budget, scores)
    if timed.plan != found.plan:  # nobody fitted that one yet
        found = replace(found, plan=timed.plan, mended_loss=None)
    return Decision(found, timed)


def compares_rankings(config: CompressConfig, data: DataSet, *, states: bool) -> bool:
    """Whether a search finds out which criterion is to rank the channels, see ``rl.ranking``.

    Args:
        config: names a criterion or not.
        data: what plans are scored on.
        states: whether states are ranked on text, which then ranks the channels, too.
    """
    return config.importance is None and not states and not data.is_text


def _planned(plan: Plan) -> SearchResult:
    """The outcome where nothing was searched for."""
    return SearchResult(plan, (), {}, 0, 0, 0.0)
