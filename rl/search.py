"""The search: baselines first, then an agent, all scored alike; the best plan wins, whoever made it.

GNN-RL (arXiv:2102.03214) searches with PPO over multi-stage graph embeddings; hyperparameters are its
reference code's (clip 0.2, 10 epochs per update, value 0.5, entropy 0.01, learning rate 3e-4). Deviations: the
discount is 1, since the one reward comes at the end of a walk of fixed length, and the agent starts at the
best baseline (action 0) and not at random.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from graph.axes import Axes
from graph.errors import UsageError
from graph.topology import Topology
from prune.importance import Scores, normalised
from prune.plan import Plan, WidthSpace, make_plan
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


@dataclass(frozen=True)
class Trial:
    """One scored plan.

    Attributes:
        method: ``uniform``, ``global-magnitude``, ``random`` or the agent's name.
        index: counts the trials of the method.
        macs: of the plan.
        accuracy: on the search images, before fine-tuning.
        loss: mean cross entropy there.
        seconds: since the search began.
        ratios: keep ratio of each bundle.
    """

    method: str
    index: int
    macs: int
    accuracy: float
    loss: float
    seconds: float
    ratios: tuple[float, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self) | {"ratios": [round(r, 4) for r in self.ratios]}


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        plan: the best one.
        trials: all of them in order.
        best: the best trial of each method.
        evaluations: how many plans were run; repeated ones are remembered.
        seconds: wall time.
    """

    plan: Plan
    trials: tuple[Trial, ...]
    best: dict[str, Trial]
    evaluations: int
    seconds: float


class _Book:
    """Scores levels under a method's name and keeps the trials."""

    def __init__(
        self,
        space: WidthSpace,
        scores: Scores,
        evaluator: Evaluator,
        on_trial: Callable[[Trial], None] | None,
    ) -> None:
        self.space, self.scores, self.evaluator, self.on_trial = space, scores, evaluator, on_trial
        self.trials: list[Trial] = []
        self.best: dict[str, tuple[Trial, NDArray[np.int64]]] = {}
        self.start = time.perf_counter()

    def score(self, levels: NDArray[np.int64], method: str) -> Score:
        plan = make_plan(self.space, levels, self.scores, method)
        score = self.evaluator(plan.keep_mask(self.space.axes))
        trial = Trial(
            method,
            sum(t.method == method for t in self.trials) + 1,
            plan.macs,
            score.accuracy,
            score.loss,
            time.perf_counter() - self.start,
            tuple(float(r) for r in self.space.ratios(levels)),
        )
        self.trials.append(trial)
        if method not in self.best or _rank(trial) > _rank(self.best[method][0]):
            self.best[method] = (trial, levels.copy())
        if self.on_trial is not None:
            self.on_trial(trial)
        return score

    def winner(self) -> tuple[Trial, NDArray[np.int64]]:
        """The best trial; among equals the one scored first."""
        return max(self.best.values(), key=lambda entry: _rank(entry[0]))


def _rank(trial: Trial) -> tuple[float, float]:
    return (trial.accuracy, -trial.loss)


class _Stop(BaseCallback):
    """Ends PPO's loop after a number of episodes."""

    def __init__(self, episodes: int) -> None:
        super().__init__()
        self.left = episodes

    def _on_step(self) -> bool:
        self.left -= int(np.sum(self.locals["dones"]))
        return self.left > 0


def search(
    space: WidthSpace,
    topology: Topology,
    target: int,
    scores: Scores,
    evaluator: Evaluator,
    config: SearchConfig,
    *,
    on_trial: Callable[[Trial], None] | None = None,
) -> SearchResult:
    """Find the best plan within a limit of MACs.

    Args:
        space: the widths that the program can have.
        topology: of the program.
        target: MACs that the plan may cost.
        scores: importance of each class; chooses the channels within each width.
        evaluator: scores plans on the search split.
        config: how long and with what seed.
        on_trial: told of each scored plan.

    Raises:
        TargetError: the target cannot be reached.
    """
    space.check_target(target)
    book = _Book(space, scores, evaluator, on_trial)
    book.score(space.project(np.ones(space.bundles), target), "uniform")
    book.score(space.project(global_ratios(space.axes, space, scores, target), target), "global-magnitude")
    random = np.random.default_rng(config.seed)
    for _ in range(config.random_plans):
        book.score(space.project(random.uniform(0.1, 1.0, space.bundles), target), "random")
    if config.episodes:
        _run_ppo(space, topology, target, book, config)
    trial, levels = book.winner()
    return SearchResult(
        make_plan(space, levels, scores, trial.method),
        tuple(book.trials),
        {name: best for name, (best, _) in book.best.items()},
        evaluator.evaluations,
        time.perf_counter() - book.start,
    )


def global_ratios(axes: Axes, space: WidthSpace, scores: Scores, target: int) -> NDArray[np.float64]:
    """Keep ratios of one threshold for the whole network, on scores divided by their group's mean.

    The threshold is the lowest whose widths meet the target; each bundle keeps at least a tenth.
    """
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
        if space.macs(space.levels(ratios)) <= target:
            high = middle
        else:
            low = middle + 1
    return ratios


def _run_ppo(space: WidthSpace, topology: Topology, target: int, book: _Book, config: SearchConfig) -> None:
    best, _ = book.winner()
    env = PruningEnv(
        space, topology, target, lambda levels: book.score(levels, "ppo"), np.array(best.ratios)
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
            "features_extractor_kwargs": {"topology": topology},
            "net_arch": {"pi": [64], "vf": [64]},
            "log_std_init": float(np.log(config.start_std)),
            "activation_fn": torch.nn.Tanh,
        },
    )
    agent.learn(total_timesteps=space.bundles * config.episodes, callback=_Stop(config.episodes))
