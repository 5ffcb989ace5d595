"""Escaping: text from files of others, on its way into a terminal, Markdown, XML or a workflow command."""

from __future__ import annotations

_LONGEST = 200
_PLAIN_IN_MARKDOWN = frozenset(" ./-")


def plain(text: object, longest: int = _LONGEST) -> str:
    """One line of printable characters and of a sensible length.

    Line breaks, escape sequences, marks that turn the direction of writing, and what cannot be encoded are
    written as Python writes them, with a backslash.
    """
    words = str(text)
    cut = words if len(words) <= longest else f"{words[: longest - 1]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)


def markdown(text: object) -> str:
    """Text as such in any place of GitHub's Markdown, cells of tables included.

    Entities, not backslashes: a pipe after an escaped backslash would still end the cell.
    """
    return "".join(
        c if c.isalnum() or c in _PLAIN_IN_MARKDOWN or not c.isascii() else f"&#{ord(c)};"
        for c in plain(text)
    )


def code(text: object) -> str:
    """A name in Markdown: as ``markdown``, and no mention of anybody."""
    return f"<code>{markdown(text)}</code>"


def workflow_message(text: object) -> str:
    """The message of a workflow command of GitHub, as its own toolkit escapes it."""
    return plain(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def workflow_property(text: object) -> str:
    """A property of a workflow command, such as ``file``."""
    return workflow_message(text).replace(":", "%3A").replace(",", "%2C")
