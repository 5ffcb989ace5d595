"""Agents: who searches a supernet, how long, and what each of them cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from graph.errors import UsageError
from graph.suggest import suggestion
from prune.demands import Demand
from supernet.elastic import Elastic
from supernet.limits import latency_in

SearchAgent = Literal["tpe", "nsga2", "random", "gnn-rl", "agmc", "amc"]
AGENTS: tuple[SearchAgent, ...] = get_args(SearchAgent)
LEARNING = ("gnn-rl", "agmc", "amc")
_OPTUNA = ("tpe", "nsga2")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How to search.

    Attributes:
        agent: one of ``AGENTS``.
        trials: subnetworks that are scored, the plain ones included.
        seed: of everything random.
        records: of the search split that each is scored on; None for 512 images or 32 windows.

    Raises:
        UsageError: a value out of range.
    """

    agent: str = "tpe"
    trials: int = 60
    seed: int = 0
    records: int | None = None

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise UsageError(f"--agent {self.agent}: unknown", hint=suggestion(self.agent, AGENTS))
        if self.trials < 1:
            raise UsageError(f"--trials {self.trials}: at least 1", hint="such as --trials 60")


def default_agent() -> SearchAgent:
    """Who searches where the user names nobody: ``tpe``, without Optuna ``random``."""
    return "tpe" if _has_optuna() else "random"


def check_agent(agent: str, demands: Sequence[Demand], *, pareto: bool = False) -> None:
    """Refuse, before anything is loaded, what an agent cannot do.

    Raises:
        UsageError: its package is missing, or it has no way to keep such limits.
    """
    if agent in _OPTUNA and not _has_optuna():
        raise UsageError(
            f"--agent {agent} needs the package optuna",
            hint="python -m pip install 'prune-networks[supernet]', or --agent random",
        )
    wrong = "--pareto" if pareto else latency_in(demands)
    if agent in LEARNING and (wrong or not demands):
        told = f" and cannot do {wrong}" if wrong else ""
        raise UsageError(
            f"--agent {agent} searches within limits of FLOPs or parameters{told}",
            hint="--agent tpe, nsga2 or random",
        )


def check_elastic(agent: str, elastic: Elastic) -> None:
    """Refuse a supernet that an agent cannot walk.

    Raises:
        UsageError: it has one width for several layers.
    """
    if agent in LEARNING and elastic.config.uniform:
        raise UsageError(
            f"--agent {agent} chooses widths layer by layer, the supernet has one for all",
            hint="--agent tpe, nsga2 or random, or build the supernet with --no-uniform",
        )


def _has_optuna() -> bool:
    return find_spec("optuna") is not None
