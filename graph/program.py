"""The program: a model as a list of ATen operators, that can be run, printed, saved as JSON and read back.

A ``Program`` is what every later stage works on. It is plain data: nodes in the order of execution, each
with an operator's name and its arguments, and a table of tensors. Nothing in it refers to the class that
the model was written as, so a pruned model can be stored and loaded without that class and without pickle.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from graph.errors import ProgramError, first_line
from graph.meta import on_shapes
from graph.shortage import is_out_of_memory

INPUT = "input"
TENSOR = "tensor"

_MAX_BITS = 64  # of whole numbers: sizes have fewer, and Python's own could grow until memory ends


def _number(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic on numbers and tensors alone: a text times a number is a longer text."""

    def call(*args: Any) -> Any:
        for arg in args:
            if isinstance(arg, (str, bytes, list, tuple, dict)):
                raise TypeError(f"arithmetic on a {type(arg).__name__}")
            if isinstance(arg, int) and arg.bit_length() > _MAX_BITS:
                raise ValueError(f"a number of {arg.bit_length()} bits")
        if function is operator.pow and isinstance(args[-1], int) and abs(args[-1]) > _MAX_BITS:
            raise ValueError(f"the exponent {args[-1]}")
        return function(*args)

    return call


_BUILTINS: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "add": _number(operator.add),
    "sub": _number(operator.sub),
    "mul": _number(operator.mul),
    "floordiv": _number(operator.floordiv),
    "mod": _number(operator.mod),
    "neg": _number(operator.neg),
    "truediv": _number(operator.truediv),
    "pow": _number(operator.pow),
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "and": operator.and_,
    "or": operator.or_,
    "not": torch.sym_not,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": math.trunc,
    "round": round,
    "int": torch.sym_int,
    "float": torch.sym_float,
    "max": torch.sym_max,
    "min": torch.sym_min,
    "ite": torch.sym_ite,
}
# ATen operators that touch files or devices rather than compute; a stored program may not name them.
_FORBIDDEN = {"from_file", "record_stream", "set_", "set_data", "_cudnn_init_dropout_state"}
_TORCH_VALUES = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


@dataclass(frozen=True)
class Ref:
    """The value of another node, as it stands in a node's arguments."""

    name: str


@dataclass(frozen=True)
class Node:
    """One value: an input, a tensor of the table, or the result of an operator.

    Attributes:
        name: unique within the program.
        op: ``input``, ``tensor``, ``aten.NAME.OVERLOAD`` or ``builtin.NAME``.
        args: positional arguments; values of other nodes stand as ``Ref``. A ``tensor`` node has the
            name in the tensor table as its one argument.
        kwargs: keyword arguments.
        module: dotted path of the submodule that called the operator, empty at the top.
    """

    name: str
    op: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""

    @cached_property
    def base(self) -> str:
        """The operator without name space and overload: ``conv2d`` for ``aten.conv2d.default``."""
        parts = self.op.split(".")
        return parts[1] if len(parts) > 1 else parts[0]

    @cached_property
    def refs(self) -> tuple[str, ...]:
        """Names of the nodes whose values this one takes, in order, with repeats."""
        return tuple(r.name for r in refs_in((self.args, dict(self.kwargs))))

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by its position or its name in the operator's schema."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


@dataclass(frozen=True)
class InputSpec:
    """One input of a program.

    Attributes:
        name: of its node.
        shape: sizes of the example; the first is the batch where ``dynamic_batch`` holds.
        dtype: such as ``float32``.
        low: of integers, the least that random inputs hold.
        high: of integers, one more than the greatest.
        alike: a record holds one number throughout, since different ones could contradict each other: the
            corners of a box, the ends of a span.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: int = 0
    high: int = 2
    alike: bool = False


@dataclass(frozen=True)
class Program:
    """A model as a graph of ATen operators.

    Attributes:
        nodes: in the order of execution; inputs and tensors come first.
        inputs: what ``forward`` takes.
        output: the result: a ``Ref``, or nested tuples, lists and dicts of them.
        tensors: parameters, buffers and constants by name (the model's own state-dict names).
        trainable: the names in ``tensors`` that are parameters.
        dynamic_batch: whether the first dimension of every input may vary.
        notes: what the user should know about the capture.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[InputSpec, ...]
    output: Any
    tensors: Mapping[str, Tensor] = field(compare=False, repr=False)
    trainable: frozenset[str]
    dynamic_batch: bool = True
    notes: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the nodes that the program returns, flattened."""
        return tuple(r.name for r in refs_in(self.output))

    def example(self, batch: int | None = None) -> list[Tensor]:
        """Inputs on the meta device: shapes and types without data."""
        shapes = [s.shape if batch is None else (batch, *s.shape[1:]) for s in self.inputs]
        return [
            torch.empty(shape, dtype=_dtype(s.dtype), device="meta")
            for s, shape in zip(self.inputs, shapes, strict=True)
        ]

    def random_inputs(self, batch: int, *, seed: int = 0, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Normally distributed inputs of ``batch`` records; integers lie evenly in the input's own range."""
        generator = torch.Generator().manual_seed(seed)
        result = []
        for spec in self.inputs:
            shape = (batch, *spec.shape[1:]) if self.dynamic_batch else spec.shape
            kind = _dtype(spec.dtype)
            if kind.is_floating_point:
                result.append(torch.randn(shape, generator=generator, dtype=dtype or kind))
            else:
                low, high = (0, 2) if kind is torch.bool else (spec.low, max(spec.high, spec.low + 1))
                drawn = (shape[0], *(1 for _ in shape[1:])) if spec.alike and shape else shape
                numbers = torch.randint(low, high, drawn, generator=generator).to(kind)
                result.append(numbers.expand(shape).contiguous())
        return result

    @cached_property
    def last_uses(self) -> Mapping[str, tuple[str, ...]]:
        """For each node, the values that nobody needs after it."""
        last: dict[str, str] = {}
        for node in self.nodes:
            for ref in node.refs:
                last[ref] = node.name
        freed: dict[str, list[str]] = {}
        for value, user in last.items():
            if value not in self.outputs:
                freed.setdefault(user, []).append(value)
        return {k: tuple(v) for k, v in freed.items()}

    @cached_property
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """For each value the nodes that take it, as often as they do."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for ref in node.refs:
                found.setdefault(ref, []).append(node)
        return {k: tuple(v) for k, v in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything but the values of the tensors, as JSON data."""
        return {
            "format": "prune-program",
            "version": 1,
            "inputs": [
                {
                    "name": s.name,
                    "shape": list(s.shape),
                    "dtype": s.dtype,
                    "low": s.low,
                    "high": s.high,
                    "alike": s.alike,
                }  # fmt: skip
                for s in self.inputs
            ],
            "nodes": [
                {
                    "name": n.name,
                    "op": n.op,
                    "args": [_encode(a) for a in n.args],
                    "kwargs": {k: _encode(v) for k, v in n.kwargs.items()},
                    "module": n.module,
                }
                for n in self.nodes
            ],
            "output": _encode(self.output),
            "tensors": {
                k: {"shape": list(t.shape), "dtype": _name(t.dtype)} for k, t in self.tensors.items()
            },
            "trainable": sorted(self.trainable),
            "dynamic_batch": self.dynamic_batch,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(data: Any, tensors: Mapping[str, Tensor]) -> Program:
        """Read back what ``to_json`` wrote; runs nothing but checks every name and shape.

        Raises:
            ProgramError: malformed data, an operator that is not allowed, or tensors that do not fit.
        """
        try:
            if data["format"] != "prune-program" or data["version"] != 1:
                raise ProgramError(f"not a program of version 1: {data['format']} {data['version']}")
            nodes = tuple(
                Node(
                    str(n["name"]),
                    str(n["op"]),
                    tuple(_decode(a) for a in n["args"]),
                    {str(k): _decode(v) for k, v in n["kwargs"].items()},
                    str(n["module"]),
                )
                for n in data["nodes"]
            )
            inputs = tuple(
                InputSpec(
                    str(s["name"]),
                    tuple(int(i) for i in s["shape"]),
                    str(s["dtype"]),
                    int(s.get("low", 0)),
                    int(s.get("high", 2)),
                    bool(s.get("alike", False)),
                )
                for s in data["inputs"]
            )
            described = {str(k): (tuple(v["shape"]), v["dtype"]) for k, v in data["tensors"].items()}
            program = Program(
                nodes,
                inputs,
                _decode(data["output"]),
                dict(tensors),
                frozenset(str(t) for t in data["trainable"]),
                bool(data["dynamic_batch"]),
                tuple(str(n) for n in data["notes"]),
            )
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as err:
            raise ProgramError(f"malformed program: {type(err).__name__}: {err}") from err
        for name, wanted in described.items():
            if name not in tensors:
                raise ProgramError(f"the weights lack tensor {name!r} of the program")
            found = tuple(tensors[name].shape), _name(tensors[name].dtype)
            for what, is_so, should_be in zip(("shape", "type"), found, wanted, strict=True):
                if is_so != should_be:
                    raise ProgramError(f"tensor {name!r} has {what} {is_so}, the program wants {should_be}")
        program.check()
        return program

    def check(self) -> None:
        """Check that the program is well formed.

        Raises:
            ProgramError: a name that is defined twice or used before it is defined, an unknown operator,
                or a tensor that is missing.
        """
        seen: set[str] = set()
        given = [n.name for n in self.nodes if n.op == INPUT]
        if given != [s.name for s in self.inputs]:
            raise ProgramError(f"the input nodes {given} are not the inputs {[s.name for s in self.inputs]}")
        if missing := sorted(self.trainable - set(self.tensors)):
            raise ProgramError(f"the trainable tensor {missing[0]!r} is missing")
        for node in self.nodes:
            if node.name in seen:
                raise ProgramError(f"node {node.name!r} is defined twice")
            if unknown := [r for r in node.refs if r not in seen]:
                raise ProgramError(f"node {node.name!r} takes {unknown[0]!r}, which no earlier node defines")
            if node.op == TENSOR:
                if len(node.args) != 1 or not self._has(node.args[0]):
                    raise ProgramError(f"node {node.name!r} names a tensor that is missing: {node.args}")
            elif node.op != INPUT:
                resolve(node.op)
            seen.add(node.name)
        if missing := [o for o in self.outputs if o not in seen]:
            raise ProgramError(f"the output {missing[0]!r} is not defined")
        for spec in self.inputs:
            _dtype(spec.dtype)

    def _has(self, name: Any) -> bool:
        return isinstance(name, str) and name in self.tensors

    def shapes(self, batch: int | None = None) -> dict[str, Any]:
        """Every node's value on the meta device: shape and type, without computing anything.

        Args:
            batch: size of the first dimension; the example's own when left out.

        Raises:
            ProgramError: the operators do not fit each other's shapes.
        """
        env: dict[str, Any] = {}
        tensors = {k: torch.empty_like(t, device="meta") for k, t in self.tensors.items()}
        remembered = {n.name: _on_shapes for n in self.nodes}
        for _ in execute(self, tensors, self.example(batch), env=env, overrides=remembered):
            pass
        return env


# What operators raise, on shapes and arguments that do not fit.
_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AssertionError,
    AttributeError,
)
Intercept = Callable[[Node, tuple[Any, ...]], tuple[Any, ...]]
# Computes a node's value in its operator's place: (operator, node, arguments, keyword arguments) -> value
Override = Callable[[Callable[..., Any], Node, tuple[Any, ...], dict[str, Any]], Any]


def _on_shapes(
    function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return on_shapes(function, args, kwargs)


def execute(
    program: Program,
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    *,
    env: dict[str, Any],
    training: bool = False,
    intercept: Intercept | None = None,
    overrides: Mapping[str, Override] | None = None,
) -> Iterator[Node]:
    """Run the nodes one by one into ``env``; the caller sees each node after it ran.

    Args:
        program: what to run.
        tensors: the tensor table to use in place of the program's own.
        inputs: one tensor per input.
        env: filled with the value of every node.
        training: batch norm uses and updates batch statistics, dropout drops.
        intercept: may replace the positional arguments of a node just before it runs.
        overrides: compute the values of these nodes in their operators' place.

    Raises:
        ProgramError: an operator fails; the message names the node.
    """
    given = iter(inputs)
    device = next((t.device for t in (*inputs, *tensors.values())), None)
    for node in program.nodes:
        if node.op == INPUT:
            env[node.name] = next(given)
        elif node.op == TENSOR:
            env[node.name] = tensors[node.args[0]]
        else:
            args = substitute(node.args, env, device)
            if node.base in _MODE_ARGUMENT:
                args = _with_mode(node.base, args, training)
            if intercept is not None:
                args = intercept(node, args)
            try:
                function, kwargs = resolve(node.op), substitute(dict(node.kwargs), env, device)
                if overrides is not None and node.name in overrides:
                    env[node.name] = overrides[node.name](function, node, args, kwargs)
                else:
                    env[node.name] = function(*args, **kwargs)
            except _FAILURES as err:
                if is_out_of_memory(err):  # whoever asked may do with less at a time
                    raise
                raise ProgramError(f"node {node.name!r} ({node.op}) failed: {first_line(err)}") from err
        yield node


# Operators with an argument that says train or eval: its position.
_MODE_ARGUMENT = {"batch_norm": 5, "dropout": 2, "feature_dropout": 2, "alpha_dropout": 2}


def _with_mode(base: str, args: tuple[Any, ...], training: bool) -> tuple[Any, ...]:
    position = _MODE_ARGUMENT[base]
    if base == "batch_norm" and args[3] is None:
        training = True  # without running statistics there are only the batch's own
    return (*args[:position], training, *args[position + 1 :])


def run(
    program: Program,
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    *,
    training: bool = False,
    intercept: Intercept | None = None,
    overrides: Mapping[str, Override] | None = None,
) -> Any:
    """Run a whole program and return its output; a value is freed once nobody needs it.

    Args:
        program: what to run.
        tensors: the tensor table to use in place of the program's own.
        inputs: one tensor per input.
        training: batch norm uses and updates batch statistics, dropout drops.
        intercept: may replace the positional arguments of a node just before it runs.
        overrides: compute the values of these nodes in their operators' place.

    Raises:
        ProgramError: wrong number of inputs, or an operator fails.
    """
    if len(inputs) != len(program.inputs):
        raise ProgramError(f"the program takes {len(program.inputs)} inputs, got {len(inputs)}")
    env: dict[str, Any] = {}
    last_uses = program.last_uses
    for node in execute(
        program, tensors, inputs, env=env, training=training, intercept=intercept, overrides=overrides
    ):
        for name in last_uses.get(node.name, ()):
            del env[name]
    return substitute(program.output, env)


class ProgramModule(nn.Module):
    """A program as an ``nn.Module``: it trains, evaluates, exports and deep-copies like any other.

    Batch norm and dropout follow ``train()`` and ``eval()``. State-dict names are the program's tensor
    names; constants of the graph are buffers. The program's own tensors are copied, never shared.

    Raises:
        ProgramError: a tensor has a name that no module can have.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = replace(program, tensors={k: t.detach() for k, t in program.tensors.items()})
        self._slots: list[tuple[str, nn.Module, str]] = []
        for name, tensor in program.tensors.items():
            copy = tensor.detach().clone()
            try:
                owner, leaf = self._owner(name)
                if name in program.trainable and copy.is_floating_point():
                    owner.register_parameter(leaf, nn.Parameter(copy))
                else:
                    owner.register_buffer(leaf, copy)
            except KeyError as err:  # the name of a module within, of a method, or none
                raise ProgramError(f"no tensor can be called {name!r}: {err.args[0]}") from err
        self.eval()

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        *path, leaf = name.split(".")
        owner: nn.Module = self
        for part in path:
            child = owner._modules.get(part)
            if child is None:
                child = nn.Module()
                owner.add_module(part, child)
            owner = child
        return owner, leaf

    def _table(self) -> dict[str, Tensor]:
        return dict(self.named_parameters(remove_duplicate=False)) | dict(
            self.named_buffers(remove_duplicate=False)
        )

    def forward(self, *inputs: Tensor) -> Any:
        """Run the program on inputs of the shapes that ``program.inputs`` names."""
        return run(self.program, self._table(), inputs, training=self.training)

    def updated(self) -> Program:
        """The program with this module's present weights (detached, not copied)."""
        table = {k: t.detach() for k, t in self._table().items()}
        return replace(self.program, tensors={k: table[k] for k in self.program.tensors})


@cache
def resolve(op: str) -> Callable[..., Any]:
    """The callable behind an operator's name.

    Raises:
        ProgramError: not an ATen operator or one of the few allowed builtins.
    """
    space, _, rest = op.partition(".")
    if space == "builtin" and rest in _BUILTINS:
        return _BUILTINS[rest]
    name, _, overload = rest.partition(".")
    if name in ("view", "_unsafe_view") and overload == "default":
        name = "reshape"  # an operator may lay its result out otherwise than the one that was captured
    if space == "aten" and name not in _FORBIDDEN and name.isidentifier() and overload.isidentifier():
        packet = getattr(torch.ops.aten, name, None)
        found = getattr(packet, overload, None) if packet is not None else None
        if isinstance(found, torch._ops.OpOverload):
            schema = found._schema
            if schema.returns and not schema.is_mutable:  # a value, and no change of another one
                return found
    raise ProgramError(f"operator {op!r} is not allowed in a program")


def substitute(arg: Any, env: Mapping[str, Any], device: torch.device | None = None) -> Any:
    """Replace each ``Ref`` in nested arguments by its value, and the device of the capture by this one."""
    if isinstance(arg, Ref):
        return env[arg.name]
    if isinstance(arg, tuple):
        return tuple(substitute(a, env, device) for a in arg)
    if isinstance(arg, list):
        return [substitute(a, env, device) for a in arg]
    if isinstance(arg, dict):
        return {k: substitute(v, env, device) for k, v in arg.items()}
    if isinstance(arg, torch.device):
        return device or arg
    return arg


def refs_in(arg: Any) -> Iterator[Ref]:
    """The references within nested arguments, in order."""
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, (tuple, list)):
        for a in arg:
            yield from refs_in(a)
    elif isinstance(arg, Mapping):
        for a in arg.values():
            yield from refs_in(a)


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ProgramError(f"unknown type of numbers {name!r}")
    return found


def _encode(arg: Any) -> Any:
    if isinstance(arg, Ref):
        return {"ref": arg.name}
    if isinstance(arg, float) and not math.isfinite(arg):
        return {"float": str(arg)}
    if arg is None or isinstance(arg, (bool, int, float, str)):
        return arg
    if isinstance(arg, tuple):
        return {"tuple": [_encode(a) for a in arg]}
    if isinstance(arg, list):
        return [_encode(a) for a in arg]
    if isinstance(arg, Mapping):
        return {"dict": {str(k): _encode(v) for k, v in arg.items()}}
    if isinstance(arg, torch.device):
        return {"device": str(arg)}
    for kind, cls in _TORCH_VALUES.items():
        if isinstance(arg, cls):
            return {kind: _name(arg)}
    raise ProgramError(f"an argument of type {type(arg).__name__} cannot be stored")


def _decode(data: Any, depth: int = 32) -> Any:
    if not depth:
        raise ProgramError("malformed program: an argument is nested too deeply")
    if isinstance(data, list):
        return [_decode(d, depth - 1) for d in data]
    if not isinstance(data, dict):
        return data
    ((kind, value),) = data.items()
    if kind == "ref":
        return Ref(str(value))
    if kind == "float":
        return float(value)
    if kind == "tuple":
        return tuple(_decode(d, depth - 1) for d in value)
    if kind == "dict":
        return {str(k): _decode(v, depth - 1) for k, v in value.items()}
    if kind == "device":
        return torch.device(value)
    found = getattr(torch, str(value), None)
    if kind in _TORCH_VALUES and isinstance(found, _TORCH_VALUES[kind]):
        return found
    raise ProgramError(f"malformed argument {data!r}")
