"""ResNet-18 and ResNet-50 for 224-pixel images.

He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385.

ResNet-50 is the variant known as v1.5: a bottleneck that halves the image does so in its 3x3
convolution, not in its first 1x1. That is what "4.1 G multiply-adds" refers to (v1 has 3.8 G).
Parameter names are torchvision's, so its weights load.

Shapes: N batch, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def kaiming_init(model: nn.Module) -> None:
    """Initialise a ReLU network the way of He et al. 2015 (arXiv:1502.01852), in place.

    Convolutions are normal with variance 2 / fan_in; fan_in, unlike fan_out, needs no correction
    for grouped and depthwise kernels. Linear layers are normal with deviation 0.01; biases are zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The 1x1 shortcut of a block whose input and output differ in shape (option B)."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, C, H, W) -> (N, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        """Build the block; `stride` is that of the first convolution."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + shortcut)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up: (N, C, H, W) -> (N, 4 width, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        """Build the block; `stride` is that of the 3x3 convolution."""
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + shortcut)


class ResNet(nn.Module):
    """Stem to a quarter of the size, four stages of blocks, global average, linear."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        num_classes: int,
        in_channels: int,
    ) -> None:
        """Build the network with `depths[i]` blocks in stage i."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        def stage(in_channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
            rest = (block(block.expansion * width, width, stride=1) for _ in range(depth - 1))
            return nn.Sequential(block(in_channels, width, stride), *rest)

        self.layer1 = stage(64, 64, depths[0], stride=1)
        self.layer2 = stage(64 * block.expansion, 128, depths[1], stride=2)
        self.layer3 = stage(128 * block.expansion, 256, depths[2], stride=2)
        self.layer4 = stage(256 * block.expansion, 512, depths[3], stride=2)
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: (N, C, H, W) -> (N, num_classes)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet18(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-18: eight basic blocks."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels)


def resnet50(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-50 v1.5: sixteen bottlenecks."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels)
