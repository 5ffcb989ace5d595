"""Data sets as the rest of the project sees them: three splits that yield batches of images, or of text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, SupportsInt, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from graph.errors import DataError, first_line

TEXT_UNITS = ("bytes", "tokens")
# Each a module of this package with ``load(seed=...) -> DataSet``; those of text also take ``length=``.
EMBEDDED = ("digits", "glyphs", "shapes", "pystdlib")


class Split(Protocol):
    """One part of a data set."""

    def __len__(self) -> int:
        """Count the records: images, or windows of text."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)``; the last batch may be smaller.

        Images are normalised float32 (B, C, H, W) and int64 (B,), text is int64 (B, L) twice: tokens, and
        the tokens after them.

        Args:
            batch_size: records per batch.
            shuffle: draw a new order from `seed`; otherwise the stored order.
            augment: crop and flip, or shift, as the data set allows, drawn from `seed`.
            seed: fixes order and augmentation; pass another one for each epoch.
            limit: stop after this many records.
        """
        ...


@dataclass(frozen=True, slots=True)
class DataSet:
    """Records in three splits that share none; `test` is for final figures alone.

    `input_shape` is (C, H, W), or (L,) of text, whose `classes` are its vocabulary; `unit` is what a label
    is given for: ``images``, ``pixels``, ``bytes`` or ``tokens``; `notes` are lines a report should show,
    such as batches that are not whole.
    """

    name: str
    train: Split
    search: Split
    test: Split
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()
    unit: str = "images"

    @property
    def is_text(self) -> bool:
        """Whether it is for language models."""
        return self.unit in TEXT_UNITS


@dataclass(frozen=True, slots=True)
class Augment:
    """What `augment=True` does: crop from an image zero-padded by `pad` pixels, then mirror half of them."""

    pad: int = 0
    flip: bool = False

    def __call__(self, x_BCHW: Tensor, rng: torch.Generator) -> Tensor:
        """Return a changed copy of the same shape and dtype."""
        B, _, H, W = x_BCHW.shape
        span = 2 * self.pad + 1
        rows_BH = torch.randint(span, (B, 1), generator=rng) + torch.arange(H)
        cols_BW = torch.randint(span, (B, 1), generator=rng) + torch.arange(W)
        if self.flip:
            cols_BW = torch.where(torch.rand(B, 1, generator=rng) < 0.5, cols_BW.flip(1), cols_BW)
        padded = F.pad(x_BCHW, (self.pad,) * 4).permute(0, 2, 3, 1)
        return padded[torch.arange(B)[:, None, None], rows_BH[:, :, None], cols_BW[:, None, :]].permute(
            0, 3, 1, 2
        )


class TensorSplit:
    """A split held in memory as bytes: images uint8 (N, C, H, W), labels int64 (N,), or of pixels (N, H, W).

    Args:
        mean: per channel, on the scale where 255 is 1; `std` likewise.
        augment: what `augment=True` does; nothing when left out.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or labels.shape[:1] != images.shape[:1]:
            raise ValueError(f"images {images.dtype} {tuple(images.shape)}, labels {tuple(labels.shape)}")
        self.images, self.labels = images, labels.long()
        self._shift = torch.tensor(mean).view(-1, 1, 1) * 255
        self._scale = torch.tensor(std).view(-1, 1, 1) * 255
        self._augment = augment

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised batches; see `Split.batches`."""
        rng = torch.Generator().manual_seed(seed)
        for idx in torch.split(_order(len(self), shuffle, limit, rng), batch_size):
            x = self.images[idx]
            if augment and self._augment:
                x = self._augment(x, rng)
            yield ((x.float() - self._shift) / self._scale).contiguous(), self.labels[idx]


class MapDataset(Protocol):
    """What we ask of a torch map-style data set: a length, and (image, label) pairs by index."""

    def __len__(self) -> int:
        """Count the pairs."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, SupportsInt]:
        """Return a normalised float (C, H, W) image and its class number."""
        ...


class MapSplit:
    """A split read lazily, image by image, from a map-style data set.

    Args:
        dataset: gives normalised images of one shape.
        indices: which of its items belong to this split; all when left out.
        augment: what `augment=True` does on top of whatever `dataset` does; zero is the mean colour.
        workers: threads that fetch a batch; 0 fetches in the caller's, for data sets of unknown making.
    """

    def __init__(
        self,
        dataset: MapDataset,
        indices: Tensor | None = None,
        *,
        augment: Augment | None = None,
        workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.indices = torch.arange(len(dataset)) if indices is None else indices
        self._augment = augment
        self._workers = workers

    def __len__(self) -> int:
        """Count the images."""
        return len(self.indices)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches; see `Split.batches`.

        Raises:
            DataError: an item is not a (float tensor (C, H, W), int) pair, or shapes differ within a batch.
        """
        rng = torch.Generator().manual_seed(seed)
        # The pool costs nothing until its first task, so one shape of loop serves both ways of fetching.
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            fetch = pool.map if self._workers else map
            for idx in torch.split(self.indices[_order(len(self), shuffle, limit, rng)], batch_size):
                images, labels = zip(*fetch(self._item, idx.tolist()), strict=True)
                if len(shapes := {tuple(image.shape) for image in images}) > 1:
                    raise DataError(
                        f"images of different shapes in one data set: {sorted(shapes)}",
                        hint="resize them to one shape in the data set",
                    )
                x = torch.stack(images)
                if augment and self._augment:
                    x = self._augment(x, rng).contiguous()
                yield x, torch.tensor(labels)

    def _item(self, index: int) -> tuple[Tensor, int]:
        try:
            item = self.dataset[index]
        except (OSError, ValueError, LookupError, TypeError) as err:
            raise DataError(
                f"item {index} of the data set cannot be read: {first_line(err)}",
                hint="repair it, or leave it out",
            ) from err
        return checked_item(item, index)


def checked_item(item: object, index: int) -> tuple[Tensor, int]:
    """Return one item of a foreign data set as (float32 (C, H, W), int).

    Raises:
        DataError: it is something else.
    """
    match item:
        case (Tensor() as x, y) if x.ndim == 3 and x.is_floating_point():
            try:
                label = int(cast(SupportsInt, y))
            except (TypeError, ValueError):
                label = -1
            if label >= 0:
                return x.float(), label
    raise DataError(
        f"item {index} of the data set is not a pair of a float image tensor (C, H, W) and a class number",
        hint="convert images to normalised float tensors and labels to ints >= 0 in the data set",
    )


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Return a random permutation (N,) of which each stretch holds the classes in their overall proportion.

    So any cut gives stratified parts of exact size, and the first `limit` images are a fair sample.
    """
    rng = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=rng)
    jitter = torch.rand(len(labels), generator=rng, dtype=torch.float64)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in sorted(set(labels.tolist())):
        # The k-th of n images of a class goes to a random place in [k/n, (k+1)/n) of the whole.
        members = (labels[shuffled] == label).nonzero().squeeze(1)
        place[members] = (torch.arange(len(members)) + jitter[members]) / len(members)
    return shuffled[place.argsort(stable=True)]


def carve_search(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Part the indices of training images into (train, search), stratified.

    The search part holds 10 % but at most 5,000, and at least 1,000 where that is no more than 20 %.

    Raises:
        DataError: fewer than two images.
    """
    n = len(labels)
    if n < 2:
        raise DataError(
            f"{n} training images cannot be parted into train and search", hint="give more images"
        )
    n_search = max(1, min(5_000, max(n // 10, min(1_000, n // 5))))
    search, train = torch.split(stratified_order(labels, seed), [n_search, n - n_search])
    return train, search


def load_embedded(name: str, *, seed: int = 0, **options: int) -> DataSet:
    """Load one of the `EMBEDDED` data sets, which need no files of the user's.

    Args:
        name: one of `EMBEDDED`.
        seed: chooses the split (`digits`) or the images (`glyphs`): keep one for all runs to be compared.
        **options: further arguments of the data set's own.

    Raises:
        DataError: the library that carries the raw material is not installed.
    """
    try:
        module = importlib.import_module(f"models_zoo.{name}")
    except ModuleNotFoundError as err:
        raise DataError(
            f"data set {name!r} needs {err.name}, which is not installed", hint=f"pip install {err.name}"
        ) from err
    return cast(DataSet, module.load(seed=seed, **options))


def _order(n: int, shuffle: bool, limit: int | None, rng: torch.Generator) -> Tensor:
    return (torch.randperm(n, generator=rng) if shuffle else torch.arange(n))[:limit]
