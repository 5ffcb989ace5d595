"""The command ``prune compress``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from front.commands.failures import can_go_on
from front.commands.options import (
    MODEL,
    ArchArgsOption,
    ArchOption,
    ConfigOption,
    DataOption,
    DtypeOption,
    ExcludeOption,
    ForceOption,
    JsonOption,
    KindsOption,
    LimitOption,
    OnlyOption,
    PretrainedOption,
    SeedOption,
    ShapeOption,
    SpecOption,
    TrustOption,
    WeightsOption,
    model_source,
)
from front.commands.resumption import given_options, unfinished_run
from front.commands.shown import bold, listing, show_curve, show_finished, show_report, show_tables
from front.commands.terminal import console, new_screen, print_json
from graph.errors import UsageError


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
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            help="Who searches: gnn-rl, agmc, amc; evolution or random learn nothing.",
            show_default="that of --policy, else gnn-rl",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Trained policy to start from: FILE, default (comes with prune) or none.",
            show_default="what comes with prune for the agent, unless its plan is worse than the baselines",
        ),
    ] = None,
    episodes: Annotated[
        int,
        typer.Option(min=0, help="Plans to score beside the baselines; 0: these and a named policy's plan."),
    ] = 100,
    reward: Annotated[
        str, typer.Option(help="What makes a plan good: few errors (error) or a small loss.")
    ] = "error",
    images: Annotated[int, typer.Option(min=2, help="Search images that score each plan.")] = 256,
    precision: Annotated[
        str,
        typer.Option(
            help="Numbers that plans are scored in: float32, bfloat16, or auto: bfloat16 where the processor "
            "computes with it and the network scores as in float32. The pruned network stays as it is."
        ),
    ] = "auto",
    workers: Annotated[
        str | None,
        typer.Option(
            help="Processes that score plans: a number, ray: (Ray on this machine) or ray://HOST:PORT. The "
            "result is the same with any of them.",
            show_default="one for each core",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where scores, fits and fine-tuning are computed: cpu, cuda or cuda:1. Latencies are those "
            "of this machine's CPU in any case."
        ),
    ] = "cpu",
    importance: Annotated[
        str | None,
        typer.Option(
            help="Ranks the channels of a group: magnitude, bn-scale, taylor, contribution, "
            "magnitude-taylor or magnitude-contribution.",
            show_default="magnitude; a search on images takes what suits the network",
        ),
    ] = None,
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
        typer.Option(
            min=1,
            help="Keep multiples of this many channels.",
            show_default="blocks of 4 to 16 for convolutions, else 1, or 4 with --latency",
        ),
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
    seed: SeedOption = 0,
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
    from front.forecast import forecast
    from front.request import Options, request
    from front.tensorboard import board
    from prune.pareto import pareto as run_pareto
    from prune.pipeline import compress as run
    from prune.pipeline import resuming
    from prune.run_folder import finish
    from prune.subject import measured_on
    from prune.unfinished import is_unfinished

    folder = output
    if resume is not None:
        if dry_run:
            raise UsageError("--dry-run and --resume do not go together", hint="leave one of them out")
        if output is not None and output.resolve() != resume.resolve():
            raise UsageError(f"-o {output} is not {resume}", hint="a run is resumed where it is")
        if finish(resume):
            return show_finished(resume, as_json)
        model, folder = unfinished_run(resume, model, trust_code)
    if model is None:
        raise UsageError(
            "no model is named", hint="prune compress MODEL --flops 0.5, or prune compress --resume DIR"
        )
    source = model_source(
        model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
    )
    identity = given_options(context) | {"MODEL": model}
    asked = request(
        measured_on(source, data),
        Options(**{field.name: context.params[field.name] for field in fields(Options)}),
        data=data,
        output=folder,
        force=force,
        resume=resume is not None,
        identity=identity,
    )
    config, points = asked.config, asked.points
    again = resuming(config.output, identity, trust_code=trust_code)
    can_go_on(f"go on with: {again}", lambda: is_unfinished(config.output))
    screen = new_screen(trials=asked.trials, as_json=as_json)
    if dry_run:
        with screen.running():
            expected = forecast(asked, screen)
        return print_json(expected.to_json()) if as_json else show_tables(expected)
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
        return print_json({"points": curve.rows()} if points else report.to_json())
    if points:
        show_curve(curve)
    else:
        show_report(report)
    console.print(f"written to {bold(config.output)}: " + listing(config.output))
