"""The commands that use supernets: search, extract."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from functools import partial
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
from front.commands.supernet_limits import Searches, config_of, demands_of
from front.commands.supernet_tables import show_extracted, show_found
from front.commands.terminal import new_screen, print_json
from graph.errors import DataError, TargetError, UsageError

if TYPE_CHECKING:
    from graph.program import Program
    from models_zoo.data import DataSet
    from prune.journal import Journal
    from prune.tune_config import TuneConfig
    from supernet.extraction import Extracted
    from supernet.limits import Limits
    from supernet.net import Supernet
    from supernet.tuning import Tuned

FlopsOption = Annotated[str | None, typer.Option(help="At most this share of the FLOPs, or a number.")]
ParamsOption = Annotated[str | None, typer.Option(help="At most this share of the parameters, or a number.")]
LatencyOption = Annotated[
    str | None, typer.Option(help="At most this share of the latency in onnxruntime, or 5ms.")
]
AgentOption = Annotated[
    str | None,
    typer.Option(
        "--agent", help="tpe, nsga2 or random; of widths alone gnn-rl, agmc or amc.",
        show_default="tpe; random without optuna",
    ),
]  # fmt: skip
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
    agent: AgentOption = None,
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
    from supernet.agents import check_elastic
    from supernet.pictures import check_picture, plot_search
    from supernet.store import FOUND_FILE, load_supernet

    demands = demands_of(flops, params, latency, needed=False)
    if not demands and not pareto:
        raise TargetError(
            "give a target: at least one of --flops, --params, --latency, or --pareto",
            hint="such as --flops 0.5",
        )
    if plot is not None:
        check_picture(plot)
    config = config_of(agent, trials, seed, records, [demands], pareto=pareto)
    shown = new_screen(as_json=as_json)
    with shown.running():
        shown.stage("loading the supernet")
        stored = load_supernet(folder)
        check_elastic(config.agent, stored.net.elastic)
        searches = Searches(stored, data, config, agent is not None, shown)
        if searches.data is None and (pareto or plot is not None):
            raise DataError(
                f"{'--pareto' if pareto else '--plot'} shows scores, and without data there are none",
                hint="give --data, or a limit alone",
            )
        result = searches.run(searches.limits(demands), pareto=pareto)
        path = output or folder / FOUND_FILE
        name = None if searches.data is None else searches.data.name
        write_json(path, {"limits": [str(d) for d in demands], "data": name, **result.to_json()})
        if plot is not None:
            plot_search(result, plot)
    if as_json:
        return print_json(result.to_json())
    show_found(
        result, stored.net, "images" if searches.data is None else searches.data.unit, path, pareto=pareto
    )


def supernet_extract(
    folder: SupernetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    flops: FlopsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    found: Annotated[
        Path | None,
        typer.Option(
            "--found",
            help="What a search wrote: its best subnetwork, or the best of it within limits.",
            show_default="DIR/found.json",
        ),
    ] = None,
    budgets: Annotated[
        Path | None, typer.Option(help="TOML file with a table of limits for each class of devices.")
    ] = None,
    agent: AgentOption = None,
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
    from supernet.agents import check_elastic
    from supernet.devices import read_devices
    from supernet.extraction import write_subnet
    from supernet.found import Picked, picked, read_found
    from supernet.store import FOUND_FILE, load_supernet, preprocessing_of
    from supernet.training import SANDWICH, kept
    from supernet.tuning import TUNING

    alone = demands_of(flops, params, latency, needed=False)
    if alone and budgets is not None:
        raise UsageError("limits and --budgets say the same thing in two ways", hint="give one of them")
    asked = {"": alone} if alone else {}
    asked |= {} if budgets is None else {d.name: d.demands for d in read_devices(budgets)}
    late = [d for demands in asked.values() for d in demands if d.name == "latency"]
    if found is not None and late:
        raise UsageError(f"{late[0]}: what {found} lists was not timed", hint="leave out --found")
    config = config_of(agent, trials, seed, records, () if found else tuple(asked.values()))
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
        net = stored.net
        searches = Searches(stored, data, config, agent is not None, shown)
        source = found or folder / FOUND_FILE
        chosen: dict[str, Picked] = {}
        if not asked:
            chosen[""] = read_found(source, net.elastic)
        elif found is None:
            check_elastic(config.agent, net.elastic)
        if epochs:
            can_go_on(f"the same command{' without --force' * force} goes on from there", keeps.is_dir)
        else:
            can_go_on("what was written stays", lambda: bool(results))
        with kept(keeps, net, searches.must) if epochs else nullcontext(Journal()) as journal:
            for name, limits in searches.all_limits(asked).items():  # all, before the first is written
                if found is not None:
                    chosen[name] = read_found(source, net.elastic, limits)
                    continue
                choose = partial(_chosen, searches, limits, name)
                # A search by measured latencies may end otherwise when it is done again.
                answer = _part(journal, name).recall(f"within {' '.join(map(str, limits.demands))}", choose)
                chosen[name] = picked(net.elastic, answer)
            for name, subnet in chosen.items():
                shown.stage(" ".join(filter(None, ("cutting out", name))))
                part = _part(journal, name)
                results[name] = write_subnet(
                    net, subnet.subnet, output / name if name else output, stored.settings,
                    tune=partial(_tuned, net, searches.must, tune, part, shown) if epochs else None,
                    about=subnet.about, companions=preprocessing_of(folder), verify=verify, onnx=onnx,
                    force=force or epochs > 0,
                )  # fmt: skip
        if epochs:
            shutil.rmtree(keeps)
    if as_json:
        return print_json({n or "subnet": r.to_json() for n, r in results.items()})
    show_extracted(results.values())


def _part(journal: Journal, name: str) -> Journal:
    return journal.part(name or "subnet")


def _chosen(searches: Searches, limits: Limits, name: str) -> dict[str, Any]:
    """What a search found, as JSON data, without all that it scored."""
    return searches.run(limits, name).to_json() | {"trials": [], "front": []}


def _tuned(
    net: Supernet, data: DataSet, config: TuneConfig, journal: Journal, shown: Any, program: Program
) -> Tuned:
    from supernet.tuning import tune_subnet

    shown.stage("training the subnetwork")
    return tune_subnet(
        net, program, data, config, journal, on_epoch=shown.epoch, on_step=shown.step, note=shown.note
    )
