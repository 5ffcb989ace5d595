"""The search: baselines first, then an agent from the best of them, then a refinement of the best plans.

All plans are scored alike, and the best one wins, whoever proposed it. Agents: ``rl.agents``; what they start
from: a saved policy (``rl.policy``), or fresh weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from graph import topology
from graph.errors import UsageError
from graph.suggest import suggestion
from graph.topology import Topology
from prune.identity import digest, must_be_the_same
from prune.importance import scores_of
from prune.plan import Plan, make_plan
from prune.trials import Planner, Problem, SearchResult, Trial
from prune.widths import Levels
from rl import policy
from rl.agents.agent import AGENTS, Agent, AgentName, contained
from rl.baselines import BASELINES, plans_of, score_baselines
from rl.book import REWARDS, Book, Reward
from rl.env import Task
from rl.policy import Policy
from rl.population import CHOICE, evolve, random_plans
from rl.precision import PRECISION, check_precision
from rl.processes import Note
from rl.ranking import Ranking, ranked
from rl.reward import IMAGES, Evaluator
from rl.scorer import PlanScorer
from rl.sensitivity import sensitivity
from rl.workers import check_workers

Method = Literal[AgentName, "evolution", "random"]
METHODS: tuple[str, ...] = (*AGENTS, "evolution", "random")
REFINED = "refinement"
FINALISTS = 8  # best plans of all that are looked at more closely, beside the best of each method
RERANKED = 3  # of these also with other channels


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How to search.

    Attributes:
        agent: who proposes plans, one of ``METHODS``; see ``rl.policy.agent_of``.
        episodes: plans to score beside the baselines, the refinement's included; 0 leaves the baselines,
            and the plan of a policy that is named.
        seed: of everything random.
        reward: what makes a plan good: few errors (``error``) or a small cross entropy (``loss``).
        policy: file of a trained policy to start from; ``default`` is the one that comes with the package
            for the agent; ``none`` starts with fresh weights. When left out, the one that comes along, where
            there is one and its plan is no worse than the best baseline.
        refine: share of the episodes that mutate the best plans after the agent.
        baselines: those of ``BASELINES`` that are scored first; the agent starts from the best of them.
        precision: what plans are scored in, one of ``rl.precision.PRECISIONS``; ``planner`` sees to it.
        sensitivity: whether each group is also scored cut alone (``rl.sensitivity``); when left out, where
            that takes at most half as many plans as the search.

    Raises:
        UsageError: a value out of range.
    """

    agent: str = policy.AGENT
    episodes: int = 100
    seed: int = 0
    reward: Reward = "error"
    policy: str | None = None
    refine: float = 0.5
    baselines: tuple[str, ...] = BASELINES
    precision: str = PRECISION
    sensitivity: bool | None = None

    def __post_init__(self) -> None:
        if self.agent not in METHODS:
            raise UsageError(f"--agent {self.agent}: unknown", hint=suggestion(self.agent, METHODS))
        if self.reward not in REWARDS:
            raise UsageError(f"--reward {self.reward}: unknown", hint=suggestion(self.reward, REWARDS))
        check_precision(self.precision)
        if self.episodes < 0:
            raise UsageError("the number of episodes must not be negative")
        if not 0 <= self.refine <= 1:
            raise UsageError("the share of episodes that refine must lie between 0 and 1")
        if self.agent not in AGENTS and self.names_policy:
            raise UsageError(f"--agent {self.agent} takes no policy", hint="one of " + ", ".join(AGENTS))

    @property
    def names_policy(self) -> bool:
        """Whether the user asks for a policy."""
        return self.policy not in (None, policy.NONE)

    @property
    def baseline_plans(self) -> int:
        """How many plans the baselines make."""
        return plans_of(self.baselines)

    @property
    def proposals(self) -> int:
        """How many plans will be scored beside those of the baselines."""
        return self.episodes or int(self.names_policy)

    @property
    def trials(self) -> int:
        """How many plans will be scored."""
        return self.baseline_plans + self.proposals

    def saved(self) -> Policy | None:
        """The policy that the agent starts from; None for fresh weights.

        Raises:
            PolicyError: as ``policy.find``.
        """
        return policy.find(self.policy, self.agent) if self.agent in AGENTS else None


def command_words(config: SearchConfig, *, images: int = IMAGES) -> tuple[str, ...]:
    """How ``prune compress`` is told to search like this: the options that do not have their defaults.

    Args:
        config: how the search goes; the seed is everybody's and not among the words.
        images: as ``planner``'s; who its workers are changes no result.
    """
    default = SearchConfig()
    options = {
        "--agent": (config.agent, default.agent),
        "--policy": (config.policy, default.policy),
        "--episodes": (config.episodes, default.episodes),
        "--reward": (config.reward, default.reward),
        "--images": (images, IMAGES),
        "--precision": (config.precision, default.precision),
    }
    words = [w for name, (value, usual) in options.items() if value != usual for w in (name, str(value))]
    flags = {True: ("--sensitivity",), False: ("--no-sensitivity",), None: ()}
    return (*words, *flags[config.sensitivity])


@contextmanager
def planner(
    config: SearchConfig, *, images: int = IMAGES, workers: str = "1", note: Note = lambda text: None
) -> Iterator[Planner]:
    """A planner that searches with this configuration; its workers end with the block.

    Args:
        config: how long and with what seed.
        images: of the search split that each plan is scored on.
        workers: how many processes score plans that come together, or the address of a Ray cluster.
        note: is told of lost workers.

    Raises:
        PolicyError: the policy's file is not sound, or of another agent.
        UsageError: ``workers`` is neither.
    """
    check_workers(workers)
    config.saved()  # a broken file is told before anything is loaded

    known: list[Evaluator] = []  # searches of one program and one data set share their scores

    def plan(problem: Problem) -> SearchResult:
        if not known or known[0].axes is not problem.axes or known[0].data is not problem.data:
            close()
            known[:] = [
                Evaluator(
                    problem.axes,
                    problem.data,
                    images=images,
                    precision=config.precision,
                    workers=workers,
                    device=problem.device,
                    journal=problem.journal,
                    note=note,
                )
            ]
        known[0].journal = problem.journal
        saved = config.saved()
        found = "" if saved is None else digest(saved.weights.values())
        must_be_the_same(problem.journal, "policy", config.policy or policy.DEFAULT, found)
        before = known[0].evaluations
        result, problem = _search(problem, topology.build(problem.axes), known[0], config)
        result = replace(result, evaluations=known[0].evaluations - before)
        if config.sensitivity is False:
            return result
        most = None if config.sensitivity else config.trials // 2
        return replace(result, sensitivity=sensitivity(problem, known[0], most))

    def close() -> None:
        for evaluator in known:
            evaluator.close()

    try:
        yield plan
    finally:
        close()


def search(problem: Problem, graph: Topology, evaluator: PlanScorer, config: SearchConfig) -> SearchResult:
    """Find the best plan within a budget.

    Args:
        problem: the program, the budget and the importance of its channels.
        graph: topology of the program.
        evaluator: scores plans on the search split.
        config: how long and with what seed.

    Raises:
        TargetError: the limits cannot be met.
        PolicyError: the policy's file is not sound, or of another agent.
    """
    return _search(problem, graph, evaluator, config)[0]


def _search(
    problem: Problem, graph: Topology, evaluator: PlanScorer, config: SearchConfig
) -> tuple[SearchResult, Problem]:
    """What is found, and the problem with the scores that rank the channels of its plans."""
    problem.budget.check_reachable()
    start = time.perf_counter()
    by_taylor = scores_of(problem.axes, "taylor", problem.data, problem.device)
    problem, rankings = ranked(problem, evaluator, by_taylor, config.reward, config.baselines)
    book = Book(problem, evaluator, config.reward, start)
    score_baselines(problem, book, by_taylor, config.baselines)
    random = np.random.default_rng(config.seed)
    notes: tuple[str, ...] = ()
    if config.agent == "random":
        random_plans(book, config.episodes, random)
    elif config.agent == "evolution":
        evolve(book, config.episodes, random, "evolution")
    else:
        with contained():
            done, notes = _run_agent(problem, graph, book, config)
        evolve(book, config.episodes - done, random, REFINED, choice=CHOICE)
    trial, levels = book.winner()
    result = SearchResult(
        make_plan(problem.space, levels, problem.scores, trial.method, rankings[0].named),
        tuple(book.trials),
        {name: best for name, (best, _) in book.best.items()},
        evaluator.evaluations,
        evaluator.images,
        book.seconds,
        _finalists(problem, book, rankings),
        agent=config.agent,
        precision=evaluator.precision,
        notes=notes,
    )
    return result, problem


def _finalists(problem: Problem, book: Book, rankings: Sequence[Ranking]) -> tuple[Plan, ...]:
    """The winner, the best plan of each method, the best plans of all, then some with other channels.

    A plan is scored before its weights are fitted; once they are, the channels that rank first by the next
    ranking that has others may be better (docs/results.md).
    """
    distinct: dict[bytes, tuple[str, Levels]] = {}
    for trial, levels in [book.winner(), *book.best.values(), *book.ranked[:FINALISTS]]:
        distinct.setdefault(levels.tobytes(), (trial.method, levels))
    first, *others = rankings
    plans = [
        make_plan(problem.space, levels, first.scores, method, first.named)
        for method, levels in distinct.values()
    ]
    for trial, levels in book.ranked[:RERANKED] if others else ():
        kept = make_plan(problem.space, levels, first.scores, trial.method).kept
        offered = (make_plan(problem.space, levels, r.scores, trial.method, r.named) for r in others)
        plans += [plan for plan in offered if plan.kept != kept][:1]
    return tuple(plans)


def task_of(problem: Problem, graph: Topology, book: Book, method: str) -> Task:
    """The task of improving on the best plan so far."""
    best, levels = book.winner()
    return Task(
        problem.space,
        graph,
        problem.budget,
        lambda plans: book.score(plans, method),
        book.ratios(levels),
        best.worth,
    )


def _run_agent(
    problem: Problem, graph: Topology, book: Book, config: SearchConfig
) -> tuple[int, tuple[str, ...]]:
    """Let the agent walk; how many plans it scored, and what the user should know."""
    if not config.proposals:
        return 0, ()
    saved = config.saved()
    agent = Agent(config.agent, [task_of(problem, graph, book, config.agent)], seed=config.seed)  # type: ignore[arg-type]
    before = len(book.trials)
    notes: tuple[str, ...] = ()
    if saved is not None:
        best, _ = book.winner()
        saved.load_into(agent)
        book.score([agent.plan()], config.agent)
        if book.trials[-1].worth < best.worth:
            notes = (_worse(book.trials[-1], best, config),)
            if not config.names_policy:
                agent = Agent(config.agent, agent.tasks, seed=config.seed)  # type: ignore[arg-type]
    left = config.episodes - (len(book.trials) - before)
    rounds = int(left * (1 - config.refine)) // agent.walks * agent.walks
    agent.learn(max(0, rounds))
    if rounds and len(book.trials) - before < config.episodes:
        book.score([agent.plan()], config.agent)
    return min(config.episodes, len(book.trials) - before), notes


def _worse(first: Trial, best: Trial, config: SearchConfig) -> str:
    """What the user should know of a policy whose plan is worse than the best before it."""
    mine, other = (
        f"{t.accuracy:.2%}" if config.reward == "error" else f"a loss of {t.loss:.4f}" for t in (first, best)
    )
    told = (
        f"the policy's first plan has {mine} on the search split, the best baseline ({best.method}) {other}"
    )
    if not config.names_policy:
        return f"{told}, so the search starts from the baseline and the agent with fresh weights"
    return f"{told}; the agent goes on from the policy, since it was named" if config.episodes else told
