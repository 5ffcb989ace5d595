"""The pruning environment: one decision per bundle of channel groups, one reward at the end.

An episode walks the bundles in the order of the network. Each action is a keep ratio, bounded so that the
target can still be met by the bundles that follow (AMC, He et al. 2018, arXiv:1802.03494, algorithm 1).
After the last one the widths are projected onto the budget, the plan is scored, and the score is the reward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from graph.topology import Topology
from prune.budget import Budget
from prune.widths import WidthSpace
from rl.reward import Score

Observation = dict[str, NDArray[np.float32]]
STATE = ("progress", "target", "decided share", "open share", "share of this", "widest", "last ratio")


class PruningEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Choose how much of each bundle to keep under a budget.

    Observation:
        ``kept`` (bundles,): keep ratio of each bundle, 1 where none is decided yet;
        ``decided`` (bundles,): 1 where a ratio is decided;
        ``at`` (bundles,): 1 at the bundle that is decided next;
        ``state`` (7,): the figures named in ``STATE``.
    Action:
        (1,) in [-1, 1]: 0 keeps the share that the prior gives this bundle, -1 the smallest allowed share,
        1 the largest; linear between. The prior is the uniform ratio or the best baseline.
    Reward:
        0 until the last bundle, then that of the scored plan.

    Args:
        space: the widths that the network can have.
        topology: of the network; only its MAC shares are used here.
        budget: what the plan may use.
        score: scores levels, one per bundle.
        prior: keep ratio of each bundle that action 0 means.
        floor: the smallest keep ratio an action can ask for; the projection may go below it.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own convention

    def __init__(
        self,
        space: WidthSpace,
        topology: Topology,
        budget: Budget,
        score: Callable[[NDArray[np.int64]], Score],
        prior: NDArray[np.float64],
        *,
        floor: float = 0.1,
    ) -> None:
        super().__init__()
        budget.check_reachable()
        self.space = space
        self.topology = topology
        self.budget = budget
        self.score = score
        self.prior = prior
        self.floor = floor
        n = space.bundles
        sizes = {"kept": n, "decided": n, "at": n, "state": len(STATE)}
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {name: spaces.Box(0.0, 1.0, (size,), np.float32) for name, size in sizes.items()}
        )
        self.action_space = spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)
        self._start()

    def _start(self) -> None:
        self.step_index = 0
        self.ratios = np.ones(self.space.bundles)
        self.last = 1.0
        self.macs_share = np.asarray(self.topology.macs_share, dtype=np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start over with nothing decided."""
        super().reset(seed=seed)
        self._start()
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide the bundle at hand."""
        ratio = self.ratio(float(np.clip(np.asarray(action).reshape(-1)[0], -1.0, 1.0)))
        self.ratios[self.step_index] = ratio
        self.last = ratio
        self.step_index += 1
        if self.step_index < self.space.bundles:
            return self._observe(), 0.0, False, False, {}
        levels = self.budget.project(self.ratios)
        score = self.score(levels)
        return self._observe(), score.reward, True, False, {"levels": levels, "score": score}

    def ratio(self, action: float) -> float:
        """The keep ratio that an action means for the bundle at hand."""
        high = self.widest()
        low = min(self.floor, high)
        middle = float(np.clip(self.prior[self.step_index], low, high))
        return middle + action * (high - middle if action > 0 else middle - low)

    def widest(self) -> float:
        """The largest keep ratio of the bundle at hand that leaves the target within reach.

        The bundles decided so far keep what was decided, those that follow their narrowest widths.
        """
        levels = self.space.levels(self.ratios)
        levels[self.step_index :] = 0
        low, high = 0, self.space.level_counts[self.step_index] - 1
        while low < high:
            middle = (low + high + 1) // 2
            levels[self.step_index] = middle
            if self.budget.holds(levels):
                low = middle
            else:
                high = middle - 1
        levels[self.step_index] = low
        return float(self.space.ratios(levels)[self.step_index])

    def _observe(self) -> Observation:
        n, i = self.space.bundles, self.step_index
        decided = (np.arange(n) < i).astype(np.float32)
        at = (np.arange(n) == i).astype(np.float32)
        shares = self.macs_share / max(float(self.macs_share.sum()), 1e-9)
        state = [
            i / n,
            self.budget.share,
            float((shares * self.ratios * decided).sum()),
            float(shares[i:].sum()),
            float(shares[i]) if i < n else 0.0,
            self.widest() if i < n else 0.0,
            self.last,
        ]
        return {
            "kept": self.ratios.astype(np.float32),
            "decided": decided,
            "at": at,
            "state": np.clip(np.array(state, dtype=np.float32), 0.0, 1.0),
        }
