"""Capture: any torch module becomes a Program through ``torch.export``.

The program keeps the operators of the exported graph as they are (``conv2d``, ``batch_norm``, ``dropout``,
``linear``), because they can still switch between training and evaluation. In-place operators are turned
into their functional twins, so that each node is a value of its own, and what depends on no input is computed
once.
"""

from __future__ import annotations

import gc
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import config as fx_config

from graph.adapter import INNER, Adapter
from graph.blame import not_captured
from graph.conversion import Converted, convert
from graph.errors import CaptureError, ProgramError
from graph.folding import fold
from graph.integers import with_sound_integers
from graph.mutation import CannotTrack
from graph.program import Program, run


def capture(module: nn.Module, example: Sequence[Tensor]) -> Program:
    """Turn a module into a program, in eval mode and with a free batch size where the model allows it.

    Args:
        module: left as it was; its mode is restored.
        example: one tensor per input of ``forward``, batch first. The batch should be at least 2.

    Raises:
        CaptureError: ``torch.export`` cannot trace the model; names the user's line where it is known.
    """
    with _evaluating(module), _unmoved(), _silent(), _uncollected():
        with _untraced(), suppress(CaptureError):
            return _in_any_batch(module, tuple(example))
        return _in_any_batch(module, tuple(example))  # once more, to learn which line it was


def _in_any_batch(module: nn.Module, example: tuple[Tensor, ...]) -> Program:
    program = _captured(module, example, free=True)
    if program.dynamic_batch and not _any_batch(program):  # a size of the example slipped in as a number
        return _captured(module, example, free=False)
    return program


def _captured(module: nn.Module, example: tuple[Tensor, ...], *, free: bool) -> Program:
    exported, dynamic, notes = _export(module, example, free=free)
    converted = _converted(exported, module, example, dynamic, notes)
    program = with_sound_integers(fold(converted.program, converted.fixed, converted.kept))
    program.check()
    return program


def _any_batch(program: Program) -> bool:
    """Whether a program fits together at other batch sizes than the example's."""
    if not _fits(program, None):
        return True  # an operator that needs data to tell its shape: nothing can be said without
    return _fits(program, 1) and _fits(program, 3)


def _fits(program: Program, batch: int | None) -> bool:
    try:
        program.shapes(batch)
    except ProgramError:
        return False
    return True


def _export(
    module: nn.Module, example: tuple[Tensor, ...], *, free: bool
) -> tuple[ExportedProgram, bool, tuple[str, ...]]:
    """The exported module, whether its batch is free, and notes."""
    # A batch of one would be taken for a dimension to broadcast.
    traced = example
    if all(t.dim() and t.shape[0] == 1 for t in example):
        traced = tuple(torch.cat([t, t]) for t in example)
    for size in (Dim("batch"), Dim.AUTO) if free else ():
        shapes = _dynamic_shapes(module, traced, size)
        if shapes is None:
            break
        try:
            exported = torch.export.export(module, traced, dynamic_shapes=shapes, strict=False)
        except Exception as err:  # noqa: BLE001 - the exporter raises whatever the user's code raises
            if "data-dependent" in str(err):  # another kind of batch will not help
                break
            continue
        if _free_batch(exported):
            return exported, True, ()
    try:
        exported = torch.export.export(module, example, strict=False)
    except Exception as err:  # noqa: BLE001
        raise not_captured(module, example, err) from err
    fixed = example[0].shape[0] if example and example[0].dim() else 1
    return (
        exported,
        False,
        (f"the batch size is fixed to {fixed}: the model does not export with a free one",),
    )


def _dynamic_shapes(module: nn.Module, example: tuple[Tensor, ...], size: Any) -> Any:
    """The first dimension of each input as ``size``, in the form that forward's signature asks for."""
    if not example or any(t.dim() == 0 for t in example):
        return None
    try:
        bound = inspect.signature(module.forward).bind(*example).arguments
    except (TypeError, ValueError, AttributeError):
        return None  # the call fails as well; its own message is better
    return {k: tuple({0: size} for _ in v) if isinstance(v, tuple) else {0: size} for k, v in bound.items()}


def _free_batch(exported: ExportedProgram) -> bool:
    users = set(exported.graph_signature.user_inputs)
    values = [n.meta.get("val") for n in exported.graph.nodes if n.op == "placeholder" and n.name in users]
    return all(_is_free(v.shape[0]) for v in values if isinstance(v, Tensor))


def _is_free(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def _converted(
    exported: ExportedProgram,
    module: nn.Module,
    example: tuple[Tensor, ...],
    dynamic: bool,
    notes: tuple[str, ...],
) -> Converted:
    adapted = isinstance(module, Adapter)
    options: dict[str, Any] = {
        "prefix": f"{INNER}." if adapted else "",
        "names": module.names if isinstance(module, Adapter) else None,
        "dynamic": dynamic,
    }
    try:
        found = convert(exported, example, notes=notes, **options)
        # Changes through views are the one place where we say more than the exporter did: look.
        if not found.through_views or _agrees(found.program, module, example):
            return found
        reason = "a change of a view cannot be followed"
    except CannotTrack as err:
        reason = str(err)
    try:
        decomposed = exported.run_decompositions({})
        return convert(decomposed, example, notes=(*notes, f"dropout is left out: {reason}"), **options)
    except CaptureError:
        raise
    except CannotTrack as err:
        raise CaptureError(f"{err}", hint="write the line without changing a tensor in place") from err
    except Exception as err:  # noqa: BLE001
        raise not_captured(module, example, err) from err


def _agrees(program: Program, module: nn.Module, example: tuple[Tensor, ...]) -> bool:
    """Whether a program computes on the example what the module computes."""
    buffers = {k: b.detach().clone() for k, b in module.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wanted = _flat(module(*[t.clone() for t in example]))
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
        torch.manual_seed(0)
        got = _flat(run(program, program.tensors, example))
    return len(wanted) == len(got) and all(
        w.shape == g.shape and torch.allclose(w, g, rtol=1e-4, atol=1e-5, equal_nan=True)
        for w, g in zip(wanted, got, strict=True)
    )


def _flat(result: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each submodule gets its own mode back."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _unmoved() -> Iterator[None]:
    """A module that forward moves to where it already is stays: the exporter cannot swap its weights."""
    move = nn.Module.to

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        there = all(
            (device is None or t.device == device)
            and (dtype is None or t.dtype == dtype or not (t.is_floating_point() or t.is_complex()))
            for t in (*module.parameters(), *module.buffers())
        )
        return module if there else move(module, *args, **kwargs)

    nn.Module.to = to  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]


@contextmanager
def _uncollected() -> Iterator[None]:
    """The exporter makes very many objects that live on; looking through them for garbage takes a tenth."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _untraced() -> Iterator[None]:
    """The line of the user's code behind each node is asked for by errors alone, and takes a tenth, too."""
    before = fx_config.do_not_emit_stack_traces
    fx_config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        fx_config.do_not_emit_stack_traces = before


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter prints whole graphs when an attempt fails; what counts is in our own error."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
