"""Reliability in one command: kills survived, hostile and mutated files met, seconds and memory.

    python -m benchmarks.reliability -o benchmarks/results/reliability.json

Runs ``benchmarks.reliability_kills`` and ``benchmarks.reliability_files``, which say what they do and can be
run alone, shows what they print, and writes the figures of both. Ends with 1 where anything went wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Run one of the two; its exit code and what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *words, "-o", str(path)]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        return code, json.loads(path.read_text()) if path.exists() else {}


def kills(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the kills, without the list of every one."""
    chains = found.get("chains", [])
    cuts = [cut for chain in chains for cut in chain["cuts"]]
    moments = Counter(cut["moment"]["kind"] for cut in cuts)
    return {
        "runs": len(chains),
        "kills": sum(cut["code"] == -9 for cut in cuts),
        "moments": dict(sorted(moments.items())),
        "wrong": [fault for part in (*cuts, *chains) for fault in part["wrong"]],
        "slowest_ctrl_c_seconds": max((c["seconds"] for c in cuts if c["code"] == 130), default=None),
    }


def main() -> None:
    """Run both, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/reliability.json"))
    options = parser.parse_args()
    killed, found = run("reliability_kills")
    met, files = run("reliability_files", "--mutations", str(options.mutations))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"kills": kills(found), "files": files}, indent=1) + "\n")
    sys.exit(1 if killed or met else 0)


if __name__ == "__main__":
    main()
