"""One word for each data set: what `--data SPEC` means."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl

import torch
from torch import Tensor

from graph.errors import DataError
from graph.suggest import suggestion
from models_zoo.data import EMBEDDED, DataSet, MapDataset, MapSplit, carve_search, checked_item, load_embedded
from models_zoo.text import LENGTH
from prune import cifar10, imagefolder, maskfolder
from prune.text import TextOptions, load_text, load_tokens

_TEXTS = ("pystdlib", "text", "tokens")
_KNOWN = (
    *EMBEDDED,
    "text:PATH",
    "tokens:FILE.npy",
    "cifar10:PATH",
    "imagefolder:PATH",
    "imagefolder:PATH?size=PIXELS",
    "maskfolder:PATH",
    "package.module:factory",
)
_PATHS = ("cifar10", "imagefolder", "maskfolder")
_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def load_data(
    spec: str, *, seed: int = 0, length: int | None = None, tokenizer: Path | None = None
) -> DataSet:
    """Load the data set that `spec` names.

    Args:
        spec: `digits`, `glyphs`, `shapes`, `pystdlib`, `text:PATH` (a file or a folder of them),
            `tokens:FILE` (.npy or .bin), `cifar10:PATH`, `imagefolder:PATH` or `maskfolder:PATH`, both with
            `?size=PIXELS` where it is wanted, or `package.module:factory`. Texts take `?length=TOKENS`, the
            length of a window. A factory is code that the user names, found on the import path or in the
            working directory. It is called without arguments, or with `seed=` if it takes one, and returns
            a `DataSet` or a tuple of map-style data sets, (train, test) or (train, search, test), of
            normalised (C, H, W) images and class numbers.
        seed: chooses the splits (for `glyphs` the images), so that runs with one seed can be compared; it is
            not the seed of a run. Test images of `cifar10` and of folders with `test` or `val` are fixed,
            and so are all splits of texts.
        length: of a text's windows where `spec` says nothing; 256 when left out.
        tokenizer: for `text:PATH`, a `tokenizer.json`; the text is taken as bytes without one.

    Raises:
        DataError: the name is unknown, or what it names is missing, incomplete or malformed.
    """
    name, colon, rest = spec.partition(":")
    if name.partition("?")[0] in _TEXTS:
        return _text(spec, length, tokenizer)
    if name in EMBEDDED:
        if colon:
            raise DataError(f"data set {name!r} takes no path, got {spec!r}", hint=f"--data {name}")
        return load_embedded(name, seed=seed)
    if name in _PATHS:
        path, _, query = (rest, "", "") if name == "cifar10" else rest.partition("?")
        if not path:
            raise DataError(f"data set {spec!r} lacks its folder", hint=f"--data {name}:PATH")
        folder, side = Path(os.path.expanduser(path)), _side(query)
        try:
            if name == "cifar10":
                return cifar10.load(folder, seed=seed)
            if name == "maskfolder":
                return maskfolder.load(folder, side=side)
            return imagefolder.load(folder, side=side, seed=seed)
        except OSError as err:
            raise DataError(
                f"{err.filename or folder} cannot be read: {err.strerror}", hint="check it"
            ) from err
    if _FACTORY.fullmatch(spec):
        return _from_factory(spec, seed)
    raise DataError(f"unknown data set {spec!r}", hint=suggestion(spec, _KNOWN))


def is_code(spec: str) -> bool:
    """Whether a specification names a function, which is run."""
    return spec.partition(":")[0] not in (*_TEXTS, *_PATHS) and _FACTORY.fullmatch(spec) is not None


def _text(spec: str, length: int | None, tokenizer: Path | None) -> DataSet:
    """One of the texts, with a window as the specification says it."""
    plain, _, query = spec.partition("?")
    name, _, rest = plain.partition(":")
    if query:
        options = dict(parse_qsl(query, keep_blank_values=True))
        value = options.pop("length", "")
        if options or not (value.isascii() and value.isdigit()) or not 2 <= int(value) <= 1 << 20:
            raise DataError(f"?{query} is not a length of windows", hint="?length=TOKENS, from 2 on")
        length = int(value)
    window = length or LENGTH
    if name in EMBEDDED:
        if plain != name:
            raise DataError(f"data set {name!r} takes no path, got {spec!r}", hint=f"--data {name}")
        return load_embedded(name, length=window)
    if not rest:
        raise DataError(f"data set {spec!r} lacks its path", hint=f"--data {name}:PATH")
    path = Path(os.path.expanduser(rest))
    try:
        if name == "tokens":
            return load_tokens(path, TextOptions(window))
        return load_text(path, TextOptions(window, tokenizer))
    except OSError as err:
        raise DataError(f"{err.filename or path} cannot be read: {err.strerror}", hint="check it") from err


def _side(query: str) -> int | None:
    """Read `size=PIXELS`; None for an empty query."""
    if not query:
        return None
    options = dict(parse_qsl(query, keep_blank_values=True))
    value = options.pop("size", "")
    if options or not (value.isascii() and value.isdigit()) or int(value) not in imagefolder.SIZES:
        raise DataError(
            f"?{query} is not an image size",
            hint=f"?size=PIXELS, {imagefolder.SIZES[0]} to {imagefolder.SIZES[-1]}",
        )
    return int(value)


def _from_factory(spec: str, seed: int) -> DataSet:
    module_name, _, attribute = spec.partition(":")
    with _working_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except Exception as err:
            # A package missing on the way to the module is a wrong spec; all else is the module's failure.
            if isinstance(err, ModuleNotFoundError) and f"{module_name}.".startswith(f"{err.name}."):
                raise DataError(
                    f"data set {spec!r}: no module {err.name!r}", hint=f"known: {', '.join(_KNOWN)}"
                ) from err
            raise DataError(
                f"importing {module_name} failed: {_told(err)}", hint="repair the module"
            ) from err
        factory = getattr(module, attribute, None)
        if not callable(factory):
            what = f"{attribute!r} is not callable" if hasattr(module, attribute) else f"has no {attribute!r}"
            raise DataError(f"data set {spec!r}: {module_name} {what}", hint="name a function of that module")
        try:
            made = factory(**({"seed": seed} if _takes_seed(factory) else {}))
        except Exception as err:
            raise DataError(f"{spec} failed: {_told(err)}", hint="call it by hand to see where") from err
        if isinstance(made, DataSet):
            return made
        if isinstance(made, tuple) and len(made) in (2, 3) and all(_is_map_style(part) for part in made):
            return _from_parts(spec, made, seed)
    raise DataError(
        f"{spec} returned {type(made).__name__}, not a DataSet or 2 or 3 non-empty map-style data sets",
        hint="return (train, test) or (train, search, test)",
    )


def _from_parts(spec: str, parts: tuple[MapDataset, ...], seed: int) -> DataSet:
    """Join map-style data sets; a missing search split is carved from the first."""
    train, test = parts[0], parts[-1]
    shapes = {tuple(_item(spec, part, 0)[0].shape) for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"{spec}: its splits have images of shapes {sorted(shapes)}", hint="resize them to one shape"
        )
    labels = [_labels(spec, part) for part in parts]
    n_classes = 1 + max(int(part.max()) for part in labels)
    names = tuple(map(str, getattr(train, "classes", ())))
    notes: tuple[str, ...] = ()
    if len(parts) == 3:
        kept, search = None, MapSplit(parts[1])
    else:
        kept, carved = carve_search(labels[0], seed)
        search = MapSplit(train, carved)
        notes += (
            f"{spec}: search images are carved from train and share its own augmentation, if it has any",
        )
    return DataSet(
        name=spec,
        train=MapSplit(train, kept),
        search=search,
        test=MapSplit(test),
        classes=names if len(names) >= n_classes else tuple(map(str, range(n_classes))),
        input_shape=cast(tuple[int, int, int], shapes.pop()),
        notes=notes,
    )


def _labels(spec: str, part: MapDataset) -> Tensor:
    """Return all labels: from `targets`, as torchvision's data sets have it, else by reading every item."""
    targets = getattr(part, "targets", None)
    if isinstance(targets, (list, Tensor)) and len(targets) == len(part):
        labels = torch.as_tensor(targets)
        if labels.ndim == 1 and not labels.is_floating_point() and int(labels.min()) >= 0:
            return labels.long()
    return torch.tensor([_item(spec, part, index)[1] for index in range(len(part))])


def _item(spec: str, part: MapDataset, index: int) -> tuple[Tensor, int]:
    try:
        item = part[index]
    except Exception as err:
        raise DataError(f"{spec}: item {index} failed: {_told(err)}", hint="repair the data set") from err
    return checked_item(item, index)


def _is_map_style(part: object) -> bool:
    return hasattr(part, "__getitem__") and hasattr(part, "__len__") and len(part) > 0


def _takes_seed(factory: object) -> bool:
    try:
        parameters = inspect.signature(factory).parameters  # type: ignore[arg-type]  # callable, checked before
    except (TypeError, ValueError):  # some built-in callables have no signature
        return False
    return "seed" in parameters


def _told(err: Exception) -> str:
    return f"{type(err).__name__}: {err}"


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Put the working directory first on the import path for a while, as `python -m` does."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before
