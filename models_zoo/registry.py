"""Name to builder: the networks of the pruning papers, with the costs their authors published.

`build("resnet56", num_classes=10)` makes a network; `ZOO["resnet56"]` says what is known about it.
A name may be written in any case and with or without `-` and `_`: `MobileNet-V2` is `mobilenet_v2`.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from graph.errors import ArchitectureError, first_line
from models_zoo import mamba_zoo, mobilenet, resnet, resnet_cifar, shufflenet, transformers, vgg

_CIFAR = (3, 32, 32)
_IMAGENET = (3, 224, 224)

_HE = "He et al. 2016, arXiv:1512.03385"
_SIMONYAN = "Simonyan and Zisserman 2015, arXiv:1409.1556"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the zoo knows about one network.

    Attributes:
        name: canonical name.
        build: the builder; every argument has a default, whose type is the argument's type.
        input_shape: (C, H, W) of the images, or (L,) of the tokens, it was designed for, with default
            arguments.
        macs: multiply-adds for one such input, as published (rounded as the source rounds).
        params: parameters, as published, with default arguments.
        source: the paper.
        summary: one line for people.
        masks: whether it gives a class to each pixel.
    """

    name: str
    build: Callable[..., nn.Module]
    input_shape: tuple[int, ...]
    macs: int
    params: int
    source: str
    summary: str
    masks: bool = False

    @property
    def is_language_model(self) -> bool:
        """Whether it takes tokens, and returns logits for each."""
        return len(self.input_shape) == 1


def _key(name: str) -> str:
    """Spelling without case, hyphens and underscores."""
    return name.lower().replace("-", "").replace("_", "")


def _by_name(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Index entries by name; two names that differ only in spelling are a bug of ours."""
    zoo: dict[str, Entry] = {}
    taken: dict[str, str] = {}
    for entry in entries:
        if other := taken.get(_key(entry.name)):
            raise ValueError(f"the zoo has {other!r} already, so it cannot have {entry.name!r}")
        taken[_key(entry.name)] = entry.name
        zoo[entry.name] = entry
    return zoo


# fmt: off
ZOO: dict[str, Entry] = _by_name((
    Entry("resnet20", resnet_cifar.resnet20, _CIFAR, 40_550_000, 270_000, _HE,
          "CIFAR ResNet of 20 layers, option A shortcuts"),
    Entry("resnet32", resnet_cifar.resnet32, _CIFAR, 69_000_000, 460_000, _HE,
          "CIFAR ResNet of 32 layers, option A shortcuts"),
    Entry("resnet44", resnet_cifar.resnet44, _CIFAR, 97_000_000, 660_000, _HE,
          "CIFAR ResNet of 44 layers, option A shortcuts"),
    Entry("resnet56", resnet_cifar.resnet56, _CIFAR, 125_490_000, 850_000, _HE,
          "CIFAR ResNet of 56 layers, option A shortcuts"),
    Entry("resnet110", resnet_cifar.resnet110, _CIFAR, 252_890_000, 1_720_000, _HE,
          "CIFAR ResNet of 110 layers, option A shortcuts"),
    Entry("vgg11", vgg.vgg11, _CIFAR, 153_000_000, 9_230_000, _SIMONYAN,
          "VGG-11 for CIFAR, batch normalisation, one linear layer"),
    Entry("vgg16", vgg.vgg16, _CIFAR, 313_000_000, 14_730_000, _SIMONYAN,
          "VGG-16 for CIFAR, batch normalisation, one linear layer"),
    Entry("mobilenet_v1", mobilenet.mobilenet_v1, _IMAGENET, 569_000_000, 4_200_000,
          "Howard et al. 2017, arXiv:1704.04861", "depthwise separable convolutions"),
    Entry("mobilenet_v2", mobilenet.mobilenet_v2, _IMAGENET, 300_000_000, 3_500_000,
          "Sandler et al. 2018, arXiv:1801.04381", "inverted residuals with linear bottlenecks"),
    Entry("shufflenet_v1", shufflenet.shufflenet_v1, _IMAGENET, 137_000_000, 1_870_000,
          "Zhang et al. 2018, arXiv:1707.01083", "grouped 1x1 convolutions and channel shuffle, 3 groups"),
    Entry("shufflenet_v2", shufflenet.shufflenet_v2, _IMAGENET, 146_000_000, 2_300_000,
          "Ma et al. 2018, arXiv:1807.11164", "channel split and channel shuffle"),
    Entry("resnet18", resnet.resnet18, _IMAGENET, 1_800_000_000, 11_700_000, _HE,
          "ResNet-18 for ImageNet, basic blocks"),
    Entry("resnet50", resnet.resnet50, _IMAGENET, 4_100_000_000, 25_600_000, _HE,
          "ResNet-50 v1.5 for ImageNet, bottlenecks"),
))
# Our own sizes; the multiply-adds of Mambas are those of projections, convolutions and head, not of the state
# space.
LANGUAGE_MODELS: dict[str, Entry] = _by_name((
    Entry("mamba1_tiny", mamba_zoo.mamba1_tiny, (256,), 65_536_000, 266_112,
          "Gu and Dao 2023, arXiv:2312.00752", "Mamba-1 for bytes, 2 layers of width 128, 16 states"),
    Entry("mamba2_tiny", mamba_zoo.mamba2_tiny, (256,), 68_419_584, 268_976,
          "Dao and Gu 2024, arXiv:2405.21060", "Mamba-2 for bytes, 2 layers of width 128, 64 states"),
    Entry("gpt_tiny", transformers.gpt_tiny, (256,), 88_080_384, 232_832,
          "Radford et al. 2019", "transformer for bytes, 4 layers of width 64, head tied to the embedding"),
))
# Transformers for images, in sizes of our own.
VISION_TRANSFORMERS: dict[str, Entry] = _by_name((
    Entry("vit_tiny", transformers.vit_tiny, _CIFAR, 47_481_792, 683_050,
          "Dosovitskiy et al. 2021, arXiv:2010.11929", "vision transformer, 6 layers of width 96"),
    Entry("seg_tiny", transformers.seg_tiny, _CIFAR, 26_574_848, 249_509,
          "Kirillov et al. 2023, arXiv:2304.02643", "segmenter on an encoder as SAM's, 4 layers of width 64",
          masks=True),
))
# fmt: on


def everything() -> dict[str, Entry]:
    """The networks for images and the language models, by name."""
    return {**ZOO, **VISION_TRANSFORMERS, **LANGUAGE_MODELS}


def names() -> list[str]:
    """All canonical names of networks for images, in the zoo's order."""
    return list(ZOO)


def find(name: str) -> Entry:
    """Look a network up by any spelling of its name.

    Raises:
        ArchitectureError: no such network; the hint names the nearest names and all known ones.
    """
    zoo = everything()
    by_key = {_key(known): known for known in zoo}
    key = _key(name)
    if key in by_key:
        return zoo[by_key[key]]
    near = [by_key[match] for match in difflib.get_close_matches(key, by_key)]
    question = f"did you mean {' or '.join(near)}? " if near else ""
    raise ArchitectureError(f"unknown architecture {name!r}", hint=f"{question}known: {', '.join(zoo)}")


def arguments(name: str) -> tuple[str, ...]:
    """The names of the arguments that a network's builder takes.

    Raises:
        ArchitectureError: no such network.
    """
    return tuple(inspect.signature(find(name).build).parameters)


def build(name: str, **args: object) -> nn.Module:
    """Build a network with fresh random weights.

    Args:
        name: any spelling of a name in `ZOO`.
        **args: the builder's own arguments, such as `num_classes`, `in_channels` or `width_mult`.

    Raises:
        ArchitectureError: an unknown name or argument, or a value that makes no network.
    """
    check_arguments(name, args)
    entry = find(name)
    try:
        return entry.build(**args)
    except (RuntimeError, TypeError, ValueError, OverflowError) as err:  # torch's, of sizes it cannot have
        given = ", ".join(f"{arg}={value!r}" for arg, value in args.items())
        raise ArchitectureError(
            f"{entry.name} cannot be built with {given}: {first_line(err)}",
            hint="check the architecture's arguments",
        ) from err


def check_arguments(name: str, args: Mapping[str, object]) -> None:
    """Check the arguments of a network's builder by name and kind.

    Raises:
        ArchitectureError: no such network, an unknown argument, or a value of another kind.
    """
    entry = find(name)
    known = inspect.signature(entry.build).parameters
    for arg, value in args.items():
        if arg not in known:
            raise ArchitectureError(
                f"{entry.name} takes no argument {arg!r}", hint=f"it takes: {', '.join(known)}"
            )
        wanted, valid = _check(value, known[arg].default)
        if not valid:
            raise ArchitectureError(
                f"{entry.name}: {arg}={value!r} is not {wanted}", hint=f"the default is {known[arg].default}"
            )


def _check(value: object, default: object) -> tuple[str, bool]:
    """What a value with this default must be, and whether it is."""
    if isinstance(default, bool):
        return "True or False", isinstance(value, bool)
    if isinstance(default, int):
        return "a positive whole number", isinstance(value, int) and not isinstance(value, bool) and value > 0
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    return "a positive number", is_number
