"""The CIFAR ResNets: ResNet-20, -32, -44, -56 and -110, which most pruning papers prune.

He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385, section 4.2:
a 3x3 stem, three stages of n basic blocks with 16, 32 and 64 channels, global average, linear;
6n + 2 layers. Shortcuts are option A, free of parameters: where a stage halves the image and
doubles the channels, the shortcut takes every second pixel and pads the channels with zeros.

Parameter names are those of akamaster's published models
(github.com/akamaster/pytorch_resnet_cifar10), so their weights load strictly.

Shapes: N batch, C channels, H and W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.resnet import kaiming_init


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an option A shortcut: (N, C, H, W) -> (N, width, H/stride, W/stride)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        """Build the block; `stride` is that of the first convolution."""
        super().__init__()
        self.stride = stride
        self.padded = ((width - in_channels) // 2, (width - in_channels + 1) // 2)  # before and after
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        x = x[:, :, :: self.stride, :: self.stride]  # (N, C, H, W) -> (N, C, H/stride, W/stride)
        before, after = self.padded
        return F.pad(x, (0, 0, 0, 0, before, after))  # -> (N, before + C + after, H/stride, W/stride)


class CifarResNet(nn.Module):
    """Stem, three stages of basic blocks, global average, linear."""

    def __init__(self, depth: int, num_classes: int, in_channels: int, width: int) -> None:
        """Build the network of `depth` = 6n + 2 layers with `width` channels in its first stage."""
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

        def stage(in_channels: int, width: int, stride: int) -> nn.Sequential:
            rest = (BasicBlock(width, width, stride=1) for _ in range(blocks - 1))
            return nn.Sequential(BasicBlock(in_channels, width, stride), *rest)

        self.layer1 = stage(width, width, stride=1)
        self.layer2 = stage(width, 2 * width, stride=2)
        self.layer3 = stage(2 * width, 4 * width, stride=2)
        self.linear = nn.Linear(4 * width, num_classes)
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: (N, C, H, W) -> (N, num_classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def resnet20(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-20: three blocks a stage."""
    return CifarResNet(20, num_classes, in_channels, width)


def resnet32(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-32: five blocks a stage."""
    return CifarResNet(32, num_classes, in_channels, width)


def resnet44(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-44: seven blocks a stage."""
    return CifarResNet(44, num_classes, in_channels, width)


def resnet56(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-56: nine blocks a stage."""
    return CifarResNet(56, num_classes, in_channels, width)


def resnet110(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-110: eighteen blocks a stage."""
    return CifarResNet(110, num_classes, in_channels, width)
