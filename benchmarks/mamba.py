"""States of Mamba-1 and Mamba-2, unpruned against pruned in one run: accuracy, speed and memory.

    python benchmarks/mamba.py -o out                       # trains both tiny models first, in minutes
    python benchmarks/mamba.py --models m1.pt m2.pt -o out  # files of `prune zoo train`
    python benchmarks/mamba.py --published -o out           # a Mamba-2 of 128 states and heads of 64

Accuracy: bits per byte on the test files of the standard library after cutting to each number of states, by
every criterion, with random and magnitude beside; the same after compensation; and for one criterion after a
short fine-tune. Each cut goes through the plan and the surgery of `prune compress --states`.

Speed and memory, against the unpruned model at each length: the pruned weights in our own classes, forward,
and forward with backward, and in transformers' stock classes, from the directory that prune writes. Times are
processor time of one thread, the models in turn, the least of the repeats. Peak memory is the most that is
alive at one time in storages that operators make: activations, weights not counted. Of the graph that is
exported to ONNX the memory is counted.

Writes `mamba.json`, `mamba.md` and `mamba.png`. On a busy machine parts can run apart (`--only`), to be
joined with `--merge`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

# Not benchmarks/ itself, where graph.py would hide the package of its name.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from graph.axes import infer  # noqa: E402
from graph.capture import capture  # noqa: E402
from graph.cost import costs  # noqa: E402
from models_zoo.data import DataSet  # noqa: E402
from models_zoo.mamba_lm import MambaLM  # noqa: E402
from models_zoo.text import TokenSplit  # noqa: E402
from profilers.memory import memory_meter  # noqa: E402
from prune.compensation import compensate  # noqa: E402
from prune.data import load_data  # noqa: E402
from prune.evaluation import evaluate  # noqa: E402
from prune.importance import magnitude, sampled  # noqa: E402
from prune.load import LoadedModel, load_model  # noqa: E402
from prune.mamba import save_mamba  # noqa: E402
from prune.plan import make_plan  # noqa: E402
from prune.smaller_mamba import smaller_mamba  # noqa: E402
from prune.state_scores import STATE_CRITERIA, StateCriterion, StateScores, state_scores  # noqa: E402
from prune.states import CALIBRATION, StateChoice, StateConfig, kept_states, own_layers  # noqa: E402
from prune.surgery import prune_program  # noqa: E402
from prune.train import train  # noqa: E402
from prune.tune import fit  # noqa: E402
from prune.tune_config import FINE_TUNE_TEXT, SCRATCH_TEXT  # noqa: E402
from prune.widths import WidthSpace  # noqa: E402

Row = dict[str, Any]
Forward = Callable[[Tensor], Tensor]
Tell = Callable[[str], None]
RESULT = "mamba.json"
PUBLISHED = {"d_state": 128, "headdim": 64}  # of all Mamba-2 of state-spaces, and the defaults of mamba_ssm
_GRAPH_MOST = 1024  # tokens of the graphs that are counted
_CAPTURED = 32  # tokens of the captured graph: the weights that a cut takes do not depend on it


class Pruner:
    """Cuts one model in many ways.

    Args:
        loaded: a Mamba of the zoo.
        data: text.
    """

    def __init__(self, loaded: LoadedModel, data: DataSet) -> None:
        assert isinstance(loaded.module, MambaLM)
        self.loaded, self.data, self.model = loaded, data, loaded.module
        self.axes = infer(capture(self.model, [torch.zeros(2, _CAPTURED, dtype=torch.int64)]))
        self.before = magnitude(self.axes)
        self.text = list(sampled(data, CALIBRATION))

    def judged(self, criterion: StateCriterion, seed: int) -> StateScores:
        """What each state is worth."""
        return state_scores(self.model, criterion, self.text, seed=seed)

    def cut(self, judged: StateScores, kept: int) -> tuple[MambaLM, list[NDArray[np.int64]]]:
        """The model with so many states in each layer, and which these are."""
        layers, scores = own_layers(self.axes, self.model), self.before.copy()
        for layer, own in zip(layers, judged, strict=True):
            scores[layer.units] = own
        asked = StateConfig(text=str(kept))
        choice = StateChoice(asked, "output", layers, (kept,) * len(layers), scores, 0)
        space = WidthSpace(self.axes, fixed=choice.fixed(self.axes))
        plan = make_plan(space, space.widest, scores, "states")
        program = prune_program(self.axes, plan)
        kept_of_each = kept_states(layers, plan.keep_mask(self.axes))
        return smaller_mamba(self.model.sizes, program.tensors), kept_of_each

    def compensated(self, cut: MambaLM, kept: list[NDArray[np.int64]]) -> MambaLM:
        """The same with what remains fitted to the original."""
        fitted = smaller_mamba(cut.sizes, cut.state_dict())
        compensate(self.model, fitted, kept, self.text)
        return fitted


def accuracy(
    pruner: Pruner, args: argparse.Namespace, rows: list[Row], keep: Callable[[], None], tell: Tell
) -> None:
    """Bits per byte for every criterion and number of states, added to the rows that there are already.

    Args:
        pruner: of one model.
        args: of the command line.
        rows: of all models; what they hold is not measured again.
        keep: writes them down.
        tell: prints a line.
    """
    data, model = pruner.data, pruner.model
    version, whole = model.sizes.version, model.sizes.states[0]
    short = replace(data, train=_head(data.train, args.tune_steps * FINE_TUNE_TEXT.batch_size))
    tuning = replace(FINE_TUNE_TEXT, lr=args.tune_lr)

    def bits(module: nn.Module) -> float:
        return evaluate(module, data.test, limit=args.windows).bits

    def row_of(criterion: str, kept: int, seed: int = 0) -> Row:
        key = {"version": version, "criterion": criterion, "seed": seed, "kept": kept, "of": whole}
        return next((row for row in rows if all(row[k] == v for k, v in key.items())), key)

    first = row_of("none", whole)
    if "cut" not in first:
        first["cut"] = bits(model)
        rows.append(first)
    if (
        args.tune_steps and "tuned" not in first
    ):  # with as much training is what tuning is to be compared with
        again = smaller_mamba(model.sizes, model.state_dict())
        fit(again, short, tuning, teacher=model)
        first["tuned"] = bits(again)
        tell(f"Mamba-{version}, all states: {_changes(first, first['cut'])}")
        keep()
    for criterion in args.criteria:
        for seed in range(args.seeds if criterion == "random" else 1):
            wanted = {"cut", "compensated"} | (
                {"tuned"} if criterion == args.tuned and args.tune_steps else set()
            )
            counts = [max(1, int(share * whole)) for share in args.shares]
            lacking = [kept for kept in counts if wanted - set(row_of(criterion, kept, seed))]
            if not lacking:
                continue
            judged = pruner.judged(criterion, seed)
            for kept in lacking:
                row, (plain, states) = row_of(criterion, kept, seed), pruner.cut(judged, kept)
                fitted = pruner.compensated(plain, states)
                found = {"cut": bits(plain), "compensated": bits(fitted)}
                if "tuned" in wanted:
                    fit(fitted, short, tuning, teacher=model)
                    found["tuned"] = bits(fitted)
                rows += [] if "cut" in row else [row]
                row |= found
                keep()
                tell(
                    f"Mamba-{version}, {kept} of {whole} states by {criterion}: {_changes(row, first['cut'])}"
                )


def _changes(row: Row, base: float) -> str:
    names = [k for k in ("cut", "compensated", "tuned") if k in row]
    return ", ".join(f"{k} {100 * (row[k] / base - 1):+.2f}%" for k in names)


def _head(split: Any, windows: int) -> TokenSplit:
    assert isinstance(split, TokenSplit)
    tokens = split.tokens[: windows * split.length + 1]
    return TokenSplit(tokens, split.length, bytes_per_token=split.bytes_per_token)


def speed(models: dict[int, MambaLM], args: argparse.Namespace, tell: Tell) -> list[Row]:
    """Time and peak memory over length of models by their number of states, in both codes."""
    version, device = next(iter(models.values())).sizes.version, torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        stock = {k: _stock(m, Path(folder) / str(k), device) for k, m in models.items()} if args.stock else {}
    for model in models.values():
        model.to(device)
    codes: dict[str, dict[int, Forward]] = {
        "ours": {k: m.__call__ for k, m in models.items()},
        "ours, training": {k: _training(m) for k, m in models.items()},
    }
    if all(f is not None for f in stock.values()) and stock:
        codes["transformers"] = {k: f for k, f in stock.items() if f is not None}
    rows = []
    for code, forwards in codes.items():
        most = max(args.lengths) if code == "ours" else args.others_most
        sizes = [(b, n) for b in args.batches for n in args.lengths if n <= most and b * n <= args.tokens]
        for batch, length in sizes:
            ids = torch.randint(256, (batch, length), generator=torch.Generator().manual_seed(length))
            ids = ids.to(device)
            with torch.set_grad_enabled(code == "ours, training"):
                peaks = {k: _peak_bytes(f, ids) for k, f in forwards.items()}
                times: dict[int, float] = dict.fromkeys(forwards, float("inf"))
                for _ in range(args.repeats):
                    for k, f in forwards.items():
                        times[k] = min(times[k], _seconds(f, ids))
            whole = max(models)
            for k in forwards:
                rows.append({
                    "version": version, "device": args.device, "code": code, "batch": batch, "length": length,
                    "kept": k, "of": whole, "ms": 1e3 * times[k], "peak_bytes": peaks[k],
                    "speedup": times[whole] / times[k], "memory": peaks[k] / peaks[whole],
                })  # fmt: skip
            told = ", ".join(
                f"{k} states {times[whole] / times[k]:.2f} x, {peaks[k] / peaks[whole] - 1:+.1%} memory"
                for k in forwards
                if k != whole
            )
            tell(f"Mamba-{version}, {code}, {batch} x {length} tokens, {1e3 * times[whole]:.1f} ms: {told}")
    return rows


def _seconds(forward: Forward, ids: Tensor) -> float:
    """Of one call: processor time of the thread, or the wall's on an accelerator, which it is waited for."""
    if ids.is_cpu:
        start = time.process_time()
        forward(ids)
        return time.process_time() - start
    torch.accelerator.synchronize()
    start = time.perf_counter()
    forward(ids)
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def _training(model: MambaLM) -> Forward:
    """Forward and backward; gradients are made anew each time."""

    def step(ids: Tensor) -> Tensor:
        model.zero_grad()
        loss = model(ids).square().mean()
        loss.backward()
        return loss

    return step


def graphs(models: dict[int, MambaLM], args: argparse.Namespace) -> list[Row]:
    """Counted peak of the activations of the exported graph, for one sequence of a length."""
    rows = []
    for length in (n for n in args.lengths if n <= _GRAPH_MOST):
        peaks = {
            k: costs(capture(m, [torch.zeros(2, length, dtype=torch.int64)])).peak_activation_bytes
            for k, m in models.items()
        }
        whole = max(models)
        for k, peak in peaks.items():
            version = models[k].sizes.version
            rows.append({
                "version": version, "device": "counted", "code": "graph", "batch": 1, "length": length,
                "kept": k, "of": whole,
                "peak_bytes": peak, "memory": peak / peaks[whole],
            })  # fmt: skip
    return rows


def _peak_bytes(forward: Forward, ids: Tensor) -> int:
    with memory_meter(ids.device) as meter:
        forward(ids)
        return int(meter.take_peak_bytes())


def _stock(model: MambaLM, folder: Path, device: torch.device) -> Forward | None:
    """The stock class of transformers with these weights, read from the directory that we write."""
    try:
        import transformers
    except ImportError:
        return None
    transformers.logging.set_verbosity_error()
    save_mamba(folder, model)
    kind = transformers.MambaForCausalLM if model.sizes.version == 1 else transformers.Mamba2ForCausalLM
    other = kind.from_pretrained(folder).eval()
    ids = torch.arange(100)[None]
    with torch.no_grad():
        torch.testing.assert_close(other(ids, use_cache=False).logits, model(ids), rtol=1e-3, atol=1e-3)
    other.to(device)
    return lambda x: other(x, use_cache=False).logits  # type: ignore[no-any-return]


def tables(bits: list[Row], times: list[Row]) -> str:
    """Both results as Markdown."""
    lines = []
    for version in sorted({r["version"] for r in bits}):
        first, own = _parted(bits, version)
        base, whole = first["cut"], first["of"]
        counts = sorted({r["kept"] for r in own}, reverse=True)
        title = f"**Mamba-{version}**, {base:.4f} bits per byte with all {whole} states"
        lines += [f"{title}; change when cut / compensated", ""]
        lines += [
            "| criterion | " + " | ".join(f"{k} states" for k in counts) + " |",
            "|---|" + "---|" * len(counts),
        ]
        for name in STATE_CRITERIA:
            cells = []
            for kept in counts:
                found = [r for r in own if r["criterion"] == name and r["kept"] == kept]
                changes = [[100 * (r[k] / base - 1) for r in found] for k in ("cut", "compensated")]
                cells.append(" / ".join(map(_spread, changes)) if found else "")
            lines += [f"| {name} | " + " | ".join(cells) + " |"] if any(cells) else []
        tuned = {r["kept"]: r for r in own if "tuned" in r}
        cells = [f"{100 * (tuned[k]['tuned'] / base - 1):+.2f} %" if k in tuned else "" for k in counts]
        if tuned:
            name = next(iter(tuned.values()))["criterion"]
            lines.append(f"| {name}, tuned shortly | " + " | ".join(cells) + " |")
        if "tuned" in first:
            lines += ["", f"The original, tuned as well: {100 * (first['tuned'] / base - 1):+.2f} %."]
        lines.append("")
    keys = ("version", "device", "code", "batch")
    for key in sorted({tuple(r[k] for k in keys) for r in times}):
        own, (version, device, code, batch) = [r for r in times if tuple(r[k] for k in keys) == key], key
        counts = sorted({r["kept"] for r in own}, reverse=True)
        title = f"**Mamba-{version}, {code}, {device}, batch {batch}**: speed-up and peak activation memory"
        lines += [f"{title}, against {counts[0]} states", ""]
        lines += [f"| tokens | {counts[0]} states | " + " | ".join(f"{k} states" for k in counts[1:]) + " |"]
        lines += ["|---|" + "---|" * len(counts)]
        for length in sorted({r["length"] for r in own}):
            by = {r["kept"]: r for r in own if r["length"] == length}
            first = by[counts[0]]
            cells = [_cell(first, f"{first['peak_bytes'] / 1e6:.1f} MB", "ms", "ms", 1)]
            for k in counts[1:]:
                cells.append(_cell(by[k], f"{100 * (by[k]['memory'] - 1):+.0f} %", "speedup", "x", 2))
            lines.append(f"| {length} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _parted(bits: list[Row], version: int) -> tuple[Row, list[Row]]:
    """The row of the original, and those of what was cut; of rows measured twice the one that knows more."""
    own = [r for r in bits if r["version"] == version]
    originals = [r for r in own if r["criterion"] == "none"]
    best: dict[tuple[Any, ...], Row] = {}
    for r in own:
        if r["criterion"] != "none":
            key = (r["criterion"], r["kept"], r["seed"])
            best[key] = max(best.get(key, r), r, key=len)
    return max(originals, key=len), list(best.values())


def _cell(row: Row, memory: str, key: str, unit: str, digits: int) -> str:
    return f"{row[key]:.{digits}f} {unit}, {memory}" if key in row else memory


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:+.2f} %"
    return f"{min(values):+.1f} to {max(values):+.1f} %"


def draw(bits: list[Row], times: list[Row]) -> Figure:
    """Bits over kept states, and speed-up over length; of each what there is."""
    versions = sorted({r["version"] for r in [*bits, *times]})
    figure = Figure(figsize=(11, 4.2 * len(versions)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(versions), 2, squeeze=False)
    for (left, right), version in zip(axes, versions, strict=True):
        if any(r["version"] == version for r in bits):
            _draw_bits(left, version, bits)
        own = [r for r in times if r["version"] == version and r["code"] != "graph" and r["kept"] < r["of"]]
        for device, code in sorted({(r["device"], r["code"]) for r in own}):  # of each the fewest that went
            line = [r for r in own if (r["device"], r["code"]) == (device, code)]
            kept, batch = (max(r[k] for r in line) for k in ("kept", "batch"))
            line = [r for r in line if (r["kept"], r["batch"]) == (kept, batch)]
            right.plot(
                [r["length"] for r in line], [r["speedup"] for r in line],
                "-" if device == "cpu" else "--", marker=".",
                label=f"{code}, {device}, {kept} of {line[0]['of']} states, batch {batch}",
            )  # fmt: skip
        right.axhline(1.3, color="grey", lw=0.8)
        right.set(title=f"Mamba-{version}: speed-up", xlabel="tokens", ylabel="times", xscale="log")
        if own:
            right.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _draw_bits(axes: Any, version: int, bits: list[Row]) -> None:
    first, own = _parted(bits, version)
    base = first["cut"]
    for index, name in enumerate(STATE_CRITERIA):
        found = [r for r in own if r["criterion"] == name and r["seed"] == 0]
        found.sort(key=lambda r: r["kept"])
        style = "--" if name in ("random", "magnitude") else "-"
        axes.plot(
            [r["kept"] for r in found], [100 * (r["compensated"] / base - 1) for r in found],
            style, marker=".", color=f"C{index}", label=name,
        )  # fmt: skip
    tuned = sorted((r for r in own if "tuned" in r), key=lambda r: r["kept"])
    changes = [100 * (r["tuned"] / base - 1) for r in tuned]
    if tuned:
        axes.plot([r["kept"] for r in tuned], changes, "k-o", label="tuned shortly")
    axes.axhline(1, color="grey", lw=0.8)
    axes.set(
        title=f"Mamba-{version}: bits per byte, compensated", xlabel=f"states kept of {first['of']}",
        ylabel="change, %", yscale="symlog",
    )  # fmt: skip
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4)


def _write(folder: Path, bits: list[Row], times: list[Row], about: list[Row]) -> None:
    lines = [f'"{k}": [\n' + ",\n".join(map(json.dumps, v)) + "\n]" for k, v in
             (("about", about), ("accuracy", bits), ("speed", times))]  # fmt: skip
    (folder / RESULT).write_text("{" + ",\n".join(lines) + "}\n")
    (folder / "mamba.md").write_text(tables(bits, times))


def _about(device: str) -> Row:
    """Where and how these figures were measured."""
    cuda = device.startswith("cuda")
    return {
        "machine": torch.cuda.get_device_name()
        if cuda
        else f"{platform.system()} {platform.machine()}, one thread",
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "command": " ".join(["python", *sys.argv]),
    }


def main() -> None:
    """Train or load, measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--models", type=Path, nargs="*", help="files of `prune zoo train`; trained when left out"
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="train the tiny Mamba-2 with the states and heads of published ones",
    )
    parser.add_argument("--epochs", type=int, default=1, help="of training, where nothing is given")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5, 0.25])
    parser.add_argument(
        "--windows", type=int, default=160, help="of 256 test bytes that bits are measured on"
    )
    parser.add_argument("--criteria", nargs="+", default=list(STATE_CRITERIA), choices=STATE_CRITERIA)
    parser.add_argument("--seeds", type=int, default=2, help="of random selection")
    parser.add_argument(
        "--tuned", default="elimination", choices=STATE_CRITERIA, help="criterion that is tuned"
    )
    parser.add_argument("--tune-steps", type=int, default=100)
    parser.add_argument("--tune-lr", type=float, default=4e-4, help="peak learning rate of these")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="sequences at once")
    parser.add_argument("--tokens", type=int, default=16384, help="most tokens at once")
    parser.add_argument("--others-most", type=int, default=4096, help="longest of transformers and training")
    parser.add_argument("--only", choices=["accuracy", "speed"], help="one half; both when left out")
    parser.add_argument("--no-stock", dest="stock", action="store_false", help="leave transformers out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="that speed and memory are measured on")
    parser.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        default=[],
        help="folders of runs in parts: measure nothing, join them",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("mamba-states"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    args.output.mkdir(parents=True, exist_ok=True)
    data, start = load_data("pystdlib"), time.perf_counter()

    def tell(text: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {text}", flush=True)

    files = args.models
    if not files and not args.merge:
        files = [args.output / f"mamba{version}-tiny.pt" for version in ((2,) if args.published else (1, 2))]
        sizes = PUBLISHED if args.published else {}
        for file in files:
            config = replace(SCRATCH_TEXT, epochs=args.epochs)
            tell(f"{file.stem}: {train(file.stem, data, config, file, force=True, **sizes).told()}")
    bits: list[Row] = []
    times: list[Row] = []
    about: list[Row] = []
    own = args.output / RESULT
    for folder in args.merge or ([args.output] if own.is_file() else []):  # its own: go on where it stopped
        earlier = json.loads((folder / RESULT).read_text())
        bits += earlier["accuracy"]
        times += earlier["speed"]
        about += earlier["about"]
    if not args.merge and (now := _about(args.device)) not in about:
        about.append(now)

    def keep() -> None:
        _write(args.output, bits, times, about)

    for file in files if not args.merge else []:
        pruner = Pruner(load_model(file), data)
        version, whole = pruner.model.sizes.version, pruner.model.sizes.states[0]
        if args.only != "speed":
            accuracy(pruner, args, bits, keep, tell)
        if args.only != "accuracy" and not any(r["version"] == version for r in times):
            judged = pruner.judged("magnitude", 0)  # which states stay makes no difference to time and memory
            cuts = {k: pruner.cut(judged, k)[0] for k in (max(1, int(s * whole)) for s in args.shares)}
            times += graphs({whole: pruner.model, **cuts}, args) if args.device == "cpu" else []
            times += speed({whole: pruner.model, **cuts}, args, tell)
    keep()
    draw(bits, times).savefig(args.output / "mamba.png", dpi=150)
    print(tables(bits, times))


if __name__ == "__main__":
    main()
