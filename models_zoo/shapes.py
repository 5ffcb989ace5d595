"""`shapes`: 32 x 32 colour images of discs, boxes, triangles and characters, with a class for each pixel.

A segmentation task that needs no download. Up to four figures lie over each other on a background with a
gradient and noise; a class says which kind of figure is on top. Each split has a random stream of its own.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from models_zoo.data import DataSet, TensorSplit
from models_zoo.glyphs import draw_atlas

CLASSES = ("background", "disc", "box", "triangle", "character")
SIZES = (4_000, 500, 1_000)
_SIDE, _FACE, _FIGURES = 32, 24, 4
_MEAN, _STD = (0.5, 0.5, 0.5), (0.27, 0.27, 0.27)


def load(*, seed: int = 0, sizes: tuple[int, int, int] = SIZES) -> DataSet:
    """Return (3, 32, 32) images and their masks (32, 32).

    Args:
        seed: names the images.
        sizes: images in train, search and test.
    """
    faces = F.interpolate(draw_atlas().float(), size=(_FACE, _FACE), mode="area")[:, 0].numpy() > 100

    def split(number: int) -> TensorSplit:
        rng = np.random.default_rng((seed, number))
        drawn = [_draw(rng, faces) for _ in range(sizes[number])]
        images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        return TensorSplit(images, masks.long(), mean=_MEAN, std=_STD)

    train, search, test = (split(number) for number in range(3))
    return DataSet("shapes", train, search, test, CLASSES, (3, _SIDE, _SIDE), unit="pixels")


def _draw(rng: np.random.Generator, faces: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image (3, H, W) and its mask (H, W)."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE].astype(np.float32)
    slope = rng.uniform(-3, 3, (2, 3, 1, 1))
    image = rng.uniform(40, 215, (3, 1, 1)) + slope[0] * (rows - 16) + slope[1] * (columns - 16)
    mask = np.zeros((_SIDE, _SIDE), dtype=np.uint8)
    for _ in range(rng.integers(1, _FIGURES + 1)):
        kind = int(rng.integers(1, len(CLASSES)))
        inside = _figure(rng, kind, rows, columns, faces)
        image = np.where(inside, rng.uniform(0, 255, (3, 1, 1)), image)
        mask[inside] = kind
    image = image + rng.normal(0, 12, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def _figure(
    rng: np.random.Generator,
    kind: int,
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    faces: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which pixels a figure covers: (H, W)."""
    if kind == 4:
        found = np.zeros((_SIDE, _SIDE), dtype=bool)
        top, left = rng.integers(0, _SIDE - _FACE + 1, 2)
        found[top : top + _FACE, left : left + _FACE] = faces[rng.integers(len(faces))]
        return found
    (y, x), size, angle = rng.uniform(6, 26, 2), rng.uniform(4, 9), rng.uniform(0, 2 * np.pi)
    u = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
    v = (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
    if kind == 1:
        return np.asarray(u**2 + v**2 < size**2)
    if kind == 2:
        return np.asarray((abs(u) < size) & (abs(v) < size * 0.7))
    return np.asarray((u > -size / 2) & (u / 2 + abs(v) * 0.9 < size / 2))  # triangle
