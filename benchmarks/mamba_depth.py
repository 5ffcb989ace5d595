"""Whole blocks of Mambas: what it costs to leave them out, by every way of choosing them.

    python benchmarks/mamba_depth.py -o out                 # trains a Mamba-1 and a Mamba-2 of 8 blocks first
    python benchmarks/mamba_depth.py --models DIR DIR -o out

The ways: `loss`, blocks go one after the other, each time the one that is missed least on the search split;
`loss, one round`, all at once by what each is missed on its own; `similarity`, those that turn the residual
stream least; and at random. Bits per byte on the test files of the standard library when cut; with the output
projections fitted to the whole model's residual stream; and after a short fine-tune of those. The speed-up is
that of a forward pass of one sequence, both models in turn, the least of the repeats of processor time.

Writes `depth.json` and `depth.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Not benchmarks/ itself, where graph.py would hide the package of its name.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from models_zoo.data import DataSet  # noqa: E402
from models_zoo.mamba_config import MambaConfig  # noqa: E402
from models_zoo.mamba_lm import MambaLM  # noqa: E402
from models_zoo.text import LENGTH, TokenSplit  # noqa: E402
from prune.compensation import compensate  # noqa: E402
from prune.data import load_data  # noqa: E402
from prune.depth import BlockConfig, Blocks, judge  # noqa: E402
from prune.evaluation import evaluate  # noqa: E402
from prune.importance import sampled  # noqa: E402
from prune.load import ModelSource, load  # noqa: E402
from prune.mamba import save_mamba  # noqa: E402
from prune.smaller_mamba import shorter_mamba  # noqa: E402
from prune.states import CALIBRATION  # noqa: E402
from prune.subject import program_of  # noqa: E402
from prune.tune import fit  # noqa: E402
from prune.tune_config import FINE_TUNE_TEXT, SCRATCH_TEXT  # noqa: E402

Row = dict[str, Any]
RESULT = "depth.json"
WAYS = ("loss", "loss, one round", "similarity", "random")


def trained(version: int, args: argparse.Namespace, data: DataSet) -> Path:
    """A new model of many blocks, trained on the text, as a checkpoint."""
    folder: Path = args.output / f"mamba{version}-deep"
    torch.manual_seed(0)
    own: dict[str, Any] = {"d_state": 16} if version == 1 else {"d_state": 64, "headdim": 32}
    config = MambaConfig(
        version=version,  # type: ignore[arg-type]
        d_model=args.d_model,
        n_layer=args.layers,
        vocab_size=256,
        **own,
    )
    model = MambaLM(config).to(args.device)
    fit(model, data, replace(SCRATCH_TEXT, epochs=args.epochs, batch_size=args.batch_size))
    save_mamba(folder, model.cpu(), force=True)
    return folder


def orders(blocks: Blocks, data: DataSet, most: int, seeds: int, windows: int) -> dict[str, list[list[int]]]:
    """For each way the blocks in the order in which they go."""
    count = len(blocks.branches)

    def nothing(done: int, total: int) -> None:
        del done, total

    found: dict[str, list[list[int]]] = {}
    for criterion in ("loss", "similarity"):
        config = BlockConfig(text=str(count - most), criterion=criterion)  # type: ignore[arg-type]
        found[criterion] = [list(judge(config, blocks, data, nothing).dropped)]
    alone = [evaluate(blocks.without([i]), data.search, limit=windows).loss for i in range(count)]
    found["loss, one round"] = [sorted(range(count), key=lambda i: alone[i])[:most]]
    found["random"] = [
        np.random.default_rng(seed).permutation(count)[:most].tolist() for seed in range(seeds)
    ]
    return found


def measure(
    folder: Path, data: DataSet, args: argparse.Namespace, rows: list[Row], keep: Callable[[], None]
) -> None:
    """One more row for each way and number of blocks; ``keep`` writes them down."""
    loaded = load(ModelSource(model=f"hf:{folder}"))
    model = loaded.module
    assert isinstance(model, MambaLM)
    blocks = Blocks.of(loaded, program_of(loaded))
    version, count = model.sizes.version, len(blocks.branches)
    calibration = list(sampled(data, CALIBRATION))
    tokens = data.train.tokens[: args.tune_steps * FINE_TUNE_TEXT.batch_size * LENGTH + 1]  # type: ignore[attr-defined]
    short = replace(data, train=TokenSplit(tokens, LENGTH, bytes_per_token=1.0))

    def bits(module: nn.Module) -> float:
        return evaluate(module.to(args.device), data.test, limit=args.windows).bits

    base = bits(model)
    rows.append({"version": version, "way": "none", "kept": count, "of": count, "cut": base})
    model.cpu()
    for way, several in orders(blocks, data, count - min(args.kept), args.seeds, args.search_windows).items():
        for seed, order in enumerate(several):
            for kept in args.kept:
                layers = [i for i in range(count) if i not in order[: count - kept]]
                small = shorter_mamba(model, layers)
                row: Row = {
                    "version": version, "way": way, "seed": seed, "kept": kept, "of": count,
                    "layers": layers, "cut": bits(small),
                }  # fmt: skip
                small.cpu()
                compensate(model, small, None, calibration, model, layers)
                row["fitted"] = bits(small)
                if args.tune_steps and way == "loss":
                    tuning = replace(FINE_TUNE_TEXT, lr=args.tune_lr)
                    fit(small, short, tuning, teacher=model.to(args.device))
                    row["tuned"] = bits(small)
                    row["speedup"] = speedup(model.cpu(), small.cpu())
                rows.append(row)
                keep()
                found = [k for k in ("cut", "fitted", "tuned") if k in row]
                told = ", ".join(f"{k} {100 * (row[k] / base - 1):+.2f} %" for k in found)
                print(f"Mamba-{version}, {kept} of {count} blocks by {way}: {told}", flush=True)


def speedup(whole: nn.Module, small: nn.Module) -> float:
    """How much faster a sequence of 1,024 tokens is."""
    ids = torch.randint(256, (1, 1024), generator=torch.Generator().manual_seed(0))
    best = [float("inf")] * 2
    with torch.no_grad():
        for _ in range(5):
            for i, module in enumerate((whole, small)):
                start = time.process_time()
                module(ids)
                best[i] = min(best[i], time.process_time() - start)
    return best[0] / best[1]


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = []
    for version in sorted({r["version"] for r in rows}):
        own = [r for r in rows if r["version"] == version]
        base = own[0]["cut"]
        counts = sorted({r["kept"] for r in own[1:]}, reverse=True)
        title = f"**Mamba-{version}**, {base:.4f} bits per byte with all {own[0]['of']} blocks"
        lines += [f"{title}; change when cut / fitted", ""]
        lines += [
            "| way | " + " | ".join(f"{k} blocks" for k in counts) + " |",
            "|---|" + "---|" * len(counts),
        ]
        for way in WAYS:
            cells = []
            for kept in counts:
                found = [r for r in own if r["way"] == way and r["kept"] == kept]
                spans = [[100 * (r[k] / base - 1) for r in found] for k in ("cut", "fitted")]
                cells.append(" / ".join(_spread(v) for v in spans) if found else "")
            lines.append(f"| {way} | " + " | ".join(cells) + " |")
        tuned = {r["kept"]: f"{100 * (r['tuned'] / base - 1):+.2f} %" for r in own if "tuned" in r}
        faster = {r["kept"]: f"{r['speedup']:.2f} x" for r in own if "speedup" in r}
        for title, by in (("loss, fitted and tuned", tuned), ("speed-up", faster)):
            lines += [f"| {title} | " + " | ".join(by.get(k, "") for k in counts) + " |"] if by else []
        lines.append("")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:+.2f} %"
    return f"{min(values):+.1f} to {max(values):+.1f} %"


def main() -> None:
    """Train or load, measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="*", help="folders of checkpoints; trained if left out")
    parser.add_argument("--versions", type=int, nargs="+", default=[1, 2], help="that are trained")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--kept", type=int, nargs="+", default=[7, 6, 5, 4])
    parser.add_argument("--windows", type=int, default=160, help="of 256 bytes that bits are measured on")
    parser.add_argument("--search-windows", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2, help="of random choice")
    parser.add_argument("--tune-steps", type=int, default=100)
    parser.add_argument("--tune-lr", type=float, default=4e-4, help="peak learning rate of these")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("mamba-depth"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    data = load_data("pystdlib")
    rows: list[Row] = []
    about = {
        "machine": f"{platform.system()} {platform.machine()}, {args.device}",
        "torch": torch.__version__,
        "command": " ".join(["python", *sys.argv]),
    }

    def keep() -> None:
        (args.output / RESULT).write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")

    for folder in args.models or [trained(v, args, data) for v in args.versions]:
        measure(folder, data, args, rows, keep)
    (args.output / "depth.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
