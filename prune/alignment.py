"""Alignment: channels of depthwise convolutions are kept in multiples of 8, group by group: runtimes like it.

A depthwise convolution reads each channel alone, and fast kernels take whole blocks of channels; onnxruntime
leaves them, and the layout that goes with them, where a block is not full. A MobileNet with half of the MACs
and any widths is then slower than the whole one (docs/results.md). Below 8 channels any number may stay.
"""

from __future__ import annotations

from graph.channels import Axes

MULTIPLE = 8


def depthwise_groups(axes: Axes) -> frozenset[int]:
    """Groups, as indices, whose units are channels of depthwise convolutions."""
    classes: set[int] = set()
    for node in axes.program.nodes:
        if node.base != "conv2d":
            continue
        x, weight = node.refs[:2]
        channels, read = axes.shapes[x].shape[-3], axes.shapes[weight].shape[1]
        if channels > read == 1 and 0 in (fields := axes.fields.get(weight, {})):
            classes.update(fields[0].labels.ravel().tolist())
    return frozenset(i for i, group in enumerate(axes.groups) if not classes.isdisjoint(group.units))
