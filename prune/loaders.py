"""Loaders: data sets and data loaders of torch, and plain tensors, as a data set with three splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from graph.errors import DataError
from models_zoo.data import DataSet, carve_search

# A data set or a loader of torch's, or a pair of tensors: images and class numbers.
Part = Dataset[Any] | DataLoader[Any] | tuple[Tensor, Tensor]
Data = str | DataSet | Part | Sequence[Part]
_HINT = (
    "data=(train, test) or (train, search, test), each a Dataset or DataLoader of torch or a pair of "
    "tensors; a DataSet of prune; or a name as for --data"
)
_AT_ONCE = 256


class LoaderSplit:
    """Some records of a data loader, in batches of whatever size and order the caller wants.

    Its data set, its way to collate and its workers are the loader's own; its batch size and its shuffling
    are not used.

    Args:
        loader: of a map-style data set.
        indices: which records belong to the split.
    """

    def __init__(self, loader: DataLoader[Any], indices: Tensor) -> None:
        self.loader, self.indices = loader, indices

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
        """Yield batches; see ``models_zoo.data.Split``. Augmentation is the data set's own, if it has any.

        Raises:
            DataError: the data set fails, or a batch is no pair of float images and class numbers.
        """
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=rng) if shuffle else torch.arange(len(self))
        chunks = [chunk.tolist() for chunk in torch.split(self.indices[order[:limit]], batch_size)]
        batches = DataLoader(
            self.loader.dataset,
            batch_sampler=chunks,
            collate_fn=self.loader.collate_fn,
            num_workers=self.loader.num_workers,
            worker_init_fn=self.loader.worker_init_fn,
            multiprocessing_context=self.loader.multiprocessing_context,
            generator=rng,
        )
        try:
            for batch in batches:
                yield _checked(batch)
        except DataError:
            raise
        except Exception as err:  # noqa: BLE001 - the user's own code
            told = (str(err).strip().splitlines() or [""])[-1]
            raise DataError(
                f"the data set failed: {type(err).__name__}: {told}",
                hint="read one batch by hand to see where",
            ) from err


def data_set(given: Data | None) -> str | DataSet | None:
    """What a Python caller gives as data, as a name or a data set.

    Args:
        given: a name or a data set are returned as they are. Of (train, test), the search split is carved off
            the training records; of a single part the test split as well, a tenth of it.

    Raises:
        DataError: it is nothing of that kind, or it holds no images with class numbers.
    """
    if given is None or isinstance(given, (str, DataSet)):
        return given
    parts = [_loader(part) for part in _parts(given)]
    rows = [_indices(loader) for loader in parts]
    labels = [_labels(loader, found) for loader, found in zip(parts, rows, strict=True)]
    splits = [LoaderSplit(loader, found) for loader, found in zip(parts, rows, strict=True)]
    notes: tuple[str, ...] = ()
    if len(splits) == 1:
        train, test = carve_search(labels[0], 0)
        splits = [LoaderSplit(parts[0], rows[0][train]), LoaderSplit(parts[0], rows[0][test])]
        labels = [labels[0][train], labels[0][test]]
        notes = (
            f"{len(test)} of the images that were given are the test images: name others with (train, test)",
        )
    if len(splits) == 2:
        train, search = carve_search(labels[0], 0)
        whole = splits[0]
        splits = [
            LoaderSplit(whole.loader, whole.indices[train]),
            LoaderSplit(whole.loader, whole.indices[search]),
            splits[1],
        ]
        notes += ("search images are carved from train and share its own augmentation, if it has any",)
    images = [next(iter(split.batches(1)))[0] for split in splits]
    shapes = {tuple(x.shape[1:]) for x in images}
    if len(shapes) > 1:
        raise DataError(
            f"data: its splits have images of shapes {sorted(shapes)}", hint="resize them to one shape"
        )
    classes = 1 + max(int(found.max()) for found in labels)
    known = getattr(parts[0].dataset, "classes", ())
    names = tuple(map(str, known)) if isinstance(known, (list, tuple)) else ()
    return DataSet(
        name=_name(parts[0].dataset),
        train=splits[0],
        search=splits[1],
        test=splits[2],
        classes=names if len(names) >= classes else tuple(map(str, range(classes))),
        input_shape=shapes.pop(),
        notes=notes,
    )


def _parts(given: Part | Sequence[Part]) -> list[Part]:
    if isinstance(given, (Dataset, DataLoader)) or _is_pair(given):
        return [cast(Part, given)]
    if isinstance(given, (tuple, list)) and len(given) in (1, 2, 3):
        return list(given)
    raise DataError(f"data: {type(given).__name__} is no data set", hint=_HINT)


def _is_pair(given: object) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(t, Tensor) for t in given)


def _loader(part: Part) -> DataLoader[Any]:
    if _is_pair(part):
        images, labels = cast(tuple[Tensor, Tensor], part)
        if len(images) != len(labels):
            raise DataError(f"data: {len(images)} images, {len(labels)} labels", hint="give one for each")
        part = TensorDataset(images.detach().cpu(), labels.detach().cpu())
    loader = part if isinstance(part, DataLoader) else None
    found = loader.dataset if loader is not None else part
    if isinstance(found, IterableDataset) or not (
        hasattr(found, "__getitem__") and hasattr(found, "__len__")
    ):
        raise DataError(
            f"data: {type(found).__name__} cannot be read by index, so that it has no order to go by",
            hint=_HINT,
        )
    if not len(found):
        raise DataError(f"data: {type(found).__name__} is empty", hint="give at least two images")
    return loader if loader is not None else DataLoader(cast(Dataset[Any], found))


def _indices(loader: DataLoader[Any]) -> Tensor:
    """The records that a loader gives: of a sampler that draws only some, these."""
    every = (RandomSampler, SequentialSampler, type(None))
    if isinstance(loader.sampler, every):
        return torch.arange(len(cast(Any, loader.dataset)))
    with torch.random.fork_rng(devices=[]):
        return torch.tensor(sorted(set(loader.sampler)))


def _labels(loader: DataLoader[Any], indices: Tensor) -> Tensor:
    """All labels: from ``targets``, as torchvision's data sets have it, else by reading every record."""
    targets = getattr(loader.dataset, "targets", None)
    if isinstance(targets, (list, Tensor)) and len(targets) == len(cast(Any, loader.dataset)):
        labels = torch.as_tensor(targets)
        if labels.ndim == 1 and not labels.is_floating_point() and int(labels.min()) >= 0:
            return labels.long()[indices]
    with torch.random.fork_rng(devices=[]):
        return torch.cat([y for _, y in LoaderSplit(loader, indices).batches(_AT_ONCE)])


def _checked(batch: object) -> tuple[Tensor, Tensor]:
    match batch:
        case (Tensor() as x, Tensor() as y) if x.is_floating_point() and x.dim() > 1:
            if not y.is_floating_point() and y.shape == x.shape[:1] and int(y.min()) >= 0:
                return x.float(), y.long()
    raise DataError(
        "data: a batch is not a pair of float images (B, C, H, W) and class numbers (B,)",
        hint="make images normalised float tensors and labels whole numbers from 0 on",
    )


def _name(dataset: object) -> str:
    return "tensors" if isinstance(dataset, TensorDataset) else type(dataset).__name__
