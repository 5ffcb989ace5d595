"""Side by side: several plans scored in one run of the whole program, where one does not fill the device.

Each record goes in once for each plan, and the channels that a plan removes are masked in its copies
(``prune.masks``) where a scorer would slice them off. Batch norm takes the statistics of each plan's copies
alone. So the scores are those of the plans one by one, but for rounding. That takes a program whose values
have the records in their first dimension, and nothing else that grows with them. Masked plans cost what the
whole network does, so that the first ones are timed both ways. Where it is no gain, where scores are other
ones, or where a run fails, plans are scored one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graph.adapter import prediction
from graph.channels import Axes
from graph.cost import costs
from graph.errors import PruneError
from graph.program import INPUT, TENSOR, Node, Override, run
from graph.shortage import is_out_of_memory
from prune.masks import Masks
from rl.scorer import Keep, Score, Scorer, alike

MOST = 32  # plans at one time
_SHARE = 0.25  # of the free memory of a GPU that the activations of all plans take at their peak, as counted
_BYTES = 1 << 33  # that these take at most: kernels count elements of float32 with 31 bits
_LOSS = 2e-3  # how far a loss in float32 may lie from that of the plan alone, by so much of 1 + itself


class SideBySide:
    """Scores plans in one process, several at a time.

    Args:
        scorer: scores one, on whatever device.
        most: plans at one time; as many as fit into the device's memory when left out, at most ``MOST``.
        timed: whether plans go side by side only if that is quicker.
    """

    def __init__(self, scorer: Scorer, most: int | None = None, *, timed: bool = True) -> None:
        self.scorer, self.timed = scorer, timed
        self.most = most or _most(scorer)
        self._rows = _rows(scorer.axes) if self.most > 1 else None
        self._pays: bool | None = None if self._rows is not None else False

    @property
    def at_one_time(self) -> int:
        """How many plans go side by side, 1 where none do; known after a first ``map`` of several."""
        return self.most if self._pays else 1

    def map(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order.

        Raises:
            PlanError: the channels that a plan keeps do not fit each other.
        """
        found: list[Score] = []
        while len(found) < len(keeps):
            found += self._next(keeps[len(found) :][: self.most])
        return found

    def _next(self, keeps: Sequence[Keep]) -> list[Score]:
        if self._pays is None and len(keeps) > 1:  # both ways, once
            return self._compared(keeps)
        if self._pays and len(keeps) > 1:
            together = self._tried(keeps)
            if together is not None:
                return together
        return [self.scorer(keep) for keep in keeps]

    def _compared(self, keeps: Sequence[Keep]) -> list[Score]:
        """Scores of plans one by one; from then on it is known whether they may go side by side."""
        self.scorer(keeps[0])  # a GPU takes long to begin
        start = time.perf_counter()
        alone = [self.scorer(keep) for keep in keeps]
        alone_seconds = time.perf_counter() - start
        together = self._tried(keeps)
        if together is None:
            return alone
        start = time.perf_counter()
        again = self._tried(keeps)
        quicker = time.perf_counter() - start < alone_seconds or not self.timed
        same = all(self._same(*pair) for pair in zip(alone, together, strict=True))
        self._pays = same and quicker and again is not None
        return alone

    def _same(self, alone: Score, together: Score) -> bool:
        """Whether two scores of a plan are the same, but for rounding."""
        images = self.scorer.images
        if any(c.images.dtype is torch.bfloat16 for c in self.scorer.chunks):
            return alike(alone, together, images)
        near = abs(alone.loss - together.loss) <= _LOSS * (1 + alone.loss)
        return near and abs(alone.accuracy - together.accuracy) <= 2.5 / images

    def _tried(self, keeps: Sequence[Keep]) -> list[Score] | None:
        """Scores of plans side by side; None where that fails, and will not be tried again like that."""
        try:
            return self._together(keeps)
        except (PruneError, RuntimeError, MemoryError) as err:
            if is_out_of_memory(err):
                self.most = max(1, len(keeps) // 2)
            else:
                self._pays = False
        return None

    def _together(self, keeps: Sequence[Keep]) -> list[Score]:
        assert self._rows is not None
        axes, plans = self.scorer.axes, len(keeps)
        overrides = {**self._batch_norms(plans), **Masks(axes, *keeps, rows=self._rows).overrides}
        total = torch.zeros(2, plans, dtype=torch.float64)
        with torch.inference_mode():
            for chunk in self.scorer.chunks:
                copies = chunk.images.contiguous().repeat_interleave(plans, 0)
                out = run(axes.program, axes.program.tensors, [copies], overrides=overrides)
                total += _sums(prediction(out), chunk.labels, plans)
        return [Score(*(float(v) / self.scorer.images for v in column)) for column in total.T]

    def _batch_norms(self, plans: int) -> dict[str, Override]:
        """Batch norms that take the statistics of each plan for itself."""
        rows = self._rows or {}

        def run(
            function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            x, weight, bias, eps = args[0], args[1], args[2], float(args[7])
            each = rows[node.args[0].name]  # rows of a record
            apart = x.reshape(-1, plans, each, *x.shape[1:]).transpose(1, 2)  # (B, rows, plans, C, ...)
            wide = apart.reshape(len(x) // plans, plans * x.shape[1], *x.shape[2:])
            weight, bias = (None if t is None else t.repeat(plans) for t in (weight, bias))
            y = F.batch_norm(wide, None, None, weight, bias, training=True, eps=eps)
            return y.reshape(apart.shape).transpose(1, 2).reshape(x.shape)

        nodes = self.scorer.axes.program.nodes
        return {n.name: run for n in nodes if n.base == "batch_norm" and n.name in rows}

    def close(self) -> None:
        """Nothing to end."""


def _rows(axes: Axes) -> Mapping[str, int] | None:
    """How many rows of the first dimension of each value belong to one record.

    None where plans cannot go side by side: what is made of the records has other sizes that grow with them,
    or none, so that it mixes them or holds them elsewhere; or channels go from what is not made of records.
    """
    program = axes.program
    if not program.dynamic_batch:
        return None
    try:
        two, three = program.shapes(2), program.shapes(3)
    except PruneError:
        return None
    rows: dict[str, int] = {}
    for node in program.nodes:
        if node.op == TENSOR or (node.op != INPUT and not any(ref in rows for ref in node.refs)):
            continue
        a, b = two[node.name], three[node.name]
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):  # a list of parts: each is looked at
            rows[node.name] = 0
            continue
        each = len(b) - len(a) if a.dim() else 0
        if not each or len(a) != 2 * each or a.shape[1:] != b.shape[1:]:
            return None
        rows[node.name] = each
    return rows if all(rows.get(site.value) for site in axes.sites) else None


def _sums(logits: Tensor, labels: Tensor, plans: int) -> Tensor:
    """How many records of each plan are right, and the sum of their losses: (2, plans)."""
    by_plan = logits.reshape(len(labels), plans, -1, logits.shape[-1])  # tokens are records
    found = []
    for rows in by_plan.unbind(1):  # not all at once: of text they are as large as anything before
        rows = rows.flatten(0, 1).to(torch.promote_types(rows.dtype, torch.float32))
        right = (rows.argmax(1) == labels.flatten()).sum()
        found.append(torch.stack([right.double(), F.cross_entropy(rows, labels.flatten(), reduction="sum")]))
    return torch.stack(found, 1).double().cpu()


def _most(scorer: Scorer) -> int:
    """How many plans fit into the memory of the device; one by one on a CPU, which one plan fills."""
    if scorer.device.type != "cuda":
        return 1
    device = scorer.device
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    each = costs(scorer.axes.program).peak_activation_bytes * max(len(c.images) for c in scorer.chunks)
    return int(min(MOST, max(1, min(_SHARE * free, _BYTES) // max(1, each))))
