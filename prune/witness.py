"""The witness: a module runs beside its program, and the first place where the two part is named.

The program knows every value by its operators, the module by its submodules. What a submodule of the original
returns is a value of the original program; then what the same submodule of the pruned copy returns must be a
value of the pruned program. So a wrong size shows in the submodule that reads it and not only at the end.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from graph.adapter import Adapter
from graph.errors import first_line
from graph.program import Program, execute, substitute
from prune.attributes import restoring
from prune.spy import held_as, spied
from prune.verify import LIMIT, comparable, difference, doubled, in_double, magnitudes

Size = tuple[int, ...]
# Tables that were computed in float32 when the program was captured differ from the module's own in float64:
# the original may differ from its program by this much, and a copy ten times as much as the original does.
CLOSE = 1e-6


class Values:
    """What a program computes on some inputs, in float64.

    Args:
        program: any.
        inputs: one tensor for each of its inputs.
        mark: makes the marks by which values are found again.

    Attributes:
        outputs: of the program, flattened.
        shapes: of each node's tensors.
    """

    def __init__(self, program: Program, inputs: Sequence[Tensor], mark: _Marker) -> None:
        self._mark = mark
        self.shapes: dict[str, tuple[Size, ...]] = {}
        self._known: dict[Size, list[tuple[float, float]]] = {}
        program, env = doubled(program), dict[str, Any]()
        with torch.no_grad(), _seeded():
            for node in execute(program, program.tensors, inputs, env=env):
                tensors = _tensors(env[node.name])
                self.shapes[node.name] = tuple(tuple(t.shape) for t in tensors)
                for tensor in tensors:
                    self._known.setdefault(tuple(tensor.shape), []).append(mark(tensor))
                for name in program.last_uses.get(node.name, ()):
                    del env[name]
            self.outputs = _tensors(substitute(program.output, env))

    def hold(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of the values, as far as its mark tells."""
        mark, size = self._mark(tensor)
        return any(
            s == size if not math.isfinite(size) else abs(m - mark) + abs(s - size) <= CLOSE * (size or 1.0)
            for m, s in self._known.get(tuple(tensor.shape), ())
        )


class _Marker:
    """Two numbers that tell a tensor from others: a sum with changing weights, and the sum of magnitudes."""

    def __init__(self) -> None:
        self._weights = torch.empty(0, dtype=torch.float64)

    def __call__(self, tensor: Tensor) -> tuple[float, float]:
        flat = tensor.detach()
        flat = (torch.view_as_real(flat) if flat.is_complex() else flat).double().reshape(-1)
        if len(flat) > len(self._weights):
            self._weights = torch.arange(len(flat), dtype=torch.float64).mul_(0.7).cos_()
        return float(flat @ self._weights[: len(flat)]), float(flat.abs().sum())


@dataclass(frozen=True)
class Trial:
    """How far a module came.

    Attributes:
        passed: to the end, with the outputs of the pruned program.
        position: number of submodules that were entered and left as they should.
        module: path of the innermost one that was running when something went wrong.
        message: what went wrong.
        error: largest difference of the outputs, relative to the largest output, where it came to the end.
    """

    passed: bool
    position: int
    module: str = ""
    message: str = ""
    error: float = math.inf


@dataclass
class Reads:
    """Which sizes a forward reads.

    Attributes:
        readers: for each (path of a module, attribute) the modules whose forward reads it. An attribute of a
            configuration that the module holds is written with a dot: ``config.num_heads``.
        values: what it holds.
    """

    readers: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    values: dict[tuple[str, str], Any] = field(default_factory=dict)


class Witness:
    """Runs copies of a module and compares them with the pruned program.

    Args:
        module: a copy of the original in float64, which runs once; alone or in an adapter.
        program: of the original.
        pruned: the smaller program.
        batch: how many records to run.

    Attributes:
        whole: the values of the original program.
        small: those of the pruned one.
        first: how the original itself did against its own program.
        reads: what it read.
        limit: what the outputs of a copy may differ by: that of the proof, or more where the original does.
    """

    def __init__(self, module: nn.Module, program: Program, pruned: Program, *, batch: int = 3) -> None:
        self.inputs = program.random_inputs(batch, dtype=torch.float64)
        mark = _Marker()
        self.whole = Values(program, self.inputs, mark)
        if not comparable(self.whole.outputs):
            self.inputs = magnitudes(self.inputs)
            self.whole = Values(program, self.inputs, mark)
        self.small = Values(pruned, self.inputs, mark)
        self.reads = Reads()
        self._known: dict[int, tuple[bool, ...]] = {}  # for each position: which of the tensors are values
        self.limit = CLOSE
        self.first = self._run(module, self.whole, learn=True)
        self.limit = max(LIMIT, 10 * self.first.error) if self.first.passed else LIMIT

    def trial(self, module: nn.Module) -> Trial:
        """Run a copy, in float64, whose sizes are the pruned program's."""
        return self._run(module, self.small, learn=False)

    def _run(self, module: nn.Module, values: Values, *, learn: bool) -> Trial:
        root = own_module(module)
        paths = {id(m): name for name, m in root.named_modules()}
        stack: list[str] = []
        position = 0

        def enter(part: nn.Module, _: Any) -> None:
            nonlocal position
            position += 1
            stack.append(paths[id(part)])

        def leave(part: nn.Module, _: Any, output: Any) -> None:
            nonlocal position
            while stack and stack[-1] != paths[id(part)]:  # left by an exception that somebody caught
                stack.pop()
            found = tuple(values.hold(t) for t in _tensors(output))
            if learn:
                self._known[position] = found
            elif len(found) != len(known := self._known.get(position, found)) or any(
                k and not f for k, f in zip(known, found, strict=True)
            ):
                raise _Parted("it returns other values than the pruned program")
            stack.pop()
            position += 1

        def read(owner: object, name: str, value: Any) -> None:
            self._note(root, paths, stack, owner, name, value)

        module.eval()
        try:
            with ExitStack() as scope:
                scope.enter_context(torch.no_grad())
                scope.enter_context(_seeded())
                scope.enter_context(restoring(module))
                scope.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")  # a forward with wrong sizes may warn of anything
                for part in root.modules():
                    scope.callback(part.register_forward_pre_hook(enter).remove)
                    scope.callback(part.register_forward_hook(leave).remove)
                if learn:
                    scope.enter_context(spied(root, read))
                with _double():
                    outputs = _tensors(module(*[t.clone() for t in self.inputs]))
        except Exception as err:  # noqa: BLE001 - a forward with wrong sizes raises whatever it likes
            return Trial(False, position, stack[-1] if stack else "", first_line(err))
        if [t.shape for t in outputs] != [t.shape for t in values.outputs]:
            return Trial(False, position, "", "the outputs have other shapes than the program's")
        if not comparable(values.outputs):
            return Trial(False, position, "", "no numbers come out that could be compared")
        error = max(map(difference, values.outputs, outputs), default=0.0)
        if error > self.limit:
            message = f"the outputs differ from the program's by {error:.1e}"
            return Trial(False, position, "", message, error)
        return Trial(True, position, error=error)

    def _note(
        self,
        root: nn.Module,
        paths: Mapping[int, str],
        stack: Sequence[str],
        owner: object,
        name: str,
        value: Any,
    ) -> None:
        reader = stack[-1] if stack else ""
        if id(owner) in paths:
            key = (paths[id(owner)], name)
        else:  # a configuration belongs to the innermost module that holds it
            holders = ((p, held_as(root.get_submodule(p), owner)) for p in reversed(stack))
            path, attribute = next(((p, a) for p, a in holders if a is not None), ("", None))
            if attribute is None:
                return
            key = (path, f"{attribute}.{name}")
        self.reads.readers.setdefault(key, set()).add(reader)
        self.reads.values[key] = value


def own_module(module: nn.Module) -> nn.Module:
    """What the user wrote: the module itself, or what an adapter wraps."""
    return module.inner if isinstance(module, Adapter) else module


class _Parted(Exception):
    """A submodule returned something that the program does not compute."""


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Mapping):  # the dataclasses of transformers, and their like
        value = list(value.values())
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


class _InDouble(TorchFunctionMode):
    """Where a model asks for numbers of fewer digits, it gets float64."""

    _CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._CASTS:
            return args[0].double()
        args = tuple(torch.float64 if _short(a) else a for a in args)
        return func(*args, **{k: torch.float64 if _short(v) else v for k, v in (kwargs or {}).items()})


def _short(arg: Any) -> bool:
    return isinstance(arg, torch.dtype) and in_double(arg) != arg


@contextmanager
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _InDouble():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _seeded() -> Iterator[None]:
    """Models that draw random numbers draw the same ones, in float64 too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
