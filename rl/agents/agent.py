"""One face for all agents: made by name, taught for some episodes, asked for the plan they hold best."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from prune.widths import Levels
from rl.agents.agmc import DecoderFeatures
from rl.agents.amc import LayerFeatures
from rl.agents.ddpg import NOISE, Walker
from rl.agents.gnn_rl import END_STD, START_STD, GnnRl
from rl.env import PruningEnv, Task, Walks

AgentName = Literal["gnn-rl", "agmc", "amc"]
AGENTS: tuple[AgentName, ...] = ("gnn-rl", "agmc", "amc")
WALKS = 4  # episodes per update of PPO, walked in step
_COPIES = ("actor_target.", "critic_target.")
_TRAINED = 0.5  # factor on the exploration of an agent that starts from a saved policy


class Agent:
    """An agent on one or several tasks.

    Args:
        name: one of ``AGENTS``.
        tasks: what to prune; they take turns, episode by episode.
        seed: of weights and actions. The global random states are set by it: see ``contained``.
    """

    def __init__(self, name: AgentName, tasks: Sequence[Task], *, seed: int) -> None:
        self.name = name
        self.tasks = tuple(tasks)
        self.steps = sum(t.space.bundles for t in tasks)
        self.walks = WALKS if name == "gnn-rl" else 1
        self.trained = False
        walks = Walks(tasks, self.walks)
        walks.seed(seed)
        self.learner: GnnRl | Walker
        if name == "gnn-rl":
            self.learner = GnnRl(walks, self.steps, seed=seed)
        elif name == "agmc":
            self.learner = Walker(walks, DecoderFeatures, self.steps, seed=seed, topologies=walks.topologies)
        else:
            self.learner = Walker(walks, LayerFeatures, self.steps, seed=seed)
        # Left to itself, stable-baselines3 makes a folder among the temporary files each time one learns.
        self.learner.model.set_logger(Logger(folder=None, output_formats=[]))

    def learn(self, rounds: int, *, exploration: float = 1.0) -> None:
        """Walk every task ``rounds`` times and learn from it; whole updates only for ``gnn-rl``.

        Args:
            rounds: episodes of each task, a multiple of ``walks``.
            exploration: factor on how far from its own actions the agent tries others at first; more than 1
                where the priors are poor plans.
        """
        if not rounds:
            return
        factor = exploration * (_TRAINED if self.trained else 1.0)
        steps = rounds * self.steps
        if isinstance(self.learner, GnnRl):
            self.learner.learn(steps, start_std=factor * START_STD, end_std=END_STD)
        else:
            self.learner.learn(steps, noise=factor * NOISE)

    def plan(self, task: int = 0) -> Levels:
        """The plan that the agent holds best for a task: its actions without noise."""
        env = PruningEnv(*self.tasks)
        env.turn = task - 1
        seen, _ = env.reset()
        while True:
            action, _ = self.learner.model.predict(seen, deterministic=True)
            levels = env.decide(action)
            if levels is not None:
                return levels
            seen = env.observe()

    def weights(self) -> dict[str, Tensor]:
        """Every weight by name; one that goes by several names once, DDPG's slow copies not at all."""
        names: dict[int, str] = {}
        state = self.learner.model.policy.state_dict()
        for name, tensor in state.items():
            if not name.startswith(_COPIES):
                names.setdefault(tensor.data_ptr(), name)
        return {name: state[name] for name in names.values()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over weights under the names and shapes of ``weights()``."""
        with torch.no_grad():
            for name, tensor in self.weights().items():
                tensor.copy_(weights[name])
        if isinstance(self.learner, Walker):
            self.learner.reset_targets()
        self.trained = True


@contextmanager
def contained() -> Iterator[None]:
    """Put the global random states back at the end: stable-baselines3 seeds and draws from all of them."""
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
