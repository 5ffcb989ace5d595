"""The page of a result: one HTML file that needs no network, no script and no other file.

Everything in a report may come from anybody, so that every text goes through ``markup.text``, and a policy in
the head forbids the browser to load or run anything whatever the text says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from prune import tables
from prune.files import write_file
from prune.manifest import renew
from prune.markup import badges, card, charts, folded, legend, listed, patch, section, tabled, text
from prune.page_style import STYLE
from prune.page_words import checks, commands, headline, title
from prune.pictures import Skyline, colour_of, curve, network, search, sensitivity, tuning
from prune.report import SCHEMA
from prune.stored import Part, Stored
from prune.svg import draw_skyline
from prune.tables import Number, Table, quotient

PAGE_FILE = "report.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write_page(stored: Stored, path: Path) -> None:
    """Write the page of a run or of a curve.

    Args:
        stored: from ``read_stored`` or ``of_report``.
        path: the file, which is replaced.

    Raises:
        ModelFileError: the result is malformed; nothing is written then.
        OutputError: the file cannot be written.
    """
    html = page(stored)
    write_file(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    renew(path)


def page(stored: Stored) -> str:
    """The page of a run or of a curve as HTML.

    Raises:
        ModelFileError: the result is malformed.
    """
    body = _curve_body(stored) if stored.curve else _run_body(stored.run)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{text(title(stored))}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n<footer>Written by prune from a report of schema {SCHEMA}. FLOPs = 2 x MACs. "
        f"{tables.MISSING} stands for what was not measured.</footer></main></body></html>\n"
    )


def _run_body(run: Part) -> str:
    stored = Stored(run)
    return "\n".join(
        part
        for part in (
            _header(stored),
            _cards(run),
            badges(checks(run)),
            _network(network(run), [tables.groups(run), tables.layers(run)]),
            section("Original against pruned", tabled(tables.figures(run))),
            _blocks(run),
            _states(run),
            _search(run),
            _sensitivity(run),
            _tuning(run),
            _limits(run),
            _proof(run),
            _own_class(run),
            _facts(run),
            _repeat(stored),
        )
        if part
    )


def _curve_body(stored: Stored) -> str:
    networks = [
        _network(network(run), [tables.groups(run)], f"Point {name}", badges(checks(run)))
        for name, run in stored.runs.items()
    ]
    found = [
        _header(stored),
        section("Curve", charts(curve(stored)) + tabled(tables.points(stored))),
        *networks,
    ]
    if stored.runs:
        found.append(_facts(stored.run))
    return "\n".join(part for part in [*found, _repeat(stored)] if part)


def _header(stored: Stored) -> str:
    return (
        f'<header><p class="kicker">prune report</p><h1>{text(title(stored))}</h1>'
        f'<p class="lead">{text(headline(stored), 1000)}</p></header>'
    )


def _cards(run: Part) -> str:
    found = []
    for key, label, unit in (
        ("macs", "MACs", "count"),
        ("params", "Parameters", "count"),
        ("onnx_bytes", "ONNX file", "bytes"),
        ("onnx_ms", "Latency, onnxruntime", "ms"),
        ("memory_bytes", "Memory", "bytes"),
        ("accuracy", "Accuracy", "share"),
    ):
        models = [run.part(name) for name in ("original", "pruned")]
        if key == "onnx_ms":
            a, b = (m.part(key).number("median") for m in models)
        else:
            a, b = (m.number(key) for m in models)
        if a is None and b is None:
            found.append(card(label, "not measured"))
            continue
        ratio, was = quotient(b, a), f"original {Number(a, unit)}"
        better = ratio is not None and ratio <= 1
        change = f"{100 * (ratio - 1):+.1f}%" if ratio is not None and ratio < 1e6 else ""
        if key == "accuracy":
            lost = b - a if a is not None and b is not None and math.isfinite(b - a) else None
            ratio, better = b, lost is not None and lost >= 0
            change = "" if lost is None else str(Number(lost, "points"))
        kind = "good" if better else "bad"
        if key == "onnx_ms" and _overlap(models[0].part(key), models[1].part(key)):
            kind, was = "soft", f"{was}; the spread is wider"
        found.append(card(label, str(Number(b, unit)), was, change, kind, ratio))
    return f'<div class="cards">{"".join(found)}</div>'


def _overlap(a: Part, b: Part) -> bool:
    """Whether the middle 80 % of two measurements overlap, so that their medians tell little."""
    lows, highs = ([p.number(n) for p in (a, b)] for n in ("p10", "p90"))
    known = [v for v in (*lows, *highs) if v is not None]
    return len(known) == 4 and max(known[:2]) <= min(known[2:])


def _network(
    skyline: Skyline, details: Sequence[Table], heading: str = "The network", below: str = ""
) -> str:
    if not skyline.bars:
        return ""
    kept, whole = (sum(getattr(b, n) for b in skyline.bars) for n in ("kept", "whole"))
    items = [(patch(colour_of(kind)), kind, "") for kind in skyline.kinds]
    if any(b.kind is None for b in skyline.bars):
        items.append((patch(-1), "not pruned", ""))
    told = (
        f"{skyline.title}, in the order of the program: filled what stays, pale what was removed; "
        f"{kept:,} of {whole:,} stay. The tallest bar stands for {skyline.top:,}"
        + (", wider ones are cut off." if any(b.whole > skyline.top for b in skyline.bars) else ".")
    )
    ends = f"<span>{text(skyline.bars[0].name)}</span><span>{text(skyline.bars[-1].name)}</span>"
    return section(
        heading,
        f'<p class="note">{text(told, 400)}</p><figure>{draw_skyline(skyline)}<p class="ends">{ends}</p>'
        f"{legend(items)}</figure>{below}" + "".join(map(folded, details)),
    )


def _blocks(run: Part) -> str:
    table, found = tables.blocks(run), run.part("blocks")
    if not table.rows:
        return ""
    asked, count = found.text("asked") or tables.MISSING, len(found.texts("blocks"))
    told = f"Asked for {asked} of {count} blocks, judged by {found.text('criterion') or tables.MISSING}"
    if (loss := found.number("loss_of_all")) is not None:
        told += f", which is {loss:.4f} with all of them"
    return section("Blocks", f"<p>{text(told)}.</p>{tabled(table)}")


def _states(run: Part) -> str:
    table, found = tables.states(run), run.part("states")
    if not table.rows:
        return ""
    asked, criterion = found.text("asked") or tables.MISSING, found.text("criterion") or tables.MISSING
    spread = "one threshold over all layers" if found.text("scope") == "global" else "each layer for itself"
    told = f"Asked for {asked}, judged by {criterion}, {spread}."
    return section("States", f"<p>{text(told)}</p>{tabled(table)}")


def _search(run: Part) -> str:
    found = run.part("search")
    if not found.part("best").data:
        winner = found.text("winner") or "unknown"
        return section("The search", f"<p>Nothing was searched for: the plan is “{text(winner)}”.</p>")
    ran, records = (Number(found.number(n), "whole") for n in ("evaluations", "images"))
    precision = found.text("precision")
    numbers = f" ({text(precision)})" if precision else ""
    told = (
        f"{ran} plans were run on {records} records of the search split{numbers} in "
        f"{Number(found.number('seconds'), 'seconds')}, before any fine-tuning. A line stands for a method "
        "that made one plan."
    )
    gain = found.number("gain_over_uniform")
    if gain is not None:
        told += f" The best by score gains {Number(gain, 'points')} over the uniform one."
    mended = found.number("mended")
    if mended is not None:
        told += (
            f" The best {Number(mended, 'whole')} were mended, as the result is, and the one was taken that "
            f"then lost least on the whole search split: {Number(found.number('mended_loss'), 'plain')}."
        )
    if ranked := run.part("plan").text("importance"):
        told += f" The channels of the result are ranked by {ranked}."
    if agent := found.text("agent"):
        told = f"Searched by {agent}. {told}"
    notes = "".join(f'<p class="note">Note: {text(note, 400)}.</p>' for note in found.texts("notes"))
    shown = f'<p class="note">{text(told, 600)}</p>{notes}{charts(search(run))}{tabled(tables.plans(run))}'
    return section("The search", shown + folded(tables.trials(run)))


def _sensitivity(run: Part) -> str:
    drawn, records = sensitivity(run), Number(run.part("sensitivity").number("records"), "whole")
    if not drawn:
        return ""
    told = (
        f"Each group cut alone, all others whole, on {records} records of the search split; nothing is "
        "fitted or tuned. Groups are in the order of the program; the deeper the fall, the more sensitive."
    )
    shown = f'<p class="note">{text(told, 400)}</p>{charts(drawn)}{folded(tables.sensitivity(run))}'
    return section("Sensitivity", shown)


def _tuning(run: Part) -> str:
    tune = run.part("tune")
    if not tune.parts("history"):
        return section("Fine-tuning", "<p>The pruned model was not fine-tuned.</p>")
    epochs, batch = (Number(tune.number(n), "whole") for n in ("epochs", "batch_size"))
    asked = ", which is asked about mixtures of two images" if tune.flag("mixup") else ""
    told = (
        f"{epochs} epochs, peak learning rate {Number(tune.number('lr'), 'plain')}, batches of {batch}, "
        f"{Number(tune.number('distill'), 'share')} of the loss from the original as teacher{asked}, "
        f"{Number(tune.number('seconds'), 'seconds')}."
    )
    return section(
        "Fine-tuning", f'<p class="note">{told}</p>{charts(tuning(run))}{folded(tables.epochs(run))}'
    )


def _limits(run: Part) -> str:
    check = run.part("latency_check")
    found, told = tables.limits(run), ""
    if check.data:
        held = {True: "The latency holds", False: "The latency MISSES its limit"}
        told = f"<p>{held.get(bool(check.flag('held')))}, measured in turn with the original's.</p>"
    return section("Limits", tabled(found) + told) if found.rows else ""


def _proof(run: Part) -> str:
    proof, onnx = run.part("verification"), run.part("onnx")
    ran = {True: "yes", False: "no: --no-verify", None: None}[proof.flag("ran")]
    error, limit, apart, rounding = map(
        _error,
        (proof.number("max_error"), proof.number("limit"), onnx.number("max_error"), onnx.number("rounding")),
    )
    compared = Number(onnx.number("comparisons"), "whole")
    rows = {
        "proved": ran,
        "in float64": f"largest difference {error}, allowed {limit}",
        "records compared": str(Number(proof.number("records"), "whole")),
        "ONNX against torch": f"largest difference {apart} in {compared} comparisons",
        **({"the model's own rounding": rounding} if onnx.number("rounding") else {}),
        "ONNX opset": str(Number(onnx.number("opset"), "whole")),
    }
    told = (
        "The pruned program against the original with the removed channels masked, and the ONNX file in "
        "onnxruntime against torch."
    )
    return section("Verification", f'<p class="note">{told}</p>' + listed(tables.texts("proof", "", rows)))


def _own_class(run: Part) -> str:
    native = run.part("native")
    found = tables.attributes(run)
    if native.flag("runs"):
        told = (
            f"The model's own class runs with the pruned weights in {native.text('file') or 'a file'}, "
            f"{len(found.rows)} of its attributes changed."
        )
    else:
        reason = native.text("reason") or "no reason is known"
        told = f"The model's own class does not run with the pruned weights: {reason}"
    return section("The model's own class", f"<p>{text(told, 2000)}</p>{folded(found)}")


def _facts(run: Part) -> str:
    model, data, machine = run.part("model"), run.part("data"), run.part("environment")
    inputs = ", ".join(
        f"{i.text('name') or ''} {'x'.join(map(str, i.data.get('shape') or []))} {i.text('dtype') or ''}"
        for i in model.parts("inputs")
    )
    rows = [
        ("model", model.text("path")),
        ("SHA-256", model.text("sha256")),
        ("architecture", model.text("arch")),
        ("its arguments", model.told("arch_args")),
        ("inputs", inputs),
        ("data", data.text("name") or "none"),
        *((f"{name} split", data.told(name)) for name in ("train", "search", "test") if data.told(name)),
        *(("note", note) for note in data.texts("notes")),
        ("seed", run.told("seed")),
        ("duration", str(Number(run.number("seconds"), "seconds"))),
        *((name, machine.told(name)) for name in machine.data),
    ]
    return section("Model, data and machine", listed(tables.texts("environment", "", rows)))


def _repeat(stored: Stored) -> str:
    items = "".join(
        f"<p>{text(why)}</p><pre>{text(command, 20_000)}</pre>" for why, command in commands(stored)
    )
    return section("To repeat it", items)


def _error(value: float | None) -> str:
    return f"{value:.1e}" if value is not None and math.isfinite(value) else str(Number(value))
