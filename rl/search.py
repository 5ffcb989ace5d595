"""The search: baselines first, then an agent, all scored alike; the best plan wins, whoever made it.

GNN-RL (arXiv:2102.03214) searches with PPO over multi-stage graph embeddings; clip 0.2, 10 epochs per
update, value coefficient 0.5 and entropy 0.01 are its reference code's. Deviations: the discount is 1,
since the one reward comes at the end of a walk of fixed length; the learning rate is 1e-3, since episodes
are few; and the agent starts at the best baseline (action 0), not at random.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from graph import topology
from graph.errors import UsageError
from graph.topology import Topology
from prune.budget import Budget
from prune.importance import Scores, normalised
from prune.plan import make_plan
from prune.trials import Planner, Problem, SearchResult, Trial
from prune.widths import WidthSpace
from rl.env import PruningEnv
from rl.policy import GraphFeatures
from rl.reward import Evaluator, Score


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How to search.

    Attributes:
        episodes: of the agent; 0 leaves the baselines alone.
        random_plans: how many random plans are scored beside.
        seed: of the agent and of the random plans.
        episodes_per_update: PPO updates after this many episodes.
        learning_rate: of Adam.
        start_std: standard deviation of the first actions, which lie in [-1, 1].

    Raises:
        UsageError: a value out of range.
    """

    episodes: int = 100
    random_plans: int = 10
    seed: int = 0
    episodes_per_update: int = 5
    learning_rate: float = 1e-3
    start_std: float = 0.4

    def __post_init__(self) -> None:
        if self.episodes < 0 or self.random_plans < 0:
            raise UsageError("the numbers of episodes and of random plans must not be negative")


class _Book:
    """Scores levels under a method's name and keeps the trials."""

    def __init__(self, problem: Problem, evaluator: Evaluator) -> None:
        self.problem, self.evaluator = problem, evaluator
        self.trials: list[Trial] = []
        self.best: dict[str, tuple[Trial, NDArray[np.int64]]] = {}
        self.start = time.perf_counter()

    def score(self, levels: NDArray[np.int64], method: str) -> Score:
        space = self.problem.space
        plan = make_plan(space, levels, self.problem.scores, method)
        score = self.evaluator(plan.keep_mask(space.axes))
        trial = Trial(
            method,
            sum(t.method == method for t in self.trials) + 1,
            plan.macs,
            score.accuracy,
            score.loss,
            time.perf_counter() - self.start,
            tuple(float(r) for r in space.ratios(levels)),
        )
        self.trials.append(trial)
        if method not in self.best or trial.rank > self.best[method][0].rank:
            self.best[method] = (trial, levels.copy())
        self.problem.on_trial(trial)
        return score

    def winner(self) -> tuple[Trial, NDArray[np.int64]]:
        """The best trial; among equals the one scored first."""
        return max(self.best.values(), key=lambda entry: entry[0].rank)


class _Stop(BaseCallback):
    """Ends PPO's loop after a number of episodes."""

    def __init__(self, episodes: int) -> None:
        super().__init__()
        self.left = episodes

    def _on_step(self) -> bool:
        self.left -= int(np.sum(self.locals["dones"]))
        return self.left > 0


def planner(config: SearchConfig, *, images: int = 512, calibration: int = 256) -> Planner:
    """A planner that searches with this configuration.

    Args:
        config: how long and with what seed.
        images: of the search split that each plan is scored on.
        calibration: training images on which batch-norm statistics are measured for each plan.
    """
    known: list[Evaluator] = []  # searches of one program and one data set share their scores

    def plan(problem: Problem) -> SearchResult:
        if not known or known[0].axes is not problem.axes or known[0].data is not problem.data:
            known[:] = [Evaluator(problem.axes, problem.data, images=images, calibration=calibration)]
        before = known[0].evaluations
        found = search(problem, topology.build(problem.axes), known[0], config)
        return replace(found, evaluations=known[0].evaluations - before)

    return plan


def search(problem: Problem, graph: Topology, evaluator: Evaluator, config: SearchConfig) -> SearchResult:
    """Find the best plan within a budget.

    Args:
        problem: the program, the budget and the importance of its channels.
        graph: topology of the program.
        evaluator: scores plans on the search split.
        config: how long and with what seed.

    Raises:
        TargetError: the limits cannot be met.
    """
    space, budget = problem.space, problem.budget
    budget.check_reachable()
    book = _Book(problem, evaluator)
    book.score(budget.project(np.ones(space.bundles)), "uniform")
    book.score(budget.project(global_ratios(space, problem.scores, budget)), "global-magnitude")
    for name, ratios in problem.starts.items():
        book.score(budget.project(ratios), name)
    random = np.random.default_rng(config.seed)
    for _ in range(config.random_plans):
        book.score(budget.project(random.uniform(0.1, 1.0, space.bundles)), "random")
    if config.episodes:
        _run_ppo(problem, graph, book, config)
    trial, levels = book.winner()
    return SearchResult(
        make_plan(space, levels, problem.scores, trial.method),
        tuple(book.trials),
        {name: best for name, (best, _) in book.best.items()},
        evaluator.evaluations,
        evaluator.images,
        time.perf_counter() - book.start,
    )


def global_ratios(space: WidthSpace, scores: Scores, budget: Budget) -> NDArray[np.float64]:
    """Keep ratios of one threshold for the whole network, on scores divided by their group's mean.

    The threshold is the lowest whose widths keep the budget; each bundle keeps at least a tenth.
    """
    axes = space.axes
    relative = normalised(axes, scores)
    units = [
        np.sort(relative[[u for g in bundle.groups for u in axes.groups[g].units]]) for bundle in axes.bundles
    ]
    candidates = np.sort(np.concatenate(units))
    low, high = 0, len(candidates) - 1
    ratios = np.ones(len(units))
    while low < high:
        middle = (low + high) // 2
        kept = [(len(u) - np.searchsorted(u, candidates[middle], side="right")) / len(u) for u in units]
        ratios = np.maximum(0.1, np.array(kept))
        if budget.holds(space.levels(ratios)):
            high = middle
        else:
            low = middle + 1
    return ratios


def _run_ppo(problem: Problem, graph: Topology, book: _Book, config: SearchConfig) -> None:
    space = problem.space
    best, _ = book.winner()
    env = PruningEnv(
        space, graph, problem.budget, lambda levels: book.score(levels, "ppo"), np.array(best.ratios)
    )
    steps = space.bundles * config.episodes_per_update
    agent = PPO(
        "MultiInputPolicy",
        env,
        n_steps=steps,
        batch_size=max(2, steps // 4),
        n_epochs=10,
        gamma=1.0,
        gae_lambda=0.95,
        learning_rate=config.learning_rate,
        clip_range=0.2,
        ent_coef=0.01,
        vf_coef=0.5,
        seed=config.seed,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": GraphFeatures,
            "features_extractor_kwargs": {"topology": graph},
            "net_arch": {"pi": [64], "vf": [64]},
            "log_std_init": float(np.log(config.start_std)),
            "activation_fn": torch.nn.Tanh,
        },
    )
    agent.learn(total_timesteps=space.bundles * config.episodes, callback=_Stop(config.episodes))
