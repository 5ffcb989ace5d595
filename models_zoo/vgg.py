"""VGG-11 and VGG-16 with batch normalisation, for CIFAR.

Simonyan and Zisserman 2015, Very Deep Convolutional Networks, arXiv:1409.1556; the form for
32-pixel images has one linear layer in place of the three that hold most of the original's
parameters. Names under `features` are those of torchvision's `vgg11_bn` and `vgg16_bn`.

Five poolings bring 32 pixels to one. Poolings round up (`ceil_mode`), which changes nothing where a
size is even and makes a pooling of a single pixel the identity: so 8 or 28 pixels work as well,
and larger images end in the global average.

Shapes: N batch, C channels, H and W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from models_zoo.resnet import kaiming_init

# Channels of the 3x3 convolutions of each stage, as multiples of the first one's; a pooling ends every stage.
_VGG11 = ((1,), (2,), (4, 4), (8, 8), (8, 8))
_VGG16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class VGG(nn.Module):
    """Five stages of convolution, batch normalisation and ReLU; global average; linear."""

    def __init__(
        self, stages: tuple[tuple[int, ...], ...], num_classes: int, in_channels: int, width: int
    ) -> None:
        """Build the network with the multiples of `width` channels that `stages` lists."""
        super().__init__()
        layers: list[nn.Module] = []
        for stage in stages:
            for multiple in stage:
                channels = multiple * width
                # The bias is redundant before a normalisation; torchvision's weights have it.
                conv = nn.Conv2d(in_channels, channels, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
                in_channels = channels
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels, num_classes)
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: (N, C, H, W) -> (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def vgg11(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> VGG:
    """VGG-11 with batch normalisation: eight convolutions."""
    return VGG(_VGG11, num_classes, in_channels, width)


def vgg16(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> VGG:
    """VGG-16 with batch normalisation: thirteen convolutions."""
    return VGG(_VGG16, num_classes, in_channels, width)
