"""Alignment: channels of 2-d convolutions are kept in blocks, group by group, since fast kernels take blocks.

onnxruntime computes convolutions in a layout of blocks of 8 or 16 channels, and takes it only where channels
are a multiple of 4; a block that is not full costs as much as a full one. Half of the MACs may then take as
long as all of them, and a MobileNet longer (docs/results.md): a depthwise convolution leaves the layout where
a block is not full. Fewer channels than a block stay as they like.
"""

from __future__ import annotations

from graph.channels import Axes

DEPTHWISE = 8
_BLOCKS = (4, 8, 16)
_WIDTHS = 8  # that a group has at least, where even the smallest blocks leave so many
_SMALL = 16  # groups of fewer channels have any widths
_QUICK = 5_000_000  # MACs; what takes fewer is as slow as the call itself, whatever its widths


def blocks(axes: Axes, macs: int) -> dict[int, int]:
    """What the counts of channels are multiples of, by the index of their group; others are free.

    Args:
        axes: of the whole program.
        macs: of it, for one record.
    """
    made, depthwise = _convolved(axes)
    found = dict.fromkeys(depthwise, DEPTHWISE)
    for index in made if macs >= _QUICK else ():
        channels = len(axes.groups[index].units)
        if channels >= _SMALL:
            fine = max((b for b in _BLOCKS if b * _WIDTHS <= channels), default=_BLOCKS[0])
            found[index] = max(fine, found.get(index, 0))
    return found


def _convolved(axes: Axes) -> tuple[frozenset[int], frozenset[int]]:
    """Groups, as indices, whose units 2-d convolutions make, and of these the depthwise ones'."""
    made: set[int] = set()
    depthwise: set[int] = set()
    for node in axes.program.nodes:
        if node.base != "conv2d":
            continue
        x, weight = node.refs[:2]
        if 0 in (fields := axes.fields.get(weight, {})):
            labels = fields[0].labels.ravel().tolist()
            made.update(labels)
            if axes.shapes[x].shape[-3] > axes.shapes[weight].shape[1] == 1:
                depthwise.update(labels)
    return _touched(axes, made), _touched(axes, depthwise)


def _touched(axes: Axes, classes: set[int]) -> frozenset[int]:
    """Groups, as indices, with units in some of these classes."""
    return frozenset(i for i, group in enumerate(axes.groups) if not classes.isdisjoint(group.units))
