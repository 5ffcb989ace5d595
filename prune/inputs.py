"""Inputs: what a model is fed with, as the user says it, as its file says it, or as the model itself shows.

Everything that is captured, verified, exported and timed runs on examples that are made here. The first
dimension of each input is the batch; records are what the rest of the project counts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from graph.errors import UsageError
from graph.program import INPUT, InputSpec, Node, Program, Ref, refs_in
from graph.suggest import suggestion

BATCH = 2  # of examples: torch.export takes a batch of 1 for a constant
DTYPES = ("float32", "int64", "int32", "int16", "int8", "uint8", "bool")

# Operators through which an index reaches its table unchanged.
_CARRIERS = {
    "view", "reshape", "flatten", "unsqueeze", "squeeze", "expand", "slice", "select", "transpose", "permute",
    "contiguous", "clone", "to", "_to_copy", "long", "int", "alias", "detach", "repeat",
}  # fmt: skip


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: of the argument of ``forward``, or of the node in a program.
        shape: the first size is the batch.
        dtype: one of ``DTYPES``.
        low: of integers, the least value; found from the model when left out.
        high: of integers, one more than the greatest: the size of the vocabulary.
        value: an example with real values; random ones are made when left out.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    low: int | None = None
    high: int | None = None
    value: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def record(self) -> tuple[int, ...]:
        """The shape of one record."""
        return self.shape[1:]

    def example(self, generator: torch.Generator) -> Tensor:
        """The example, or a random one."""
        if self.value is not None:
            return self.value
        kind: torch.dtype = getattr(torch, self.dtype)
        if kind.is_floating_point:
            return torch.randn(self.shape, generator=generator, dtype=kind)
        low = self.low or 0
        high = 2 if self.high is None or kind is torch.bool else self.high
        return torch.randint(low, max(high, low + 1), self.shape, generator=generator).to(kind)

    def to_json(self) -> dict[str, Any]:
        """As JSON data, without the example."""
        found = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        return found | {k: v for k, v in (("low", self.low), ("high", self.high)) if v is not None}


@dataclass(frozen=True)
class ModelInputs:
    """All inputs of a model.

    Attributes:
        items: in the order of the call.
        named: they are passed by keyword.
        fixed: the model takes no other batch than the shapes name.
    """

    items: tuple[ModelInput, ...]
    named: bool = False
    fixed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(i.name for i in self.items)

    def example(self, seed: int = 0) -> list[Tensor]:
        """One tensor for each input."""
        generator = torch.Generator().manual_seed(seed)
        return [i.example(generator) for i in self.items]

    def told(self) -> str:
        """In words: ``input_ids 2x64 int64, ...``."""
        return ", ".join(f"{i.name} {times(i.shape)} {i.dtype}" for i in self.items)


def times(shape: Sequence[int]) -> str:
    """A shape as the command line has it: 3x224x224."""
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class InputRequest:
    """What the user says about the inputs: a shape and a type, or all of them.

    Attributes:
        shape: as typed, with or without the batch.
        dtype: of the one input.
        inputs: from a specification.
        path: of the specification.
        data: where nothing else tells, the inputs are what the data are made of, which this looks at.
    """

    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    inputs: ModelInputs | None = None
    path: str | None = None
    data: Callable[[], ModelInputs] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.inputs is not None and (self.shape or self.dtype):
            raise UsageError(
                "--input-spec says all about the inputs", hint="leave out --input-shape and --input-dtype"
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"--input-dtype {self.dtype}: unknown", hint=suggestion(self.dtype, DTYPES))

    def __bool__(self) -> bool:
        return self.shape is not None or self.dtype is not None or self.inputs is not None


def one_input(record: Sequence[int], dtype: str = "float32") -> ModelInputs:
    """The inputs of a model that takes one tensor.

    Args:
        record: shape of one record, without the batch.
        dtype: of the tensor.
    """
    return ModelInputs((ModelInput("input", (BATCH, *record), dtype),))


def settled(request: InputRequest, known: ModelInputs | None, module: nn.Module, path: str) -> ModelInputs:
    """The inputs of a model: what the user says goes before what is known.

    Args:
        request: of the user.
        known: what the file, the library or the configuration says.
        module: the model.
        path: names the model in messages.

    Raises:
        UsageError: nothing tells the inputs, or what the user says does not fit the model.
    """
    if request.inputs is not None:
        if known is not None and known.fixed:
            return _within(known, request.inputs, path)
        # Examples that are given by position need no names.
        return _matched(request.inputs, module) if request.inputs.named else request.inputs
    if request.shape is not None:
        return _shaped(request.shape, request.dtype, known, module, path)
    if known is None and request.data is not None:
        known = request.data()
    if known is None:
        raise UsageError(
            f"nothing tells the shape of the inputs that {path} takes",
            hint="give --input-shape, such as 3x224x224, --input-spec FILE for several inputs, or --data",
        )
    if request.dtype is not None:
        first = replace(known.items[0], dtype=request.dtype)
        return replace(known, items=(first, *known.items[1:]))
    return known


def _shaped(
    shape: tuple[int, ...], dtype: str | None, known: ModelInputs | None, module: nn.Module, path: str
) -> ModelInputs:
    if known is not None and (known.fixed or known.named or known.items[0].dtype != "float32"):
        first = known.items[0]
        same = len(first.shape)
        record = shape[1:] if len(shape) == same else shape
        if len(record) + 1 != same or (known.fixed and record != first.record):
            raise UsageError(
                f"--input-shape {times(shape)}: {path} takes {known.told()}", hint="give a shape like that"
            )
        first = replace(first, shape=(first.shape[0], *record), dtype=dtype or first.dtype)
        return replace(known, items=(first, *known.items[1:]))
    if len(names := _required(module)) > 1:
        raise UsageError(
            f"--input-shape tells one input, {path} takes {len(names)}: {', '.join(names)}",
            hint="give --input-spec FILE with the name, shape and dtype of each",
        )
    readings = [one_input(record, dtype or "float32") for record in _readings(shape)]
    if len(readings) == 1:
        return readings[0]
    return next((r for r in readings if _runs(module, r)), readings[0])


def _readings(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The records that a shape may mean, the likely one first: with or without a leading batch.

    1x3x224x224 has a batch; 1x28x28 is one grey image rather than a batch of one. Where the model refuses
    the likely reading, the other one holds.
    """
    whole, rest = shape, shape[1:]
    if len(shape) == 3:
        return [whole, rest] if shape[0] == 1 else [whole]
    if len(shape) == 4 or (len(shape) > 1 and shape[0] == 1):
        return [rest, whole]
    return [whole]


def _runs(module: nn.Module, inputs: ModelInputs) -> bool:
    try:
        with torch.no_grad():
            module(*inputs.example())
    except Exception:  # noqa: BLE001 - the user's code raises what it likes
        return False
    return True


def _arguments(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(module.forward).parameters


def _required(module: nn.Module) -> list[str]:
    """Arguments that ``forward`` cannot do without."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [n for n, p in _arguments(module).items() if p.kind in kinds and p.default is p.empty]


def _matched(inputs: ModelInputs, module: nn.Module) -> ModelInputs:
    """The inputs under the names of ``forward``'s arguments.

    Raises:
        UsageError: a name that it does not have, or an argument that is not given.
    """
    arguments = _arguments(module)
    takes = [n for n, p in arguments.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not takes and any(p.kind is p.VAR_POSITIONAL for p in arguments.values()):
        return replace(inputs, named=False)
    known = ", ".join(takes)
    anything = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    for name in inputs.names:
        if name not in takes and not anything:
            near = get_close_matches(name, takes, 1)
            raise UsageError(
                f"--input-spec: the model takes no input {name!r}",
                hint=(f"did you mean {near[0]!r}? " if near else "") + f"it takes: {known}",
            )
    if lacking := [n for n in _required(module) if n not in inputs.names]:
        raise UsageError(
            f"--input-spec: the model also needs the input {lacking[0]!r}", hint=f"it takes: {known}"
        )
    ordered = sorted(inputs.items, key=lambda i: takes.index(i.name) if i.name in takes else len(takes))
    # By position where that is possible: a plain call leaves the outputs as they are.
    by_position = [i.name for i in ordered] == takes[: len(ordered)]
    return replace(inputs, items=tuple(ordered), named=not by_position)


def _within(known: ModelInputs, given: ModelInputs, path: str) -> ModelInputs:
    """Examples and ranges of a specification for inputs whose shapes are settled."""
    by_name = {i.name: i for i in given.items}
    items = []
    for item in known.items:
        other = by_name.pop(item.name, None)
        if other is not None and (other.record, other.dtype) != (item.record, item.dtype):
            raise UsageError(
                f"--input-spec: {path} takes {known.told()}, not {given.told()}",
                hint="the shapes of a program cannot be changed",
            )
        items.append(item if other is None else replace(item, low=other.low, high=other.high))
    if by_name:
        raise UsageError(
            f"--input-spec: {path} takes no input {next(iter(by_name))!r}", hint=f"it takes {known.told()}"
        )
    return replace(known, items=tuple(items))


def with_inputs(program: Program, inputs: ModelInputs) -> Program:
    """A captured program with the names and ranges of its inputs.

    Integers whose range nobody tells get the number of rows of the embedding that they index, where there is
    one: a proof on two words of a vocabulary would be a weak one.
    """
    if inputs.named and len(inputs.items) == len(program.inputs):
        program = _renamed(program, inputs.names)
    specs = []
    for index, spec in enumerate(program.inputs):
        item = inputs.items[index] if index < len(inputs.items) else None
        kind: torch.dtype = getattr(torch, spec.dtype)
        if not kind.is_floating_point and kind is not torch.bool:
            low = item.low if item is not None else None
            high = item.high if item is not None else None
            if high is None:
                high = _rows(program, spec.name)
            if high is None and item is not None and item.value is not None:
                high = int(item.value.max()) + 1
            spec = replace(spec, low=low or 0, high=high or max(2, (low or 0) + 1))
        specs.append(spec)
    return replace(program, inputs=tuple(specs))


def _rows(program: Program, name: str) -> int | None:
    """The rows of the smallest table that an input is an index of; None where it is none."""
    tensors = {n.name: program.tensors[str(n.args[0])] for n in program.nodes if n.op == "tensor"}
    carried, rows = {name}, []
    for node in program.nodes:
        if node.base == "embedding":
            table, index = node.args[0], node.arg(1, "indices")
            if isinstance(index, Ref) and index.name in carried and isinstance(table, Ref):
                rows += [len(tensors[table.name])] if table.name in tensors else []
        elif node.base in _CARRIERS and isinstance(node.args[0], Ref) and node.args[0].name in carried:
            carried.add(node.name)
    return min(rows, default=None)


def _renamed(program: Program, names: Sequence[str]) -> Program:
    """The program with other names for its inputs."""
    wanted = {s.name: n for s, n in zip(program.inputs, names, strict=True) if s.name != n}
    others = {n.name for n in program.nodes} - set(wanted)
    new = {old: name for old, name in wanted.items() if name.isidentifier() and name not in others}
    if not new:
        return program

    def changed(arg: Any) -> Any:
        if isinstance(arg, Ref):
            return Ref(new.get(arg.name, arg.name))
        if isinstance(arg, (tuple, list)):
            return type(arg)(changed(a) for a in arg)
        return {k: changed(v) for k, v in arg.items()} if isinstance(arg, dict) else arg

    def node_of(node: Node) -> Node:
        if node.op == INPUT:
            return replace(node, name=new.get(node.name, node.name))
        if not any(r.name in new for r in refs_in((node.args, dict(node.kwargs)))):
            return node
        return replace(node, args=changed(node.args), kwargs=changed(dict(node.kwargs)))

    specs: tuple[InputSpec, ...] = tuple(replace(s, name=new.get(s.name, s.name)) for s in program.inputs)
    return replace(
        program,
        nodes=tuple(node_of(n) for n in program.nodes),
        inputs=specs,
        output=changed(program.output),
    )


def inputs_of(program: Program) -> ModelInputs:
    """What a program takes."""
    items = tuple(
        ModelInput(s.name, s.shape, s.dtype)
        if getattr(torch, s.dtype).is_floating_point
        else ModelInput(s.name, s.shape, s.dtype, s.low, s.high)
        for s in program.inputs
    )
    return ModelInputs(items, fixed=True)


def parse_shape(text: str) -> tuple[int, ...]:
    """Read ``3x224x224``.

    Raises:
        UsageError: it is no shape, or one of a senseless size.
    """
    hint = "such as --input-shape 3x224x224, 1x80x100 or 1x128"
    try:
        sizes = tuple(int(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or len(sizes) > 6:
        raise UsageError(f"--input-shape {text}: not a shape", hint=hint)
    if math.prod(sizes) > 1 << 28:
        raise UsageError(f"--input-shape {text}: {math.prod(sizes):,} numbers are too many", hint=hint)
    return sizes
