"""Identity: short names for a program and for data, so that one run's answers never serve another's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from graph.channels import Axes
from graph.errors import ResumeError
from models_zoo.data import DataSet
from prune.journal import Journal

_RECORDS = 256  # of each split that are looked at


def digest(parts: Iterable[str | bytes | Tensor]) -> str:
    """The SHA-256 of words and tensors, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


def of_model(axes: Axes) -> str:
    """The identity of a program, its weights and which of its channels go together."""
    program = axes.program
    return digest([repr((program.nodes, axes.classes)), *program.tensors.values()])


def of_data(data: DataSet) -> str:
    """The identity of a data set: its name, classes and sizes, and the first 256 records of each split.

    Of the training split these are the labels alone: images may be changed at random as they are read.
    """
    splits = (data.train, data.search, data.test)
    parts: list[str | Tensor] = [repr((data.name, data.classes, data.input_shape, [len(s) for s in splits]))]
    for split in splits:
        for records, labels in split.batches(_RECORDS, limit=_RECORDS):
            parts += [labels] if split is data.train else [records, labels]
    return digest(parts)


def must_be_the_same(journal: Journal, kind: str, name: str, found: str) -> None:
    """Whether something is what it was when the run was started.

    Args:
        journal: of the run.
        kind: ``model``, ``data`` or ``policy``.
        name: as the user gave it.
        found: its identity now.

    Raises:
        ResumeError: it is not.
    """
    if journal.root.recall(kind, lambda: found) != found:
        raise ResumeError(
            f"the {kind} {name} is not what it was when the run was started",
            hint="put back what was there; --force starts over",
        )
