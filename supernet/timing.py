"""Timing: the chosen subnetwork is timed beside the whole, and gives way to another one if it is too slow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from graph.errors import TargetError
from profilers.latency import compare
from supernet.latency import onnx_calls
from supernet.limits import Limits
from supernet.net import Supernet
from supernet.scoring import Choice

_TRIES = 6  # the last one within the least latency that is foretold


@dataclass(frozen=True)
class Timing:
    """A subnetwork that was timed, where latency is limited.

    Attributes:
        best: with its measured latency.
        limits: that were foretold for it at last.
        whole_ms: of the whole, timed in turns with it; None where latency is not limited.
        too_slow: how many were timed before and took too long.
    """

    best: Choice
    limits: Limits
    whole_ms: float | None = None
    too_slow: int = 0


def timed(
    net: Supernet, limits: Limits, choose: Callable[[Limits], Choice], on_stage: Callable[[str], None]
) -> Timing:
    """Time the best subnetwork and the whole in turns; as long as it is too slow, take the best narrower one.

    A foretold latency that proves wrong corrects the limit that the next one has to keep.

    Args:
        net: the supernet.
        limits: what it may use.
        choose: the best within limits.
        on_stage: told what is done.

    Raises:
        TargetError: even the one that is foretold to be the fastest is too slow.
    """
    demand, within = limits.late, limits
    if demand is None:
        return Timing(choose(limits), limits)
    assert limits.latency is not None
    on_stage("timing the best subnetwork")
    least = limits.latency(net.elastic.smallest)
    with tempfile.TemporaryDirectory() as folder:
        calls = onnx_calls({"whole": net.extract(net.elastic.largest)}, Path(folder))
        for tried in range(_TRIES):
            best = choose(within)
            home = Path(folder, str(tried))
            home.mkdir()
            times = compare(calls | onnx_calls({"best": net.extract(best.subnet)}, home))
            whole_ms, ms = times["whole"].median_ms, times["best"].median_ms
            most = demand.amount if demand.share is None else demand.share * whole_ms
            assert most is not None
            if ms <= most:
                return Timing(replace(best, latency_ms=ms), within, whole_ms, tried)
            if limits.latency(best.subnet) <= least:  # nothing is foretold to be faster
                break
            foretold = least if tried == _TRIES - 2 else limits.latency(best.subnet) * most / ms
            within = limits.narrowed(max(foretold, least))
    took = demand.in_units(ms) if demand.share is None else f"{ms / whole_ms:.1%} of the whole's time"
    last = "smallest subnetwork" if best.subnet == net.elastic.smallest else "fastest one foretold"
    raise TargetError(
        f"{demand}: the {last} takes {took} when it is timed",
        hint="allow more, or build a supernet with a smaller --least, --least-depth or more --kinds",
    )
