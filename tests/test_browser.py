"""The page in a real browser: it renders, fits, changes with the colour scheme, and asks for nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import NAMES, Browser, Seen, find_browser
from page_reports import report, write_curve, write_report
from PIL import Image
from test_page import HOSTILE, everywhere

from prune.page import PAGE_FILE, write_page
from prune.stored import read_stored

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser in PATH: none of {', '.join(NAMES)}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as found:
        yield found


def drawn(folder: Path) -> Path:
    write_page(read_stored(folder), folder / PAGE_FILE)
    return folder / PAGE_FILE


def hostile() -> dict[str, object]:
    name = "".join(HOSTILE)[:120] + "W" * 2000
    data: dict[str, object] = everywhere(report(), name)
    return data | {"format": "prune-report", "schema": 2, "command": ["prune", "compress", name]}


def fits(seen: Seen, page: Path, width: int) -> None:
    assert seen.console == []
    assert seen.requests == [page.resolve().as_uri()]  # the page itself and nothing else
    assert seen.width <= width and seen.broken == 0


@pytest.mark.parametrize("width", [1200, 360])
def test_a_run_is_shown(browser: Browser, tmp_path: Path, width: int) -> None:
    write_report(tmp_path, report())
    page = drawn(tmp_path)
    light, dark = (browser.look(page, width=width, dark=d) for d in (False, True))
    for seen in (light, dark):
        fits(seen, page, width)
        assert "resnet20 on digits" in seen.text and "1.26 M" in seen.text and "layer1.0.conv1" in seen.text
    pictures = [np.asarray(Image.open(io.BytesIO(s.png)).convert("L"), dtype=float) for s in (light, dark)]
    assert pictures[0].shape == pictures[1].shape and pictures[0].shape[1] == width
    assert pictures[0].mean() > 200 and pictures[1].mean() < 60
    assert all(len(np.unique(p)) > 100 for p in pictures)


def test_a_curve_is_shown(browser: Browser, tmp_path: Path) -> None:
    page = drawn(write_curve(tmp_path / "curve"))
    for width in (1200, 360):
        seen = browser.look(page, width=width, dark=False)
        fits(seen, page, width)
        assert "Point 0.40" in seen.text


def test_hostile_names_are_text_and_do_not_widen_the_page(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path, hostile())
    page = drawn(tmp_path)
    for width in (1200, 360):
        seen = browser.look(page, width=width, dark=False)
        fits(seen, page, width)
        assert "<script>alert(1)</script>" in seen.text


def test_a_report_with_nothing_in_it_is_shown(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path, {"format": "prune-report", "schema": 2})
    page = drawn(tmp_path)
    fits(browser.look(page, width=360, dark=True), page, 360)


# The checks themselves: each finds the break it is there for.


def test_what_leaves_the_page_is_found(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="https://example.invalid/x.png"><script>console.error("no")</script>')
    seen = browser.look(page, width=360, dark=False)
    assert "https://example.invalid/x.png" in seen.requests and '"no"' in "".join(seen.console)
    page.write_text('<meta name="viewport" content="width=device-width"><div style="width:500px">wide</div>')
    seen = browser.look(page, width=360, dark=False)
    assert seen.width > 360 and seen.broken > 0


def test_the_policy_alone_would_stop_a_script(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path, report())
    page = drawn(tmp_path)
    told = "<script>document.title='ran'</script><img src=https://example.invalid/y.png>"
    page.write_text(page.read_text(encoding="utf-8").replace("<main>", f"<main>{told}"), encoding="utf-8")
    seen = browser.look(page, width=1200, dark=False)
    assert sum("Content Security Policy" in line for line in seen.console) == 2
    assert seen.title == "resnet20 on digits"
