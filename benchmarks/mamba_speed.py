"""Our Mambas against transformers' own torch code, in one run: time and peak memory over length.

    python benchmarks/mamba_speed.py                       # both versions, 256 to 16384 tokens, CPU
    python benchmarks/mamba_speed.py --lengths 2048 --json out.json

Each measurement runs in a process of its own, so that its peak memory is its own: what the process grew by
over the state before the first call. The two codes take turns. Times are CPU time of one thread, the least of
the repeats; on a machine with other users wall time says little. Weights are the same on both sides, and the
logits of both are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LENGTHS = (256, 1024, 2048, 4096, 16384)
SIZES = {"d_model": 256, "n_layer": 2, "vocab_size": 256}
CODES = ("transformers", "ours")


def models(version: int) -> tuple[Any, Any]:
    """The same random model in both codes: (transformers, ours)."""
    import torch
    import transformers

    from models_zoo.mamba_config import MambaConfig
    from models_zoo.mamba_lm import MambaLM

    torch.manual_seed(0)
    state = 16 if version == 1 else 128
    config = MambaConfig(version=1 if version == 1 else 2, d_state=state, **SIZES)
    ours = MambaLM(config).eval()
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "state_size": state,
        "tie_word_embeddings": True,
    }
    if version == 1:
        theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**common))
    else:
        heads = {"num_heads": config.n_heads, "head_dim": config.headdim, "n_groups": config.ngroups}
        theirs = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**common, **heads))
    renamed = {k.replace("embedding.", "embeddings."): v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(renamed)
    return theirs.eval(), ours


def measure(version: int, code: str, length: int, backward: bool, repeats: int) -> dict[str, float]:
    """Milliseconds of CPU time and megabytes of peak memory of one code at one length; in this process."""
    import torch

    torch.set_num_threads(1)
    theirs, ours = models(version)
    ids = torch.randint(256, (1, length), generator=torch.Generator().manual_seed(0))

    def logits() -> torch.Tensor:
        return ours(ids) if code == "ours" else theirs(ids, use_cache=False).logits

    def call() -> None:
        if backward:
            logits().sum().backward()
        else:
            with torch.no_grad():
                logits()

    if length <= 256:
        with torch.no_grad():
            error = float((theirs(ids, use_cache=False).logits - ours(ids)).abs().max())
        assert error < 1e-4, error
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"cpu_ms": 1e3 * best, "peak_mb": peak / 1024}


def main() -> None:
    """Measure, print a table, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--versions", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # version, code, length, backward
    args = parser.parse_args()
    if args.one is not None:
        version, code, length, backward = args.one
        print(json.dumps(measure(int(version), code, int(length), backward == "True", args.repeats)))
        return
    rows: list[dict[str, Any]] = []
    print(f"{'':14}{'length':>8}{'transformers':>16}{'ours':>12}{'speed':>8}{'their MB':>10}{'our MB':>8}")
    for version in args.versions:
        for backward in (False,) if args.forward_only else (False, True):
            for length in args.lengths:
                found = {c: _apart(version, c, length, backward, args.repeats) for c in CODES}
                a, b = found["transformers"], found["ours"]
                title = f"mamba{version} {'train' if backward else 'infer'}"
                print(
                    f"{title:14}{length:8}{a['cpu_ms']:13.0f} ms{b['cpu_ms']:9.0f} ms"
                    f"{a['cpu_ms'] / b['cpu_ms']:7.2f}x{a['peak_mb']:10.0f}{b['peak_mb']:8.0f}",
                    flush=True,
                )
                rows.append({"version": version, "backward": backward, "length": length, **found})
                if args.json is not None:
                    _write(args.json, rows, args.repeats)


def _write(path: Path, rows: list[dict[str, Any]], repeats: int) -> None:
    import torch
    import transformers

    about = {
        "machine": f"{platform.system()} {platform.machine()}, one thread of a CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sizes": SIZES,
        "repeats": repeats,
    }
    path.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


def _apart(version: int, code: str, length: int, backward: bool, repeats: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--repeats", str(repeats), "--one"]
    command += [str(version), code, str(length), str(backward)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
