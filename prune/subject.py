"""Subjects: a loaded model as a program, with its groups, its costs and what the user wants of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from graph.capture import capture
from graph.channels import Axes
from graph.cost import Costs, costs
from graph.errors import CaptureError, DataError
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from prune.alignment import blocks
from prune.data import is_code, load_data
from prune.inputs import ModelInputs, one_input, times, with_inputs
from prune.load import LoadedModel, ModelSource, load
from prune.selection import Selection, select
from prune.targets import check_causal
from prune.text import TOKENIZER
from prune.widths import WidthSpace

NO_DATA = "none"


@dataclass(frozen=True)
class Subject:
    """A loaded model as a program with its axes and costs.

    Attributes:
        loaded: the model.
        axes: groups of its channels.
        costs: of the whole program.
        minimum: for groups by name, the least number of units that they keep.
    """

    loaded: LoadedModel
    axes: Axes
    costs: Costs
    minimum: Mapping[str, int] = field(default_factory=dict)

    @property
    def program(self) -> Program:
        """The whole program."""
        return self.axes.program

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before anything is pruned."""
        unknown = [
            f"{op} ({count} times) has no cost rule: its MACs are not counted"
            for op, count in self.costs.unknown.items()
        ]
        stuck = [
            f"{op} has no rule: the {count} channels that enter it stay"
            for op, count in self.axes.unsupported.items()
        ]
        return (*self.loaded.notes, *self.program.notes, *unknown, *stuck)

    def space(
        self, *, round_to: int = 1, align: bool = True, fixed: Mapping[str, int] | None = None
    ) -> WidthSpace:
        """The widths that it can have.

        Args:
            round_to: what all of them are multiples of.
            align: whether channels of convolutions are kept in blocks, see ``prune.alignment``.
            fixed: for groups by name, the one width that they have.
        """
        multiples = blocks(self.axes, self.costs.macs) if align else None
        return WidthSpace(
            self.axes, round_to=round_to, multiples=multiples, minimum=self.minimum, fixed=fixed
        )


def program_of(loaded: LoadedModel) -> Program:
    """A loaded model as a program, with the names and ranges of its inputs.

    Raises:
        CaptureError: it cannot be captured.
    """
    if isinstance(loaded.module, ProgramModule):
        return with_inputs(loaded.module.updated(), loaded.inputs)
    try:
        program = capture(loaded.module, loaded.inputs.example())
    except CaptureError as err:
        told = f"it was given {loaded.inputs.told()}"
        raise CaptureError(str(err), hint=f"{told}; {err.hint}" if err.hint else told) from err
    return with_inputs(program, loaded.inputs)


def open_model(source: ModelSource, selection: Selection | None = None) -> Subject:
    """Load a model, capture it and find its groups.

    Raises:
        PruneError: any of the named failures of loading and capturing, or a selection that matches nothing.
    """
    loaded = load(source)
    return selected(loaded, program_of(loaded), selection or Selection())


def selected(loaded: LoadedModel, program: Program, selection: Selection) -> Subject:
    """Find the groups of a loaded model that was captured.

    Raises:
        UsageError: a selection that matches nothing.
    """
    axes, minimum = select(program, selection)
    return Subject(loaded, axes, costs(program), minimum)


def find_data(name: str | DataSet | None, loaded: LoadedModel) -> DataSet | None:
    """The data set for a model: the one given or named, or that of the model file; None for none.

    Raises:
        DataError: it is missing, its records are of another kind or shape than the model takes, it is text
            and the model sees what it is to foretell, or it is a function that a file names, not the user.
    """
    spec = name.name if isinstance(name, DataSet) else name or loaded.data
    if not name and spec is not None and is_code(spec):
        raise DataError(
            f"{loaded.path} names {spec} as its data: a function, which is run only where you name it",
            hint=f"if you trust it: --data {spec}",
        )
    if spec is None or (spec == NO_DATA and not isinstance(name, DataSet)):
        return None
    given = loaded.inputs.items
    hint = "name data that fits, or --data none to prune without"
    if len(given) > 1:
        raise DataError(
            f"data {spec} gives one input for each label, {loaded.path} takes {loaded.inputs.told()}",
            hint=hint,
        )
    takes_text = given[0].dtype == "int64" and len(given[0].record) == 1
    length = given[0].record[0] if takes_text else None
    data = (
        name
        if isinstance(name, DataSet)
        else load_data(spec, length=length, tokenizer=_tokenizer(loaded) if takes_text else None)
    )
    if data.is_text != takes_text or (not takes_text and given[0].dtype != "float32"):
        what = "text" if data.is_text else "one image for each label"
        raise DataError(f"data {spec} gives {what}, {loaded.path} takes {loaded.inputs.told()}", hint=hint)
    if tuple(data.input_shape) != loaded.input_shape:
        raise DataError(
            f"data {spec} has {'windows' if data.is_text else 'images'} of shape {times(data.input_shape)}, "
            f"the model takes {times(loaded.input_shape)}",
            hint=f"{hint}, or give --input-shape",
        )
    if takes_text and given[0].high is not None and len(data.classes) > given[0].high:
        raise DataError(
            f"data {spec} has {len(data.classes)} different {data.unit}, "
            f"the vocabulary of {loaded.path} only {given[0].high}",
            hint=hint,
        )
    if takes_text:
        windows = len(loaded.inputs.example()[0])
        for tokens, _ in data.search.batches(windows, limit=windows):
            check_causal(loaded.module, tokens, len(data.classes), loaded.path)
    return data


def _tokenizer(loaded: LoadedModel) -> Path | None:
    """The tokenizer beside the weights of a checkpoint's folder."""
    folder = Path(loaded.path.removeprefix("hf:"))
    return folder / TOKENIZER if (folder / TOKENIZER).is_file() else None


def measured_on(source: ModelSource, data: str | DataSet | None) -> ModelSource:
    """A model that is measured on data: its prediction is its first output, its input one record."""
    if data is None or data == NO_DATA:
        return source

    def record() -> ModelInputs:
        found = data if isinstance(data, DataSet) else load_data(data)
        return one_input(found.input_shape, "int64" if found.is_text else "float32")

    return replace(source, predicts=True, request=replace(source.request, data=record))


def must_find_data(name: str | DataSet | None, loaded: LoadedModel) -> DataSet:
    """The data set for a model, where there is no going without.

    Raises:
        DataError: as ``find_data``, or none is named.
    """
    data = find_data(name, loaded)
    if data is None:
        raise DataError(
            f"{loaded.path} does not say which data it was trained on",
            hint="name it: --data digits, glyphs, shapes, pystdlib, cifar10:PATH, imagefolder:PATH, "
            "maskfolder:PATH, text:PATH, tokens:FILE or package.module:factory",
        )
    return data


def check_batch(program: Program, data: DataSet | None, path: str | Path) -> None:
    """Refuse data for a program of a fixed batch: batches of other sizes would come out wrong.

    Raises:
        DataError: there is data and the batch is fixed.
    """
    if data is not None and not program.dynamic_batch:
        size = program.inputs[0].shape[0]
        raise DataError(
            f"{path} takes only batches of {size}, so that it cannot be measured on {data.name}",
            hint="export it with a free batch, or give --data none",
        )
