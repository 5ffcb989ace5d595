"""The words of the page: its title, its one sentence, what was checked, and the commands that repeat it."""

from __future__ import annotations

import math
import shlex
from typing import NamedTuple

from graph.errors import ModelFileError
from prune.escaping import plain
from prune.stored import Part, Stored
from prune.tables import Number, quotient

_ONNX_TOLERANCE = 1e-4  # the exporter's: more passes only if the model's own rounding explains half of it


class Check(NamedTuple):
    """Something that holds, that does not, or that is not known (None)."""

    good: bool | None
    told: str


def title(stored: Stored) -> str:
    """Which model on which data."""
    arch, data = stored.run.part("model").text("arch"), stored.run.part("data").text("name")
    return f"{arch or 'a model'} on {data}" if data else f"{arch or 'a model'}, without data"


def headline(stored: Stored) -> str:
    """The result in one or two sentences."""
    if stored.curve:
        ratios = [p.number("macs_ratio") for p in stored.curve[1:]]
        told = ", ".join(str(Number(r, "share")) for r in ratios)
        return f"{len(ratios)} pruned models with {told} of the original's MACs."
    a, b = stored.run.part("original"), stored.run.part("pruned")
    shares = [Number(quotient(b.number(n), a.number(n)), "share") for n in ("macs", "params")]
    text = f"The pruned model has {shares[0]} of the original's MACs and {shares[1]} of its parameters"
    speed = quotient(a.part("onnx_ms").number("median"), b.part("onnx_ms").number("median"))
    if speed is not None:
        text += f", and runs {Number(speed, 'speed-up')} in onnxruntime"
    known = stored.run.part("accuracy")
    bits, each = known.part("bits"), known.text("each") or "label"
    whole, cut = bits.number("original"), bits.number("after_tuning")
    if whole is not None and cut is not None:
        return (
            f"{text}. It needs {Number(cut, 'plain')} bits per {each}, the original {Number(whole, 'plain')}."
        )
    before, after = a.number("accuracy"), b.number("accuracy")
    if before is None or after is None:
        return f"{text}. Accuracy was not measured."
    split = stored.run.part("accuracy").text("split") or "test"
    records = Number(stored.run.part("accuracy").number("records"), "whole")
    change = Number(after - before, "points")
    return (
        f"{text}. Accuracy on {records} records of the {split} split: {Number(after, 'share')}, the original "
        f"{Number(before, 'share')} ({change})."
    )


def checks(run: Part) -> list[Check]:
    """What a reader wants to know holds."""
    proof, onnx, native = run.part("verification"), run.part("onnx"), run.part("native")
    found = []
    error, limit = proof.number("max_error"), proof.number("limit")
    if proof.flag("ran") and error is not None and limit is not None:
        found.append(Check(error <= limit, f"equal to the masked original to {error:.1e} in float64"))
    else:
        found.append(Check(None, "not proved"))
    error = onnx.number("max_error")
    if error is None:
        found.append(Check(None, "ONNX file not compared"))
    else:
        allowed = max(_ONNX_TOLERANCE, 2 * (onnx.number("rounding") or 0.0))
        found.append(Check(error <= allowed, f"ONNX agrees with torch to {error:.1e}"))
    for part in run.parts("limits"):
        used, most = part.number("pruned"), part.number("limit")
        asked = " ".join(w for w in (part.text("option"), part.text("asked")) if w) or "limit"
        known = used is not None and most is not None and math.isfinite(used) and math.isfinite(most)
        good = used <= most if known and used is not None and most is not None else None
        if part.text("quantity") == "latency":  # judged with the noise of the measurement
            good = run.part("latency_check").flag("held")
        words = {True: "kept", False: "missed", None: "not known"}
        found.append(Check(good, f"{asked} {words[good]}"))
    runs = native.flag("runs")
    found.append(Check(runs or None, "own class runs" if runs else "own class does not run"))
    return found


def commands(stored: Stored) -> list[tuple[str, str]]:
    """What to type to get the same result again, with the reason.

    Raises:
        ModelFileError: a report with another command than that of a run, which nobody should type.
    """
    run = stored.run
    words = list(stored.command) or ([] if stored.curve else run.texts("command"))
    if words and words[:2] != ["prune", "compress"]:
        raise ModelFileError(
            f"{plain(run.file)} is malformed: its command is {plain(shlex.join(words))}", hint="write it anew"
        )
    found = []
    point = "" if stored.curve else run.text("point") or ""
    path, digest = run.part("model").text("path"), run.part("model").text("sha256")
    if path and digest and ":" not in path:
        found.append(
            ("The same model, told by its SHA-256:", f"sha256sum -- {shlex.quote(path)}  # {digest}")
        )
    if words:
        versions = run.part("environment")
        names = [
            f"{n} {versions.told(n)}" for n in ("prune", "python", "torch", "onnxruntime") if versions.told(n)
        ]
        ran = f"The run, of which this is point {point}" if point else "The run"
        found.append((f"{ran}, with {', '.join(names) or 'the same versions'}:", shlex.join(words)))
    output = words[words.index("-o") + 1] if "-o" in words[:-1] else None
    if output is not None:
        folder = shlex.quote(f"{output}/{point}" if point else output)
        if run.part("data").text("name") and not stored.curve:
            found.append(("The accuracy of the result:", f"prune eval {folder}"))
        found.append(("This page, its plots and its tables:", f"prune report {folder} --plots plots --force"))
    return found
