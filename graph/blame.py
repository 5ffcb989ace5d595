"""Blame: why a model could not be captured, in which line of it, and what to do about that."""

from __future__ import annotations

import inspect
import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from graph.adapter import Adapter
from graph.errors import CaptureError, first_line

_TORCH = os.path.dirname(torch.__file__) + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
_OURS = os.path.dirname(__file__) + os.sep
_INSTALLED = re.compile(r"[\\/](site|dist)-packages[\\/]")
_TRACE_LINE = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True)
class Cause:
    """What stands in the way of a capture, and the next step.

    Attributes:
        reason: in plain words; empty where the exporter's own are better.
        hint: what to do about it.
    """

    reason: str
    hint: str


_BRANCH = Cause(
    "a branch depends on the values of a tensor",
    "compute both sides and choose with torch.where, or decide by something that is known beforehand (a "
    "shape, a flag of the configuration)",
)
_NUMBER = Cause(
    "a Python number is taken out of a tensor",
    "instead of .item(), int() or .tolist(), keep it a tensor of zero dimensions, or make it a constant of "
    "the model",
)
_COUNT = Cause(
    "the number of elements depends on the values of a tensor",
    "instead of nonzero, a boolean mask or unique, keep the full shape and multiply by the mask, or use "
    "torch.where",
)
_CUSTOM = Cause(
    "",
    "custom operators and CUDA kernels cannot be captured; switch to the model's pure PyTorch path (often a "
    "flag such as use_kernels=False), or write the operation with torch's own operators",
)
_NUMPY = Cause("a tensor becomes a numpy array", "write the operation with torch instead of numpy")
_OBJECT = Cause(
    "forward takes or returns something other than tensors",
    "forward must take and return tensors (also in tuples, lists and dicts); wrap the model in a module that "
    "takes tensors and returns the tensor of interest",
)
_LAYOUT = Cause(
    "", "sparse, quantized and nested tensors cannot be captured; use dense floating-point tensors"
)
_OTHER = Cause(
    "", "the model runs, but torch.export cannot trace it; rewrite this line with plain tensor operations"
)
_HIGHER = (
    "torch.cond, scan and while_loop cannot be pruned; compute both branches and choose with torch.where, or "
    "write the loop in Python"
)
_SCRIPT = "give the Python module that it was made from"
_SHAPE = "check the shape of the input (--input-shape): the model itself fails on this one"
TYPES = "check the type of the input: token ids and indices are integers, images and audio are float32"


@dataclass(frozen=True)
class Place:
    """A line of source code."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        path = Path(self.file)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"{shown}:{self.line}" + (f": {self.text}" if self.text else "")


def not_captured(module: nn.Module, example: Sequence[Tensor], error: BaseException) -> CaptureError:
    """The error to raise when ``torch.export`` failed with ``error``.

    Args:
        module: the model, in the mode in which it was to be captured.
        example: the inputs; the model is run on them to see whether it is at fault by itself.
        error: what the exporter raised.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return CaptureError("a TorchScript module cannot be captured", hint=_SCRIPT)
    own = _own_failure(module, example)
    if own is not None:
        given = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in example)
        place = _raised_at(own) or _definition(module)
        return CaptureError(
            f"{_class(module)} does not run on the example input {given}: {first_line(own)}{_at(place)}",
            hint=_own_hint(module, own),
        )
    place = _raised_at(error) or _traced_at(str(error)) or _definition(module)
    cause = _cause(error, place)
    reason = cause.reason or first_line(error)
    if "UnsupportedOperator" in type(error).__name__:
        reason = f"the operator {reason} cannot be traced"
    return CaptureError(f"{_class(module)} cannot be captured: {reason}{_at(place)}", hint=cause.hint)


def unsupported(what: str, node: torch.fx.Node, hint: str = "") -> CaptureError:
    """The error for an operator of an exported graph that a program cannot hold.

    Args:
        what: the sentence that says what the model does.
        node: of the exported graph.
        hint: the next step; by the kind of the operator when left out.
    """
    place = _traced_at(_trace_of(node))
    if not hint:
        hint = _HIGHER if isinstance(node.target, torch._ops.HigherOrderOperator) else _CUSTOM.hint
    return CaptureError(what + _at(place), hint=hint)


def _trace_of(node: torch.fx.Node) -> str:
    """The lines that made a node; of a wrapper, those that made the parts of the graph within it."""
    found = str(node.meta.get("stack_trace") or "")
    graph = node.graph.owning_module
    for source in node.all_input_nodes:
        part = getattr(graph, str(source.target), None) if source.op == "get_attr" else None
        if not found and isinstance(part, torch.fx.GraphModule):
            found = next((t for n in part.graph.nodes if (t := str(n.meta.get("stack_trace") or ""))), "")
    return found


def _own_failure(module: nn.Module, example: Sequence[Tensor]) -> BaseException | None:
    """What the model raises by itself on these inputs, without the exporter."""
    state = {k: t.detach().clone() for k, t in module.named_buffers()}
    try:
        with torch.no_grad():
            module(*[t.clone() for t in example])
    except Exception as err:  # noqa: BLE001 - whatever the user's code raises
        return err
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in state and state[name].shape == buffer.shape:
                    buffer.copy_(state[name])
    return None


def _own_hint(module: nn.Module, error: BaseException) -> str:
    text = str(error)
    if isinstance(error, TypeError) and re.search(r"argument|positional|keyword", text):
        names = [p for p in inspect.signature(_inner(module).forward).parameters]
        return f"give one input for each argument of forward({', '.join(names)})"
    if re.search(r"dtype|scalar type|data type|expected .*(Long|Int|Float|Half|Double|Byte)|indices", text):
        return TYPES
    return _SHAPE


def _cause(error: BaseException, place: Place | None) -> Cause:
    kind, text, line = type(error).__name__, str(error), place.text if place else ""
    if "GuardOnDataDependent" in kind or "Could not guard on data-dependent" in text:
        if re.search(r"\.item\(|\bint\(|\bfloat\(|\.tolist\(|\brange\(", line):
            return _NUMBER
        counted = re.search(r"Size-like symbols: (?!none)\w", text)
        return _COUNT if counted and not re.match(r"(if|while|elif|assert)\b", line) else _BRANCH
    if "DynamicOutputShape" in kind:
        return _COUNT
    if "DataDependent" in kind or "data-dependent" in text:
        return _NUMBER
    if ".numpy()" in text or "from_numpy" in text:
        return _NUMPY
    if re.search(r"(?i)sparse|quantize|nested", text):
        return _LAYOUT
    if re.search(
        r"not a known type|(?i:unsupported (input|output)|pytree|only accepts|supported types)", text
    ):
        return _OBJECT
    if re.search(r"fake impl|FakeTensor|meta kernel|data pointer|'Meta' backend|UnsupportedOp", kind + text):
        return _CUSTOM
    return _OTHER


def _raised_at(error: BaseException) -> Place | None:
    frames = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = isinstance(frame.f_locals.get("self"), nn.Module)
        frames.append((frame.f_code.co_filename, line, module))
    return _innermost(frames)


def _traced_at(text: str) -> Place | None:
    return _innermost([(file, int(line), False) for file, line in _TRACE_LINE.findall(text)])


def _innermost(frames: Sequence[tuple[str, int, bool]]) -> Place | None:
    """The user's own line if there is one, else the last line of a library's model, else of a library."""
    outside = [f for f in frames if not _internal(f[0])]
    own = [f for f in outside if not _INSTALLED.search(f[0])]
    models = [f for f in outside if f[2]]
    for choice in (own, models, outside):
        if choice:
            file, line, _ = choice[-1]
            return Place(file, line, linecache.getline(file, line).strip())
    return None


def _internal(file: str) -> bool:
    if file.startswith(("<", _TORCH, _OURS)) or not os.path.isabs(file):
        return True
    return file.startswith(_STANDARD) and not _INSTALLED.search(file)


def _definition(module: nn.Module) -> Place | None:
    """Where forward is written."""
    code = getattr(type(_inner(module)).forward, "__code__", None)
    if code is None or _internal(code.co_filename):
        return None
    for line in _from(code.co_firstlineno):
        text = linecache.getline(code.co_filename, line).strip()
        if not text or text.startswith("def "):  # not the decorators above it
            return Place(code.co_filename, line, text)
    return None


def _from(line: int) -> Iterator[int]:
    yield from range(line, line + 20)


def _inner(module: nn.Module) -> nn.Module:
    return module.inner if isinstance(module, Adapter) else module


def _class(module: nn.Module) -> str:
    return type(_inner(module)).__name__


def _at(place: Place | None) -> str:
    return f" (at {place})" if place else ""
