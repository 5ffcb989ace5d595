"""Options of a file: as if they were typed, before what really was; and nothing runs because of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graph.errors import UsageError
from prune.config_words import Option, config_words, named_file
from prune.settings import Settings

pytestmark = pytest.mark.smoke

PLAIN, FLAG, LIST = Option(False, False), Option(True, False), Option(False, True)
OPTIONS = {
    **dict.fromkeys(
        ("flops", "macs", "epochs", "lr", "data", "arch", "arch-args", "workers", "config"), PLAIN
    ),
    **dict.fromkeys(("force", "trust-code", "json"), FLAG),
    "tune": Option(True, False, ("--no-tune",)),
    "limit": LIST,
}


def words(values: dict[str, Any], *args: str, named: bool = False) -> list[str]:
    return config_words(Settings(Path("prune.toml"), values, named), OPTIONS, args)


def test_values_become_words() -> None:
    assert words({"flops": 0.5, "epochs": 3, "tune": False, "force": True}) == [
        "--flops=0.5", "--epochs=3", "--no-tune", "--force",
    ]  # fmt: skip
    assert words({"force": False}) == []
    assert words({"limit": ["a=0.5", "b=3"]}) == ["--limit=a=0.5", "--limit=b=3"]
    assert words({"limit": "a=0.5"}) == ["--limit=a=0.5"]
    assert words({"data": "-x"}) == ["--data=-x"]
    assert json.loads(words({"arch-args": {"n": 10}})[0].removeprefix("--arch-args=")) == {"n": 10}


def test_what_was_typed_replaces_lists_and_other_ways_to_say_it() -> None:
    assert words({"limit": ["a=0.5"], "epochs": 3}, "m.pt", "--limit", "b=1") == ["--epochs=3"]
    assert words({"macs": 0.5}, "m.pt", "--flops=0.7") == []
    assert words({"macs": 0.5}, "m.pt", "--", "--flops") == ["--macs=0.5"]


@pytest.mark.parametrize(
    ("values", "told", "hint"),
    [
        ({"epoch": 3}, "unknown option epoch", "did you mean epochs?"),
        ({"arch_args": {}}, "unknown option arch_args", "arch-args"),
        ({"config": "x"}, "unknown option config", "flops"),
        ({"tune": "no"}, "must be true or false", "tune = true"),
        ({"flops": True}, "must be a text or a number", ""),
        ({"flops": [1]}, "must be a text or a number", ""),
        ({"flops": {"a": 1}}, "must be a text or a number", ""),
        ({"limit": [1.5, []]}, "must be texts", ""),
        ({"trust-code": True}, "no option of a file", "give --trust-code"),
        ({"data": "evil:make"}, "would run code", "--config prune.toml"),
        ({"arch": "evil.sub:make"}, "would run code", "--arch evil.sub:make"),
        ({"workers": "ray://elsewhere:1"}, "would run code", "--workers"),
    ],
)
def test_a_wrong_value_is_told_with_its_file(values: dict[str, Any], told: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        words(values)
    assert "prune.toml" in str(caught.value) and told in str(caught.value) and hint in caught.value.hint


def test_a_named_file_may_name_code_of_the_user() -> None:
    assert words({"data": "mine:make"}, named=True) == ["--data=mine:make"]
    with pytest.raises(UsageError, match="trust-code"):
        words({"trust-code": True}, named=True)


@pytest.mark.parametrize("value", ["digits", "cifar10:DIR", "imagefolder:DIR?size=3", "text:FILE", "none"])
def test_data_of_ours_is_harmless(value: str) -> None:
    assert words({"data": value}) == [f"--data={value}"]


def test_the_named_file() -> None:
    assert named_file(["m.pt", "--config", "a.toml"]) == Path("a.toml")
    assert named_file(["--config=a.toml", "--config=b.toml"]) == Path("b.toml")
    assert named_file(["--", "--config", "a.toml"]) is None
    assert named_file(["--config"]) is None
