"""Preparation: all of a run that does not depend on how much is pruned. Several targets share it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from graph.errors import ModelFileError, TargetError, UsageError
from graph.program import ProgramModule
from graph.suggest import suggestion
from models_zoo.data import DataSet
from models_zoo.mamba_lm import MambaLM
from prune.baselines import BASELINES
from prune.budget import Budget
from prune.config import CompressConfig, Listener
from prune.demands import Demand
from prune.depth import Blocks, Depth, judge
from prune.evaluation import Evaluation, evaluate
from prune.export import export_onnx
from prune.identity import must_be_the_same, of_data, of_model
from prune.importance import FROM_DATA, Scores, scores_of
from prune.journal import Journal
from prune.latency_limit import Clock
from prune.load import LoadedModel
from prune.placement import on
from prune.selection import remaining
from prune.states import StateChoice, choose_states, own_layers, state_layers
from prune.student import reference_of
from prune.subject import (
    NO_DATA,
    Subject,
    check_batch,
    find_data,
    open_model,
    program_of,
    selected,
)
from prune.verify import check
from prune.widths import WidthSpace

SEARCH = "search"


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be pruned.

    Attributes:
        whole: the model with its groups and costs.
        subject: the same, without the blocks that are not to stay.
        space: the widths that it can have.
        data: what it is measured and tuned on, if anything.
        method: who makes the plan.
        original: the whole program as a module.
        reference: the original as it is evaluated and teaches: its own class where that is much faster.
        base: how good it is on the test split; None without data.
        scores: importance of each class of channels.
        depth: which blocks went; None where nothing is said about them.
        states: which states are to stay; None where nothing is said about them.
        clock: predicts and measures latencies, where they are limited.
        folder: for files that the whole run shares.
        seconds: how long the preparation took.
    """

    whole: Subject
    subject: Subject
    space: WidthSpace
    data: DataSet | None
    method: str
    original: ProgramModule
    reference: nn.Module
    base: Evaluation | None
    scores: Scores
    depth: Depth | None
    states: StateChoice | None
    clock: Clock | None
    folder: Path
    seconds: float

    def budget(self, demands: Sequence[Demand]) -> Budget:
        """What limits mean for this model.

        Raises:
            TargetError: they cannot be met.
        """
        if self.clock is None:
            return _reachable(self.space, demands, self.whole)
        budget = self.clock.budget(demands, self.scores)
        budget.check_reachable()
        return budget

    def original_onnx(self) -> Path:
        """The ONNX file of the original, exported once."""
        return _original_onnx(self.whole, self.original, self.folder)

    def remove_files(self) -> None:
        """Remove the files that the run shared."""
        for path in self.folder.glob("original.onnx*"):
            path.unlink()


def prepare(
    config: CompressConfig,
    listener: Listener,
    folder: Path,
    journal: Journal,
    points: Sequence[Demand] = (),
) -> Prepared:
    """Load a model, find its groups, and measure it.

    Args:
        config: what to do.
        listener: sees the run.
        folder: for files that the whole run shares.
        journal: of the run.
        points: of a curve; each must be within reach.

    Raises:
        PruneError: any of the named failures of loading and capturing, limits that cannot be met, or a model
            or data that are not those with which the run was started.
    """
    start = time.perf_counter()
    check_planner(config)
    listener.stage("loading the model")
    whole = open_model(config.source, config.selection)
    exact = [d for d in config.demands if d.name != "latency"]
    exact_of = [[point, *exact] for point in points] or [exact]
    blocks = asked_blocks(config, whole)
    if blocks is None:
        for demands in exact_of:
            _check_widths(config, whole, whole, demands)  # before anything takes long
    data = find_data(config.data, whole.loaded)
    check_batch(whole.program, data, config.source.model)
    method = method_of(config, data)
    must_be_the_same(journal, "model", config.source.model, of_model(whole.axes))
    if data is not None:
        must_be_the_same(journal, "data", data.name, of_data(data))
    for note in (*whole.notes, *_data_notes(config, data)):
        listener.note(note)
    reference = reference_of(whole)
    original = reference if isinstance(reference, ProgramModule) else ProgramModule(whole.program)
    base: Evaluation | None = None
    if data is not None:
        listener.stage("measuring the original")
        test = data.test
        with on(config.device, reference):
            found = journal.recall("base", lambda: asdict(_sound(evaluate(reference, test), whole.loaded)))
        base = Evaluation(**found)
    subject, depth = whole, None
    if blocks is not None and data is not None:
        listener.stage("judging the blocks")
        judged = journal.recall("blocks", lambda: judge(config.blocks, blocks, data, listener.step).to_json())
        depth = Depth.from_json(judged, config.blocks)
        loaded = replace(whole.loaded, module=blocks.without(depth.dropped))
        program = program_of(loaded)
        subject = selected(loaded, program, remaining(config.selection, program))
        if config.verify:
            proof = blocks.proof(depth, subject.program)
            check(proof)
            depth = replace(depth, max_error=proof.max_error)
        for demands in exact_of:
            _check_widths(config, subject, whole, demands)
        journal.dear = True  # only now: limits that are out of reach leave nothing to go on with
    space = subject.space(round_to=config.multiple, align=config.aligns)
    scores = scores_of(subject.axes, config.criterion, data, config.device)
    states = None
    if judges_states(config, subject, data, points):
        listener.stage("judging the states")
        states = choose_states(config.states, subject.axes, subject.loaded, data, scores, config.seed)
        scores = states.scores
        space = subject.space(round_to=config.multiple, align=config.aligns, fixed=states.fixed(subject.axes))
        for demands in exact_of:
            _reachable(space, demands, whole)
    clock = None
    if config.limits_latency:
        listener.stage("timing operators")
        file = _original_onnx(whole, original, folder)
        clock = Clock(subject.axes, space, file, journal, listener.step)
        if clock.guessed:
            named = ", ".join(f"{op} ({count} times)" for op, count in clock.guessed.items())
            listener.note(f"priced as a pass over their elements, for want of a kernel: {named}")
    seconds = time.perf_counter() - start
    return Prepared(
        whole, subject, space, data, method, original, reference, base, scores, depth, states, clock, folder,
        seconds,
    )  # fmt: skip


def asked_blocks(config: CompressConfig, whole: Subject) -> Blocks | None:
    """The blocks of a model, where some of them are to go.

    Raises:
        UsageError: there are not several, or what else is asked makes no sense beside it.
        TargetError: none would stay, or all.
    """
    if config.blocks.text is None:
        return None
    chosen = config.selection
    if isinstance(whole.loaded.module, MambaLM) and (chosen.exclude or chosen.only or chosen.limits):
        raise UsageError(
            "--blocks numbers the layers of a Mamba anew, so that names of layers mean other ones",
            hint="leave --exclude, --only and --limit out",
        )
    blocks = Blocks.of(whole.loaded, whole.program)
    config.blocks.kept(len(blocks.branches))
    return blocks


def judges_states(
    config: CompressConfig, subject: Subject, data: DataSet | None, points: Sequence[Demand]
) -> bool:
    """Whether the states of a model are ranked on text: asked for, or since limits may take them."""
    limited = bool(config.demands or points)
    return config.states.is_given or (limited and data is not None and _has_own_states(subject))


def _has_own_states(subject: Subject) -> bool:
    """Whether limits may take states that better is known of than the size of their weights."""
    module = subject.loaded.module
    try:
        return isinstance(module, MambaLM) and bool(own_layers(subject.axes, module))
    except UsageError:  # they have to stay
        return False


def _check_widths(config: CompressConfig, subject: Subject, whole: Subject, exact: Sequence[Demand]) -> None:
    """Refuse what no choice of widths and states meets.

    Raises:
        TargetError: limits that cannot be met, or that are met without removing anything more.
        UsageError: states are to go, and there are none.
    """
    space = subject.space(round_to=config.multiple, align=config.aligns)
    for bound in _reachable(space, exact, whole).bounds:
        left = float(bound.quantity.value(space.widths(space.widest)))
        if left <= bound.limit:
            raise TargetError(
                f"{bound.demand}: without the blocks the model uses {left / bound.quantity.whole:.3f} of the "
                "whole already",
                hint="ask for less, or leave it out",
            )
    if config.states.is_given:
        layers = state_layers(subject.axes, subject.loaded)
        if config.states.text is not None:
            for layer in layers:
                config.states.kept(layer.units.shape[1])


def _reachable(space: WidthSpace, demands: Sequence[Demand], whole: Subject) -> Budget:
    """What limits that are no latencies mean; shares are of the whole model.

    Raises:
        TargetError: they cannot be met.
    """
    budget = Budget.from_demands(space, demands, whole=whole.costs)
    budget.check_reachable()
    return budget


def _original_onnx(subject: Subject, original: ProgramModule, folder: Path) -> Path:
    path = folder / "original.onnx"
    if not path.exists():
        example = subject.program.random_inputs(2)
        export_onnx(original, example, path, dynamic_batch=subject.program.dynamic_batch)
    return path


def check_planner(config: CompressConfig) -> None:
    """Refuse a planner that does not exist, or that heeds nothing of how a search is to go.

    Raises:
        UsageError: there is none of that name, or it does not search.
    """
    if config.planner is not None and config.planner not in (SEARCH, *BASELINES):
        raise UsageError(
            f"--planner {config.planner}: unknown", hint=suggestion(config.planner, (SEARCH, *BASELINES))
        )
    if config.planner in BASELINES and (unheard := _of_searches(config)):
        raise UsageError(
            f"{unheard} and --planner {config.planner} do not go together",
            hint="leave out one or the other, here or in the settings file",
        )


def _of_searches(config: CompressConfig) -> str:
    """What was asked for that a search alone heeds."""
    return " ".join(word for word in config.search if word != "--no-sensitivity")


def method_of(config: CompressConfig, data: DataSet | None) -> str:
    """Who makes the plan.

    Raises:
        UsageError: what is asked for needs data, and there is none.
    """
    if data is None:
        if config.blocks.text is not None:
            raise UsageError(
                f"--blocks needs data to judge them by, and {config.source.model} has none",
                hint="name it: --data pystdlib, text:PATH, tokens:FILE, digits, imagefolder:PATH",
            )
        planner = f"--planner {SEARCH}" if config.planner == SEARCH else ""
        importance = f"--importance {config.importance}" if config.importance in FROM_DATA else ""
        if wished := planner or importance or _of_searches(config):
            raise UsageError(
                f"{wished} needs data, and {config.source.model} has none",
                hint="name it: --data digits, cifar10:PATH, imagefolder:PATH or package.module:factory",
            )
    return config.planner or (SEARCH if data is not None else "uniform")


def _data_notes(config: CompressConfig, data: DataSet | None) -> tuple[str, ...]:
    if data is not None:
        return data.notes
    asked = config.data == NO_DATA
    return (
        f"{'--data none' if asked else 'no data is named (--data)'}: the plan follows from the weights "
        "alone, nothing is fine-tuned, and nothing is measured for accuracy",
    )


def _sound(found: Evaluation, loaded: LoadedModel) -> Evaluation:
    if not found.loss < float("inf"):
        raise ModelFileError(
            f"{loaded.path}: the outputs are not finite", hint="check the weights and the input normalisation"
        )
    return found
