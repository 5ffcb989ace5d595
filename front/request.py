"""Requests: the options of ``prune compress`` under the names of its flags, and what they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from models_zoo.data import DataSet
from profilers.device import find_device
from prune.config import CompressConfig
from prune.demands import Demand, parse_demands
from prune.depth import BlockConfig
from prune.load import ModelSource
from prune.pareto import parse_shares
from prune.selection import Texts, parse_selection
from prune.states import StateConfig
from prune.trials import Planner
from prune.tune_config import FINE_TUNE, FINE_TUNE_TEXT
from rl import search
from rl.policy import agent_of
from rl.precision import PRECISION
from rl.processes import Note
from rl.reward import IMAGES
from rl.workers import check_alone, cores

Limit = str | float | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of ``prune compress`` but for those that name the model, the data and the output.

    Each has the name, the meaning and the default of its flag; ``docs/guide.md`` tells them.
    """

    flops: Limit = None
    macs: Limit = None
    params: Limit = None
    memory: Limit = None
    latency: Limit = None
    states: Limit = None
    blocks: Limit = None
    pareto: str | None = None
    planner: str | None = None
    agent: str | None = None
    policy: str | Path | None = None
    episodes: int = 100
    reward: str = "error"
    images: int = IMAGES
    precision: str = PRECISION
    workers: str | int | None = None
    device: str = "cpu"
    importance: str | None = None
    state_criterion: str | None = None
    state_scope: str = "layer"
    block_criterion: str = "loss"
    compensate: bool = True
    exclude: Texts = None
    only: Texts = None
    limit: Texts = None
    kinds: Texts = None
    round_to: int | None = None
    reconstruct: bool = True
    tune: bool = True
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    seed: int = 0
    verify: bool = True
    sensitivity: bool | None = None

    def given(self) -> dict[str, Any]:
        """Those that do not have their defaults, under the names of the flags, as JSON data."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name != "workers":
                found[field.name.replace("_", "-")] = plain(value)
        return found


def plain(value: Any) -> Any:
    """The value of an option as JSON data."""
    if isinstance(value, list | tuple):
        return [str(v) for v in value]
    return value if isinstance(value, bool | int | float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run of ``prune compress``.

    Attributes:
        config: for the pipeline.
        points: of a curve; empty for a single target.
        search: for the agent.
        images: of the search split that score each plan.
        workers: who scores them.
    """

    config: CompressConfig
    points: tuple[Demand, ...]
    search: search.SearchConfig
    images: int
    workers: str

    @property
    def trials(self) -> int:
        """How many plans a search scores, that of the point before included."""
        return self.search.trials + bool(self.points)

    def planner(self, note: Note) -> AbstractContextManager[Planner]:
        """Who searches; the workers end with the block, ``note`` is told of lost ones."""
        return search.planner(self.search, images=self.images, workers=self.workers, note=note)


def limits(options: Options) -> tuple[Demand, ...]:
    """The limits; none where states, blocks or a curve are all that is asked for.

    Raises:
        TargetError: a malformed limit, or none at all.
    """
    names = ("flops", "macs", "params", "memory", "latency")
    given = {f"--{name}": getattr(options, name) for name in names}
    alone = any(given is not None for given in (options.pareto, options.states, options.blocks))
    return () if alone and not any(given.values()) else parse_demands(given)


def request(
    source: ModelSource,
    options: Options,
    *,
    data: str | DataSet | None = None,
    output: Path | None = None,
    force: bool = False,
    temporary: bool = False,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
) -> Request:
    """What options mean.

    Args:
        source: the model.
        options: the flags.
        data: name of the data set, or the data set itself.
        output: folder of the results; ``runs/MODEL-TARGET`` when left out.
        force: replace files of an earlier run.
        temporary: the output goes away with whoever asked for it.
        resume: go on with the unfinished run in ``output``.
        identity: what the run is, for whoever resumes it; see ``CompressConfig.options``. The agent is added.

    Raises:
        PruneError: an option that is unknown, malformed or does not go with another one.
    """
    demands = limits(options)
    points = parse_shares(options.pareto) if options.pareto is not None else ()
    states = None if options.states is None else _told(options.states)
    blocks = None if options.blocks is None else _told(options.blocks)
    parts = {"states": states, "blocks": blocks}
    shares = [d.text for d in (*points, *demands)]
    shares += [f"{name}-{share}" for name, share in parts.items() if share is not None]
    named = "-".join(shares).replace("%", "pct").replace("/", "_")
    training: dict[str, Any] = {
        "epochs": options.epochs if options.tune else 0,
        "lr": options.lr,
        "batch_size": options.batch_size,
    }
    told = {"seed": options.seed} | {name: value for name, value in training.items() if value is not None}
    device = find_device(options.device)
    policy = None if options.policy is None else str(options.policy)
    agent = agent_of(options.agent, policy)
    searching = search.SearchConfig(
        agent=agent,
        episodes=options.episodes,
        seed=options.seed,
        reward=options.reward,  # type: ignore[arg-type]
        policy=policy,
        precision=options.precision,
        sensitivity=options.sensitivity,
    )
    config = CompressConfig(
        source=source,
        demands=demands,
        output=output or Path("runs") / f"{source.stem}-{named}",
        data=data,
        planner=options.planner,
        importance=options.importance,  # type: ignore[arg-type]
        selection=parse_selection(options.exclude, options.only, options.limit, options.kinds),
        round_to=options.round_to,
        states=StateConfig(
            text=states,
            criterion=options.state_criterion,  # type: ignore[arg-type]
            scope=options.state_scope,  # type: ignore[arg-type]
            compensate=options.compensate,
        ),
        blocks=BlockConfig(text=blocks, criterion=options.block_criterion),  # type: ignore[arg-type]
        tune=replace(FINE_TUNE, **told),
        tune_text=replace(FINE_TUNE_TEXT, **told),
        device=device,
        reconstruct=options.reconstruct,
        seed=options.seed,
        search=search.command_words(searching, images=options.images),
        force=force,
        temporary=temporary,
        resume=resume,
        options={**identity, "agent": agent} if identity else {},
        verify=options.verify,
    )
    usual = 1 if device.type != "cpu" else cores()
    workers = str(usual if options.workers is None else options.workers)
    check_alone(workers, device)
    return Request(config=config, points=points, search=searching, images=options.images, workers=workers)


def _told(value: str | float) -> str:
    return str(float(value)) if isinstance(value, float) else str(value)  # 1.0 is a share, 1 is one
