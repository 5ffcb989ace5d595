"""MobileNet-v1 and MobileNet-v2.

v1: Howard et al. 2017, arXiv:1704.04861: each block a depthwise 3x3 and a pointwise 1x1 convolution.
v2: Sandler et al. 2018, arXiv:1801.04381: each block widens, filters depthwise, and narrows without
a ReLU; narrow ends are joined by a shortcut. Its parameter names are torchvision's.

Both shrink the image 32-fold. `small_input` gives the first two of the five stride-2 convolutions
stride 1, for an 8-fold shrinking: 32 pixels end as 4x4, 8 pixels as 1x1. Weights fit either way.

Shapes: N batch, C channels, H and W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from models_zoo.resnet import kaiming_init

# v1: output channels and stride of each depthwise separable block.
_V1_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)

# v2: expansion, output channels, blocks and first stride of each stage (the paper's t, c, n, s).
_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _scaled(channels: int, width_mult: float) -> int:
    """Scale to the nearest multiple of 8, at least 8 and never below 90 % of the exact value."""
    exact = channels * width_mult
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


def _conv_bn(
    in_channels: int, out_channels: int, kernel: int, stride: int, groups: int, activation: type[nn.Module]
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        activation(),
    )


class MobileNetV1(nn.Module):
    """Stem, thirteen depthwise separable blocks, global average, linear."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float, small_input: bool) -> None:
        """Build the network; see the top of the file for `small_input`."""
        super().__init__()
        channels = _scaled(32, width_mult)
        blocks = [_conv_bn(in_channels, channels, 3, 1 if small_input else 2, 1, nn.ReLU)]
        for index, (base, stride) in enumerate(_V1_BLOCKS):
            width = _scaled(base, width_mult)
            first_halving = small_input and index == 1
            blocks.append(
                nn.Sequential(
                    _conv_bn(channels, channels, 3, 1 if first_halving else stride, channels, nn.ReLU),
                    _conv_bn(channels, width, 1, 1, 1, nn.ReLU),
                )
            )
            channels = width
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: (N, C, H, W) -> (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Widen, filter depthwise, narrow: (N, C, H, W) -> (N, out_channels, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        """Build the block; an `expansion` of 1 has no widening convolution."""
        super().__init__()
        self.residual = stride == 1 and in_channels == out_channels
        hidden = expansion * in_channels
        widen = [] if expansion == 1 else [_conv_bn(in_channels, hidden, 1, 1, 1, nn.ReLU6)]
        self.conv = nn.Sequential(
            *widen,
            _conv_bn(hidden, hidden, 3, stride, hidden, nn.ReLU6),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return F(x), plus x where the shapes agree."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Stem, seven stages of inverted residuals, 1x1 convolution, global average, linear."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float, small_input: bool) -> None:
        """Build the network; see the top of the file for `small_input`."""
        super().__init__()
        channels = _scaled(32, width_mult)
        blocks: list[nn.Module] = [_conv_bn(in_channels, channels, 3, 1 if small_input else 2, 1, nn.ReLU6)]
        for index, (expansion, base, depth, stage_stride) in enumerate(_V2_STAGES):
            width = _scaled(base, width_mult)
            stride = 1 if small_input and index == 1 else stage_stride
            for block in range(depth):
                blocks.append(InvertedResidual(channels, width, stride if block == 0 else 1, expansion))
                channels = width
        last = _scaled(1280, max(1.0, width_mult))  # the paper does not narrow the last convolution
        blocks.append(_conv_bn(channels, last, 1, 1, 1, nn.ReLU6))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: (N, C, H, W) -> (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def mobilenet_v1(
    num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0, small_input: bool = False
) -> MobileNetV1:
    """MobileNet-v1; `width_mult` scales every layer's channels."""
    return MobileNetV1(num_classes, in_channels, width_mult, small_input)


def mobilenet_v2(
    num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0, small_input: bool = False
) -> MobileNetV2:
    """MobileNet-v2; `width_mult` scales every layer's channels, the last convolution's only above 1."""
    return MobileNetV2(num_classes, in_channels, width_mult, small_input)
