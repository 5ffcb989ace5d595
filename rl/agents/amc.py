"""AMC: DDPG on a hand-made state of eleven figures (He et al. 2018, arXiv:1802.03494), the ancestor.

State (equation 1), for each bundle the mean over the layers that make its channels, min-max normalised over
the network: ``index`` of the step, ``filters`` n, ``channels`` c, ``height`` h and ``width`` w of the output,
``stride``, ``kernel`` k, ``MACs``, ``reduced`` (share of all MACs that the decisions so far took away
from the layers that make their channels), ``rest`` (share in the bundles that follow) and ``last ratio``.

The learner (section 3.2) is in ``rl.agents.ddpg``; the bounded action (algorithm 1) is in ``rl.env``, and the
same for all agents, so that a comparison is about what an agent sees. Deviations, and why:

- the state is the paper's; the reference code has ten figures (a layer's type and weight size are among
  them);
- the action is a correction to the best baseline and no ratio in [0.2, 1]; the least ratio that it can ask
  for is 0.1, and widths are multiples of 8 with ``--round-to 8``, in blocks where that is left out
  (``prune.alignment``);
- the ratio is that of a bundle of coupled channels and not of one layer's inputs: layers that a shortcut
  joins must keep the same channels;
- ``reduced`` leaves out what narrower inputs save in the layers that follow, as does the share decided so far
  that all agents see;
- channels are ranked as ``--importance`` says, not by L1 alone; weights are reconstructed by least squares at
  the end and not in each episode, which keeps a score cheap;
- the reward is the share of the best baseline's error that a plan saves: the paper's -error up to a factor
  and an offset (the reference code: accuracy / 100).
"""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from rl.env import LAYER


class LayerFeatures(BaseFeaturesExtractor):
    """The eleven figures, as they are."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, features_dim=len(LAYER))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(batch, 11)."""
        return observations["layer"]
