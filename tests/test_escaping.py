"""Escaping: one line, printable, and of a length that fits."""

from __future__ import annotations

import pytest

from prune.escaping import code, markdown, plain, workflow_message, workflow_property

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer1.0.conv", "layer1.0.conv"),
        ("ünïcode 层", "ünïcode 层"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J\x00\x9b", "\\x1b[2J\\x00\\x9b"),
        ("\u202eabc\u2028", "\\u202eabc\\u2028"),
        ("\ud800", "\\ud800"),
        ("\ufffe", "\\ufffe"),
        (12, "12"),
    ],
)
def test_plain(text: object, shown: str) -> None:
    assert plain(text) == shown


def test_plain_is_short() -> None:
    assert len(plain("x" * 10**6)) == 200
    assert len(plain("\x00" * 10**6)) < 1000


def test_markdown_takes_all_meaning_from_punctuation() -> None:
    assert markdown("a-b.c/d") == "a-b.c/d"
    for mark in "|`*_[]<>&\\#!~@:$\"'":
        assert markdown(f"a{mark}b") == f"a&#{ord(mark)};b"
    assert code("@you") == "<code>&#64;you</code>"


def test_workflow_commands_are_escaped_as_github_does() -> None:
    assert workflow_message("50% a:b,c") == "50%25 a:b,c"
    assert workflow_property("50% a:b,c") == "50%25 a%3Ab%2Cc"
    assert "\n" not in workflow_message("a\n::error::b")
