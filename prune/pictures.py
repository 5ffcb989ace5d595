"""Pictures of a stored result, as values: what is drawn, whoever draws it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prune.stored import Part, Stored
from prune.tables import Number, quotient

# What a unit is, in the order of their colours.
KINDS = ("channel", "residual", "mlp", "head", "lane", "expert", "state")
_MOST = 1200  # marks of one series that are drawn; more of them are thinned out evenly
_WIDTHS = 6  # at which groups are cut alone, in a picture
XY = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        label: in words.
        points: x and y, all finite.
        shape: ``dots``, ``line`` (with dots), ``steps``, or ``level``, a horizontal line at the first y.
        colour: a position among the colours; -1 is that of text.
        told: the figure to name beside the label.
        names: of the points, where they have any.
    """

    label: str
    points: tuple[XY, ...]
    shape: str
    colour: int
    told: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Series over common axes.

    Attributes:
        name: of its files.
        title: in words.
        x_label: what x is.
        y_label: what y is.
        unit: of y, as ``Number`` writes it.
        series: in the order they are drawn.
        whole_x: whether x counts something.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    unit: str
    series: tuple[Series, ...]
    whole_x: bool = True


@dataclass(frozen=True)
class Bar:
    """One layer.

    Attributes:
        name: of the layer.
        kept: channels that stay.
        whole: channels that it had.
        kind: what its units are; None where they cannot go.
    """

    name: str
    kept: int
    whole: int
    kind: str | None


@dataclass(frozen=True)
class Skyline:
    """The widths of all layers, from the input to the output.

    Attributes:
        name: of its files.
        title: in words.
        bars: one for each layer.
    """

    name: str
    title: str
    bars: tuple[Bar, ...]

    @property
    def top(self) -> int:
        """The width of the widest layer that can be pruned; wider ones that cannot are cut off there."""
        return max([b.whole for b in self.bars if b.kind] or [b.whole for b in self.bars] or [1]) or 1

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that occur, in the order of their colours."""
        found = {b.kind for b in self.bars if b.kind}
        return (*(k for k in KINDS if k in found), *sorted(found - set(KINDS)))


Picture = Chart | Skyline


def colour_of(kind: str | None) -> int:
    """The position of a kind's colour; -1 where there is none."""
    return KINDS.index(kind) if kind in KINDS else -1


def pictures(stored: Stored) -> list[Picture]:
    """All pictures that a result has figures for."""
    if stored.curve:
        networks = [network(run, f"network-{name}") for name, run in stored.runs.items()]
        return [*curve(stored), *(n for n in networks if n.bars)]
    skyline = network(stored.run)
    charts = (*search(stored.run), *sensitivity(stored.run), *tuning(stored.run))
    return [*([skyline] if skyline.bars else []), *charts]


def network(run: Part, name: str = "network") -> Skyline:
    """The layers, or of reports that do not name them the groups."""
    plan = run.part("plan")
    layers = plan.parts("layers")
    if layers:
        found = [(p.text("name") or "", p.pair("channels"), p.text("kind")) for p in layers]
        title = "Output channels of each layer"
    else:
        groups, kinds = plan.part("groups"), plan.part("kinds")
        found = [(n, groups.pair(n), kinds.text(n)) for n in groups.data]
        title = "Units of each group"
    return Skyline(name, title, tuple(Bar(n, *pair, kind) for n, pair, kind in found if pair is not None))


def search(run: Part) -> list[Chart]:
    """The reward of the plans in the order they were scored, and what they cost."""
    trials = run.part("search").parts("trials")
    methods = [t.text("method") or "" for t in trials]
    names = list(dict.fromkeys(methods))
    lone = {n for n in names if methods.count(n) == 1}  # a baseline is one plan: a line to beat
    rewards = [t.number("worth") for t in trials]
    if not any(map(_finite, rewards)):
        return []
    order = [float(i + 1) for i in range(len(trials))]

    def of(name: str, values: Sequence[float | None]) -> tuple[XY, ...]:
        return _points((x, y) for x, y, m in zip(order, values, methods, strict=True) if m == name)

    series = []
    for i, name in enumerate(names):
        points = of(name, rewards)
        if points:
            level = name in lone
            shape, told = ("level", _told(points, "plain")) if level else ("dots", "")
            series.append(Series(name, points, shape, i, told))
    best, steps = -math.inf, []
    for x, y in zip(order, rewards, strict=True):
        if y is not None and math.isfinite(y) and y > best:
            best = y
            steps.append((x, y))
    steps.append((order[-1], best))
    series.append(Series("best so far", tuple(steps), "steps", -1, _told(steps, "plain")))
    chart = Chart("search", "Reward of each plan", "plan", "reward", "plain", tuple(series))
    return [chart, *_costs(run, names, of)]


def _costs(
    run: Part, names: Sequence[str], of: Callable[[str, Sequence[float | None]], tuple[XY, ...]]
) -> list[Chart]:
    """The plans' share of the original's MACs, and the limit where that is one."""
    base = run.part("original").number("macs")
    shares = [quotient(t.number("macs"), base) for t in run.part("search").parts("trials")]
    found = [Series(n, of(n, shares), "dots", i) for i, n in enumerate(names)]
    for limit in run.parts("limits"):
        share = quotient(limit.number("limit"), base)
        if limit.text("quantity") == "macs" and share is not None:
            found.append(Series("limit", ((1.0, share),), "level", -1, str(Number(share, "share"))))
    series = tuple(s for s in found if s.points)
    title = "MACs of each plan"
    return [Chart("plans", title, "plan", "of the original's", "share", series)] if series else []


def sensitivity(run: Part) -> list[Chart]:
    """Accuracy and loss with one group cut, over the groups in the order of the program."""
    found = run.part("sensitivity")
    cuts = [(float(i), c) for i, g in enumerate(found.parts("groups"), 1) for c in g.parts("cuts")]
    shares = sorted({c.number("share") or 0.0 for _, c in cuts}, reverse=True)[:_WIDTHS]
    charts = []
    for name, unit in (("accuracy", "share"), ("loss", "plain")):
        series = []
        for index, share in enumerate(shares):
            points = _points((i, c.number(name)) for i, c in cuts if (c.number("share") or 0.0) == share)
            series += [Series(f"{share:.0%} of its units", points, "line", index)] if points else []
        whole = found.part("whole").number(name)
        if series and whole is not None and _finite(whole):
            series.append(Series("whole network", ((1.0, whole),), "level", -1, str(Number(whole, unit))))
        if series:
            title = f"{name.capitalize()} with one group cut"
            charts.append(Chart(f"sensitivity-{name}", title, "group", name, unit, tuple(series)))
    return charts


def tuning(run: Part) -> list[Chart]:
    """Loss and accuracy over the epochs of fine-tuning."""
    history = run.part("tune").parts("history")
    best = run.part("tune").number("best_epoch")
    charts = []
    for name, title, unit, columns in (
        ("loss", "Loss while fine-tuning", "plain", (("loss", "training"), ("search_loss", "search split"))),
        ("accuracy", "Accuracy while fine-tuning", "share", (("accuracy", "search split"),)),
    ):
        series = []
        for column, label in columns:
            points = _points((e.number("epoch"), e.number(column)) for e in history)
            colour = 1 if column == "loss" else 0
            series += [Series(label, points, "line", colour, _told(points, unit))] if points else []
        chosen = [p for s in series if s.label == "search split" for p in s.points if p[0] == best]
        if chosen:
            series.append(Series(f"taken: epoch {best:g}", tuple(chosen), "ring", -1, _told(chosen, unit)))
        if series:
            charts.append(Chart(f"tuning-{name}", title, "epoch", name, unit, tuple(series)))
    return charts


def curve(stored: Stored) -> list[Chart]:
    """Accuracy and latency over the share of the MACs."""
    charts = []
    for name, unit, columns in (
        ("accuracy", "share", (("accuracy_before_tuning", "before fine-tuning"), ("accuracy", "result"))),
        ("latency", "ms", (("latency_ms", "onnxruntime, one record"),)),
    ):
        series = []
        for column, label in columns:
            read = [(p.number("macs_ratio"), p.number(column), p.text("name") or "") for p in stored.curve]
            good = [(x, y, n) for x, y, n in read if _finite(x) and _finite(y)]
            points = _points((x, y) for x, y, _ in good)
            names = tuple(n for *_, n in good) if column != "accuracy_before_tuning" else ()
            colour = 1 if column == "accuracy_before_tuning" else 0
            series += [Series(label, points, "line", colour, names=names)] if points else []
        if series:
            title = f"{name.capitalize()} over the share of the MACs"
            y_label = "milliseconds" if unit == "ms" else name
            charts.append(
                Chart(
                    f"pareto-{name}", title, "share of the MACs", y_label, unit, tuple(series), whole_x=False
                )
            )
    return charts


def _points(values: Iterable[tuple[float | None, float | None]]) -> tuple[XY, ...]:
    found = [(x, y) for x, y in values if x is not None and y is not None and _finite(x) and _finite(y)]
    step = max(1, math.ceil(len(found) / _MOST))
    return tuple(found[::step])


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and abs(value) <= 1e18


def _told(points: Sequence[XY], unit: str) -> str:
    return str(Number(points[-1][1], unit)) if points else ""
