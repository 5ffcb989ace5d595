"""Random networks of unusual parts: from lists that hypothesis can shrink, or from a seed.

python benchmarks/random_networks.py SEED    prints the network of a seed
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.awkward.case import conv, scramble  # noqa: E402
from benchmarks.random_parts import IMAGE_PARTS, TOKEN_PARTS  # noqa: E402
from benchmarks.random_parts.part import ACTIVATIONS  # noqa: E402

Spec = tuple[str, int, int]  # kind of part, width, way

FORMS = ("image", "image to tokens", "tokens", "words")
IMAGE_HEADS = ("mean", "max", "flatten", "channels last", "image")
TOKEN_HEADS = ("mean", "max", "flatten", "last", "tokens", "tied")
WIDTHS = (2, 7)  # of parts, inclusive
WAYS = (0, 11)
WIDEST = 40  # channels; a layer brings more than that down
SIZE, LENGTH, VOCABULARY = 8, 6, 20


@dataclass(frozen=True)
class Design:
    """Everything that a random network is made from.

    Attributes:
        form: what goes in, and whether images become tokens half-way.
        stem: channels of the first layer.
        images: parts between image features.
        tokens: parts between tokens.
        head: how the result is read; by position, as the heads differ between images and tokens.
    """

    form: str
    stem: int
    images: tuple[Spec, ...]
    tokens: tuple[Spec, ...]
    head: int

    def smaller(self) -> list[Design]:
        """The designs with one part less: what to try when this one fails."""
        result = []
        for name in ("images", "tokens"):
            parts = getattr(self, name)
            result += [replace(self, **{name: parts[:i] + parts[i + 1 :]}) for i in range(len(parts))]
        return result


class RandomNet(nn.Module):
    """A stem, random parts with activations between them, a head of four numbers."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.form, width = design.form, design.stem
        self.parts = nn.ModuleList()
        self.ways: list[int] = []
        if self.form == "words":
            self.stem: nn.Module = nn.Embedding(VOCABULARY, width)
        else:
            self.stem = nn.Linear(5, width) if self.form == "tokens" else conv(3, width)
        size = LENGTH
        if self.form.startswith("image"):
            width, size = self._append(design.images, False, width, SIZE)
        self.split = len(self.parts)  # where tokens begin
        if self.form == "image to tokens":
            size *= size
        if self.form != "image":
            width, size = self._append(design.tokens, True, width, size)
        names = IMAGE_HEADS if self.form == "image" else TOKEN_HEADS
        self.head_name = names[design.head % len(names)]
        if self.head_name == "tied" and self.form != "words":
            self.head_name = "mean"
        if self.head_name == "image":
            self.head: nn.Module = conv(width, 2, 1)
        elif self.head_name == "tied":
            self.head = nn.Linear(width, design.stem)
        elif self.form == "image":
            flat = self.head_name in ("flatten", "channels last")
            self.head = nn.Linear(width * size * size if flat else width, 4)
        else:
            self.head = nn.Linear(width * size if self.head_name == "flatten" else width, 4)

    def _append(self, specs: Sequence[Spec], tokens: bool, width: int, size: int) -> tuple[int, int]:
        recipes = TOKEN_PARTS if tokens else IMAGE_PARTS
        for kind, number, way in specs:
            part = recipes[kind](width, size, number, way)
            module, width, size = part.module, part.channels, part.size
            if width > WIDEST:
                module = nn.Sequential(module, nn.Linear(width, 9) if tokens else conv(width, 9, 1))
                width = 9
            self.parts.append(module)
            self.ways.append(way)
        return width, size

    def forward(self, x: Tensor) -> Any:
        """Scores, or features of every pixel or token."""
        x = self.stem(x)
        for index, (part, way) in enumerate(zip(self.parts, self.ways, strict=True)):
            if index == self.split and self.form == "image to tokens":
                x = x.flatten(2).transpose(1, 2)
            x = ACTIVATIONS[way % len(ACTIVATIONS)](part(x))
        if self.split == len(self.parts) and self.form == "image to tokens":
            x = x.flatten(2).transpose(1, 2)
        return self._read_image(x) if self.form == "image" else self._read_tokens(x)

    def _read_image(self, x: Tensor) -> Any:
        if self.head_name == "mean":
            return self.head(x.mean((2, 3)))
        if self.head_name == "max":
            return self.head(F.adaptive_max_pool2d(x, 1).flatten(1))
        if self.head_name == "image":
            return self.head(x)
        return self.head((x if self.head_name == "flatten" else x.permute(0, 2, 3, 1)).flatten(1))

    def _read_tokens(self, x: Tensor) -> Any:
        if self.head_name == "mean":
            return self.head(x.mean(1))
        if self.head_name == "max":
            return self.head(x.amax(1))
        if self.head_name == "flatten":
            return self.head(x.flatten(1))
        if self.head_name == "last":
            return self.head(x[:, -1])
        if self.head_name == "tied":
            table: Any = self.stem
            return F.linear(self.head(x), table.weight)
        return self.head(x)


def build(design: Design, seed: int = 0) -> tuple[RandomNet, tuple[Tensor, ...]]:
    """The network of a design in eval mode, with weights that hide no mistake, and its input (batch of 2)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = RandomNet(design).eval()
        scramble(module)
        if design.form == "words":
            return module, (torch.randint(0, VOCABULARY, (2, LENGTH)),)
        if design.form == "tokens":
            return module, (torch.randn(2, LENGTH, 5),)
        return module, (torch.randn(2, 3, SIZE, SIZE),)


def design_of(seed: int) -> Design:
    """The design of a seed."""
    draw = random.Random(seed)

    def parts(kinds: Sequence[str], most: int) -> tuple[Spec, ...]:
        count = draw.randint(0, most)
        return tuple((draw.choice(kinds), draw.randint(*WIDTHS), draw.randint(*WAYS)) for _ in range(count))

    form = draw.choice(FORMS)
    stem, head = draw.randint(*WIDTHS), draw.randint(0, 11)
    most = 3 if form == "image to tokens" else 6
    images = parts(list(IMAGE_PARTS), most) if form.startswith("image") else ()
    tokens = parts(list(TOKEN_PARTS), most) if form != "image" else ()
    return Design(form, stem, images, tokens, head)


def generate(seed: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of a seed and its input."""
    return build(design_of(seed), seed)


__all__ = ["Design", "RandomNet", "Spec", "build", "design_of", "generate"]

if __name__ == "__main__":
    print(design_of(int(sys.argv[1])))
    print(generate(int(sys.argv[1]))[0])
