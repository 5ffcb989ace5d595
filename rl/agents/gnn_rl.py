"""GNN-RL: PPO on the embeddings of a multi-stage graph (Yu et al. 2022, arXiv:2102.03214).

The network is a hierarchy (values, motifs, blocks, sections; ``graph.topology``); each stage is embedded by
graph convolutions and pooled into the nodes of the next (``graph.encoder``). Clip 0.2, 10 epochs
per update and value coefficient 0.5 are the reference code's. Deviations, and why:

- the graph and the encoder: see ``graph.encoder``;
- the agent walks the bundles and decides one at a time, so that no size depends on their number; the paper's
  actor has one output per layer;
- the discount is 1: the one reward comes at the end of a walk of fixed length; the reference code takes up to
  five passes over all layers, each a factor on the ratios, until the target is met, and discounts by 0.99;
- the limits are kept by bounded actions and a projection, so that every walk is within them;
- an update follows every four walks (``rl.agents.agent``; the reference code: every 100 steps), which are
  whole episodes whatever the network's depth, scored together;
- the reward is the share of the best baseline's error (or loss) that a plan saves, one scale for all networks
  (the reference code: accuracy - 100);
- the standard deviation of the actions follows a schedule and is not learned, which takes the place of the
  entropy bonus of 0.01; it begins at 0.2 (the reference code: 0.5 throughout), since action 0 is a good plan
  here;
- actor and critic share the encoder, since episodes are few and the encoder is what costs time;
- the learning rate is 1e-3 (the reference code: 3e-4), again since episodes are few;
- one hidden layer of 64 (the reference code: 50 to 200 to one output per layer), since there is one output.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor, nn

from graph.encoder import MultiStageEncoder
from graph.topology import Topology
from rl.agents.features import GraphFeatures, extractor
from rl.env import Walks

WIDTH, HIDDEN = 32, 64
START_STD, END_STD = 0.2, 0.1
LEARNING_RATE = 1e-3


class StageFeatures(GraphFeatures):
    """The embedding of the bundle at hand, of its block and of the whole network."""

    def __init__(
        self, observation_space: spaces.Dict, topologies: tuple[Topology, ...], width: int = WIDTH
    ) -> None:
        super().__init__(observation_space, topologies, 3 * width)
        self.encoder = MultiStageEncoder(width=width)
        self.normalise = nn.LayerNorm(3 * width)

    def embed(self, topology: Topology, kept: Tensor, prior: Tensor, at: Tensor) -> Tensor:
        """See ``GraphFeatures.embed``."""
        shares = topology.motifs  # (bundles, motifs)
        n = shares.shape[0]
        place = torch.arange(n)
        here = (place == at.clamp(max=n - 1)[:, None]).float()  # (batch, bundles)
        decided = (place < at[:, None]).float()
        made = shares.sum(dim=0).clamp(min=1e-6)
        decisions = torch.stack([(v @ shares) / made for v in (kept, prior, decided, here)], dim=-1)
        motifs, blocks, network = self.encoder(topology, decisions)
        at_motif = here @ shares  # (batch, motifs): where the bundle at hand lies
        own = torch.einsum("bm,bmw->bw", at_motif, motifs)
        around = torch.einsum("bm,bmw->bw", at_motif, blocks)
        embedded: Tensor = self.normalise(torch.cat([own, around, network], dim=-1))
        return embedded


class _Schedule(BaseCallback):
    """Sets the standard deviation of the actions before each rollout, falling geometrically."""

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self.start, self.end = start, end

    def _on_rollout_start(self) -> None:
        assert isinstance(self.model, PPO)
        done = self.model.num_timesteps / max(1, self.model._total_timesteps)
        std = self.start * (self.end / self.start) ** done
        self.model.policy.log_std.data.fill_(float(np.log(std)))

    def _on_step(self) -> bool:
        return True


class GnnRl:
    """The agent; see the module.

    Args:
        walks: the environment.
        steps: per walk and update: the bundles of all tasks.
        seed: of weights and actions.
    """

    def __init__(self, walks: Walks, steps: int, *, seed: int) -> None:
        rollout = steps * walks.num_envs
        self.model = PPO(
            "MultiInputPolicy",
            walks,
            n_steps=steps,
            batch_size=max(2, -(-rollout // 4)),
            n_epochs=10,
            gamma=1.0,
            gae_lambda=0.95,
            learning_rate=LEARNING_RATE,
            clip_range=0.2,
            ent_coef=0.0,
            vf_coef=0.5,
            seed=seed,
            device="cpu",
            policy_kwargs={
                **extractor(StageFeatures, topologies=walks.topologies),
                "net_arch": {"pi": [HIDDEN], "vf": [HIDDEN]},
                "log_std_init": float(np.log(START_STD)),
                "activation_fn": nn.Tanh,
            },
        )
        self.model.policy.log_std.requires_grad_(False)

    def learn(self, steps: int, *, start_std: float = START_STD, end_std: float = END_STD) -> None:
        """Walk and learn for a number of steps in all."""
        self.model.learn(steps, callback=_Schedule(start_std, end_std))
