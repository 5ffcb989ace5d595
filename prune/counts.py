"""Counts: how many of a model's equal parts stay, as a user writes it: ``0.5``, ``50%`` or ``8``."""

from __future__ import annotations

from graph.errors import TargetError


def check_count(option: str, text: str, noun: str) -> None:
    """Check a share or a number before anybody knows of how many.

    Raises:
        TargetError: it is neither.
    """
    _read(option, text, noun)


def kept_count(option: str, text: str, whole: int, noun: str) -> int:
    """How many of a number of parts stay.

    Args:
        option: that the user gave.
        text: its value.
        whole: how many there are.
        noun: what they are, in the plural.

    Raises:
        TargetError: it is no share and no number, or none would stay, or all.
    """
    given = _read(option, text, noun)
    kept = given if isinstance(given, int) else int(given * whole + 1e-9)
    if kept < 1:
        raise TargetError(
            f"{option} {text} leaves none of {whole} {noun}",
            hint=f"keep at least one: {option} {-(-1000 // whole) / 1000:g}, or {option} 1",
        )
    if kept >= whole:
        raise TargetError(f"{option} {text}: there are only {whole} {noun}", hint="ask for less")
    return kept


def _read(option: str, text: str, noun: str) -> int | float:
    """A number of parts, or a share in (0, 1)."""
    text = text.strip()
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise TargetError(
            f"{option} {text}: not a share or a number of {noun}",
            hint=f"a share in (0, 1) such as {option} 0.5 or 50%, or a number such as {option} 8",
        )
    return share
