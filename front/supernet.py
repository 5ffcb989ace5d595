"""The commands ``prune supernet``: parse, call, render. Torch loads only inside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from front.supernet_tables import show_built, show_extracted, show_found
from front.terminal import console, resumable, screen
from graph.errors import UsageError

if TYPE_CHECKING:
    from models_zoo.data import DataSet
    from prune.demands import Demand
    from supernet.elastic import Subnet
    from supernet.extraction import Extracted
    from supernet.scoring import Found, SearchConfig, Trial
    from supernet.store import Stored

supernet = typer.Typer(
    help="One transformer that holds smaller ones: make a supernet of a model, train it, search it, take "
    "subnetworks out.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(help="Folder of a supernet.", show_default=False)]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="Data set, as for compress.", show_default="what the model or the supernet names"
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else on stdout.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything random.")]
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


@supernet.command("build")
def build(
    model: Annotated[str, typer.Argument(help="A model, as for compress.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    data: DataOption = None,
    arch: Annotated[str | None, typer.Option(help="Of bare weights, or a class of transformers.")] = None,
    kinds: Annotated[str, typer.Option(help="Widths that are elastic: head, mlp, residual.")] = "head,mlp",
    least: Annotated[float, typer.Option(help="The smallest share of a width.")] = 0.25,
    steps: Annotated[int, typer.Option(help="Steps of a whole width.")] = 8,
    least_depth: Annotated[float, typer.Option(help="The smallest share of the layers.")] = 0.5,
    uniform: Annotated[
        bool | None,
        typer.Option(
            help="The same width in all layers, as configurations of transformers say it.",
            show_default="for hf:DIR",
        ),
    ] = None,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Load files that run code.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a supernet: rank channels, heads and layers, and put them in that order."""
    from prune.files import OutputFolder
    from prune.load import ModelSource
    from prune.selection import parse_kinds
    from prune.subject import find_data, measured_on, open_model
    from supernet.elastic import ElasticConfig
    from supernet.net import make_supernet, origin_of
    from supernet.store import companions_of, save_supernet
    from supernet.training import TRAINING

    tied = model.startswith("hf:") if uniform is None else uniform
    config = ElasticConfig(
        kinds=parse_kinds(kinds), least=least, steps=steps, least_depth=least_depth, uniform=tied
    )
    OutputFolder(output, force)  # before anything takes long
    shown = screen(as_json=as_json)
    with shown.running():
        shown.stage("loading the model")
        source = ModelSource(model=model, arch=arch, trust_code=trust_code)
        subject = open_model(measured_on(source, data))
        found = find_data(data, subject.loaded)
        origin = origin_of(subject, None if found is None else found.name)
        net = make_supernet(subject, config, found, origin=origin, on_stage=shown.stage)
        for note in (*subject.notes, *net.notes):
            shown.note(note)
        save_supernet(net, output, companions_of(model), force=force)
        shutil.rmtree(output / TRAINING, ignore_errors=True)  # of another supernet that was here
    if as_json:
        return _print_json({"folder": str(output), **net.told()})
    show_built(net, output)


@supernet.command("train")
def train(
    folder: Folder,
    data: DataOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write.", show_default="the supernet's own"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 10,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-4,
    batch_size: Annotated[int, typer.Option(min=2, help="Records per step.")] = 64,
    distill: Annotated[float, typer.Option(help="Share of the others' loss from the largest.")] = 0.5,
    random: Annotated[int, typer.Option(min=0, help="Random subnetworks in each step.")] = 2,
    removal: Annotated[
        float, typer.Option(help="Probability that the least salient layer goes in a random one.")
    ] = 0.5,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train all subnetworks at once; the same command goes on where an interrupted one stopped."""
    from dataclasses import replace

    from prune.files import OutputFolder
    from supernet.net import ElasticModule
    from supernet.store import companions_of, load_supernet, save_supernet, with_origin
    from supernet.training import SANDWICH, TRAINING, SandwichConfig, ends, train_supernet

    tune = replace(SANDWICH, epochs=epochs, lr=lr, batch_size=batch_size, distill=distill, seed=seed)
    config = SandwichConfig(tune=tune, random=random, removal=removal)
    target = output or folder
    if force:  # starts over
        shutil.rmtree(target / TRAINING, ignore_errors=True)
    unfinished = (target / TRAINING).is_dir()
    if output is not None and not unfinished:
        OutputFolder(output, force)
    shown = screen(as_json=as_json)
    with shown.running():
        shown.stage("loading the supernet")
        stored = load_supernet(folder)
        found = _data(stored, data)
        shown.stage("training the supernet")
        resumable.append(target / TRAINING)
        net, tuned = train_supernet(
            stored.net, found, config, target / TRAINING,
            on_epoch=shown.epoch, on_step=shown.step, note=shown.note,
        )  # fmt: skip
        net = with_origin(net, data=found.name)
        save_supernet(net, target, companions_of(str(folder)), force=True)
        shutil.rmtree(target / TRAINING)
        large, small = ends(ElasticModule(net), found)
    result = {"folder": str(target), "best_epoch": tuned.best_epoch, "seconds": tuned.seconds,
              "largest": large.to_json(), "smallest": small.to_json()}  # fmt: skip
    if as_json:
        return _print_json(result)
    console.print(
        f"largest: {large.told()}; smallest: {small.told()} on the search split of {escape(found.name)}; "
        f"written to [bold]{escape(str(target))}[/bold]"
    )


@supernet.command("search")
def search(
    folder: Folder,
    flops: FlopsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="A front of accuracy against FLOPs, not one subnetwork.")
    ] = False,
    agent: AgentOption = "tpe",
    trials: TrialsOption = 60,
    records: RecordsOption = None,
    data: DataOption = None,
    seed: SeedOption = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="DIR/found.json")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the search (.png or .svg).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the best subnetworks within limits; nothing is trained."""
    from prune.files import write_json
    from supernet.pictures import plot_search
    from supernet.scoring import SearchConfig
    from supernet.store import FOUND_FILE, load_supernet

    demands = _demands(flops, params, latency, pareto)
    config = SearchConfig(agent=agent, trials=trials, seed=seed, records=records)
    shown = screen(as_json=as_json)
    with shown.running():
        shown.stage("loading the supernet")
        stored = load_supernet(folder)
        found_data = _data(stored, data)
        result = _searched(stored, found_data, demands, config, pareto, shown)
        path = output or folder / FOUND_FILE
        write_json(path, {"limits": [str(d) for d in demands], "data": found_data.name, **result.to_json()})
        if plot is not None:
            plot_search(result, plot)
    if as_json:
        return _print_json(result.to_json())
    show_found(result, stored.net, found_data.unit, path, pareto=pareto)


@supernet.command("extract")
def extract(
    folder: Folder,
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
    data: DataOption = None,
    seed: SeedOption = 0,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx as well.")] = False,
    verify: Annotated[bool, typer.Option(help="Prove the subnetwork in float64.")] = True,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write subnetworks: the one that a search found, or the best within limits."""
    from prune.files import OutputFolder
    from supernet.devices import read_devices
    from supernet.extraction import write_subnet
    from supernet.scoring import SearchConfig
    from supernet.store import FOUND_FILE, load_supernet

    limited = any(o is not None for o in (flops, params, latency))
    if sum((limited, budgets is not None, found is not None)) > 1:
        raise UsageError(
            "limits, --budgets and --found say the same thing in three ways", hint="give one of them"
        )
    devices = None if budgets is None else read_devices(budgets)
    demands = _demands(flops, params, latency, pareto=True)
    config = SearchConfig(agent=agent, trials=trials, seed=seed, records=records)
    OutputFolder(output, force)
    shown = screen(as_json=as_json)
    results: dict[str, Extracted] = {}
    with shown.running():
        shown.stage("loading the supernet")
        stored = load_supernet(folder)
        wanted: dict[str, Subnet] = {}
        if devices is not None or limited:
            found_data = _data(stored, data)
            for name, limits in [(d.name, d.demands) for d in devices or ()] or [("", demands)]:
                wanted[name] = _searched(stored, found_data, limits, config, False, shown).best.subnet
        else:
            wanted[""] = _best_of(stored, found or folder / FOUND_FILE)
        shown.stage("cutting out")
        for name, subnet in wanted.items():
            place = output / name if name else output
            results[name] = write_subnet(
                stored.net, subnet, place, stored.settings, verify=verify, onnx=onnx, force=force
            )
    if as_json:
        return _print_json({n or "subnet": r.to_json() for n, r in results.items()})
    show_extracted(results.values())


def _data(stored: Stored, name: str | None) -> DataSet:
    """The data that a supernet is trained, or searched, on."""
    from prune.subject import must_find_data

    return must_find_data(name or stored.data, stored.loaded())


def _demands(flops: str | None, params: str | None, latency: str | None, pareto: bool) -> tuple[Demand, ...]:
    from prune.demands import parse_demands

    given = {"--flops": flops, "--params": params, "--latency": latency}
    if pareto and not any(given.values()):
        return ()
    return parse_demands(given)


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


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2))
