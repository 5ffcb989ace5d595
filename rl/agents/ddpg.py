"""DDPG as AMC and AGMC use it (He et al. 2018, arXiv:1802.03494, section 3.2 and its reference code).

What it adds to stable-baselines3's: exploration by a truncated normal around the actor's action, whose
deviation decays with each episode (with each of every task, where several take turns); and the reward of
a plan given to every step of its walk, less a moving average of the rewards (AMC's variant of the Bellman
equation, after Block-QNN: y = r - b + gamma Q(s', mu(s')), gamma = 1). The deviation begins at 0.2, where
AMC has 0.5 after episodes of random actions: action 0 is a good plan here, and 30 actions that are each
0.5 off make a bad one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import truncnorm
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.utils import update_learning_rate
from torch import nn

from rl.agents.features import extractor
from rl.env import Walks

NOISE, NOISE_DECAY = 0.2, 0.95
HIDDEN = 300
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
REPLAY_EPISODES = 100


class EpisodeReplay(DictReplayBuffer):
    """A replay buffer in which every step of an episode carries the episode's reward, less a baseline.

    The baseline is an exponential moving average over the episodes, weight 0.05 for the newest. Steps of an
    episode that is still going on are never trained on: training follows the end of each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.open: list[int] = []
        self.baseline: float | None = None

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """Store a step; at the end of an episode give its reward to all of its steps."""
        self.open.append(self.pos)
        super().add(obs, next_obs, action, reward, done, infos)
        if bool(done[0]):
            value = float(reward[0])
            self.rewards[self.open] = value
            self.baseline = value if self.baseline is None else 0.95 * self.baseline + 0.05 * value
            self.open = []

    def _get_samples(  # type: ignore[override]
        self, batch_inds: NDArray[np.int64], env: Any = None
    ) -> DictReplayBufferSamples:
        found = super()._get_samples(batch_inds, env)
        return found._replace(rewards=found.rewards - (self.baseline or 0.0))


class WalkDDPG(DDPG):
    """DDPG that explores as AMC does.

    Attributes:
        noise: deviation, on actions in [-1, 1]; it decays by ``NOISE_DECAY`` with each episode of every task.
        tasks: that take turns.
    """

    noise: float = NOISE
    tasks: int = 1

    def _update_learning_rate(self, optimizers: Any) -> None:
        rates = (ACTOR_RATE, CRITIC_RATE)  # in the order of train()
        for optimizer, rate in zip(optimizers, rates, strict=True):
            update_learning_rate(optimizer, rate)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert self._last_obs is not None
        mean, _ = self.predict(self._last_obs, deterministic=True)
        std = max(1e-3, self.noise * NOISE_DECAY ** (self._episode_num / self.tasks))
        action = truncnorm.rvs((-1 - mean) / std, (1 - mean) / std, loc=mean, scale=std)
        found = np.asarray(action, dtype=np.float32).reshape(n_envs, 1)
        return found, found


class Walker:
    """AMC's agent on any features: hidden layers of 300, tau 0.01, batch 64, discount 1, one walk at a time.

    Args:
        walks: the environment, of one walk.
        kind: the features extractor; actor and critic have one each, trained end to end.
        steps: of the longest cycle over the tasks; the replay buffer holds 100 of these.
        seed: of weights and actions.
        **arguments: of the features extractor.
    """

    def __init__(
        self, walks: Walks, kind: type[BaseFeaturesExtractor], steps: int, *, seed: int, **arguments: Any
    ) -> None:
        self.model = WalkDDPG(
            "MultiInputPolicy",
            walks,
            learning_rate=CRITIC_RATE,
            buffer_size=REPLAY_EPISODES * steps,
            learning_starts=0,
            batch_size=64,
            tau=0.01,
            gamma=1.0,
            train_freq=(1, "episode"),
            gradient_steps=-1,
            replay_buffer_class=EpisodeReplay,
            seed=seed,
            device="cpu",
            policy_kwargs={**extractor(kind, **arguments), "net_arch": [HIDDEN, HIDDEN]},
        )
        self.model.tasks = len(walks.tasks)
        actor = self.model.policy.actor
        last = [m for m in actor.mu if isinstance(m, nn.Linear)][-1]
        # Lillicrap et al. 2016 (arXiv:1509.02971), section 7: the first actions are near 0, here the prior.
        with torch.no_grad():
            last.weight.uniform_(-3e-3, 3e-3)
            last.bias.zero_()
        self.reset_targets()

    def learn(self, steps: int, *, noise: float = NOISE) -> None:
        """Walk and learn for a number of steps."""
        self.model.noise = noise
        self.model.learn(steps)

    def reset_targets(self) -> None:
        """Make the slow copies of actor and critic equal to these."""
        policy = self.model.policy
        policy.actor_target.load_state_dict(policy.actor.state_dict())
        policy.critic_target.load_state_dict(policy.critic.state_dict())
