"""ShuffleNet-v1 (three groups) and ShuffleNet-v2.

v1: Zhang et al. 2018, arXiv:1707.01083: bottlenecks of grouped 1x1 convolutions; a shuffle lets the
groups see each other; a unit that halves the image concatenates its averaged input to its output.
v2: Ma et al. 2018, arXiv:1807.11164: each unit splits its channels, transforms one half, puts the
halves together again and shuffles. Its parameter names are torchvision's.

Both shrink the image 32-fold. `small_input` gives the stem stride 1 and drops the max pooling, for
an 8-fold shrinking: 32 pixels end as 4x4, 8 pixels as 1x1. Weights fit either way.

Shapes: N batch, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graph.errors import ArchitectureError
from models_zoo.resnet import kaiming_init

_DEPTHS = (4, 8, 4)  # units in stages 2, 3 and 4, of v1 and v2 alike
_V1_GROUPS = 3

# v2: channels of stages 2, 3, 4 and of conv5 for the four published widths (the paper's table 5).
_V2_WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the groups' channels: with groups a and b, a0 a1 b0 b1 -> a0 b0 a1 b1."""
    _, channels, height, width = x.shape
    x = x.view(-1, groups, channels // groups, height, width)  # (N, C, H, W) -> (N, groups, C/groups, H, W)
    return x.transpose(1, 2).reshape(-1, channels, height, width)  # -> (N, C, H, W)


def _stem(in_channels: int, out_channels: int, small_input: bool) -> nn.Sequential:
    stride = 1 if small_input else 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _pool(small_input: bool) -> nn.Module:
    return nn.Identity() if small_input else nn.MaxPool2d(3, stride=2, padding=1)


class UnitV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, and a shortcut.

    (N, C, H, W) -> (N, out_channels, H/stride, W/stride). With stride 1 the input is added; with
    stride 2 its average is concatenated, so the convolutions make only the channels that are missing.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, first_groups: int) -> None:
        """Build the unit; `first_groups` is the number of groups of the first 1x1."""
        super().__init__()
        self.stride = stride
        hidden = out_channels // 4
        made = out_channels if stride == 1 else out_channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, made, 1, groups=_V1_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(made)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + F(x)) or relu([average(x), F(x)])."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = channel_shuffle(out, _V1_GROUPS)
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return F.relu(x + out)
        return F.relu(torch.cat((F.avg_pool2d(x, 3, self.stride, padding=1), out), dim=1))


class ShuffleNetV1(nn.Module):
    """Stem, three stages of units, global average, linear."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float, small_input: bool) -> None:
        """Build the network; see the top of the file for `small_input`.

        Raises:
            ArchitectureError: `width_mult` is so small that stage 2 is no wider than the stem.
        """
        super().__init__()
        multiple = 4 * _V1_GROUPS  # so that a bottleneck, a quarter as wide, splits into groups
        stem, *widths = (
            max(multiple, round(base * width_mult / multiple) * multiple) for base in (24, 240, 480, 960)
        )
        if widths[0] <= stem:
            raise ArchitectureError(
                f"shufflenet_v1: width_mult={width_mult} leaves stage 2 no wider than the stem",
                hint="use a width_mult of 0.1 or more",
            )

        def stage(in_channels: int, width: int, depth: int, first_groups: int) -> nn.Sequential:
            rest = (UnitV1(width, width, 1, _V1_GROUPS) for _ in range(depth - 1))
            return nn.Sequential(UnitV1(in_channels, width, 2, first_groups), *rest)

        self.conv1 = _stem(in_channels, stem, small_input)
        self.maxpool = _pool(small_input)
        # The stem's channels are too few to group (the paper's section 3.2).
        self.stage2 = stage(stem, widths[0], _DEPTHS[0], first_groups=1)
        self.stage3 = stage(widths[0], widths[1], _DEPTHS[1], _V1_GROUPS)
        self.stage4 = stage(widths[1], widths[2], _DEPTHS[2], _V1_GROUPS)
        self.fc = nn.Linear(widths[2], num_classes)
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: (N, C, H, W) -> (N, num_classes)."""
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class UnitV2(nn.Module):
    """Two branches, concatenated and shuffled: (N, C, H, W) -> (N, out_channels, H/stride, W/stride).

    With stride 1 each branch takes half of the channels and the first hands its half on untouched;
    with stride 2 both take all of them.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Build the unit; with stride 1, `in_channels` equals `out_channels`."""
        super().__init__()
        self.stride = stride
        half = out_channels // 2
        taken = half if stride == 1 else in_channels

        def depthwise(channels: int) -> list[nn.Module]:
            conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
            return [conv, nn.BatchNorm2d(channels)]

        def pointwise(channels: int) -> list[nn.Module]:
            return [nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()]

        halving = [] if stride == 1 else depthwise(in_channels) + pointwise(in_channels)
        self.branch1 = nn.Sequential(*halving)
        self.branch2 = nn.Sequential(*pointwise(taken), *depthwise(half), *pointwise(half))

    def forward(self, x: Tensor) -> Tensor:
        """Return shuffle([branch1, branch2])."""
        first, second = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        return channel_shuffle(torch.cat((self.branch1(first), self.branch2(second)), dim=1), groups=2)


class ShuffleNetV2(nn.Module):
    """Stem, three stages of units, 1x1 convolution, global average, linear."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float, small_input: bool) -> None:
        """Build the network; see the top of the file for `small_input`."""
        super().__init__()
        stem = 24  # at every published width
        scaled = 2 * max(1, round(58 * width_mult))  # even, for the split
        widths = _V2_WIDTHS.get(width_mult, (scaled, 2 * scaled, 4 * scaled, 1024))

        def stage(in_channels: int, width: int, depth: int) -> nn.Sequential:
            rest = (UnitV2(width, width, 1) for _ in range(depth - 1))
            return nn.Sequential(UnitV2(in_channels, width, 2), *rest)

        self.conv1 = _stem(in_channels, stem, small_input)
        self.maxpool = _pool(small_input)
        self.stage2 = stage(stem, widths[0], _DEPTHS[0])
        self.stage3 = stage(widths[0], widths[1], _DEPTHS[1])
        self.stage4 = stage(widths[1], widths[2], _DEPTHS[2])
        self.conv5 = nn.Sequential(
            nn.Conv2d(widths[2], widths[3], 1, bias=False), nn.BatchNorm2d(widths[3]), nn.ReLU()
        )
        self.fc = nn.Linear(widths[3], num_classes)
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: (N, C, H, W) -> (N, num_classes)."""
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def shufflenet_v1(
    num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0, small_input: bool = False
) -> ShuffleNetV1:
    """ShuffleNet-v1 with three groups; `width_mult` scales every layer, to multiples of 12 channels."""
    return ShuffleNetV1(num_classes, in_channels, width_mult, small_input)


def shufflenet_v2(
    num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0, small_input: bool = False
) -> ShuffleNetV2:
    """ShuffleNet-v2; the paper's channels at 0.5, 1, 1.5 and 2, else those of 1 scaled in the stages."""
    return ShuffleNetV2(num_classes, in_channels, width_mult, small_input)
