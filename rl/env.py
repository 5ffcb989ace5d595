"""The pruning environment: one decision per bundle of channel groups, one reward at the end.

An episode walks the bundles of a network in the order of the program. Each action is a keep ratio, bounded so
that the limits can still be met by the bundles that follow (AMC, He et al. 2018, arXiv:1802.03494,
algorithm 1). After the last one the widths are projected onto the budget, the plan is scored, and what it is
worth is the reward. All agents walk here; one environment can walk several networks in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from graph.topology import LAYER_FEATURES, Topology
from prune.budget import Budget
from prune.widths import Levels, WidthSpace

Observation = dict[str, NDArray[np.float32]]
# What several plans are worth, higher is better.
Worth = Callable[[Sequence[Levels]], Sequence[float]]

STATE = (
    "progress", "target", "decided share", "open share", "share of this", "widest", "last ratio", "prior",
)  # fmt: skip
# AMC, equation 1, for a bundle: the layers that make its channels, weighted by how many each makes.
LAYER = ("index", *LAYER_FEATURES, "reduced", "rest", "last ratio")


@dataclass(frozen=True)
class Task:
    """One network to prune to one budget.

    Attributes:
        space: the widths that the network can have.
        topology: of the network.
        budget: what a plan may use.
        worth: of levels, one per bundle.
        prior: keep ratio of each bundle that action 0 means.
        reference: the worth that gives a reward of 0, such as the best baseline's.
        floor: the smallest keep ratio an action can ask for; the projection may go below it.
    """

    space: WidthSpace
    topology: Topology
    budget: Budget
    worth: Worth
    prior: NDArray[np.float64]
    reference: float = 0.0
    floor: float = field(default=0.1, kw_only=True)

    def holds(self, levels: Levels) -> bool:
        """Whether a plan is within the budget."""
        return bool(self.budget.holds(levels))

    @property
    def share(self) -> float:
        """Of the network that may remain, by the tightest limit."""
        return self.budget.share

    def project(self, ratios: NDArray[np.float64]) -> Levels:
        """The levels within the budget that are nearest to a wish."""
        return self.budget.project(ratios)

    def rewards(self, plans: Sequence[Levels]) -> list[float]:
        """The share of the reference's error (or loss) that each plan saves; negative where it adds."""
        scale = abs(self.reference) + 0.05
        return [max(-3.0, (worth - self.reference) / scale) for worth in self.worth(plans)]

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """For each bundle its share of the MACs (bundles,); they add up to 1."""
        shares = np.asarray(self.topology.macs_share, dtype=np.float64)
        return shares / max(float(shares.sum()), 1e-9)

    @cached_property
    def layers(self) -> NDArray[np.float64]:
        """AMC's static features (bundles, LAYER_FEATURES), each min-max normalised over the network."""
        found = np.asarray(self.topology.bundle_layers, dtype=np.float64)
        low, high = found.min(axis=0), found.max(axis=0)
        scaled: NDArray[np.float64] = (found - low) / np.where(high > low, high - low, 1.0)
        return scaled


class PruningEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Choose how much of each bundle to keep under a budget.

    Observation (N is the most bundles that any of the networks has; no agent's size depends on it):
        ``network`` (1,): index of the network;
        ``at`` (1,): index of the bundle that is decided next, the number of bundles at the end;
        ``kept`` (N,): keep ratio of each bundle, the prior's where none is decided yet, 1 beyond the last;
        ``prior`` (N,): keep ratio of each bundle that action 0 means;
        ``state`` (8,): the figures named in ``STATE``;
        ``layer`` (11,): AMC's state, the figures named in ``LAYER``.
    Action:
        (1,) in [-1, 1]: 0 keeps the share that the prior gives this bundle, -1 the smallest allowed share,
        1 the largest; linear between. The prior is the uniform ratio or the best baseline.
    Reward:
        0 until the last bundle, then that of the plan (``Task.rewards``).

    Args:
        tasks: what to prune; each reset goes on to the next, in turn; one with a seed to the first.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own convention

    def __init__(self, *tasks: Task) -> None:
        super().__init__()
        for task in tasks:
            task.budget.check_reachable()
        self.tasks = tasks
        self.bundles = max(t.space.bundles for t in tasks)
        self.topologies = tuple(dict.fromkeys(t.topology for t in tasks))
        self.observation_space = spaces.Dict(
            {  # type: ignore[assignment]
                "network": spaces.Box(0.0, float(len(self.topologies)), (1,), np.float32),
                "at": spaces.Box(0.0, float(self.bundles), (1,), np.float32),
                "kept": spaces.Box(0.0, 1.0, (self.bundles,), np.float32),
                "prior": spaces.Box(0.0, 1.0, (self.bundles,), np.float32),
                "state": spaces.Box(0.0, 1.0, (len(STATE),), np.float32),
                "layer": spaces.Box(0.0, 1.0, (len(LAYER),), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)
        self.turn = -1
        self._start()

    @property
    def task(self) -> Task:
        """The one at hand."""
        return self.tasks[self.turn % len(self.tasks)]

    def _start(self) -> None:
        self.at = 0
        self.ratios = np.ones(self.task.space.bundles)
        self.last = 1.0
        self._widest = self.widest()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start over with nothing decided: on the next task, with a seed on the first."""
        super().reset(seed=seed)
        self.turn = self.turn + 1 if seed is None else 0
        self._start()
        return self.observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide the bundle at hand."""
        levels = self.decide(action)
        if levels is None:
            return self.observe(), 0.0, False, False, {}
        return self.observe(), self.task.rewards([levels])[0], True, False, {"levels": levels}

    def decide(self, action: NDArray[np.float32]) -> Levels | None:
        """Decide the bundle at hand; after the last one the plan, which is still to be scored."""
        self.last = self.ratio(float(np.clip(np.asarray(action).reshape(-1)[0], -1.0, 1.0)))
        self.ratios[self.at] = self.last
        self.at += 1
        if self.at < self.task.space.bundles:
            self._widest = self.widest()
            return None
        return self.task.project(self.ratios)

    def ratio(self, action: float) -> float:
        """The keep ratio that an action means for the bundle at hand."""
        high = self._widest
        low = min(self.task.floor, high)
        middle = float(np.clip(self.task.prior[self.at], low, high))
        return middle + action * (high - middle if action > 0 else middle - low)

    def widest(self) -> float:
        """The largest keep ratio of the bundle at hand that leaves the limits within reach.

        The bundles decided so far keep what was decided, those that follow their narrowest widths.
        """
        space = self.task.space
        levels = space.levels(self.ratios)
        levels[self.at :] = 0
        low, high = 0, space.level_counts[self.at] - 1
        while low < high:
            middle = (low + high + 1) // 2
            levels[self.at] = middle
            if self.task.holds(levels):
                low = middle
            else:
                high = middle - 1
        levels[self.at] = low
        return float(space.ratios(levels)[self.at])

    def observe(self) -> Observation:
        """What the agent sees before it decides the bundle at hand."""
        task, i = self.task, self.at
        n = task.space.bundles
        here = min(i, n - 1)
        shares = task.shares
        decided = float((shares[:i] * self.ratios[:i]).sum())
        state = [
            i / n,
            task.share,
            decided,
            float(shares[i:].sum()),
            float(shares[here]),
            self._widest if i < n else 0.0,
            self.last,
            float(task.prior[here]),
        ]
        layer = [
            i / n, *task.layers[here],
            float(shares[:i].sum()) - decided, float(shares[i + 1 :].sum()), self.last,
        ]  # fmt: skip
        kept, prior = np.ones(self.bundles), np.ones(self.bundles)
        prior[:n] = task.prior
        kept[:n] = np.concatenate([self.ratios[:i], task.prior[i:]])
        found = {
            "network": [self.topologies.index(task.topology)],
            "at": [i],
            "kept": kept,
            "prior": prior,
            "state": np.clip(state, 0.0, 1.0),
            "layer": np.clip(layer, 0.0, 1.0),
        }
        return {name: np.array(value, dtype=np.float32) for name, value in found.items()}


class Walks(DummyVecEnv):
    """Several walks of the same tasks in step, so that their plans are scored together.

    Args:
        tasks: as ``PruningEnv``'s.
        walks: how many.
    """

    def __init__(self, tasks: Sequence[Task], walks: int) -> None:
        super().__init__([lambda: PruningEnv(*tasks) for _ in range(walks)])
        self.tasks = tuple(tasks)
        self.topologies = tuple(dict.fromkeys(t.topology for t in tasks))

    def step_wait(self) -> VecEnvStepReturn:
        """Decide one bundle in each walk; all plans that are complete are scored at once."""
        walks: list[PruningEnv] = [env.unwrapped for env in self.envs]  # type: ignore[misc]
        plans = [walk.decide(action) for walk, action in zip(walks, self.actions, strict=True)]
        done = [plan is not None for plan in plans]
        assert all(done) or not any(done), "walks of the same tasks end together"
        rewards = (
            walks[0].task.rewards([p for p in plans if p is not None]) if all(done) else [0.0] * len(walks)
        )
        infos: list[dict[str, Any]] = []
        for index, walk in enumerate(walks):
            seen = walk.observe()
            infos.append({"terminal_observation": seen} if done[index] else {})
            self._save_obs(index, walk.reset()[0] if done[index] else seen)
        return self._obs_from_buf(), np.array(rewards, dtype=np.float32), np.array(done), infos
