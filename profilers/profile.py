"""Profiles: what was measured, as plain values that are written as JSON and CSV and read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from graph.errors import ModelFileError
from profilers.growth import Growth, growth
from profilers.latency import Latency
from profilers.roofline import Roofline

FORMAT, VERSION = "prune-profile", 1
COLUMNS = (
    "subject", "mode", "batch", "length", "view", "part", "calls", "flops", "bytes_read", "bytes_written",
    "least_bytes", "intensity", "latency_ms", "p10_ms", "p90_ms", "runs", "share", "flops_per_s",
    "bytes_per_s", "bound", "roofline_share", "peak_bytes", "tokens_per_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a run: a component, an operator or a module, all its calls together.

    Attributes:
        name: of the part.
        calls: in one run.
        flops: two for each multiply-add.
        bytes_read: by the operators that were executed.
        bytes_written: the same.
        least_bytes: what the part must move if nothing within it went through memory: its inputs, its
            weights and its results. Where that is not known, what was moved.
        latency: of all calls of one run.
        peak_bytes: the most by which it raised what was alive when it began.
    """

    name: str
    calls: int
    flops: int
    bytes_read: int
    bytes_written: int
    least_bytes: int
    latency: Latency
    peak_bytes: int

    @property
    def moved_bytes(self) -> int:
        """Read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """FLOPs per byte that was moved; 0 where nothing was."""
        return self.flops / self.moved_bytes if self.moved_bytes else 0.0

    @property
    def flops_per_s(self) -> float:
        """Reached."""
        return self._per_second(self.flops)

    @property
    def bytes_per_s(self) -> float:
        """Reached."""
        return self._per_second(self.moved_bytes)

    def _per_second(self, count: int) -> float:
        return 1e3 * count / self.latency.median_ms if self.latency.median_ms else 0.0

    def roofline_share(self, roofline: Roofline) -> float:
        """The shortest time that the roofline allows, by the time that it took; 1 is as quick as can be.

        It is above 1 where caches spare main memory.
        """
        if not self.latency.median_ms:
            return 0.0
        return roofline.least_ms(self.flops, self.moved_bytes) / self.latency.median_ms


@dataclass(frozen=True)
class Measurement:
    """One run of one model.

    Attributes:
        subject: name of the model.
        mode: ``forward``, ``prefill`` (a whole sequence) or ``decode`` (one token with a cache).
        batch: records at once.
        length: of the sequence; None where there is none.
        tokens: that one run takes in: batch x length of a sequence, else records.
        whole: latency of the run without a stopwatch.
        watched: the same with one.
        peak_bytes: of activations, weights not counted.
        weight_bytes: of parameters and buffers.
        views: the parts, for each way to divide the run.
    """

    subject: str
    mode: str
    batch: int
    length: int | None
    tokens: int
    whole: Latency
    watched: Latency
    peak_bytes: int
    weight_bytes: int
    views: Mapping[str, tuple[Part, ...]]

    @property
    def tokens_per_s(self) -> float:
        """Throughput."""
        return 1e3 * self.tokens / self.whole.median_ms

    @property
    def overhead(self) -> float:
        """What the stopwatch added, as a share of the plain run, by the quick runs of both (p10)."""
        return self.watched.p10_ms / self.whole.p10_ms - 1

    def shares(self, view: str) -> dict[str, float]:
        """Share of the time of each part; they add up to 1."""
        total = sum(p.latency.median_ms for p in self.views[view]) or 1.0
        return {p.name: p.latency.median_ms / total for p in self.views[view]}

    @property
    def flops(self) -> int:
        """Of the whole run."""
        return sum(p.flops for p in next(iter(self.views.values())))

    @property
    def moved_bytes(self) -> int:
        """Of the whole run."""
        return sum(p.moved_bytes for p in next(iter(self.views.values())))


@dataclass(frozen=True)
class Profile:
    """All measurements of one command.

    Attributes:
        command: the words that make it again.
        settings: of the model and the measurement.
        environment: versions, processor, cores and threads.
        roofline: of the device.
        measurements: in the order that they were made.
        notes: what a reader should know.
    """

    command: str
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    roofline: Roofline
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names of the models, each once."""
        return tuple(dict.fromkeys(m.subject for m in self.measurements))

    def series(self, subject: str) -> list[Measurement]:
        """Measurements of one model over length, shortest first; without decoding."""
        found = [m for m in self.measurements if m.subject == subject and m.mode != "decode" and m.length]
        return sorted(found, key=lambda m: m.length or 0)

    def growth(self, subject: str, view: str) -> dict[str, Growth]:
        """How the latency of each part, of the whole and the memory grow with the length.

        Returns:
            By the name of a part, ``whole``, ``peak_bytes``; empty for fewer than two lengths.
        """
        series = self.series(subject)
        lengths = [m.length or 0 for m in series]
        values: dict[str, list[float]] = {
            "whole": [m.whole.median_ms for m in series],
            "peak_bytes": [float(m.peak_bytes) for m in series],
        }
        tables = [{p.name: p.latency.median_ms for p in m.views[view]} for m in series]
        for name in {n: None for table in tables for n in table}:
            values[name] = [table.get(name, 0.0) for table in tables]
        fits = {name: growth(lengths, found) for name, found in values.items()}
        return {name: fit for name, fit in fits.items() if fit is not None}

    def to_json(self) -> dict[str, Any]:
        """As JSON data; what can be worked out from the rest is written, too, for the reader's comfort."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "command": self.command,
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "roofline": self.roofline.to_json() | {"ridge": self.roofline.ridge},
            "measurements": [self._measurement(m) for m in self.measurements],
            "growth": {
                s: {
                    view: {name: asdict(g) for name, g in self.growth(s, view).items()}
                    for view in next(m.views for m in self.measurements if m.subject == s)
                }
                for s in self.subjects
            },
            "notes": list(self.notes),
        }

    def _measurement(self, m: Measurement) -> dict[str, Any]:
        views = {}
        for view, parts in m.views.items():
            shares = m.shares(view)
            views[view] = [
                asdict(p)
                | {
                    "intensity": p.intensity,
                    "share": shares[p.name],
                    "flops_per_s": p.flops_per_s,
                    "bytes_per_s": p.bytes_per_s,
                    "bound": self.roofline.bound(p.flops, p.moved_bytes),
                    "roofline_share": p.roofline_share(self.roofline),
                }
                for p in parts
            ]
        known = {k: getattr(m, k) for k in _PLAIN}
        return known | {
            "whole": asdict(m.whole),
            "watched": asdict(m.watched),
            "overhead": m.overhead,
            "tokens_per_s": m.tokens_per_s,
            "views": views,
        }

    @staticmethod
    def from_json(data: Any, what: str = "the profile") -> Profile:
        """Read back what ``to_json`` wrote.

        Raises:
            ModelFileError: it is no profile, or one of another version.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ModelFileError(f"{what} is no profile", hint="give a profile.json of `prune profile`")
        if data.get("version") != VERSION:
            raise ModelFileError(
                f"{what} has version {data.get('version')!r}, this is version {VERSION}",
                hint="run `prune profile` again",
            )
        try:
            roofline = {k: data["roofline"][k] for k in Roofline.__dataclass_fields__}
            return Profile(
                command=data["command"],
                settings=data["settings"],
                environment=data["environment"],
                roofline=Roofline(**roofline),
                measurements=tuple(_read_measurement(m) for m in data["measurements"]),
                notes=tuple(data["notes"]),
            )
        except (KeyError, TypeError, AttributeError) as err:
            raise ModelFileError(f"{what} is broken: {err}", hint="run `prune profile` again") from err

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for each part and one for each whole run, with the keys ``COLUMNS``."""
        for m in self.measurements:
            where = {"subject": m.subject, "mode": m.mode, "batch": m.batch, "length": m.length}
            yield where | {
                "view": "whole", "part": "whole", "calls": 1, "flops": m.flops, "share": 1.0,
                "peak_bytes": m.peak_bytes, "tokens_per_s": m.tokens_per_s, **_timed(m.whole),
            }  # fmt: skip
            for view, parts in self._measurement(m)["views"].items():
                for part in parts:
                    latency = _timed(Latency(**part["latency"]))
                    plain = {k: v for k, v in part.items() if k in COLUMNS}
                    yield where | {"view": view, "part": part["name"]} | plain | latency

    def to_csv(self) -> str:
        """The rows as CSV with a header; a cell that makes no sense for a row is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return text.getvalue()


_PLAIN = ("subject", "mode", "batch", "length", "tokens", "peak_bytes", "weight_bytes")


def _timed(latency: Latency) -> dict[str, float]:
    return {
        "latency_ms": latency.median_ms,
        "p10_ms": latency.p10_ms,
        "p90_ms": latency.p90_ms,
        "runs": latency.runs,
    }


def _read_measurement(data: Mapping[str, Any]) -> Measurement:
    views = {view: tuple(_read_part(p) for p in parts) for view, parts in data["views"].items()}
    known: dict[str, Any] = {k: data[k] for k in _PLAIN}
    known |= {k: Latency(**data[k]) for k in ("whole", "watched")}
    return Measurement(**known, views=views)


def _read_part(data: Mapping[str, Any]) -> Part:
    known = {k: data[k] for k in Part.__dataclass_fields__ if k != "latency"}
    return Part(**known, latency=Latency(**data["latency"]))


def largest(parts: Sequence[Part], top: int | None) -> list[Part]:
    """The parts that take longest, longest first."""
    return sorted(parts, key=lambda p: -p.latency.median_ms)[:top]
