"""Suggestions: what somebody may have meant who wrote a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint: the names that are near, or all that there are.

    Args:
        name: what was written.
        known: what could have been, in the order to list.
    """
    names = list(known)
    near = get_close_matches(name.lower(), names, 3)
    return f"did you mean {', '.join(near)}?" if near else f"one of {', '.join(names)}"
