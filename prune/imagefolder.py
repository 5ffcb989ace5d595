"""Folders of images, one per class, decoded when they are needed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graph.errors import DataError
from models_zoo.data import Augment, DataSet, MapSplit, carve_search, stratified_order
from prune.escaping import plain

SIZES = range(8, 1025)  # allowed side lengths in pixels
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")  # by content: PIL's other decoders stay out of reach
# More pixels need a file that can hold a picture of them: photographs have fewer than ten per byte.
_ANY_PIXELS, _PIXELS_PER_BYTE = 1 << 24, 200
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet
_WORKERS = min(4, os.cpu_count() or 1)


def load(path: Path, *, side: int | None = None, seed: int = 0) -> DataSet:
    """Open PATH/train/CLASS/* with PATH/test or PATH/val, or plain PATH/CLASS/*.

    With both, `val` is the search split; with one, that is the test split and the search split is carved from
    the training images. A plain folder gives 20 % to test, then the search split from the rest. Images are
    scaled so that the shorter side is `side`, then cropped to the centre.

    Args:
        path: the folder.
        side: pixels; by default 32 if the images looked at have at most 64, else 224.
        seed: chooses the carved splits; keep one for all runs to be compared.

    Raises:
        DataError: a folder is missing, empty or has a single class, a link leads out of it, or (while batches
            are drawn) a file is no image.
        OSError: a folder cannot be listed.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder", hint="imagefolder:PATH takes a folder of class folders")
    parted = (path / "train").is_dir() and any(entry.is_dir() for entry in (path / "train").iterdir())
    found = _scan(path / "train" if parted else path, path)
    classes = tuple(found)
    side = side or _usual_side([files[0] for files in found.values()])
    images = _Images(found, classes, side)
    augment = Augment(pad=side // 8, flip=True)
    train, search = torch.arange(len(images)), None

    if parted:
        held_out = [
            _Images(_scan(path / name, path), classes, side)
            for name in ("val", "test")
            if (path / name).is_dir()
        ]
        if not held_out:
            raise DataError(
                f"{path} has train but neither test nor val",
                hint=f"add one, or open imagefolder:{path / 'train'}",
            )
        test = held_out[-1].split()
        if len(held_out) == 2:
            search = held_out[0].split()
    else:
        test_idx, train = stratified_order(images.labels, seed).tensor_split([max(1, len(images) // 5)])
        test = images.split(test_idx)
    if search is None:
        kept, carved = carve_search(images.labels[train], seed)
        train, search = train[kept], images.split(train[carved])
    return DataSet(
        name="imagefolder",
        train=MapSplit(images, train, augment=augment, workers=_WORKERS),
        search=search,
        test=test,
        classes=classes,
        input_shape=(3, side, side),
    )


class _Images:
    """A map-style data set of decoded files: float32 (3, side, side) and the class number."""

    def __init__(self, found: dict[str, list[Path]], classes: tuple[str, ...], side: int) -> None:
        if unknown := [name for name in found if name not in classes]:
            raise DataError(
                f"{found[unknown[0]][0].parent} is a class that the training images lack",
                hint="every class needs a folder of training images",
            )
        self.paths = [file for files in found.values() for file in files]
        self.labels = torch.tensor([classes.index(name) for name, files in found.items() for _ in files])
        self._side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, side = decoded(self.paths[index]), self._side
        if image.size != (side, side):
            scale = side / min(image.size)
            width, height = (max(side, round(length * scale)) for length in image.size)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            image = image.crop((left, top, left + side, top + side))
        pixels_HWC = torch.from_numpy(np.array(image)).float() / 255
        return ((pixels_HWC - _MEAN) / _STD).permute(2, 0, 1), int(self.labels[index])

    def split(self, indices: Tensor | None = None) -> MapSplit:
        """Return these images unaugmented, in an order of which each stretch is a fair sample."""
        indices = torch.arange(len(self)) if indices is None else indices
        return MapSplit(self, indices[stratified_order(self.labels[indices], 0)], workers=_WORKERS)


def decoded(path: Path, *, decode: bool = True, convert: str | None = "RGB") -> Image.Image:
    """Open an image, by default decoded to RGB; refuse what PIL calls a decompression bomb.

    Args:
        path: the file.
        decode: False reads its header alone.
        convert: the mode of its pixels; None keeps that of the file.

    Raises:
        DataError: it is no image, or one that is much larger than its file.
    """
    try:
        # PIL raises above twice its limit of pixels but only warns above the limit: there we raise too.
        with Image.open(path, formats=_FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            pixels, size = image.width * image.height, path.stat().st_size
            if pixels > _ANY_PIXELS and pixels > _PIXELS_PER_BYTE * size:
                raise Image.DecompressionBombError(f"{pixels:,} pixels in {size:,} bytes")
            if decode:
                image.load()
                return image.convert(convert) if convert else image.copy()
            return image
    except Exception as err:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise DataError(
            f"{path} is not a readable image: {plain(err)}", hint="repair the file or remove it"
        ) from err


def _usual_side(samples: list[Path]) -> int:
    return 32 if all(max(decoded(path, decode=False).size) <= 64 for path in samples) else 224


def _scan(folder: Path, root: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder, both in the order of their names."""
    found = {}
    for entry in visible(folder, root):
        if entry.is_dir():
            found[entry.name] = [
                f for f in visible(entry, root) if f.suffix.lower() in _SUFFIXES and f.is_file()
            ]
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(
            f"class folder {folder / empty[0]} holds no images ({', '.join(sorted(_SUFFIXES))})",
            hint="add images or remove the folder",
        )
    if len(found) < 2:
        raise DataError(
            f"{folder} holds {len(found)} class folders, and a classifier needs at least 2",
            hint="imagefolder:PATH takes PATH/CLASS/*, or PATH/train/CLASS/* with PATH/test or PATH/val",
        )
    return found


def visible(folder: Path, root: Path) -> list[Path]:
    """List a folder by name, without hidden entries.

    Raises:
        DataError: an entry, or the folder itself, is a link that leads out of `root`.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in (folder, *entries):
        if entry != root and entry.is_symlink() and not entry.resolve().is_relative_to(root.resolve()):
            raise DataError(
                f"{entry} is a link that leads out of {root}", hint="copy the files into the folder"
            )
    return entries
