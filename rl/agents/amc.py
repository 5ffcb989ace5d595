"""AMC: DDPG on a hand-made state of eleven figures (He et al. 2018, arXiv:1802.03494), the ancestor.

State (equation 1), for each bundle the mean over the layers that make its channels, min-max normalised over
the network: ``index`` of the step, ``filters`` n, ``channels`` c, ``height`` h and ``width`` w of the output,
``stride``, ``kernel`` k, ``MACs``, ``reduced`` (share of all MACs that the decisions so far took away),
``rest`` (share in the bundles that follow) and ``last ratio``.

Deviations, and why: the action is a correction to the best baseline, as for all agents here, so that the
comparison is about what the agent sees; the ratio is that of a bundle of coupled channels, not of a layer's
inputs, since the paper's own treatment of shortcuts does not exist; weights are not reconstructed by least
squares while searching; the reward is the share of the best baseline's error that a plan saves, which is
AMC's -error up to a constant factor and offset.
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
