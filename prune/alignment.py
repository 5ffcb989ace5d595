"""Alignment: channels of depthwise convolutions are kept in multiples of 8, since runtimes compute them so.

A depthwise convolution reads each channel alone, and fast kernels take whole blocks of channels; onnxruntime
leaves them, and the layout that goes with them, where a block is not full. A MobileNet with half of the MACs
and any widths is then slower than the whole one (docs/results.md). Below 8 channels any number may stay.
"""

from __future__ import annotations

import numpy as np

from graph.channels import Axes
from graph.program import Ref

MULTIPLE = 8


def depthwise_groups(axes: Axes) -> frozenset[int]:
    """Groups, as indices, whose units are channels of depthwise convolutions."""
    classes: set[int] = set()
    for node in axes.program.nodes:
        if node.base != "conv2d" or not isinstance(weight := node.args[1], Ref):
            continue
        outputs, inputs = axes.shapes[weight.name].shape[:2]
        if outputs > 1 and inputs == 1 and 0 in (fields := axes.fields.get(weight.name, {})):
            classes.update(np.unique(fields[0].labels).tolist())
    return frozenset(i for i, group in enumerate(axes.groups) if not classes.isdisjoint(group.units))
