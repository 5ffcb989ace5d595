"""The documentation as a site: it builds without a warning, and its pages ask no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

import prune

ROOT = Path(__file__).parents[1]


class _Loaded(HTMLParser):
    """What a browser loads for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = {"script": "src", "img": "src", "link": "href", "iframe": "src"}.get(tag)
        if name and given.get(name) and given.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(str(given[name]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    pages = {p.stem for p in (ROOT / "docs").glob("*.md")}
    assert {p.parent.name for p in site.glob("*/index.html")} >= pages - {"index"}
    start = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{page}/"' in start for page in pages - {"index"})


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        parser = _Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert [x for x in parser.found if re.match(r"(https?:)?//", x)] == [], page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import\s*)[\"']?(https?:)?//", text), sheet


def test_the_reference_has_every_public_name(site: Path) -> None:
    text = (site / "reference" / "index.html").read_text(encoding="utf-8")
    for name in set(prune.__all__) - {"__version__"}:
        assert re.search(rf'id="[\w.]*\.{name}"', text), name


def test_pictures_are_small_and_of_a_report() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").iterdir())
    assert {p.suffix for p in pictures} == {".svg"} and max(p.stat().st_size for p in pictures) < 100_000
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.search(r"PICTURES := (.*)", makefile)
    assert named and sorted(named[1].split()) == [p.stem for p in pictures]
