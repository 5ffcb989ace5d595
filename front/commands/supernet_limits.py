"""Limits that the commands of supernets are given, and the searches within them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from graph.errors import DataError, TargetError

if TYPE_CHECKING:
    from models_zoo.data import DataSet
    from prune.demands import Demand
    from supernet.agents import SearchConfig
    from supernet.latency import LatencyModel
    from supernet.limits import Limits
    from supernet.scoring import Found, Trial
    from supernet.store import Stored


def demands_of(
    flops: str | None, params: str | None, latency: str | None, *, needed: bool = True
) -> tuple[Demand, ...]:
    """The limits that were given as options; none where none is needed."""
    from prune.demands import parse_demands

    given = {"--flops": flops, "--params": params, "--latency": latency}
    return parse_demands(given) if needed or any(v is not None for v in given.values()) else ()


def config_of(
    agent: str | None,
    trials: int,
    seed: int,
    records: int | None,
    asked: Sequence[Sequence[Demand]],
    *,
    pareto: bool = False,
) -> SearchConfig:
    """How to search; what the agent cannot do is refused before anything is loaded."""
    from supernet.agents import SearchConfig, check_agent, default_agent

    config = SearchConfig(agent=agent or default_agent(), trials=trials, seed=seed, records=records)
    for demands in asked:
        check_agent(config.agent, demands, pareto=pareto)
    return config


@contextmanager
def _of(device: str) -> Iterator[None]:
    """Say which device cannot have what it asks for."""
    try:
        yield
    except TargetError as err:
        raise TargetError(f"{device}: {err}" if device else str(err), hint=err.hint) from err


@dataclass
class Searches:
    """The searches of one command: they share data and the model of latencies.

    Attributes:
        stored: the supernet.
        wish: name of the data, as the user gave it.
        config: how to search.
        named: whether the user named the agent.
        shown: the screen.
        unpaid: seconds that the model of latencies took, until the first search that uses it counts them.
    """

    stored: Stored
    wish: str | None
    config: SearchConfig
    named: bool
    shown: Any
    unpaid: float = 0.0

    @cached_property
    def data(self) -> DataSet | None:
        """What judges; None where nothing is known to."""
        from prune.subject import find_data

        found = find_data(self.wish, self.stored.loaded())
        if found is None:
            self.shown.note("no data: nothing is scored, the plain choice is taken: "
                            "as many layers as fit, each as wide as fits")  # fmt: skip
        elif not self.named and self.config.agent == "random":
            self.shown.note("searched at random: --agent tpe needs the package optuna")
        return found

    @cached_property
    def must(self) -> DataSet:
        """Data for what cannot do without."""
        from prune.subject import NO_DATA, must_find_data

        if self.wish == NO_DATA:
            raise DataError("training needs data", hint="--epochs 0, or name data")
        return must_find_data(self.wish, self.stored.loaded())

    @cached_property
    def _latency(self) -> LatencyModel:
        from supernet.latency import LatencyModel

        found = LatencyModel(self.stored.net, self.shown.stage)
        self.unpaid = found.seconds
        self.shown.note(
            f"latencies are foretold from {len(found.measured)} that were measured; "
            f"one that the others foretell is at most {found.error:.0%} off"
        )
        return found

    def limits(self, demands: Sequence[Demand]) -> Limits:
        """What the demands mean for this supernet."""
        from supernet.limits import Limits, latency_in

        late = latency_in(demands) is not None
        return Limits(self.stored.net, demands, self._latency if late else None)

    def all_limits(self, asked: Mapping[str, Sequence[Demand]]) -> dict[str, Limits]:
        """Those of each device, before the first is searched for.

        Raises:
            TargetError: one is out of reach; it names the device.
        """
        found = {}
        for name, demands in asked.items():
            with _of(name):
                found[name] = self.limits(demands)
        return found

    def run(self, limits: Limits, name: str = "", *, pareto: bool = False) -> Found:
        """Search, and count what the model of latencies took."""
        from supernet.search import search

        data = self.data
        done: list[Trial] = []
        title = "searching" if data is not None else "choosing"
        self.shown.stage(" ".join([title, *filter(None, [name]), *map(str, limits.demands)]))

        def told(trial: Trial) -> None:
            done.append(trial)
            best = max(done, key=lambda t: t.rank)
            self.shown.last_epoch = f"best {best.told()}"
            self.shown.step(len(done), self.config.trials)

        with _of(name):
            found = search(
                self.stored.net, data, limits, self.config, pareto=pareto, on_trial=told,
                on_stage=self.shown.stage,
            )  # fmt: skip
        spent, self.unpaid = self.unpaid, 0.0
        return replace(found, seconds=found.seconds + spent)
