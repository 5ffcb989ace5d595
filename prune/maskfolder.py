"""Folders of images with a mask for each: ``PATH/images/NAME.*`` and ``PATH/masks/NAME.png``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graph.errors import DataError
from models_zoo.data import DataSet, TensorSplit
from models_zoo.text import parted
from prune.escaping import plain
from prune.imagefolder import decoded, visible

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
_MOST = 64  # classes
_PIXELS = 1 << 28  # of all images together, once they are scaled


def load(path: Path, *, side: int | None = None) -> DataSet:
    """Read images and masks into memory, scaled to squares; parted into splits by name.

    The numbers in a mask are classes; a mask of 0 and 255 has two. Masks are scaled without mixing classes.

    Args:
        path: the folder.
        side: of the images, in pixels; 64 when left out.

    Raises:
        DataError: a folder or a mask is missing, a file is no image, there are fewer than three pairs, or too
            many classes.
        OSError: a folder cannot be listed.
    """
    side = side or 64
    for name in ("images", "masks"):
        if not (path / name).is_dir():
            raise DataError(
                f"{path} holds no folder {name}", hint="maskfolder:PATH takes PATH/images/* and PATH/masks/*"
            )
    images = {p.stem: p for p in visible(path / "images", path) if p.is_file()}
    masks = {p.stem: p for p in visible(path / "masks", path) if p.is_file()}
    if lonely := sorted(images.keys() ^ masks.keys()):
        raise DataError(
            f"{path}: {plain(lonely[0])} has no {'mask' if lonely[0] in images else 'image'}",
            hint="an image and its mask have the same name, but for the ending",
        )
    if len(images) < 3:
        raise DataError(f"{path} holds {len(images)} pairs", hint="three at least, one for each split")
    if len(images) * side**2 > _PIXELS:
        raise DataError(f"{path}: {len(images):,} images of {side} x {side} pixels", hint="?size=PIXELS")
    read = {name: (_image(images[name], side), _mask(masks[name], side)) for name in sorted(images)}
    values = sorted({v for _, mask in read.values() for v in np.unique(mask.numpy()).tolist()})
    if values == [0, 255]:
        read = {name: (image, (mask > 0).to(mask.dtype)) for name, (image, mask) in read.items()}
        values = [0, 1]
    if values[-1] >= _MOST:
        raise DataError(
            f"{path}: a mask has the class {values[-1]}, of at most {_MOST}",
            hint="masks hold the numbers of classes as grey levels, counted from 0",
        )
    classes = tuple(map(str, range(values[-1] + 1)))

    def split(names: list[str]) -> TensorSplit:
        pictures, labels = zip(*(read[n] for n in names), strict=True)
        return TensorSplit(torch.stack(pictures), torch.stack(labels).long(), mean=_MEAN, std=_STD)

    train, search, test = map(split, parted(read))
    return DataSet("maskfolder", train, search, test, classes, (3, side, side), unit="pixels")


def _image(path: Path, side: int) -> Tensor:
    image = decoded(path).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _mask(path: Path, side: int) -> Tensor:
    """Classes as they are in the file: its grey levels, or the places in its palette."""
    image = decoded(path, convert=None)
    if image.mode not in ("L", "P", "1"):
        raise DataError(f"{path} is a mask of mode {image.mode}", hint="save masks with one channel (L or P)")
    image = image.convert("L") if image.mode == "1" else image
    return torch.from_numpy(np.array(image.resize((side, side), Image.Resampling.NEAREST)))
