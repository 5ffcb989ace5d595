"""Awkward modules: tiny networks, each with one thing in it that breaks pruners.

Most are failures that users reported, of Torch-Pruning above all; the captions name its issues.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import attention, images, mixtures, sequences
from .case import Awkward, index

__all__ = ["MODULES", "Awkward"]

MODULES: Mapping[str, Awkward] = index(
    [*images.ENTRIES, *attention.ENTRIES, *sequences.ENTRIES, *mixtures.ENTRIES]
)
