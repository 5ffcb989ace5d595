"""The command line: parse, call, render. No tensor is touched here, and torch loads only inside commands."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from front.supernet import supernet
from front.terminal import console, resumable, stderr
from front.terminal import screen as _screen
from front.terminal import state as _state
from graph.errors import UsageError

if TYPE_CHECKING:
    from profilers.profile import Profile
    from prune.gate import Judged
    from prune.load import ModelSource
    from prune.selection import Selection

_LONGEST = 2000  # characters of a message
_run: dict[str, Path | str | None] = {"folder": None, "again": None, "told": None}  # of a long run under way


class _Anywhere(TyperGroup):
    """Takes the options of every command before its name or behind it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        common = {"-v", "--verbose", "-q", "--quiet", "--debug"}
        first = [a for a in args[:end] if a in common]
        return super().parse_args(ctx, [*first, *(a for a in args[:end] if a not in common), *args[end:]])


class _Configured(TyperCommand):
    """Reads options from a file, too; those of the command line win."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and "--help" not in args:
            with _errors():
                found, words = _file_words(str(self.name), self.params, args)
            try:
                return super().parse_args(ctx, [*words, *args])
            except typer.BadParameter as err:
                if words:
                    err.message += f" ({found} has options, too)"
                raise
        return super().parse_args(ctx, args)


def _file_words(section: str, params: list[Any], args: list[str]) -> tuple[Path | None, list[str]]:
    """A file, and the words of the command line that it stands for."""
    from prune.config_words import Option, config_words, named_file
    from prune.settings import Settings, read_settings

    options = {
        name.removeprefix("--"): Option(p.is_flag, p.multiple, tuple(p.secondary_opts))
        for p in params
        for name in p.opts
        if name.startswith("--")
    }
    folder = named_file(args, "--resume")
    if folder is None:
        found = read_settings(section, named_file(args))
    else:  # the run knows all that a file told it
        trusted = "--trust-code" in args
        found = Settings(*_stored_options(folder), named=trusted, allowed_by="--trust-code")
    words = config_words(found, options, args)
    if words and not console.quiet and folder is None:
        stderr.print(f"options of {found.path}: {escape(shlex.join(words))}", soft_wrap=True)
    return found.path, words


def _stored_options(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where an unfinished run keeps its options, and those that words stand for."""
    from prune.unfinished import HOME, PYTHON, RUN_FILE, Unfinished

    found = Unfinished.read(folder)
    # To run code of a file is allowed anew each time: a folder may come from anywhere.
    left_out = ("MODEL", "trust-code")
    options = {} if found is None or PYTHON in found.options else found.options
    return folder / HOME / RUN_FILE, {n: v for n, v in options.items() if n not in left_out}


app = typer.Typer(
    cls=_Anywhere,
    help="Make trained PyTorch networks smaller: prune channels under limits of FLOPs, parameters, memory or "
    "latency by a search that sees the network as a graph, fine-tune, export ONNX, and prove the result.",
    epilog="FLOPs = 2 x MACs; convolutions and matrix products count, as in torch's own counter. -v, -q and "
    "--debug may also be given behind a command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
zoo = typer.Typer(help="The networks of the papers: list them, train one.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")

policies = typer.Typer(help="Policies of the search: train one on several networks.", no_args_is_help=True)
app.add_typer(policies, name="policy")


class _Guarded(TyperGroup):
    """Commands that are told of elsewhere: their failures are named here."""

    def invoke(self, ctx: Any) -> Any:
        with _errors():
            return super().invoke(ctx)


app.add_typer(supernet, name="supernet", cls=_Guarded)


class _ModelByDefault(TyperGroup):
    """``prune profile MODEL`` is ``prune profile model MODEL``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["model", *args]
        return super().parse_args(ctx, args)


profiles = typer.Typer(
    cls=_ModelByDefault,
    help="Measure where a model's time, memory and traffic go, against this machine's roofline.\n\n"
    "prune profile MODEL: any model, by operator and by module. prune profile mamba: Mamba-1 and -2 by "
    "component, over length.",
    no_args_is_help=True,
)
app.add_typer(profiles, name="profile")

MODEL = (
    "FILE (.safetensors, .pt, .pth, .pt2), folder of a run, hf:DIR (transformers checkpoint), timm:NAME, "
    "torchvision:NAME or package.module:factory"
)
ModelArgument = Annotated[str, typer.Argument(help=f"{MODEL}.", show_default=False)]
ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="Architecture of bare weights: a zoo name, timm:NAME, torchvision:NAME or "
        "package.module:factory. With hf:DIR: a class of transformers.",
    ),
]
ArchArgsOption = Annotated[
    str | None,
    typer.Option("--arch-args", help="Arguments of the architecture as JSON: '{\"num_classes\": 10}'."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="File with the weights of a network that is named (timm:NAME, package.module:factory).",
        show_default="random, or what the factory returns",
    ),
]
PretrainedOption = Annotated[
    bool, typer.Option("--pretrained", help="Take the weights that timm or torchvision has for it.")
]
ShapeOption = Annotated[
    str | None,
    typer.Option(
        "--input-shape", help="Of the one input: 3x224x224, 1x3x224x224, 1x80x100 (sound), 1x128 (tokens)."
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--input-dtype", help="Of the one input, such as int64 for tokens.", show_default="float32"),
]
SpecOption = Annotated[
    Path | None,
    typer.Option(
        "--input-spec",
        help="Several or integer inputs: a .json or .toml file with shape, dtype, low and high of each "
        "by name, or a .safetensors or .npz file with an example.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="Keep the channels of modules that match, such as 'layer1.*'.")
]
OnlyOption = Annotated[
    list[str] | None, typer.Option(help="Prune only what modules that match make, such as '*.mlp.*'.")
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Keep at least this share, or this number, of the channels of modules that match: "
        "'layer1.*=0.5', fc=64.",
    ),
]
KindsOption = Annotated[
    str | None,
    typer.Option(
        help="Prune only groups of these kinds: channel, residual, mlp, head, lane, expert, state; such as "
        "'head,mlp'.",
        show_default=False,
    ),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Load files that run code when loaded (pickled modules, .pt2).")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits, glyphs, cifar10:PATH, imagefolder:PATH, package.module:factory or none; for language "
        "models pystdlib, text:PATH or tokens:FILE. Left out: the data that the model names, else none.",
        show_default=False,
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files of an earlier run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else on stdout.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="File with options: prune.toml, or pyproject.toml with a table tool.prune.",
        show_default="the one in the working directory",
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from prune import __version__

        console.print(f"prune {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell every plan and every epoch.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors, notes and --json.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    _state.update(debug=debug, verbose=verbose)
    console.quiet = quiet


@contextmanager
def _errors() -> Iterator[None]:
    """Turn named failures into one clear line and an exit code."""
    try:
        yield
    except KeyboardInterrupt as err:
        stderr.print(escape(_farewell()), soft_wrap=True)
        _run["told"] = "yes"
        raise typer.Exit(130) from err
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise
    except Exception as err:
        from prune.failures import named

        known = named(err)
        if _state["debug"]:
            traceback.print_exc()
        if known is None:  # not 1, with which the gate says that a budget is broken
            told = f"prune itself failed: {type(err).__name__}: {err}"
            _print_error(told, "--debug shows where; please report it")
        else:
            _print_error(str(known), known.hint)
        for line in getattr(err, "__notes__", ()):
            stderr.print(escape(line), soft_wrap=True)
        raise typer.Exit(2) from err


def _farewell() -> str:
    """What an interrupt ends with; empty when it was said already."""
    if _run["told"] is not None:
        return ""
    if _run["folder"] is not None:
        from prune.unfinished import is_unfinished

        if is_unfinished(Path(_run["folder"])):
            return f"interrupted; go on with: {_run['again']}"
    if any(next(folder.glob("*.safetensors"), None) for folder in resumable):
        return "interrupted; the same command goes on from the last checkpoint"
    return "interrupted; nothing was written"


def _print_error(message: str, hint: str) -> None:
    from prune.escaping import plain  # names in files may hold line breaks and escape sequences

    stderr.print(f"[red]error:[/red] {escape(plain(message, _LONGEST))}", soft_wrap=True)
    if hint:
        stderr.print(f"[dim]hint:[/dim] {escape(plain(hint, _LONGEST))}", soft_wrap=True)


def _arguments(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        raise UsageError(f"--arch-args: {err}", hint="such as --arch-args '{\"num_classes\": 10}'") from err
    if not isinstance(value, dict):
        raise UsageError("--arch-args: must be a JSON object", hint="such as '{\"num_classes\": 10}'")
    return value


def _source(
    model: str,
    arch: str | None,
    arch_args: str | None,
    weights: Path | None,
    pretrained: bool,
    shape: str | None,
    dtype: str | None,
    spec: Path | None,
    trust_code: bool,
) -> ModelSource:
    """The options that say which model it is and what it takes."""
    from prune.input_spec import read_input_spec
    from prune.inputs import InputRequest, parse_shape
    from prune.load import ModelSource

    request = InputRequest(
        shape=None if shape is None else parse_shape(shape),
        dtype=dtype,
        inputs=None if spec is None else read_input_spec(spec),
        path=None if spec is None else str(spec),
    )
    return ModelSource(
        model=model,
        arch=arch,
        arch_args=_arguments(arch_args),
        weights=weights,
        pretrained=pretrained,
        request=request,
        trust_code=trust_code,
    )


def _selection(
    exclude: list[str] | None, only: list[str] | None, limit: list[str] | None, kinds: str | None
) -> Selection:
    from prune.selection import Selection, parse_kinds, parse_limit

    limits = tuple(parse_limit(t) for t in limit or ())
    return Selection(tuple(exclude or ()), tuple(only or ()), limits, parse_kinds(kinds) if kinds else ())


@app.command(cls=_Configured)
def compress(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help=f"{MODEL}.", show_default=False)] = None,
    flops: Annotated[
        str | None,
        typer.Option(help="Limit: a ratio (0.5 or 50%) or absolute FLOPs (120M). FLOPs = 2 x MACs."),
    ] = None,
    macs: Annotated[str | None, typer.Option(help="The same in MACs.")] = None,
    params: Annotated[str | None, typer.Option(help="Limit of the parameters: 0.5, 1.2M.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Limit of weights plus activations at the worst moment, one record: 0.5, 8MB."),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            help="Limit of the latency in onnxruntime on this machine, one record: 0.7 of the original's, "
            "5ms. Predicted from timed operators, then measured on the pruned model."
        ),
    ] = None,
    states: Annotated[
        str | None,
        typer.Option(
            help="Of Mambas: the share of the states of every layer that stays (0.5, 50%), or their number "
            "(8); alone, or beside other limits."
        ),
    ] = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Share of the residual blocks that stays (0.75, 75%), or their number (6); alone, or beside "
            "other limits."
        ),
    ] = None,
    pareto: Annotated[
        str | None,
        typer.Option(help="Several shares of the FLOPs in one run, such as 0.3,0.5,0.7, and their curve."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results.", show_default="runs/MODEL-TARGET"),
    ] = None,
    data: DataOption = None,
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    planner: Annotated[
        str | None,
        typer.Option(
            help="Who makes the plan: search (by accuracy), or from the weights alone uniform (the same "
            "share everywhere) or global (one threshold of importance).",
            show_default="search; uniform without data",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option("--agent", help="Who searches: agmc, gnn-rl, amc; evolution or random learn nothing."),
    ] = "agmc",
    policy: Annotated[
        str,
        typer.Option(help="Trained policy to start from: FILE, default (comes with prune) or none."),
    ] = "default",
    episodes: Annotated[
        int,
        typer.Option(min=0, help="Plans to score beside the baselines; 0: these and a named policy's plan."),
    ] = 100,
    reward: Annotated[
        str, typer.Option(help="What makes a plan good: few errors (error) or a small loss.")
    ] = "error",
    images: Annotated[int, typer.Option(min=2, help="Search images that score each plan.")] = 256,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Processes that score plans: a number, ray: (Ray on this machine) or ray://HOST:PORT. The "
            "result is the same with any of them.",
            show_default="one for each core",
        ),
    ] = None,
    importance: Annotated[
        str, typer.Option(help="Ranks the channels of a group: magnitude, bn-scale or taylor.")
    ] = "magnitude",
    state_criterion: Annotated[
        str | None,
        typer.Option(
            help="Ranks states on calibration text: elimination, output, observability, contribution, "
            "moment, taylor, delta; or without text magnitude, random.",
            show_default="elimination; magnitude without text",
        ),
    ] = None,
    state_scope: Annotated[
        str,
        typer.Option(
            help="layer: the same number of states in each, which transformers and mamba_ssm load; global: "
            "one threshold over all layers."
        ),
    ] = "layer",
    block_criterion: Annotated[
        str,
        typer.Option(
            help="Which blocks go: those whose absence raises the loss least, one after the other (loss), or "
            "that turn the stream least (similarity)."
        ),
    ] = "loss",
    compensate: Annotated[
        bool,
        typer.Option(
            "--compensate/--no-compensate",
            help="With --states or --blocks alone: fit what is left of a Mamba to the original.",
        ),
    ] = True,
    exclude: ExcludeOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    kinds: KindsOption = None,
    round_to: Annotated[
        int | None,
        typer.Option(min=1, help="Keep multiples of this many channels.", show_default="1; with --latency 4"),
    ] = None,
    reconstruct: Annotated[
        bool,
        typer.Option(
            "--reconstruct/--no-reconstruct",
            help="Fit the weights that remain to what the whole model made, on images without labels.",
        ),
    ] = True,
    tune: Annotated[
        bool, typer.Option("--tune/--no-tune", help="Fine-tune the pruned model, where there is data.")
    ] = True,
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Epochs of fine-tuning; 0: none.", show_default="10; of text 1")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate of fine-tuning.", show_default="0.02; of text 0.001"),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=2, help="Images, or windows of text, per step of fine-tuning.", show_default="128; of text 16"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove equality with the masked original in float64.")
    ] = True,
    sensitivity: Annotated[
        bool | None,
        typer.Option(
            "--sensitivity/--no-sensitivity",
            help="Score each group cut alone to 3/4, 1/2 and 1/4 of its width, for the report.",
            show_default="where it takes at most half as many plans as the search",
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(help="Folder for event files of TensorBoard, written while the run goes on."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done, what can be reached and how long it takes."),
    ] = False,
    force: ForceOption = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a run that was cut short: go on with it. No other argument is needed; --lr, "
            "--epochs and --batch-size may be others than before.",
            show_default=False,
        ),
    ] = None,
    trust_code: TrustOption = False,
    config_file: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prune a trained model until all limits hold, fine-tune it and export it.

    Limits go together: --flops or --macs, --params, --memory, --latency, --states, --blocks. Writes
    model.onnx, model.pt2, model.safetensors, graph.json, plan.json, report.json and report.html,
    native.safetensors too if the model's own class runs with the pruned weights, of a Mamba also a folder
    checkpoint; with --pareto these for each point, and the curve. The table compress of prune.toml holds
    options under their names.
    """
    with _errors():
        from front.forecast import forecast
        from front.request import Options, request
        from front.tensorboard import board
        from prune.pareto import pareto as run_pareto
        from prune.pipeline import compress as run
        from prune.pipeline import resuming
        from prune.run_folder import finish
        from prune.subject import measured_on

        folder = output
        if resume is not None:
            if dry_run:
                raise UsageError("--dry-run and --resume do not go together", hint="leave one of them out")
            if output is not None and output.resolve() != resume.resolve():
                raise UsageError(f"-o {output} is not {resume}", hint="a run is resumed where it is")
            if finish(resume):
                return _print_finished(resume, as_json)
            model, folder = _unfinished(resume, model, trust_code)
        if model is None:
            raise UsageError(
                "no model is named", hint="prune compress MODEL --flops 0.5, or prune compress --resume DIR"
            )
        source = _source(
            model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
        )
        identity = _options(context) | {"MODEL": model}
        asked = request(
            measured_on(source, data),
            Options(
                flops=flops,
                macs=macs,
                params=params,
                memory=memory,
                latency=latency,
                states=states,
                blocks=blocks,
                pareto=pareto,
                planner=planner,
                agent=method,
                policy=policy,
                episodes=episodes,
                reward=reward,
                images=images,
                workers=workers,
                importance=importance,
                state_criterion=state_criterion,
                state_scope=state_scope,
                block_criterion=block_criterion,
                compensate=compensate,
                exclude=exclude,
                only=only,
                limit=limit,
                kinds=kinds,
                round_to=round_to,
                reconstruct=reconstruct,
                tune=tune,
                epochs=epochs,
                lr=lr,
                batch_size=batch_size,
                seed=seed,
                verify=verify,
                sensitivity=sensitivity,
            ),
            data=data,
            output=folder,
            force=force,
            resume=resume is not None,
            identity=identity,
        )
        config, points = asked.config, asked.points
        again = resuming(config.output, identity, trust_code=trust_code)
        _run.update(folder=config.output, again=again, told=None)
        screen = _screen(trials=asked.trials, as_json=as_json)
        if dry_run:
            with screen.running():
                expected = forecast(asked, screen)
            return _print_json(expected.to_json()) if as_json else _print_tables(expected)
        events = tensorboard / config.output.resolve().name if tensorboard is not None else None
        with (
            asked.planner(screen.note) as planned,
            board(events, screen, resume=config.resume) as seen,
            screen.running(),
        ):
            if points:
                curve = run_pareto(config, points, planned, seen)
            else:
                report = run(config, planned, seen)
        if as_json:
            return _print_json({"points": curve.rows()} if points else report.to_json())
        if points:
            _print_curve(curve)
        else:
            _print_report(report)
        console.print(f"written to [bold]{escape(str(config.output))}[/bold]: " + _listing(config.output))


def _print_tables(found: Any) -> None:
    """Whatever has tables and lines under them."""
    for title, header, rows in found.tables():
        table = Table(*header, title=title, title_justify="left", show_header=any(header))
        for column in table.columns[1 if any(header) else 2 :]:
            column.justify = "right"
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
    for line in found.lines():
        console.print(escape(line), soft_wrap=True)


_NOT_OF_THE_RUN = ("model", "output", "force", "resume", "config_file", "as_json", "workers")


def _unfinished(folder: Path, model: str | None, trust_code: bool) -> tuple[str | None, Path]:
    """The model that an unfinished run names, and its folder under the name that its report has.

    Raises:
        UsageError: the model would run code that nobody has allowed, or the run was started in Python.
    """
    from prune.config_words import runs_code
    from prune.pipeline import resuming
    from prune.unfinished import PYTHON, Unfinished

    found = Unfinished.read(folder)
    if found is None:
        return model, folder
    if PYTHON in found.options:
        how = resuming(folder, found.options, trust_code=trust_code)
        raise UsageError(f"the run in {folder} was started in Python", hint=f"go on with it there: {how}")
    named = Path(found.output) if Path(found.output).resolve() == folder.resolve() else folder
    stored = found.options.get("MODEL")
    if model is not None or not isinstance(stored, str):
        return model, named
    if runs_code("MODEL", stored) and not os.path.exists(stored) and not trust_code:
        raise UsageError(
            f"the run in {folder} is of {stored}, which would run code",
            hint="if you trust it: --trust-code, or name the model: prune compress MODEL --resume DIR",
        )
    return stored, named


def _options(context: typer.Context) -> dict[str, Any]:
    """The options that do not have their defaults, by name: what a run is, for whoever resumes it."""
    from front.request import plain

    found = {}
    for param in context.command.params:
        value = context.params.get(str(param.name))
        if param.name not in _NOT_OF_THE_RUN and value not in (None, [], ()) and value != param.default:
            name = next(o for o in param.opts if o.startswith("--")).removeprefix("--")
            found[name] = plain(value)
    return found


def _print_finished(folder: Path, as_json: bool) -> None:
    if as_json:
        found = next(p for p in (folder / "pareto.json", folder / "report.json") if p.exists())
        typer.echo(found.read_text(encoding="utf-8").rstrip())
        return
    console.print(f"the run in [bold]{escape(str(folder))}[/bold] is finished: " + _listing(folder))


def _print_report(report: Any) -> None:
    data = f" on {report.data['name']}" if report.data["name"] else ""
    table = Table("", "original", "pruned", "change", title=f"{report.model['arch']}{data}")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.rows():
        table.add_row(*row)
    console.print(table)
    if report.search["best"]:
        _print_search(report)
    for line in (*report.limit_lines(), *report.block_lines(), *report.state_lines()):
        console.print(escape(line), soft_wrap=True)
    console.print(report.verdict())
    proof = report.verification
    if proof["ran"]:
        from prune.report import agreement

        console.print(
            f"verified: equal to the masked original in float64 to {proof['max_error']:.1e}; "
            f"ONNX {agreement(report.onnx['max_error'], report.onnx.get('rounding'))}"
        )
    else:
        console.print("[yellow]not verified[/yellow] (--no-verify)")
    console.print(escape(report.own_class()))


def _print_curve(curve: Any) -> None:
    from prune.report import count

    table = Table("", "MACs", "params", "before tuning", "accuracy", "latency", "", title="curve")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for row in curve.rows():
        accuracies = [row["accuracy_before_tuning"], row["accuracy"]]
        table.add_row(
            row["name"],
            f"{row['macs_ratio']:.3f} x",
            count(row["params"]),
            *("-" if a is None else f"{a:.2%}" for a in accuracies),
            f"{row['latency_ms']:.3f} ms",
            "dominated" if row["dominated"] else "",
        )
    console.print(table)


def _print_search(report: Any) -> None:
    best = Table("plans before fine-tuning", "accuracy", "loss", "plans scored", title="search")
    for column in best.columns[1:]:
        column.justify = "right"
    for name, entry in report.search["best"].items():
        mark = " *" if name == report.search["winner"] else ""
        best.add_row(name + mark, f"{entry['accuracy']:.2%}", f"{entry['loss']:.4f}", str(entry["plans"]))
    console.print(best)


def _listing(folder: Path) -> str:
    return ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file()))


@app.command()
def inspect(
    model: ModelArgument,
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    exclude: ExcludeOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    kinds: KindsOption = None,
    ops: Annotated[bool, typer.Option("--ops", help="List the cost of every operator.")] = False,
    as_json: JsonOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Show what a model costs, which channels can go together, and what is pinned and why."""
    with _errors():
        from prune.inspection import inspect as run
        from prune.subject import open_model

        with console.status("capturing the model") if not as_json else _quiet():
            source = _source(
                model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
            )
            found = run(open_model(source, _selection(exclude, only, limit, kinds)))
        if as_json:
            return _print_json(found.to_json())
        for title, header, rows in found.tables(ops=ops):
            table = Table(*header, title=title, title_justify="left")
            for column, cell in zip(table.columns, rows[0] if rows else header, strict=True):
                column.justify = "right" if cell[:1].isdigit() else "left"
            for row in rows:
                table.add_row(*(escape(cell) for cell in row))
            console.print(table)
        for line in found.lines():
            console.print(escape(line))


@contextmanager
def _quiet() -> Iterator[None]:
    yield


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2))


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help=f"{MODEL}, or .onnx file.", show_default=False)],
    data: DataOption = None,
    split: Annotated[str, typer.Option(help="test or search.")] = "test",
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the accuracy of a model, of a pruned run, or of an ONNX file; of text, bits and perplexity."""
    with _errors():
        from prune.inspection import measure

        with console.status(f"evaluating {escape(str(model))}") if not as_json else _quiet():
            source = _source(
                model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
            )
            found, name = measure(source, data, split)
        if as_json:
            return _print_json({"model": model, "data": name, "split": split, **found.to_json()})
        console.print(
            f"{found.told()}, loss {found.loss:.4f} on {found.records} {split} {found.unit} of {escape(name)}"
        )


@app.command()
def export(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="model.onnx or model.pt2.", show_default=False)
    ],
    opset: Annotated[int | None, typer.Option(help="ONNX opset; the exporter's own when left out.")] = None,
    form: Annotated[
        str,
        typer.Option(
            help="Of a Mamba: graph (tokens of one length), any-length, or step (one token and the states)."
        ),
    ] = "graph",
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    force: ForceOption = False,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a pruned run or a model file to ONNX or .pt2, checked against the model."""
    with _errors():
        from prune.inspection import export_model

        with console.status(f"exporting {escape(str(model))}") if not as_json else _quiet():
            source = _source(
                model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
            )
            found = export_model(source, output, opset=opset, force=force, form=form)
        if as_json:
            return _print_json(found.to_json())
        console.print(escape(found.told()))


ProfileOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder for profile.json, profile.csv and the plots."),
]
LengthsOption = Annotated[
    str | None,
    typer.Option(help="Lengths of the sequence: 64,256,1024, or 64..2048 (doubling).", show_default=False),
]
BatchOption = Annotated[int, typer.Option(min=1, help="Records at once.")]
RunDtypeOption = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Of the CPU.", show_default="torch's own number")
]
ClockOption = Annotated[
    str, typer.Option(help="wall, or cpu: processor time of one thread, for a machine that is busy.")
]
RepeatsOption = Annotated[int, typer.Option(min=1, help="Runs of each measurement at the least.")]
SecondsOption = Annotated[float, typer.Option(min=0.0, help="Seconds of each measurement at the least.")]


@profiles.command("model")
def profile_any(
    model: ModelArgument,
    by: Annotated[str, typer.Option(help="Parts to tell apart: op, module or node.")] = "op",
    top: Annotated[int, typer.Option(min=1, help="Rows to show: those that take longest.")] = 20,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Names of a module's path to tell apart.", show_default="all")
    ] = None,
    lengths: LengthsOption = None,
    batch: BatchOption = 1,
    dtype: RunDtypeOption = "float32",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    clock: ClockOption = "wall",
    repeats: RepeatsOption = 5,
    seconds: SecondsOption = 2.0,
    output: ProfileOutput = None,
    as_json: JsonOption = False,
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    force: ForceOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Measure any model, operator by operator."""
    with _errors():
        from profilers.tables import check_view, parse_lengths
        from profilers.watch import Budget
        from prune.profiling import ModelProfileConfig, profile_model

        check_view(by)
        source = _source(
            model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
        )
        config = ModelProfileConfig(
            source=source,
            lengths=parse_lengths(lengths) if lengths is not None else (),
            batch=batch,
            dtype=dtype,
            device=device,
            threads=threads,
            depth=depth,
            budget=Budget(repeats=repeats, seconds=seconds, clock=clock),
        )
        with _measuring(output, force, quiet=as_json) as tell:
            found = profile_model(config, _words(), tell)
        _show_profile(found, by, top, output, force, as_json=as_json)


@profiles.command("mamba")
def profile_mamba(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="A Mamba of yours: DIR of a checkpoint, or a file of `prune zoo train`; else the "
            "weights are random.",
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, max=2, help="Of the block.", show_default="both")
    ] = None,
    d_model: Annotated[
        int | None, typer.Option(min=1, help="Width of the model.", show_default="256")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks.", show_default="2")] = None,
    d_state: Annotated[
        int | None, typer.Option(min=1, help="States.", show_default="16 for Mamba-1, 128 for Mamba-2")
    ] = None,
    headdim: Annotated[
        int | None, typer.Option(min=1, help="Channels of a head of Mamba-2.", show_default="64")
    ] = None,
    lengths: LengthsOption = None,
    full: Annotated[bool, typer.Option("--full", help="Lengths from 64 to 16384, not 2048.")] = False,
    mode: Annotated[str, typer.Option(help="prefill, decode or both.")] = "both",
    batch: BatchOption = 1,
    dtype: RunDtypeOption = "float32",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    clock: ClockOption = "wall",
    repeats: RepeatsOption = 5,
    seconds: SecondsOption = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and tokens.")] = 0,
    output: ProfileOutput = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Measure Mamba-1 and Mamba-2 component by component over length."""
    with _errors():
        from profilers.mamba import FULL_LENGTHS, LENGTHS, MODES, VIEW, MambaProfileConfig, MambaSizes
        from profilers.mamba import profile_mamba as run
        from profilers.tables import parse_lengths
        from profilers.watch import Budget
        from prune.profiling import open_mamba

        given = {"d_model": d_model, "layers": layers, "d_state": d_state, "headdim": headdim}
        sizes = {name: value for name, value in given.items() if value is not None}
        if model is not None and (sizes or version):
            raise UsageError(
                f"--model {model} has its own version and sizes",
                hint="leave out --version, --d-model, --layers, --d-state and --headdim",
            )
        if lengths is not None and full:
            raise UsageError("--full names the lengths already", hint="leave out --lengths or --full")
        config = MambaProfileConfig(
            lengths=parse_lengths(lengths) if lengths is not None else FULL_LENGTHS if full else LENGTHS,
            modes=MODES if mode == "both" else (mode,),
            batch=batch,
            dtype=dtype,
            device=device,
            threads=threads,
            budget=Budget(repeats=repeats, seconds=seconds, clock=clock),
            seed=seed,
        )
        with _measuring(output, force, quiet=as_json) as tell:
            if model is not None:
                models = {Path(model).resolve().stem: open_mamba(model)}
            else:
                versions = (1, 2) if version is None else (version,)
                models = {f"Mamba-{v}": MambaSizes(version=v, **sizes).build(seed) for v in versions}
            found = run(models, config, shlex.join(_words()), tell)
        _show_profile(found, VIEW, None, output, force, as_json=as_json)


@contextmanager
def _measuring(output: Path | None, force: bool, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Refuse a folder that cannot be written before anything is measured; tell what happens."""
    if output is not None:
        from prune.files import OutputFolder

        OutputFolder(output, force)
    if quiet:
        yield lambda _: None
        return
    with console.status("starting") as status:
        yield lambda text: status.update(escape(text))


def _words() -> list[str]:
    return ["prune", *sys.argv[1:]]


def _show_profile(
    found: Profile, view: str, top: int | None, output: Path | None, force: bool, *, as_json: bool
) -> None:
    from profilers.tables import lines, tables

    if output is not None:
        from prune.profiling import write_profile

        names = write_profile(found, view, output, force=force)
    if as_json:
        return _print_json(found.to_json())
    for title, header, rows in tables(found, view, top):
        table = Table(*header, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.collapse_padding = True  # leaves a name the room for a word of it in 80 columns
        for column in table.columns[1:]:
            column.justify, column.no_wrap = "right", True
        table.columns[0].overflow = "fold"
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
    for line in lines(found, view):
        console.print(escape(line), soft_wrap=True)
    if output is not None:
        console.print(f"written to [bold]{escape(str(output))}[/bold]: " + ", ".join(names))


FilesArgument = Annotated[
    list[str],
    typer.Argument(
        help="report.json, folders of runs, .onnx or .pt2 files.", metavar="FILE...", show_default=False
    ),
]


@app.command()
def gate(
    files: FilesArgument,
    max_macs: Annotated[str | None, typer.Option(help="Most MACs: 60M.")] = None,
    max_macs_ratio: Annotated[str | None, typer.Option(help="Of the original's: 0.5 or 50%.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Most parameters: 1.2M.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Largest file: 1.5MB.")] = None,
    max_latency_ratio: Annotated[
        str | None, typer.Option(help="Latency in onnxruntime, of the original's: 0.8.")
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="Weights and activations: 8MB.")] = None,
    min_accuracy: Annotated[str | None, typer.Option(help="Least accuracy: 0.9 or 90%.")] = None,
    max_accuracy_drop: Annotated[
        str | None, typer.Option(help="Points lost against the original: 0.01 or 1%.")
    ] = None,
    min_speedup: Annotated[str | None, typer.Option(help="Least speed-up in onnxruntime: 1.5.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="FILE that nothing may be worse than: a report or a model.")
    ] = None,
    max_regression: Annotated[
        str | None, typer.Option(help="How much worse than the baseline: 2%.", show_default="0")
    ] = None,
    config_file: ConfigOption = None,
    form: Annotated[str, typer.Option("--format", help="table, json, markdown, junit or github.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    trust_code: TrustOption = False,
) -> None:
    """Judge reports or models by budgets: exit code 0 kept, 1 one is broken, 2 could not be judged.

    Budgets are options, or stand under the same names in the table gate of prune.toml, or tool.prune.gate
    of pyproject.toml; options win. A figure that is missing never passes. A broken budget decides, whatever
    else is missing.
    """
    with _errors():
        from prune.gate import EXIT_CODES, judge
        from prune.gate_budgets import read_budgets
        from prune.gate_formats import FORMATS, append_summary, verdict, written

        given = {
            "max-macs": max_macs,
            "max-macs-ratio": max_macs_ratio,
            "max-params": max_params,
            "max-size": max_size,
            "max-latency-ratio": max_latency_ratio,
            "max-memory": max_memory,
            "min-accuracy": min_accuracy,
            "max-accuracy-drop": max_accuracy_drop,
            "min-speedup": min_speedup,
            "baseline": baseline,
            "max-regression": max_regression,
        }
        form = _format("json" if as_json else form, FORMATS)
        budgets = read_budgets(given, config_file)
        judged = [judge(name, budgets, trust_code=trust_code) for name in files]
        if form == "github":
            append_summary(judged)
        if form == "table":
            _print_judged(judged)
        else:
            typer.echo(written(judged, form))
        raise typer.Exit(EXIT_CODES[verdict(judged)])


def _format(name: str, known: tuple[str, ...]) -> str:
    from graph.suggest import suggestion

    if name not in known:
        raise UsageError(f"--format {name}: unknown", hint=suggestion(name, known))
    return name


def _print_judged(judged: list[Judged]) -> None:
    from prune.escaping import plain

    colours = {"pass": "green", "broken": "red", "unjudged": "yellow"}
    words = {"pass": "kept", "broken": "broken", "unjudged": "not judged"}
    for found in judged:
        if found.error:
            _print_error(found.error, found.hint)
            continue
        table = Table(
            "budget", "limit", "found", "", title=f"{escape(plain(found.path))}", title_justify="left"
        )
        for c in found.checks:
            mark = f"[{colours[c.status]}]{words[c.status]}[/]"
            table.add_row(*(escape(plain(t)) for t in (c.budget, c.limit, c.value or c.told)), mark)
        console.print(table)
        mark = f"[{colours[found.status]}]{words[found.status]}[/]"
        console.print(f"{escape(plain(found.path))}: {mark}", soft_wrap=True)


@app.command("report")
def report_page(
    path: Annotated[
        Path,
        typer.Argument(
            help="report.json or pareto.json, or the folder of a run or curve.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write.", show_default="report.html beside it"),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for the plots as PNG and SVG and the tables as CSV.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a stored report as a page: one HTML file that needs no network and no script."""
    with _errors():
        from prune.files import OutputFolder, check_output_file
        from prune.page import PAGE_FILE, write_page
        from prune.stored import read_stored

        stored = read_stored(path)
        file = output or (path if path.is_dir() else path.parent) / PAGE_FILE
        check_output_file(file, force)
        folder = OutputFolder(plots, force) if plots is not None else None
        write_page(stored, file)
        if folder is not None:
            from prune.plot_files import write_plots

            with folder:
                write_plots(stored, folder.staging)
        if as_json:
            return _print_json({"file": str(file), "plots": str(plots) if plots is not None else None})
        console.print(f"written to [bold]{escape(str(file))}[/bold]", soft_wrap=True)
        if plots is not None:
            console.print(f"plots and tables in [bold]{escape(str(plots))}[/bold]: {_listing(plots)}")


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="Report, folder of a run, .onnx or .pt2.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another one.", show_default=False)],
    form: Annotated[str, typer.Option("--format", help="table, json or markdown.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    trust_code: TrustOption = False,
) -> None:
    """Compare two runs or two models: figures side by side, and the widths that differ."""
    with _errors():
        from prune.diff import FORMATS, compare, written

        form = _format("json" if as_json else form, FORMATS)
        found = compare(a, b, trust_code=trust_code)
        if form != "table":
            typer.echo(written(found, form))
            return
        _print_tables(found)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Look whether this machine has what prune needs: packages, threads, GPU, the exporters.

    Exit code 1 if something that prune needs is broken.
    """
    with _errors():
        from prune.doctor import examine

        with (
            console.status("importing every package, exporting a small network") if not as_json else _quiet()
        ):
            found = examine()
        if as_json:
            _print_json(found.to_json())
        else:
            for name, value in found.machine.items():
                console.print(f"{name}: {escape(value)}", soft_wrap=True)
            colours = {"ok": "green", "missing": "yellow", "broken": "red"}
            table = Table("", "", "found", "what to do")
            for f in found.findings:
                table.add_row(
                    escape(f.name), f"[{colours[f.state]}]{f.state}[/]", escape(f.found), escape(f.hint)
                )
            console.print(table)
        raise typer.Exit(0 if found.healthy else 1)


@zoo.command("list")
def zoo_list(as_json: JsonOption = False) -> None:
    """List the networks with their published costs."""
    with _errors():
        from models_zoo.registry import everything
        from prune.report import count

        if as_json:
            names = ("name", "input_shape", "macs", "params", "summary")
            return _print_json([{n: getattr(e, n) for n in names} for e in everything().values()])
        table = Table("name", "input", "MACs", "parameters", "what it is")
        for entry in everything().values():
            shape = "x".join(map(str, entry.input_shape)) + " tokens" * entry.is_language_model
            table.add_row(entry.name, shape, count(entry.macs), count(entry.params), entry.summary)
        console.print(table)


@zoo.command("train")
def zoo_train(
    name: Annotated[str, typer.Argument(help="A network of `prune zoo list`.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(help="Data set, as for compress.", show_default="digits; pystdlib for language models"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="NAME.pt")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Images, or windows of text, per step.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network from scratch and write it with its metadata."""
    with _errors():
        from dataclasses import replace

        from models_zoo.registry import find
        from prune.data import load_data
        from prune.train import recipe, train

        entry = find(name)
        spec = data or ("pystdlib" if entry.is_language_model else "shapes" if entry.masks else "digits")
        given: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed}
        config = replace(recipe(name), **{k: v for k, v in given.items() if v is not None})
        path = output or Path(f"{name}.pt")
        screen = _screen(as_json=as_json)
        with screen.running():
            screen.stage(f"loading {spec}")
            loaded = load_data(spec)
            for note in loaded.notes:
                screen.note(note)
            screen.stage(f"training {name}")
            result = train(
                name, loaded, config, path, force=force, on_epoch=screen.epoch, on_step=screen.step
            )
        if as_json:
            return _print_json({"file": str(path), "arch": name, "data": spec, **result.to_json()})
        console.print(
            f"{name}: {result.told()} on {result.records} test {result.unit} of {escape(spec)}; "
            f"written to [bold]{escape(str(path))}[/bold]"
        )


@policies.command("train")
def policy_train(
    on: Annotated[
        str,
        typer.Option(
            help="Networks, separated by commas: files of `prune zoo train`, or names of `prune zoo list`, "
            "which are trained on --data first.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write (.safetensors).", show_default=False)
    ],
    data: DataOption = None,
    method: Annotated[str, typer.Option("--agent", help="gnn-rl, agmc or amc.")] = "gnn-rl",
    episodes: Annotated[int, typer.Option(min=1, help="Plans to score, over all tasks.")] = 600,
    targets: Annotated[str, typer.Option(help="Shares of the MACs to train for.")] = "0.5,0.3",
    epochs: Annotated[int, typer.Option(min=1, help="Of training networks given by name.")] = 10,
    images: Annotated[int, typer.Option(min=2, help="Search images that score each plan.")] = 256,
    reward: Annotated[str, typer.Option(help="What makes a plan good: error or loss.")] = "error",
    start: Annotated[Path | None, typer.Option(help="Policy to go on from.", show_default="none")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a policy on several networks; it then starts the search on any other."""
    with _errors():
        from rl.training import Events, TrainingConfig, train_policy

        config = TrainingConfig(
            on=tuple(n.strip() for n in on.split(",") if n.strip()),
            data=data,
            output=output,
            agent=method,
            episodes=episodes,
            targets=_shares(targets),
            epochs=epochs,
            images=images,
            reward=reward,  # type: ignore[arg-type]
            start=start,
            seed=seed,
            force=force,
        )
        screen = _screen(trials=config.trials, as_json=as_json)
        with screen.running():
            found = train_policy(
                config, Events(screen.stage, screen.note, screen.trial, screen.epoch, screen.step)
            )
        if as_json:
            return _print_json({"file": str(output), **dict(found.rows())})
        _print_policy(found.rows())
        console.print(f"written to [bold]{escape(str(output))}[/bold]")


@policies.command("show")
def policy_show(
    file: Annotated[Path, typer.Argument(help="File of `prune policy train`.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Show what a policy is and what it was trained on."""
    with _errors():
        from rl.policy import load

        rows = load(file).rows()
        if as_json:
            return _print_json({"file": str(file), **dict(rows)})
        _print_policy(rows)


def _print_policy(rows: list[tuple[str, str]]) -> None:
    table = Table("", "policy", show_header=False)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(t) for t in text.split(","))
    except ValueError:
        raise UsageError(f"--targets {text}: not numbers", hint="such as --targets 0.5,0.3") from None


def main() -> None:
    """The entry point ``prune``."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if not _state["debug"]:
        import warnings

        warnings.simplefilter("ignore")  # third-party deprecations are not the user's business
    from prune.interrupts import interruptible

    with interruptible(_farewell):
        sys.exit(app(prog_name="prune"))


if __name__ == "__main__":
    main()
