"""Notebooks: tables and lines as HTML without a style of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prune.markup import text

_LONGEST = 1000


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    caption = f"<caption>{text(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def lines(found: Iterable[str]) -> str:
    """One line of text below the other."""
    return "".join(f"<div>{text(line, _LONGEST)}</div>" for line in found)
