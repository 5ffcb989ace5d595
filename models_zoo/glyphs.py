"""`glyphs`: 32 x 32 colour images of 62 characters, drawn from the fonts that matplotlib carries.

A stand-in for CIFAR-10 that needs no download: a character in one of 22 faces, warped, over a coloured
background, among strokes and pieces of other characters, blurred and noisy. Images of a chunk share one
random stream; a chunk's stream is named by (seed, split, chunk), so splits never share an image and every run
gives the same bytes.

ResNet-20 reaches 88.7 % on the test images in 10 epochs (SGD, one cycle to 0.1, batch 128); what remains are
mostly pairs such as l/1, O/0 and C/c.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import string
import tempfile
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from models_zoo.data import Augment, DataSet, TensorSplit

CLASSES = tuple(string.ascii_uppercase + string.ascii_lowercase + string.digits)
SIZES = (20_000, 2_000, 4_000)  # images in each of _SPLITS
_SPLITS = ("train", "search", "test")

# Only faces that draw all 62 characters: other files there hold symbols, some under the codes of letters.
_FACES = (
    *(f"DejaVuSans{kind}" for kind in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{kind}" for kind in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{kind}" for kind in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{kind}" for kind in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10", "cmmi10"),
)
_VERSION = 1  # of the recipe below; a change makes a new cache file
_SIDE = 32
_CELL, _EM = 56, 36  # pixels of a drawn cell and of the font in it: room for warps without cutting
_CHUNK = 500  # images drawn at once: 2 MB a plane, which stays in cache
_MEAN, _STD = (0.5, 0.5, 0.5), (0.27, 0.27, 0.27)


def load(*, seed: int = 0, sizes: tuple[int, int, int] = SIZES) -> DataSet:
    """Return the glyphs as (3, 32, 32) images in 62 classes, from the user's cache or freshly drawn.

    The cache ($XDG_CACHE_HOME or ~/.cache, folder `prune`) is only an accelerator: if it cannot be read or
    written the images are drawn again.

    Args:
        seed: names the images; keep one for all runs to be compared.
        sizes: images in train, search and test.
    """
    atlas = draw_atlas()
    key = hashlib.sha256(f"{_VERSION} {seed} {sizes}".encode() + atlas.numpy().tobytes()).hexdigest()[:16]
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = Path(folder) / "prune" / f"glyphs-{key}.npz"
    arrays = _read(cache, sizes)
    if arrays is None:
        arrays = {}
        for number, (name, n) in enumerate(zip(_SPLITS, sizes, strict=True)):
            arrays[f"{name}_x"], arrays[f"{name}_y"] = _draw_split(atlas, n, (seed, number))
        with contextlib.suppress(OSError):  # a read-only home or a full disk costs time, not the result
            _write(cache, arrays)

    def split(name: str, augment: Augment | None = None) -> TensorSplit:
        x, y = (torch.from_numpy(arrays[f"{name}_{part}"]) for part in "xy")
        return TensorSplit(x, y, mean=_MEAN, std=_STD, augment=augment)

    return DataSet(
        name="glyphs",
        train=split("train", Augment(pad=2)),
        search=split("search"),
        test=split("test"),
        classes=CLASSES,
        input_shape=(3, _SIDE, _SIDE),
    )


def draw_atlas() -> Tensor:
    """Draw each character of each face once, on a common baseline: uint8 (faces * 62, 1, cell, cell)."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    cells = []
    for face in _FACES:
        font = ImageFont.truetype(str(folder / f"{face}.ttf"), _EM)
        for char in CLASSES:
            cell = Image.new("L", (_CELL, _CELL))
            # Centred by its advance, with the middle of a capital on the middle of the cell.
            ImageDraw.Draw(cell).text(
                (_CELL / 2, _CELL / 2 + 0.36 * _EM), char, fill=255, font=font, anchor="ms"
            )
            cells.append(np.asarray(cell))
    return torch.from_numpy(np.stack(cells)).unsqueeze(1)


def _draw_split(atlas: Tensor, n: int, stream: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw n images uint8 (n, 3, 32, 32) and their labels int64 (n,), the classes in turn."""
    labels = np.arange(n) % len(CLASSES)
    np.random.default_rng((*stream, 0)).shuffle(labels)
    masks = atlas.float() / 255
    chunks = [
        _draw_chunk(masks, labels[start : start + _CHUNK], np.random.default_rng((*stream, 1 + start)))
        for start in range(0, n, _CHUNK)
    ]
    return np.concatenate(chunks) if chunks else np.empty((0, 3, _SIDE, _SIDE), np.uint8), labels


def _draw_chunk(masks: Tensor, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one image for each label: background, clutter, the character, blur, noise.

    Shapes: masks (faces * 62, 1, cell, cell), labels (B,) -> uint8 (B, 3, 32, 32).
    """
    B = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (B, *shape))).float()

    def glyph(chars: np.ndarray, scale: Tensor, shift_B2: Tensor) -> Tensor:
        cells = masks[rng.integers(len(_FACES), size=B) * len(CLASSES) + chars]
        angle, shear_B2, bend = uniform(-0.2, 0.2), uniform(-0.15, 0.15, 2), uniform(-1, 1, 2, 4, 4)
        return _warp(cells, scale, angle, shear_B2, shift_B2, bend)

    def stroke(thinnest: float, thickest: float) -> Tensor:
        return _stroke(uniform(-1, 1, 2), uniform(-1, 1, 2), uniform(thinnest, thickest))

    def paint(canvas: Tensor, mask_B1HW: Tensor, colour_B3: Tensor) -> Tensor:
        return torch.lerp(canvas, colour_B3[:, :, None, None], mask_B1HW)

    paper, ink = _colours(rng, B)
    corners = paper[:, :, None, None] + uniform(-0.15, 0.15, 3, 3, 3)
    canvas = F.interpolate(corners, size=_SIDE, mode="bilinear")
    for _ in range(2):
        angle = uniform(0, 2 * math.pi)
        beside = torch.stack([angle.cos(), angle.sin()], 1) * uniform(0.75, 1.05, 1)
        piece = glyph(rng.integers(len(CLASSES), size=B), uniform(0.8, 1.4), beside)
        canvas = paint(canvas, piece * uniform(0.5, 1.0, 1, 1, 1), uniform(0, 1, 3))
    canvas = paint(canvas, stroke(0.01, 0.05), uniform(0, 1, 3))
    canvas = paint(canvas, glyph(labels, uniform(1.15, 1.45), uniform(-0.12, 0.12, 2)), ink)
    canvas = paint(canvas, stroke(0, 0.02) * uniform(0, 0.7, 1, 1, 1), uniform(0, 1, 3))
    canvas = _blur(canvas, uniform(0, 0.28))
    noise = torch.from_numpy(rng.standard_normal((B, 3, _SIDE, _SIDE), dtype=np.float32))
    canvas = canvas + noise * uniform(0.01, 0.06, 1, 1, 1)
    pixels: np.ndarray = (canvas.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels


def _colours(rng: np.random.Generator, B: int) -> tuple[Tensor, Tensor]:
    """Draw paper and ink (B, 3) each, whose brightness differs by at least 0.4 of the range."""
    paper, ink = rng.uniform(0.1, 0.9, (2, B, 3))
    gap = ink.mean(1) - paper.mean(1)
    missing = np.clip(0.4 - np.abs(gap), 0, None) * np.where(gap < 0, -1, 1)
    paper, ink = paper - missing[:, None] / 2, ink + missing[:, None] / 2
    return torch.from_numpy(paper).float(), torch.from_numpy(ink).float()


def _warp(
    cells: Tensor, scale: Tensor, angle: Tensor, shear_B2: Tensor, shift_B2: Tensor, bend: Tensor
) -> Tensor:
    """Draw cells (B, 1, cell, cell) into images (B, 1, 32, 32), rotated, sheared, moved and bent.

    Each output pixel asks where in the cell it comes from (coordinates in [-1, 1]). `scale` 1 maps one em to
    36/56 of the image, `bend` (B, 2, 4, 4) moves points by up to 0.1 along a smooth random field.
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    shear_x, shear_y = shear_B2.unbind(1)
    rows = [torch.stack([cos, sin + shear_x, 0 * cos], 1), torch.stack([shear_y / 2 - sin, cos, 0 * cos], 1)]
    grid_BHW2 = F.affine_grid(torch.stack(rows, 1), [len(cells), 1, _SIDE, _SIDE], align_corners=False)
    smooth = F.interpolate(bend, size=_SIDE, mode="bicubic").permute(0, 2, 3, 1)
    grid_BHW2 = grid_BHW2 - shift_B2[:, None, None, :] + 0.1 * smooth
    return F.grid_sample(cells, grid_BHW2, align_corners=False)


def _stroke(start_B2: Tensor, end_B2: Tensor, radius_B: Tensor) -> Tensor:
    """Draw a straight pen stroke (B, 1, 32, 32); points in [-1, 1], radius on that scale."""
    axis = torch.linspace(-1, 1, _SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    (x0, y0), (dx, dy) = (p[:, :, None, None].unbind(1) for p in (start_B2, end_B2 - start_B2))
    along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy + 1e-6)).clamp(0, 1)
    distance = torch.hypot(x - x0 - along * dx, y - y0 - along * dy)
    soft = 2 / _SIDE  # one pixel from ink to none
    return (1 - (distance - radius_B[:, None, None]) / soft).clamp(0, 1).unsqueeze(1)


def _blur(x_BCHW: Tensor, side_B: Tensor) -> Tensor:
    """Blur each image by its own kernel [side, 1 - 2 side, side], down and across."""
    weight = side_B[:, None, None, None]
    for dim in (2, 3):
        n = x_BCHW.shape[dim]
        before, after = (torch.arange(n) + step for step in (-1, 1))
        near = x_BCHW.index_select(dim, before.clamp(min=0)) + x_BCHW.index_select(
            dim, after.clamp(max=n - 1)
        )
        x_BCHW = x_BCHW + weight * (near - 2 * x_BCHW)
    return x_BCHW


def _read(path: Path, sizes: tuple[int, int, int]) -> dict[str, np.ndarray] | None:
    """Read cached arrays; None if the file is missing, broken or not what was asked for."""
    try:
        # numpy leaves a file that it opened itself open when that is no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        for name, n in zip(_SPLITS, sizes, strict=True):
            x, y = arrays[f"{name}_x"], arrays[f"{name}_y"]
            if (x.shape, x.dtype, y.shape, y.dtype) != ((n, 3, _SIDE, _SIDE), np.uint8, (n,), np.int64):
                return None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return arrays


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the cache file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub reads ** as allow_pickle
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
