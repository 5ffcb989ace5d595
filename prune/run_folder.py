"""The folder of a long run: results that appear at its end, and until then what it takes to go on.

``DIR/.unfinished`` holds the options and versions of the run (``run.json``), the answers found so far
(``journal.jsonl``), the weights of the training under way, and the results as they are made. A run that is
cut short, by whatever and at whatever moment, leaves it; whoever resumes the run does all again that is
cheap, and asks the journal for the rest. At the end the results move into place, each of them whole and the
reports last, and the rest goes. Where there is no ``run.json`` there is no unfinished run, whatever else lies
about.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from graph.errors import OutputError, PruneError, ResumeError
from prune.files import check_folder, refused, sync, synced, write_json
from prune.journal import Journal
from prune.lock import Lock
from prune.manifest import MANIFEST_FILE
from prune.unfinished import HOME, RUN_FILE, Unfinished, is_unfinished

_JOURNAL, _LOCK, _RESULTS = "journal.jsonl", "lock", "results"
# What tells of the other files comes after them, and the manifest, which tells of all, at the very end.
_RESULT = ("report.json", "pareto.json")
_LAST = ("report.html", *_RESULT, MANIFEST_FILE)
_MOVING = "moving"  # in the journal: the results are all there


class RunFolder:
    """A folder of results that a long run fills, and goes on filling after it was cut short.

    ::

        with RunFolder(Path("runs/one"), {"flops": "0.5"}) as run:
            found = run.journal.recall("search", search)
            write_json(run.staging / "report.json", report)

    A failure that comes before anything dear was found leaves no trace, unless the run was resumed; nor does
    any failure of a run with which nobody could go on.

    Args:
        path: the folder; missing parents are made.
        options: what the run is told, by name, as JSON data; a resumed run must be told the same.
        output: the folder as it was named first; a resumed run is told the same in its report.
        late: options that may change when the run is resumed.
        force: replace files of an earlier run, and start over where there is an unfinished one.
        resume: go on with the unfinished run.
        again: the command that goes on, for messages; empty where there is none.

    Attributes:
        staging: a folder for the results.
        journal: what was found out so far.
        notes: what the user should know of the state that was found.

    Raises:
        OutputError: when entered: the path is a file, cannot be written, holds files and ``force`` is not
            given, holds an unfinished run, or another run is writing to it. At the end: the results cannot be
            put in place; they are kept.
        ResumeError: there is nothing to resume, or it was started with other options or versions.
    """

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        *,
        output: str = "",
        late: tuple[str, ...] = (),
        force: bool = False,
        resume: bool = False,
        again: str = "",
    ) -> None:
        self.path, self.force, self.resume, self.again = path, force, resume, again
        self._late = late
        self._now = Unfinished.new(options, output, force)
        self._home = path / HOME
        self.staging = self._home / _RESULTS
        self.notes: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        path = self.path
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file, not a folder", hint="name another folder")
        if self.resume and not (self._home / RUN_FILE).exists():
            raise ResumeError(
                f"{path} holds no unfinished run", hint="start one: prune compress MODEL ... -o DIR"
            )
        self._made = not path.exists()
        check_folder(path, path)
        try:
            self._home.mkdir(exist_ok=True)
        except OSError as err:
            raise refused(path, err) from err
        try:
            self._lock = Lock(self._home / _LOCK, path)
        except OutputError:
            self._leave()
            raise
        try:
            self._open()
        except BaseException:
            if not is_unfinished(path):
                self._remove()
            self._lock.close()
            raise
        return self

    def _open(self) -> None:
        path = self.path
        found = None if self.force and not self.resume else Unfinished.read(path)
        if found is not None and not self.resume:
            raise OutputError(
                f"{path} holds an unfinished run",
                hint=f"go on with it: {self.again}; --force starts over" if self.again else "--force",
            )
        if self.resume:
            if found is None:
                raise ResumeError(f"{path} holds no unfinished run", hint="it ended just now")
            found.check(self._now, self._late, path)
            self.force = found.force
            if found.threads != torch.get_num_threads():
                torch.set_num_threads(found.threads)
        elif any(p != self._home for p in path.iterdir()) and not self.force:
            raise OutputError(f"{path} is not empty", hint="--force replaces files of the same names")
        try:
            self._clear(keep=() if found is None else (RUN_FILE, _JOURNAL, *self._weights()))
            self.staging.mkdir()
        except OSError as err:
            raise refused(path, err) from err
        now = self._now if found is None else replace(found, options=self._now.options)
        if now != found:
            write_json(self._home / RUN_FILE, now.to_json())
        self.journal = Journal(self._home / _JOURNAL)
        if found is not None and found.folder != os.getcwd():
            self.notes += (f"the run was started in {found.folder}: names of files are relative to that",)
        if self.journal.damaged:
            self.notes += (f"{self.journal.damaged} damaged lines of the journal are found out anew",)

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if err is None:
                self._publish()
            elif not self.resume and (
                not self.again or (not self.journal.dear and isinstance(err, PruneError))
            ):
                self._remove()
            else:
                err.add_note(f"go on with: {self.again}")
        except PruneError as failure:
            if self.again:
                failure.add_note(f"go on with: {self.again}")
            raise
        finally:
            self.journal.close()
            self._lock.close()

    def _weights(self) -> list[str]:
        return [p.name for p in self._home.glob("*.safetensors")]

    def _clear(self, keep: tuple[str, ...] = ()) -> None:
        if RUN_FILE not in keep:  # first what says that there is an unfinished run
            (self._home / RUN_FILE).unlink(missing_ok=True)
        for found in self._home.iterdir():
            if found.name not in (*keep, _LOCK):
                shutil.rmtree(found) if found.is_dir() else found.unlink()

    def _remove(self) -> None:
        with suppress(OSError):
            self._clear()
            (self._home / _LOCK).unlink()
        self._leave()

    def _leave(self) -> None:
        """Remove the folders that are empty, but not one of the user's."""
        with suppress(OSError):
            self._home.rmdir()
            if self._made:
                self.path.rmdir()

    def _publish(self) -> None:
        try:
            names = [p.relative_to(self.staging) for p in synced(self.staging)]
            if not self.force:
                check_free(self.path, names, but=self.journal.get(_MOVING) or ())
            self.journal.recall(_MOVING, lambda: sorted(map(str, names)))
            move(self.staging, self.path, names, self.journal.get(_MOVING), force=self.force)
        except OSError as failure:
            raise OutputError(
                f"{self.path} cannot be put in place: {failure.strerror} ({failure.filename})",
                hint=f"the finished files are in {self.staging}",
            ) from failure
        self._remove()


def check_free(folder: Path, names: list[Path], but: Collection[str] = ()) -> None:
    """Whether files can be put into a folder without replacing any.

    Raises:
        FileExistsError: one is there, and is not among those that may be.
    """
    for name in names:
        if str(name) not in but and (folder / name).exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(folder / name))


def check_inside(folder: Path, names: list[Path]) -> None:
    """Whether files that go into a folder stay within it, wherever the links in it lead.

    Raises:
        OSError: one would not.
    """
    for name in names:
        if not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
            raise OSError(errno.ELOOP, "a link leads out of the folder", str(folder / name))


def move(source: Path, target: Path, names: list[Path], all_names: Collection[str], *, force: bool) -> None:
    """Move files into place one by one, those last that tell of the others.

    Reports of an earlier run go first, so that none is ever beside files of another one.

    Args:
        source: folder that they are in.
        target: folder that they go to.
        names: relative to both.
        all_names: these, and those that were moved already.
        force: reports of other kinds may go, too.

    Raises:
        OSError: the system refuses.
    """
    check_inside(target, names)
    for name in {folder / last for folder in {Path(), *(n.parent for n in names)} for last in _LAST}:
        if name in names or (force and str(name) not in all_names):
            (target / name).unlink(missing_ok=True)
    for name in sorted(names, key=lambda n: (n.name in _LAST, len(n.parts) == 1, n.name == MANIFEST_FILE, n)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, target / name)
    for folder in {(target / n).parent for n in names} | {target}:
        sync(folder)


def finish(path: Path) -> bool:
    """Move the results of a run that was cut short while they moved; True if the run in ``path`` is over.

    Raises:
        OutputError: another process is at it, or a file is in the way.
        ResumeError: there is neither a result nor an unfinished run.
    """
    home = path / HOME
    found = Unfinished.read(path)
    if found is None:
        if not any((path / name).is_file() for name in _RESULT):
            raise ResumeError(
                f"{path} holds no unfinished run", hint="start one: prune compress MODEL ... -o DIR"
            )
        if home.exists():
            lock = Lock(home / _LOCK, path)
            shutil.rmtree(home, ignore_errors=True)
            lock.close()
        return True
    lock = Lock(home / _LOCK, path)
    journal = Journal(home / _JOURNAL)
    try:
        if journal.get(_MOVING) is None:
            return False
        staging = home / _RESULTS
        names = [p.relative_to(staging) for p in synced(staging)]
        if not found.force:
            check_free(path, names)
        move(staging, path, names, journal.get(_MOVING), force=found.force)
        (home / RUN_FILE).unlink()
        shutil.rmtree(home, ignore_errors=True)
        return True
    except OSError as err:
        raise refused(path, err) from err
    finally:
        journal.close()
        lock.close()
