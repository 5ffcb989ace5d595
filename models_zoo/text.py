"""Text for language models: tokens in a row, cut into windows that yield each token with the one after it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from graph.errors import DataError
from models_zoo.data import DataSet

LENGTH = 256  # tokens of a window where nobody says otherwise
BYTES = tuple(map(str, range(256)))  # the vocabulary of plain bytes
SEPARATOR = b"\0"  # between two documents
_TEST, _SEARCH = 0.1, 0.2  # up to which place of a file's hash it belongs to which part


class TokenSplit:
    """A split of a text: windows of `length` tokens, one after the other.

    Args:
        tokens: integers (T,) of any type.
        length: L, tokens of a window.
        bytes_per_token: of the text that they stand for; None where nobody knows.
    """

    def __init__(self, tokens: Tensor, length: int, *, bytes_per_token: float | None) -> None:
        self.tokens, self.length, self.bytes_per_token = tokens, length, bytes_per_token

    def __len__(self) -> int:
        """Count the windows."""
        return max(0, (len(self.tokens) - 1) // self.length)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)``: tokens and the tokens after them, int64 (B, L) each; see `Split.batches`.

        Args:
            batch_size: windows per batch.
            shuffle: draw a new order from `seed`.
            augment: shift all windows by a number of tokens drawn from `seed`.
            seed: fixes both.
            limit: stop after this many windows.
        """
        rng = torch.Generator().manual_seed(seed)
        room = len(self.tokens) - 1 - len(self) * self.length
        shift = int(torch.randint(min(self.length, room + 1), (), generator=rng)) if augment else 0
        order = torch.randperm(len(self), generator=rng) if shuffle else torch.arange(len(self))
        for idx in torch.split(order[:limit], batch_size):
            rows_BL = idx[:, None] * self.length + shift + torch.arange(self.length)
            yield self.tokens[rows_BL].long(), self.tokens[rows_BL + 1].long()


def text_data(
    name: str,
    parts: Sequence[Tensor],
    *,
    length: int,
    classes: tuple[str, ...] = BYTES,
    unit: str = "bytes",
    bytes_per_token: Sequence[float | None] = (1.0, 1.0, 1.0),
    notes: tuple[str, ...] = (),
) -> DataSet:
    """Put the three parts of a text together.

    Args:
        name: of the data set.
        parts: tokens of train, search and test.
        length: tokens of a window.
        classes: the vocabulary.
        unit: what a token is: ``bytes`` or ``tokens``.
        bytes_per_token: of each part.
        notes: lines that a report should show.

    Raises:
        DataError: a part is shorter than one window.
    """
    splits = []
    for title, tokens, each in zip(("train", "search", "test"), parts, bytes_per_token, strict=True):
        if len(tokens) <= length:
            raise DataError(
                f"{name}: the {title} part has {len(tokens)} {unit}, a window takes {length + 1}",
                hint="give more text, or a shorter window: ?length=64",
            )
        splits.append(TokenSplit(tokens, length, bytes_per_token=each))
    train, search, test = splits
    return DataSet(name, train, search, test, classes=classes, input_shape=(length,), notes=notes, unit=unit)


def parted(names: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """Part documents by their names into train, search and test: the same name always goes the same way.

    A tenth of all names goes to test and a tenth to search, as their SHA-256 falls; each part gets at least
    one, as long as there are three. A part is in the order of the hashes, so that any cut is a fair sample.
    """
    place = {n: int.from_bytes(hashlib.sha256(n.encode()).digest()[:8]) / 2**64 for n in names}
    order = sorted(place, key=lambda n: (place[n], n))
    test = [n for n in order if place[n] < _TEST] or order[:1]
    rest = [n for n in order if n not in set(test)]
    search = [n for n in rest if place[n] < _SEARCH] or rest[:1]
    train = [n for n in rest if n not in set(search)]
    return train, search, test


def byte_tokens(documents: Iterable[bytes], limit: int | None = None) -> Tensor:
    """Documents as one row of bytes, uint8 (T,), each followed by a zero.

    Args:
        documents: taken in order until the limit is reached.
        limit: cut there, in bytes.
    """
    found = bytearray()
    for document in documents:
        found += document + SEPARATOR
        if limit is not None and len(found) >= limit:
            del found[limit:]
            break
    return torch.frombuffer(found, dtype=torch.uint8) if found else torch.empty(0, dtype=torch.uint8)
