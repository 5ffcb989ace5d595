"""The commands that make supernets: build, train."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from front.commands.failures import can_go_on
from front.commands.options import (
    ArchArgsOption,
    ArchOption,
    DtypeOption,
    JsonOption,
    ModelArgument,
    PretrainedOption,
    SeedOption,
    ShapeOption,
    SpecOption,
    SupernetArgument,
    SupernetDataOption,
    SupernetForceOption,
    TrustOption,
    WeightsOption,
    model_source,
)
from front.commands.shown import bold
from front.commands.supernet_tables import show_built
from front.commands.terminal import console, new_screen, print_json


def supernet_build(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    data: SupernetDataOption = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Widths that are elastic: head, mlp, residual.",
            show_default="head,mlp; for hf:DIR without what its configuration cannot say",
        ),
    ] = None,
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
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    trust_code: TrustOption = False,
    force: SupernetForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a supernet: rank channels, heads and layers, and put them in that order."""
    from prune.files import OutputFolder, read_json
    from prune.load import load
    from prune.selection import Selection, parse_kinds
    from prune.subject import find_data, measured_on, program_of, selected
    from supernet.elastic import ElasticConfig
    from supernet.expressible import made_expressible
    from supernet.net import make_supernet, origin_of
    from supernet.segmenting import for_masks
    from supernet.store import SOURCE_CONFIG, companions_of, save_supernet
    from supernet.training import TRAINING

    tied = model.startswith("hf:") if uniform is None else uniform
    config = ElasticConfig(
        kinds=parse_kinds("head,mlp" if kinds is None else kinds),
        least=least,
        steps=steps,
        least_depth=least_depth,
        uniform=tied,
    )
    source = model_source(
        model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
    )
    OutputFolder(output, force)  # before anything takes long
    shown = new_screen(as_json=as_json)
    with shown.running():
        shown.stage("loading the model")
        loaded = load(measured_on(source, data))
        found = find_data(data, loaded)
        loaded = for_masks(loaded, found)
        subject = selected(loaded, program_of(loaded), Selection())
        origin = origin_of(subject, None if found is None else found.name)
        net = make_supernet(subject, config, found, origin=origin, on_stage=shown.stage)
        companions = companions_of(model)
        if tied and SOURCE_CONFIG in companions:
            shown.stage("asking transformers for narrower models")
            settings = read_json(companions[SOURCE_CONFIG], "configuration", constants=True)
            net = made_expressible(net, settings, asked=kinds is not None)
        for note in (*subject.notes, *net.notes):
            shown.note(note)
        save_supernet(net, output, companions, force=force)
        shutil.rmtree(output / TRAINING, ignore_errors=True)  # of another supernet that was here
    if as_json:
        return print_json({"folder": str(output), **net.told()})
    show_built(net, output)


def supernet_train(
    folder: SupernetArgument,
    data: SupernetDataOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write.", show_default="the supernet's own"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 10,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-4,
    batch_size: Annotated[int, typer.Option(min=2, help="Records per step.")] = 64,
    teacher: Annotated[
        str,
        typer.Option(
            help="Who teaches beside the labels: the network as it came (original), the others the largest "
            "as it is (largest), or the former where it has been trained (auto)."
        ),
    ] = "auto",
    distill: Annotated[float, typer.Option(help="Share of the loss that comes from the teacher.")] = 0.5,
    random: Annotated[int, typer.Option(min=0, help="Random subnetworks in each step.")] = 2,
    removal: Annotated[
        float, typer.Option(help="Probability that the least salient layer goes in a random one.")
    ] = 0.5,
    seed: SeedOption = 0,
    force: SupernetForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train all subnetworks at once; the same command goes on where an interrupted one stopped."""
    from dataclasses import replace

    from prune.files import OutputFolder
    from prune.subject import must_find_data
    from supernet.net import ElasticModule
    from supernet.store import companions_of, load_supernet, save_supernet, with_origin
    from supernet.training import SANDWICH, TRAINING, SandwichConfig, ends, train_supernet

    tune = replace(SANDWICH, epochs=epochs, lr=lr, batch_size=batch_size, distill=distill, seed=seed)
    config = SandwichConfig(tune=tune, random=random, removal=removal, teacher=teacher)  # type: ignore[arg-type]
    target = output or folder
    if force:  # starts over
        shutil.rmtree(target / TRAINING, ignore_errors=True)
    unfinished = (target / TRAINING).is_dir()
    if output is not None and not unfinished:
        OutputFolder(output, force)
    shown = new_screen(as_json=as_json)
    with shown.running():
        shown.stage("loading the supernet")
        stored = load_supernet(folder)
        found = must_find_data(data, stored.loaded())
        shown.stage("training the supernet")
        can_go_on(
            f"the same command{' without --force' * force} goes on from the last checkpoint",
            lambda: any((target / TRAINING).glob("*.safetensors")),
        )
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
        return print_json(result)
    console.print(
        f"largest: {large.told()}; smallest: {small.told()} on the search split of {escape(found.name)}; "
        f"written to {bold(target)}"
    )
