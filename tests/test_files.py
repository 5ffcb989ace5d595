"""Files: written whole or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graph.errors import ModelFileError, OutputError
from prune.files import OutputFolder, check_output_file, read_json, sha256, write_file, write_json

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parent.parent


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with its text; folders end in a slash."""
    return {
        str(p.relative_to(folder)) + ("/" if p.is_dir() else ""): "" if p.is_dir() else p.read_text()
        for p in folder.rglob("*")
    }


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 4 KiB; the kernel refuses as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def dead_partial(home: Path, name: str) -> Path:
    """What a killed run leaves: a process that writes to `name` and ends without cleaning up."""
    code = (
        "import os, sys; from pathlib import Path; from prune.files import OutputFolder\n"
        "out = OutputFolder(Path(sys.argv[1]), force=True).__enter__()\n"
        "(out.staging / 'half.json').write_text('{'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home / name)], cwd=ROOT, timeout=60)
    assert done.returncode == 9
    (found,) = (p for p in home.rglob(f".{name}.partial-*"))
    return found


# One file


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_text("new")
        assert not path.exists() or path.read_text() == "old"

    write_file(path, text("old"))
    write_file(path, write)
    assert seen[0] != path and seen[0].name == path.name
    assert tree(path.parent) == {"a.txt": "new"}


def test_companions_come_along(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("graph")
        (temporary.parent / "m.onnx.data").write_text("weights")

    write_file(tmp_path / "m.onnx", write)
    assert tree(tmp_path) == {"m.onnx": "graph", "m.onnx.data": "weights"}


@pytest.mark.parametrize("failure", [ValueError("bug"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise failure

    with pytest.raises(type(failure)):
        write_file(path, write)
    assert tree(tmp_path) == {"a.txt": "old"}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match=f"{path} cannot be written") as caught:
        write_file(path, text("x" * 10_000))
    assert "space" in caught.value.hint
    assert tree(tmp_path) == {"a.txt": "old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_late_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError, match="No space left"):
        write_file(tmp_path / "a.txt", text("new"))
    assert tree(tmp_path) == {"a.txt": "old"}


def test_a_dead_writer_is_cleaned_up_after(tmp_path: Path) -> None:
    dead_partial(tmp_path, "a.txt")
    write_file(tmp_path / "a.txt", text("new"))
    assert tree(tmp_path) == {"a.txt": "new"}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.txt", Path("/proc/a.txt")):
        with pytest.raises(OutputError, match="cannot be written") as caught:
            write_file(path, text(""))
        assert str(path) in str(caught.value) and caught.value.hint


# JSON and checksums


def test_json_comes_back(tmp_path: Path) -> None:
    data = {"z": 1, "a": [0.1, None, "ä"], "m": {"b": True}}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json", "plan") == data
    written = (tmp_path / "a.json").read_text()
    assert written.endswith("}\n") and written.index('"z"') < written.index('"a"') and '\n  "a"' in written


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"accuracy": float("nan")})
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "holds a list, not an object"),
        (b"9" * 10_000, "not JSON"),
    ],
)
def test_malformed_json_is_one_clear_line(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=words) as caught:
        read_json(path, "plan")
    assert f"the plan {path}" in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_folder_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="Is a directory"):
        read_json(tmp_path, "plan")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(ModelFileError, match="cannot be read"):
        sha256(tmp_path / "b")


# Checks before hours of work


def test_output_file_checks(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.onnx"
    check_output_file(path, force=False)
    assert path.parent.is_dir() and not path.exists()
    path.write_text("old")
    with pytest.raises(OutputError, match="exists") as caught:
        check_output_file(path, force=False)
    assert "--force" in caught.value.hint
    check_output_file(path, force=True)
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("path", "words"),
    [(".", "is a folder"), ("/dev/null", "not a regular file"), ("/proc/new/m.onnx", "cannot be written")],
)
def test_output_files_that_force_cannot_help(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(OutputError, match=words) as caught:
        check_output_file(tmp_path / path, force=True)
    assert caught.value.hint


def test_a_locked_folder_is_told_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(OutputError, match="Permission denied"):
        check_output_file(tmp_path / "a", force=False)
    with pytest.raises(OutputError, match="Permission denied"):
        OutputFolder(tmp_path / "a", force=False)


# Folders


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_appears_with_all_its_files(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "runs" / "one"
    if exists:
        target.mkdir(parents=True)
    with OutputFolder(target, force=False) as out:
        write_json(out.staging / "report.json", {})
        (out.staging / "tune").mkdir()
        (out.staging / "tune" / "last.ckpt").write_text("weights")
        assert not target.exists() or tree(target) == {}
    assert tree(tmp_path / "runs") == {
        "one/": "",
        "one/report.json": "{}\n",
        "one/tune/": "",
        "one/tune/last.ckpt": "weights",
    }


@pytest.mark.parametrize("failure", [ValueError("bug"), KeyboardInterrupt()])
@pytest.mark.parametrize("force", [False, True])
def test_a_failed_run_leaves_nothing(tmp_path: Path, failure: BaseException, force: bool) -> None:
    target = tmp_path / "one"
    if force:
        target.mkdir()
        (target / "report.json").write_text("old")
    before = tree(tmp_path)
    with pytest.raises(type(failure)), OutputFolder(target, force=force) as out:
        (out.staging / "report.json").write_text("half")
        raise failure
    assert tree(tmp_path) == before


def test_force_keeps_the_users_other_files(tmp_path: Path) -> None:
    target = tmp_path / "one"
    (target / "tune").mkdir(parents=True)
    (target / "notes.txt").write_text("mine")
    (target / "tune" / "old.ckpt").write_text("mine too")
    (target / "report.json").write_text("old")
    with pytest.raises(OutputError, match="is not empty") as caught:
        OutputFolder(target, force=False)
    assert "--force" in caught.value.hint
    with OutputFolder(target, force=True) as out:
        (out.staging / "report.json").write_text("new")
        (out.staging / "tune").mkdir()
        (out.staging / "tune" / "last.ckpt").write_text("weights")
    assert tree(target) == {
        "notes.txt": "mine",
        "report.json": "new",
        "tune/": "",
        "tune/last.ckpt": "weights",
        "tune/old.ckpt": "mine too",
    }
    assert list(tmp_path.iterdir()) == [target]


def test_a_mount_point_is_written_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "volume"
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda p: Path(p) == target)
    with OutputFolder(target, force=False) as out:
        assert out.staging.parent == target
        (out.staging / "report.json").write_text("new")
    assert tree(tmp_path) == {"volume/": "", "volume/report.json": "new"}
    (target / "report.json").unlink()
    dead_partial(target, "volume").rename(target / ".volume.partial-1")
    OutputFolder(target, force=False)
    assert tree(target) == {}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    with OutputFolder(tmp_path / "out", force=False) as out:
        (out.staging / "a").write_text("new")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "a").read_text() == "new"


def test_what_a_dead_run_left_is_removed(tmp_path: Path) -> None:
    assert dead_partial(tmp_path, "one").parent == tmp_path
    OutputFolder(tmp_path / "one", force=False)
    assert tree(tmp_path) == {}


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "one", force=True) as first:
        with pytest.raises(OutputError, match="another run is writing") as caught:
            OutputFolder(tmp_path / "one", force=True)
        assert str(first.staging) in caught.value.hint
        OutputFolder(tmp_path / "two", force=False)
        (first.staging / "a").write_text("new")
    assert tree(tmp_path / "one") == {"a": "new"}


def test_files_that_came_in_the_meantime_are_not_lost(tmp_path: Path) -> None:
    target = tmp_path / "one"
    with OutputFolder(target, force=False) as out:
        (out.staging / "a").write_text("new")
        target.mkdir()
        (target / "b").write_text("theirs")
    assert tree(target) == {"a": "new", "b": "theirs"}
    (target / "a").unlink()
    (target / "b").unlink()

    out = OutputFolder(target, force=False)
    with pytest.raises(OutputError, match="cannot be put in place: File exists") as caught, out:
        (out.staging / "a").write_text("new")
        (target / "a").write_text("theirs")
    assert tree(target) == {"a": "theirs"}
    assert str(out.staging) in caught.value.hint and tree(out.staging) == {"a": "new"}


@pytest.mark.parametrize(
    ("path", "words"), [("file", "is a file"), ("file/in", "cannot be written"), ("/proc/new", "cannot be")]
)
def test_folders_that_cannot_be(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(OutputError, match=words) as caught:
        OutputFolder(tmp_path / path, force=True)
    assert caught.value.hint
