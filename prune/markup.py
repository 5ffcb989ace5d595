"""Markup of the page: the few elements it is made of. Every text goes through ``text``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from prune.escaping import plain
from prune.page_words import Check
from prune.pictures import Chart, Picture
from prune.svg import draw_chart
from prune.tables import Cell, Number, Table

_MOST_ROWS = 400  # of a table on the page; its CSV has all
_SHORT = 10  # letters of a number that is not to be broken into lines


def text(value: object, longest: int = 200) -> str:
    """Any text, escaped: one line of at most so many printable characters."""
    return escape(plain(value, longest))


def card(
    label: str, value: str, was: str = "", change: str = "", kind: str = "", share: float | None = None
) -> str:
    """A figure at a glance: its name, its value, what it was, the change and the share that is left."""
    meter = ""
    if share is not None and math.isfinite(share):
        meter = f'<div class="meter"><i style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></i></div>'
    return (
        f'<div class="card"><span class="label">{text(label)}</span>'
        f'<span class="change {kind}">{text(change)}</span>'
        f'<span class="value">{text(value)}</span><span class="was">{text(was)}</span>{meter}</div>'
    )


def badges(found: Sequence[Check]) -> str:
    """What holds, what does not, and what is not known."""
    marks = {True: ("good", "✓"), False: ("bad", "✗"), None: ("soft", "–")}
    items = "".join(
        f'<li><b class="{marks[c.good][0]}">{marks[c.good][1]}</b>{text(c.told, 400)}</li>' for c in found
    )
    return f'<ul class="checks">{items}</ul>'


def section(heading: str, body: str) -> str:
    """A heading and what is under it; the body is markup."""
    return f"<section><h2>{text(heading)}</h2>{body}</section>"


def charts(found: Sequence[Picture]) -> str:
    """Charts side by side, or one above the other on a narrow screen."""
    figures = [_figure(c) for c in found if isinstance(c, Chart)]
    return f'<div class="pair">{"".join(figures)}</div>' if figures else ""


def _figure(chart: Chart) -> str:
    marks = {"dots": "M9 6h0", "ring": "M9 6h0"}
    items = [
        (
            f'<path class="{s.shape} {_colour(s.colour)}" d="{marks.get(s.shape, "M0 6h18")}"/>',
            s.label,
            s.told,
        )
        for s in chart.series
    ]
    return f"<figure><h3>{text(chart.title)}</h3>{draw_chart(chart)}{legend(items)}</figure>"


def patch(colour: int) -> str:
    """A filled mark for a legend."""
    return f'<g class="bar {_colour(colour)}"><rect class="kept" width="18" height="12"/></g>'


def legend(items: Sequence[tuple[str, str, str]]) -> str:
    """Of drawn marks, what they are, and the figure beside."""
    rows = (
        f'<li><svg class="key" viewBox="0 0 18 12" aria-hidden="true">{mark}</svg>'
        f'<span>{text(label)} <span class="soft">{text(told)}</span></span></li>'
        for mark, label, told in items
    )
    return f'<ul class="legend">{"".join(rows)}</ul>'


def _colour(index: int) -> str:
    return f"c{index % 7}" if index >= 0 else "c-"


def tabled(table: Table) -> str:
    """A table with its header; nothing where it has no rows."""
    head = "".join(f"<th>{text(h)}</th>" for h in table.header)
    return _rows(table, f"<thead><tr>{head}</tr></thead>", "") if table.rows else ""


def listed(table: Table) -> str:
    """Names and what they stand for."""
    return _rows(table, "", ' class="words"')


def _rows(table: Table, head: str, kind: str) -> str:
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows[:_MOST_ROWS])
    more = len(table.rows) - _MOST_ROWS
    note = f'<p class="note">and {more:,} more</p>' if more > 0 else ""
    label = text(table.title or table.name)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table{kind}>{head}'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def folded(table: Table) -> str:
    """A table that is closed at first."""
    if not table.rows:
        return ""
    return f"<details><summary>{text(table.title)} ({len(table.rows):,})</summary>{tabled(table)}</details>"


def _cell(cell: Cell) -> str:
    told = text(cell, 400)
    kind = ' class="number"' if isinstance(cell, Number) and len(told) <= _SHORT else ""
    return f"<td{kind}>{told}</td>"
