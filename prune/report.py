"""The report: everything that a run found out, as JSON of a versioned schema and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 2
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class ModelFigures:
    """What one model costs and what it is worth.

    Attributes:
        macs: multiply-adds for one record.
        params: trainable elements.
        peak_activation_bytes: the most activations alive at one time, for one record.
        memory_bytes: the same and all weights, which is what ``--memory`` limits.
        onnx_bytes: size of the ONNX file.
        torch_ms: latency of one record in torch: median, p10 and p90.
        onnx_ms: the same in onnxruntime.
        accuracy: on the test split, 0 to 1; None without data.
        accuracy_before_tuning: the same before fine-tuning.
    """

    macs: int
    params: int
    peak_activation_bytes: int
    memory_bytes: int
    onnx_bytes: int
    torch_ms: Mapping[str, float]
    onnx_ms: Mapping[str, float]
    accuracy: float | None
    accuracy_before_tuning: float | None

    def quantities(self) -> dict[str, float]:
        """What can be limited, by name; the latency is that in onnxruntime, in milliseconds."""
        return {
            "macs": self.macs,
            "params": self.params,
            "memory": self.memory_bytes,
            "latency": self.onnx_ms["median"],
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole run; each attribute is a section of ``report.json``."""

    command: list[str]
    environment: Mapping[str, str]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    limits: Sequence[Mapping[str, Any]]
    latency_check: Mapping[str, Any] | None
    original: ModelFigures
    pruned: ModelFigures
    accuracy: Mapping[str, Any]
    search: Mapping[str, Any]
    plan: Mapping[str, Any]
    blocks: Mapping[str, Any] | None = None
    states: Mapping[str, Any] | None
    tune: Mapping[str, Any]
    verification: Mapping[str, Any]
    onnx: Mapping[str, Any]
    native: Mapping[str, Any]
    seed: int
    seconds: float
    sensitivity: Mapping[str, Any] | None = None
    point: str | None = None  # of a curve, whose command the one above is then

    def to_json(self) -> dict[str, Any]:
        """As JSON data, with FLOPs beside the MACs and the ratios beside the pairs."""
        data = asdict(self)
        for name in ("original", "pruned"):
            data[name]["flops"] = 2 * data[name]["macs"]
        return {"format": "prune-report", "schema": SCHEMA, **data, "ratios": self.ratios()}

    def ratios(self) -> dict[str, float]:
        """Pruned over original; for latency original over pruned, which is the speed-up."""
        a, b = self.original, self.pruned
        return {
            "macs": b.macs / a.macs,
            "params": b.params / a.params,
            "memory_bytes": b.memory_bytes / a.memory_bytes,
            "onnx_bytes": b.onnx_bytes / a.onnx_bytes,
            "speedup_torch": a.torch_ms["median"] / b.torch_ms["median"],
            "speedup_onnx": a.onnx_ms["median"] / b.onnx_ms["median"],
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The final table: figure, original, pruned, change."""
        a, b, r = self.original, self.pruned, self.ratios()
        rows = [
            ("MACs", count(a.macs), count(b.macs), f"{r['macs']:.3f} x"),
            ("FLOPs (2 x MACs)", count(2 * a.macs), count(2 * b.macs), f"{r['macs']:.3f} x"),
            ("parameters", count(a.params), count(b.params), f"{r['params']:.3f} x"),
            ("memory", size(a.memory_bytes), size(b.memory_bytes), f"{r['memory_bytes']:.3f} x"),
            ("ONNX file", size(a.onnx_bytes), size(b.onnx_bytes), f"{r['onnx_bytes']:.3f} x"),
            ("latency, onnxruntime", _ms(a.onnx_ms), _ms(b.onnx_ms), f"{r['speedup_onnx']:.2f} x speed-up"),
            ("latency, torch", _ms(a.torch_ms), _ms(b.torch_ms), f"{r['speedup_torch']:.2f} x speed-up"),
        ]
        if self.data.get("unit") not in (None, "images"):
            return rows + self._text_rows()
        after = "accuracy after fine-tuning" if self.tune["epochs"] else "accuracy (not fine-tuned)"
        for name, value in (("accuracy before fine-tuning", b.accuracy_before_tuning), (after, b.accuracy)):
            if a.accuracy is not None and value is not None:
                rows.append((name, f"{a.accuracy:.2%}", f"{value:.2%}", _points(value - a.accuracy)))
        return rows

    def _text_rows(self) -> list[tuple[str, str, str, str]]:
        """The bits of a language model, before and after fine-tuning."""
        bits = self.accuracy["bits"]
        label = f"bits per {self.accuracy['each']}"
        after = f"{label} after fine-tuning" if self.tune["epochs"] else f"{label} (not fine-tuned)"
        found = [(f"{label} before fine-tuning", bits["before_tuning"]), (after, bits["after_tuning"])]
        return [
            (name, f"{bits['original']:.4f}", f"{value:.4f}", f"{value / bits['original'] - 1:+.2%}")
            for name, value in found
        ]

    def slower(self, *, free: bool) -> str | None:
        """What the user should know where the smaller network takes longer, beyond the noise of both.

        Args:
            free: whether widths could be any, so that an option helps.
        """
        a, b = self.original.onnx_ms, self.pruned.onnx_ms
        if b["p10"] <= a["p90"]:
            return None
        told = f"the smaller network takes {b['median'] / a['median']:.2f} times as long in onnxruntime"
        advice = (
            ", whose kernels take channels in blocks: --round-to 16 fills them, --latency limits the time"
        )
        return told + advice * free

    def block_lines(self) -> list[str]:
        """Which blocks went."""
        if self.blocks is None:
            return []
        names, dropped = self.blocks["blocks"], [d["name"] for d in self.blocks["dropped"]]
        return [
            f"blocks kept: {len(names) - len(dropped)} of {len(names)}, by {self.blocks['criterion']}; "
            f"dropped in this order: {', '.join(dropped)}"
        ]

    def state_lines(self) -> list[str]:
        """What was done about states, and where the checkpoint is."""
        found = self.states
        if found is None:
            return []
        lines = []
        if found.get("layers"):
            counts = [f"{len(layer['kept'][0])} of {layer['states']}" for layer in found["layers"]]
            kept = counts[0] if len(set(counts)) == 1 else ", ".join(counts)
            lines.append(f"states kept in each layer: {kept}, by {found['criterion']}")
        checkpoint = found["checkpoint"]
        if checkpoint is not None and checkpoint["layout"]:
            reason = f"; {checkpoint['reason']}" if checkpoint["reason"] else ""
            lines.append(f"the folder checkpoint holds it in the layout of {checkpoint['layout']}{reason}")
        elif checkpoint is not None:
            lines.append(f"there is no checkpoint in the layout of another library: {checkpoint['reason']}")
        return lines

    def own_class(self) -> str:
        """One sentence on whether the user's own class runs with the pruned weights."""
        if not self.native["runs"]:
            told = f"the model's own class does not run with the pruned weights: {self.native['reason']}"
            return told + self._lanes()
        count = len(self.native["attributes"])
        return f"the model's own class runs with the pruned weights, {count} of its attributes changed"

    def _lanes(self) -> str:
        """What to try where heads became narrower, which most classes of attention cannot be."""
        kinds = self.plan.get("kinds", {})
        narrower = {kinds.get(name) for name, (kept, whole) in self.plan["groups"].items() if kept < whole}
        others = ",".join(sorted(set(filter(None, kinds.values())) - {"lane"}))
        if "lane" not in narrower or not others or not self.native.get("reason"):
            return ""
        return f"; heads became narrower: it may run with --kinds {others}"

    def limit_lines(self) -> list[str]:
        """One sentence for each limit: what was asked, and what came out."""
        lines = []
        for found in self.limits:
            limit, used = (_quantity(found["quantity"], found[key]) for key in ("limit", "pruned"))
            share = found["pruned"] / found["limit"]
            lines.append(
                f"{found['option']} {found['asked']}: at most {limit}, uses {used} ({share:.1%} of it)"
            )
        if self.latency_check is not None:
            check = self.latency_check["checks"][self.latency_check["chosen"]]
            kept = "keeps the limit" if self.latency_check["held"] else "MISSES the limit"
            lines.append(
                f"latency of the plan: predicted {check['predicted_ms']:.3f} ms, measured in turn with the "
                f"original {check['measured_ms']:.3f} ms (noise {check['noise_ms']:.3f} ms), {kept}; "
                f"onnxruntime with a thread for each of {self.environment['cores']} cores"
            )
        return lines

    def verdict(self) -> str:
        """One sentence on what the search was worth."""
        best, gain = self.search["best"], self.search["gain_over_uniform"]
        if not best:
            origin = "the calibration text" if (self.states or {}).get("tokens") else "the weights"
            origin = "the search split" if self.blocks is not None and origin == "the weights" else origin
            text = f"the plan {self.search['winner']!r} follows from {origin}; nothing was searched for"
            return text if self.data["name"] else f"{text}, and nothing was measured for accuracy: no data"
        search, first = self.search, self.search["best_method"]
        text = (
            f"by score the best plan is of {first!r}: {best[first]['accuracy']:.2%} on {search['images']} "
            f"search {self.data['unit']} before fine-tuning"
        )
        if gain is not None:
            text += f", {100 * gain:+.2f} points against uniform ({best['uniform']['accuracy']:.2%})"
        if search["mended"] is None:
            return text
        return (
            f"{text}; of {search['mended']} candidates, mended, one of {search['winner']!r} lost least "
            f"on the whole search split ({search['mended_loss']:.4f}) and was taken"
            + (f", its channels ranked by {ranked}" if (ranked := self.plan.get("importance")) else "")
        )


def agreement(max_error: float, rounding: float | None) -> str:
    """How well an ONNX file agrees, and what of that the model's own rounding explains, if anything."""
    own = f" (the model's own rounding: {rounding:.1e})" if rounding else ""
    return f"agrees with torch to {max_error:.1e}{own}"


def count(value: float) -> str:
    """A count with a unit of thousands: 125.49 M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """A size in bytes with a unit: 3.42 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:.0f} B"


def _quantity(name: str, value: float) -> str:
    if name == "latency":
        return f"{value:.3f} ms"
    return size(value) if name == "memory" else count(value)


def _ms(latency: Mapping[str, float]) -> str:
    return f"{latency['median']:.2f} ms"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f} points"
