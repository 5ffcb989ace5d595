"""Reliability of files: hostile ones through the command line, and mutated ones through every reader.

    python -m benchmarks.reliability_files --mutations 10000 -o files.json

Every hostile file is met by its command in a process of its own, with a limit of time and memory, a canary
and a port that listens. Mutated files are read in forks, many to a fork; a fork that dies or hangs is laid
to the file that it had at hand. Each mutated file is also compared with the manifest of the honest one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from graph.errors import ManifestError, PruneError
from prune.manifest import check_file, write_manifest
from tests.hostile import cases
from tests.hostile.mutations import FORMATS, mutated
from tests.hostile.runner import BASE_BYTES, SECONDS, WALL_SECONDS, listening, preload, run_case, status

_BATCH = 100  # mutated files to a fork


def hostile(only: str = "") -> dict[str, Any]:
    """Run all hostile cases whose name has a text in it.

    Returns:
        Figures, and every fault by the name of its case.
    """
    found = []
    with listening() as (port, knocked), tempfile.TemporaryDirectory() as home:
        for number, case in enumerate(c for c in cases() if only in c.name):
            root = Path(home, str(number))
            found.append(run_case(case, root, port, knocked))
            shutil.rmtree(root)
            _tell(found[-1].name, found[-1].faults)
    return {
        "tried": len(found),
        "refused": sum(o.refused for o in found),
        "accepted, harmless": sum(o.code == 0 and not o.faults for o in found),
        "faults": {o.name: [*o.faults, o.line] for o in found if o.faults},
        "ran code": sum("ran" in o.faults or "opened a connection" in o.faults for o in found),
        "longest_seconds": round(max((o.seconds for o in found), default=0.0), 2),
        "peak_bytes": max((o.peak_bytes for o in found), default=0),
    }


def mutations(count: int, seed: int = 0, workers: int = 2) -> dict[str, Any]:
    """Read mutated files.

    Args:
        count: how many, over all formats.
        seed: of formats, damages and places.
        workers: processes at once.

    Returns:
        Figures over all, by format, and every fault.
    """
    parts = [range(begin, min(begin + _BATCH, count)) for begin in range(0, count, _BATCH)]
    with ThreadPoolExecutor(workers) as pool:  # each thread watches one fork
        found = [row for rows in pool.map(lambda part: list(_watched(part, seed)), parts) for row in rows]
    for row in found:
        _tell(str(row), () if row["found"] and row["end"] in ("refused", "accepted") else ("fault",))
    ends = Counter(row["end"] for row in found)
    by_format = {f.name: Counter(r["end"] for r in found if r["format"] == f.name) for f in FORMATS}
    return {
        "tried": len(found),
        "refused": ends["refused"],
        "accepted, harmless": ends["accepted"],
        "crashes": ends["crash"],
        "hangs": ends["hang"],
        "errors without a name": ends["unnamed"],
        "longest_seconds": round(max(r["seconds"] for r in found), 2),
        "peak_bytes": max(r["peak_bytes"] for r in found),
        "over the limit of memory": ends["memory"],
        "found_by_manifest": sum(r["found"] for r in found),
        "formats": {name: dict(c) for name, c in by_format.items()},
        "faults": [r for r in found if r["end"] not in ("refused", "accepted") or not r["found"]],
    }


def _tell(name: str, faults: Sequence[str]) -> None:
    """Tell a fault when it is found: a run takes minutes."""
    if faults:
        print(f"fault: {name}: {', '.join(faults)}", file=sys.stderr, flush=True)


def _watched(numbers: Sequence[int], seed: int) -> Iterator[dict[str, Any]]:
    """The rows of some mutated files, read in forks that are ended where one takes too long."""
    left = list(numbers)
    while left:
        pid, pipe = _forked(left, seed)
        begun: dict[str, Any] | None = None
        with os.fdopen(pipe, "rb", buffering=0) as lines:  # what is buffered, select does not see
            while select.select([lines], [], [], WALL_SECONDS)[0] or begun is None:
                line = lines.readline()
                if not line:
                    break
                row = json.loads(line)
                if "end" in row:
                    yield row
                    left.remove(row["number"])
                    begun = None
                else:
                    begun = row
            else:
                os.kill(pid, signal.SIGKILL)
                if begun is not None:
                    begun["end"] = "hang"
        os.waitpid(pid, 0)
        if begun is not None:
            lost = {"end": "crash", "seconds": SECONDS, "peak_bytes": 0, "found": True, "told": ""}
            yield lost | begun
            left.remove(begun["number"])


def _forked(numbers: Sequence[int], seed: int) -> tuple[int, int]:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    try:
        os.close(read)
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory() as home:
            for number in numbers:
                for row in _read(number, seed, Path(home, str(number))):
                    os.write(write, (json.dumps(row) + "\n").encode())
    finally:
        os._exit(0)


def _read(number: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Damage a file, compare it with its manifest, read it; a row before and one after."""
    draw = random.Random(f"{seed}/{number}")
    form = draw.choices(FORMATS, [f.weight for f in FORMATS])[0]
    folder.mkdir()
    form.prepare(folder)
    write_manifest(folder)
    path = folder / form.file
    kind, content = mutated(path.read_bytes(), draw)
    path.write_bytes(content)
    try:
        check_file(path)
        found = False
    except ManifestError:
        found = True
    (folder / "manifest.json").unlink()
    row = {"number": number, "format": form.name, "kind": kind, "found": found}
    yield row
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    try:
        form.read(folder)
        end, told = "accepted", ""
    except PruneError as err:
        end, told = "refused", str(err)
    except BaseException as err:  # noqa: BLE001 - whatever a reader lets through is a fault
        end, told = "unnamed", f"{type(err).__name__}: {err} at {_where(err)}"[:500]
    seconds = time.process_time() - start
    shutil.rmtree(folder, ignore_errors=True)
    peak = max(0, status("VmHWM") - before)
    if end == "refused":
        told = "" if "\n" not in told else told[:300]
        end = "unnamed" if told else end
    if peak > BASE_BYTES + 2 * len(content):
        end = "memory"
    if seconds > SECONDS:
        end = "hang"
    yield row | {"end": end, "told": told, "seconds": seconds, "peak_bytes": peak}


def _where(err: BaseException) -> str:
    last = traceback.extract_tb(err.__traceback__)[-4:]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(last))


def table(hostile_found: dict[str, Any] | None, mutated_found: dict[str, Any] | None) -> str:
    """Both results as text."""
    lines = []
    for title, found in (("hostile files", hostile_found), ("mutated files", mutated_found)):
        for name, value in (found or {}).items():
            if not isinstance(value, (dict, list)):
                told = f"{value / 1e6:,.0f} MB" if name == "peak_bytes" else f"{value:,}"
                lines.append(f"{title:14} {name:28} {told:>12}")
    return "\n".join(lines)


def measure(count: int, *, seed: int = 0, workers: int = 2, only: str = "") -> dict[str, Any]:
    """All figures, with what they depend on."""
    preload()
    for form in FORMATS:  # what is made once is made before the forks
        with tempfile.TemporaryDirectory() as home:
            form.prepare(Path(home))
            form.read(Path(home))
    start = time.perf_counter()
    found = {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "seed": seed,
        "limits": {"seconds": SECONDS, "bytes": f"{BASE_BYTES} + 2 x the file"},
        "hostile": hostile(only),
        "mutated": mutations(count, seed, workers) if count else None,
    }
    return found | {"seconds": round(time.perf_counter() - start)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="hostile cases with this in their name")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    found = measure(given.mutations, seed=given.seed, workers=given.workers, only=given.only)
    print(table(found["hostile"], found["mutated"]))
    if given.output:
        given.output.write_text(json.dumps(found, indent=2) + "\n")
    raise SystemExit(bool(found["hostile"]["faults"] or (found["mutated"] or {}).get("faults")))


if __name__ == "__main__":
    main()
