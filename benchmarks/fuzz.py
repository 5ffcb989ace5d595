"""Fuzzing of the parsers with atheris, guided by what the code covers.

    python -m pip install -c constraints.txt -e '.[fuzz]'
    python -m benchmarks.fuzz --parser graph --seconds 600

One parser at a time; ``--parser all`` starts a process for each in turn. What is found is written to
``crash-...`` in the folder of ``--corpus``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def fuzz(parser: str, seconds: int, corpus: Path) -> None:
    """Feed one parser until the time is over or something is found; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["prune", "graph", "pickletools", "zipfile"]):
        from tests.parsers import PARSERS, seeds

    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()[parser]):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=4096", "-max_len=20000"]
    atheris.Setup([sys.argv[0], str(corpus), f"-artifact_prefix={corpus}/", *limits], PARSERS[parser])
    atheris.Fuzz()


def main() -> None:
    """Fuzz one parser, or all of them in turn."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--parser", default="all")
    given.add_argument("--seconds", type=int, default=60, help="of each parser")
    given.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"))
    asked = given.parse_args()
    if asked.parser != "all":
        fuzz(asked.parser, asked.seconds, asked.corpus / asked.parser.replace(" ", "-"))
        return
    from tests.parsers import PARSERS

    failed = []
    for name in PARSERS:
        words = ["--parser", name, "--seconds", str(asked.seconds), "--corpus", str(asked.corpus)]
        done = subprocess.run([sys.executable, "-m", "benchmarks.fuzz", *words], check=False)
        failed += [name] * bool(done.returncode)
    print("found something in:", ", ".join(failed) or "none")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
