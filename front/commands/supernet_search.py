"""The commands that use supernets: search, extract."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from front.commands.failures import can_go_on
from front.commands.options import (
    JsonOption,
    SeedOption,
    SupernetArgument,
    SupernetDataOption,
    SupernetForceOption,
)
from front.commands.supernet_tables import show_extracted, show_found
from front.commands.terminal import new_screen, print_json
from graph.errors import UsageError

if TYPE_CHECKING:
    from graph.program import Program
    from models_zoo.data import DataSet
    from prune.demands import Demand
    from prune.journal import Journal
    from prune.tune import TuneConfig
    from supernet.elastic import Subnet
    from supernet.extraction import Extracted
    from supernet.net import Supernet
    from supernet.scoring import Found, SearchConfig, Trial
    from supernet.store import Stored
    from supernet.tuning import Tuned

FlopsOption = Annotated[str | None, typer.Option(help="At most this share of the FLOPs, or a number.")]
ParamsOption = Annotated[str | None, typer.Option(help="At most this share of the parameters, or a number.")]
LatencyOption = Annotated[
    str | None, typer.Option(help="At most this share of the latency in onnxruntime, or 5ms.")
]
AgentOption = Annotated[
    str, typer.Option("--agent", help="tpe, nsga2 or random; of widths alone gnn-rl, agmc or amc.")
]
TrialsOption = Annotated[int, typer.Option(min=1, help="Subnetworks to score.")]
RecordsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Of the search split for each.", show_default="512 images, 32 windows"),
]


def supernet_search(
    folder: SupernetArgument,
    flops: FlopsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="A front of accuracy against FLOPs, not one subnetwork.")
    ] = False,
    agent: AgentOption = "tpe",
    trials: TrialsOption = 60,
    records: RecordsOption = None,
    data: SupernetDataOption = None,
    seed: SeedOption = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="DIR/found.json")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the search (.png or .svg).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the best subnetworks within limits; nothing is trained."""
    from prune.files import write_json
    from prune.subject import must_find_data
    from supernet.pictures import plot_search
    from supernet.scoring import SearchConfig
    from supernet.store import FOUND_FILE, load_supernet

    limited = any(o is not None for o in (flops, params, latency))
    demands = _demands(flops, params, latency) if limited or not pareto else ()
    config = SearchConfig(agent=agent, trials=trials, seed=seed, records=records)
    shown = new_screen(as_json=as_json)
    with shown.running():
        shown.stage("loading the supernet")
        stored = load_supernet(folder)
        found_data = must_find_data(data or stored.data, stored.loaded())
        result = _searched(stored, found_data, demands, config, pareto, shown)
        path = output or folder / FOUND_FILE
        write_json(path, {"limits": [str(d) for d in demands], "data": found_data.name, **result.to_json()})
        if plot is not None:
            plot_search(result, plot)
    if as_json:
        return print_json(result.to_json())
    show_found(result, stored.net, found_data.unit, path, pareto=pareto)


def supernet_extract(
    folder: SupernetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    flops: FlopsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    found: Annotated[
        Path | None,
        typer.Option(
            "--found", help="What a search wrote: its best subnetwork.", show_default="DIR/found.json"
        ),
    ] = None,
    budgets: Annotated[
        Path | None, typer.Option(help="TOML file with a table of limits for each class of devices.")
    ] = None,
    agent: AgentOption = "tpe",
    trials: TrialsOption = 60,
    records: RecordsOption = None,
    data: SupernetDataOption = None,
    seed: SeedOption = 0,
    epochs: Annotated[int, typer.Option(min=0, help="Of training each subnetwork alone; 0: none.")] = 0,
    lr: Annotated[float, typer.Option(help="Peak learning rate of that.")] = 5e-4,
    batch_size: Annotated[int, typer.Option(min=2, help="Records per step of that.")] = 64,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx as well.")] = False,
    verify: Annotated[bool, typer.Option(help="Prove the subnetwork in float64.")] = True,
    force: SupernetForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write subnetworks: the one that a search found, or the best within limits."""
    from dataclasses import replace

    from prune.files import OutputFolder
    from prune.journal import Journal
    from prune.subject import must_find_data
    from supernet.devices import read_devices
    from supernet.extraction import write_subnet
    from supernet.scoring import SearchConfig
    from supernet.store import FOUND_FILE, load_supernet, preprocessing_of
    from supernet.training import SANDWICH, kept
    from supernet.tuning import TUNING

    limited = any(o is not None for o in (flops, params, latency))
    if sum((limited, budgets is not None, found is not None)) > 1:
        raise UsageError(
            "limits, --budgets and --found say the same thing in three ways", hint="give one of them"
        )
    asked = {"": _demands(flops, params, latency)} if limited else {}
    asked |= {} if budgets is None else {d.name: d.demands for d in read_devices(budgets)}
    config = SearchConfig(agent=agent, trials=trials, seed=seed, records=records)
    tune = replace(SANDWICH, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    keeps = output / TUNING
    if force:  # starts over
        shutil.rmtree(keeps, ignore_errors=True)
    if not epochs or not keeps.is_dir():
        OutputFolder(output, force)
    shown = new_screen(as_json=as_json)
    results: dict[str, Extracted] = {}
    with shown.running():
        shown.stage("loading the supernet")
        stored = load_supernet(folder)
        records_of = cache(lambda: must_find_data(data or stored.data, stored.loaded()))  # where it takes any
        best = None if asked else _best_of(stored, found or folder / FOUND_FILE)
        if epochs:
            can_go_on(f"the same command{' without --force' * force} goes on from there", keeps.is_dir)
        else:
            can_go_on("what was written stays", lambda: bool(results))
        with kept(keeps, stored.net, records_of()) if epochs else nullcontext(Journal()) as journal:
            for name, limits in asked.items() or [("", ())]:
                part = journal.part(name or "subnet")
                subnet = best
                if subnet is None:  # a search by measured latencies may end otherwise when it is done again
                    choose = partial(_chosen, stored, records_of(), limits, config, shown)
                    chosen = part.recall(f"within {' '.join(map(str, limits))}", choose)
                    subnet = stored.net.elastic.parse(chosen)
                shown.stage(" ".join(filter(None, ("cutting out", name))))
                results[name] = write_subnet(
                    stored.net, subnet, output / name if name else output, stored.settings,
                    tune=partial(_tuned, stored.net, records_of(), tune, part, shown) if epochs else None,
                    companions=preprocessing_of(folder), verify=verify, onnx=onnx, force=force or epochs > 0,
                )  # fmt: skip
        if epochs:
            shutil.rmtree(keeps)
    if as_json:
        return print_json({n or "subnet": r.to_json() for n, r in results.items()})
    show_extracted(results.values())


def _demands(flops: str | None, params: str | None, latency: str | None) -> tuple[Demand, ...]:
    from prune.demands import parse_demands

    return parse_demands({"--flops": flops, "--params": params, "--latency": latency})


def _searched(
    stored: Stored, data: DataSet, demands: tuple[Demand, ...], config: SearchConfig, pareto: bool, shown: Any
) -> Found:
    from supernet.latency import LatencyModel
    from supernet.scoring import Limits
    from supernet.search import search as run

    latency = None
    if any(d.name == "latency" for d in demands):
        latency = LatencyModel(stored.net, shown.stage)
        shown.note(f"latencies are foretold; {len(latency.measured)} were measured, "
                   f"the worst is {latency.error:.0%} off")  # fmt: skip
    limits = Limits(stored.net, demands, latency)
    shown.stage("searching" + "".join(f" {d}" for d in demands))
    done: list[Trial] = []

    def told(trial: Trial) -> None:
        done.append(trial)
        best = max(done, key=lambda t: t.rank)
        shown.last_epoch = f"best {best.found.told()}"
        shown.step(len(done), config.trials)

    return run(stored.net, data, limits, config, pareto=pareto, on_trial=told)


def _tuned(
    net: Supernet, data: DataSet, config: TuneConfig, journal: Journal, shown: Any, program: Program
) -> Tuned:
    from supernet.tuning import tune_subnet

    shown.stage("training the subnetwork")
    return tune_subnet(
        net, program, data, config, journal, on_epoch=shown.epoch, on_step=shown.step, note=shown.note
    )


def _chosen(
    stored: Stored, data: DataSet, demands: tuple[Demand, ...], config: SearchConfig, shown: Any
) -> dict[str, Any]:
    """The best subnetwork within limits, as JSON data."""
    return _searched(stored, data, demands, config, False, shown).best.subnet.to_json()


def _best_of(stored: Stored, path: Path) -> Subnet:
    """The best subnetwork that a search wrote down."""
    from prune.files import read_json

    if not path.exists():
        raise UsageError(
            f"which subnetwork? {path} does not exist",
            hint="give a limit (--flops 0.5) or --budgets FILE, or search first: prune supernet search",
        )
    best = read_json(path, "result of a search").get("best")
    return stored.net.elastic.parse(best if isinstance(best, dict) else {})
