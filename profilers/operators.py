"""Operators: a program measured node by node, as it is executed, and summed by operator and by module."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graph.cost import mac_factors
from graph.errors import ProgramError, UsageError
from graph.program import INPUT, TENSOR, Node, Override, Program, run
from profilers.latency import summary
from profilers.profile import Measurement, Part
from profilers.stages import Scope
from profilers.watch import DEFAULT, Budget, Watched, watch

VIEWS = ("op", "module", "node")


def profile_program(
    program: Program,
    *,
    subject: str,
    batch: int = 1,
    length: int | None = None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    depth: int | None = None,
    budget: Budget = DEFAULT,
) -> tuple[Measurement, tuple[str, ...]]:
    """Run a program on random inputs and measure each of its operators.

    Args:
        program: what to run; its own batch where that is fixed.
        subject: its name in the result.
        batch: records at once.
        length: of the sequence, where it is one.
        device: to run on.
        dtype: of weights and of inputs that are no integers.
        depth: parts of a module's path that the view ``module`` tells apart; all when left out.
        budget: how long to measure.

    Returns:
        The measurement with the views of ``VIEWS``, and notes on what is not counted.

    Raises:
        UsageError: an operator does not take this type of numbers.
        ProgramError: an operator fails otherwise.
    """
    batch = batch if program.dynamic_batch else program.inputs[0].shape[0]
    tensors = {k: _moved(t.detach(), device, dtype) for k, t in program.tensors.items()}
    inputs = [_moved(t, device, dtype) for t in program.random_inputs(batch)]
    nodes = [n for n in program.nodes if n.op not in (INPUT, TENSOR)]

    @contextmanager
    def prepare(scope: Scope | None) -> Iterator[Callable[[], object]]:
        overrides = {} if scope is None else {n.name: scoped(scope, n.name) for n in nodes}
        yield lambda: run(program, tensors, inputs, overrides=overrides)

    try:
        watched = watch(prepare, device, budget)
    except ProgramError as err:
        if dtype is torch.float32:
            raise
        name = str(dtype).removeprefix("torch.")
        raise UsageError(f"--dtype {name}: {err}", hint="not every operator takes it; try float32") from err
    flops, unknown = _flops(program, nodes, batch)
    notes = tuple(
        f"{op} ({n} times) has no cost rule: its FLOPs are not counted" for op, n in unknown.items()
    )
    keys: dict[str, Callable[[Node], str]] = {
        "op": lambda n: n.op.removeprefix("aten.").removesuffix(".default"),
        "module": lambda n: ".".join(n.module.split(".")[:depth]) or "(top)",
        "node": lambda n: n.name,
    }
    weights = sum(t.numel() * t.element_size() for t in tensors.values())
    return Measurement(
        subject=subject,
        mode="forward",
        batch=batch,
        length=length,
        tokens=batch * (length or 1),
        whole=watched.whole,
        watched=summary(watched.watched_s),
        peak_bytes=watched.peak_bytes,
        weight_bytes=weights,
        views={view: _grouped(nodes, keys[view], watched, flops) for view in VIEWS},
    ), notes


def scoped(scope: Scope, name: str) -> Override:
    """Compute a node as ever, but within ``scope(name)``."""

    def call(function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with scope(name):
            return function(*args, **kwargs)

    return call


def _grouped(
    nodes: Iterable[Node], key: Callable[[Node], str], watched: Watched, flops: dict[str, int]
) -> tuple[Part, ...]:
    members: dict[str, list[str]] = {}
    for node in nodes:
        members.setdefault(key(node), []).append(node.name)
    parts = [watched.part(name, names, flops=sum(flops[n] for n in names)) for name, names in members.items()]
    return (*parts, watched.rest())


def _flops(program: Program, nodes: Iterable[Node], batch: int) -> tuple[dict[str, int], Counter[str]]:
    """FLOPs of each node for a batch, and the operators that nobody can price."""
    shapes = program.shapes(batch if program.dynamic_batch else None)
    flops: dict[str, int] = {}
    unknown: Counter[str] = Counter()
    for node in nodes:
        terms = mac_factors(node, shapes)
        if terms is None:
            unknown[node.op] += 1
        flops[node.name] = 2 * sum(math.prod(shapes[v].shape[d] for v, d in term) for term in terms or [])
    return flops, unknown


def _moved(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
