"""Manifests: whatever changes in a run is found, and what is replaced on purpose is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from graph.errors import ManifestError
from prune.load import load_model
from prune.manifest import MANIFEST_FILE, check_file, check_folder, renew, write_manifest
from prune.page import write_page
from prune.pruned import load_plan, load_pruned
from prune.stored import read_stored
from tests.hostile.honest import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A curve of one point, of few bytes."""
    (tmp_path / "0.50").mkdir()
    (tmp_path / "0.50" / "plan.json").write_text("{}")
    (tmp_path / "pareto.json").write_text("[]")
    for folder in (tmp_path / "0.50", tmp_path):
        write_manifest(folder)
    return tmp_path


def test_all_files_are_listed_with_size_and_hash(run: Path) -> None:
    found = json.loads((run / MANIFEST_FILE).read_text())
    assert (found["format"], found["version"]) == ("prune-manifest", 1)
    assert set(found["files"]) == {p.name for p in run.iterdir()} - {MANIFEST_FILE}
    assert all(found["files"][n]["size"] == (run / n).stat().st_size for n in found["files"])
    assert check_folder(run)


def test_every_changed_byte_is_found(small: Path) -> None:
    for path in sorted(p for p in small.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            with pytest.raises(ManifestError) as caught:
                check_folder(small)
            assert "\n" not in str(caught.value) and caught.value.hint
        path.write_bytes(whole)
    assert check_folder(small)


def test_every_cut_and_every_missing_file_is_found(small: Path) -> None:
    for path in sorted(p for p in small.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for at in range(len(whole)):
            os.truncate(path, at)
            with pytest.raises(ManifestError):
                check_folder(small)
            path.write_bytes(whole)
        if path != small / MANIFEST_FILE:
            path.unlink()
            with pytest.raises(ManifestError, match="is missing"):
                check_folder(small)
            path.write_bytes(whole)


def test_the_first_file_is_named_and_the_others_are_counted(run: Path) -> None:
    (run / "plan.json").write_text("{}")
    (run / "graph.json").unlink()
    with pytest.raises(ManifestError, match=r"graph\.json is missing, and 1 more"):
        check_folder(run)


def test_a_folder_without_a_manifest_is_opened_with_a_note(run: Path) -> None:
    assert not load_model(run).notes
    (run / MANIFEST_FILE).unlink()
    assert not check_folder(run)
    assert "no manifest.json" in load_model(run).notes[0]


def test_files_of_the_users_own_do_not_count(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    assert check_folder(run)


def test_one_file_is_compared_alone(run: Path) -> None:
    (run / "graph.json").unlink()
    check_file(run / "report.json")
    check_file(run / "notes.txt")
    (run / "report.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"report\.json has 2 bytes"):
        check_file(run / "report.json")


def test_python_is_told_too(run: Path) -> None:
    (run / "plan.json").write_text("{}")
    for read in (load_pruned, load_plan, load_model):
        with pytest.raises(ManifestError, match=r"plan\.json"):
            read(run)


def test_what_is_replaced_on_purpose_is_renewed_up_to_the_curve(small: Path) -> None:
    path = small / "0.50" / "plan.json"
    path.write_text('{"another": 1}')
    renew(path)
    assert check_folder(small / "0.50") and check_folder(small)


def test_a_page_that_is_written_again_leaves_the_folder_whole(run: Path) -> None:
    page = run / "report.html"
    write_page(read_stored(run), page)
    write_manifest(run)
    page.write_text("older")
    with pytest.raises(ManifestError):
        check_folder(run)
    report = run / "report.json"
    write_page(read_stored(report), page)
    assert check_folder(run)
