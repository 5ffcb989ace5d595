"""Side by side: several plans scored in one run of the whole program, where one does not fill the device.

Each record goes in once for each plan, and the channels that a plan removes are masked in its copies
(``prune.masks``) where a scorer would slice them off. Batch norm takes the statistics of each plan's copies
alone. So the scores are those of the plans one by one, but for rounding; whether they are is looked at once,
and where a network mixes the records of a batch, plans are scored one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graph.adapter import prediction
from graph.cost import costs
from graph.errors import ProgramError
from graph.program import Node, Override, Ref, run
from prune.masks import Masks
from rl.scorer import Chunk, Keep, Score, Scorer, alike

MOST = 32  # plans at one time
_SHARE = 0.5  # of the free memory of a GPU that activations may take


class SideBySide:
    """Scores plans in one process, several at a time.

    Args:
        scorer: scores one, on whatever device.
        most: plans at one time; as many as fit into the device's memory when left out, at most ``MOST``.
    """

    def __init__(self, scorer: Scorer, most: int | None = None) -> None:
        self.scorer = scorer
        self.most = most or _most(scorer)
        self._agrees: bool | None = None

    def map(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order.

        Raises:
            PlanError: the channels that a plan keeps do not fit each other.
        """
        if len(keeps) < 2 or self.most < 2 or self._agrees is False:
            return [self.scorer(keep) for keep in keeps]
        if self._agrees is None:  # the first ones are scored both ways
            first, keeps = keeps[: self.most], keeps[self.most :]
            exact = [self.scorer(keep) for keep in first]
            self._agrees = self._are(first, exact)
            return [*exact, *self.map(keeps)]
        return [score for some in _parts(keeps, self.most) for score in self._together(some)]

    def _are(self, keeps: Sequence[Keep], exact: Sequence[Score]) -> bool:
        """Whether plans have the same scores side by side, as far as one can tell from these."""
        try:
            found = self._together(keeps)
        except (ProgramError, RuntimeError):  # a size that does not fit, or that two copies cannot share
            return False
        return all(alike(a, b, self.scorer.images) for a, b in zip(exact, found, strict=True))

    def _together(self, keeps: Sequence[Keep]) -> list[Score]:
        axes, plans = self.scorer.axes, len(keeps)
        overrides = {**_batch_norms(axes.program.nodes, plans), **Masks(axes, *keeps).overrides}
        total = torch.zeros(2, plans, dtype=torch.float64)
        with torch.inference_mode():
            for chunk in self.scorer.chunks:
                total += _sums(self._run(chunk, plans, overrides), chunk.labels, plans)
        return [Score(*(float(v) / self.scorer.images for v in column)) for column in total.T]

    def _run(self, chunk: Chunk, plans: int, overrides: Mapping[str, Override]) -> Tensor:
        """Outputs (B x plans, ..., K), the copies of a record next to each other."""
        program = self.scorer.axes.program
        copies = chunk.images.contiguous().repeat_interleave(plans, 0)
        return prediction(run(program, program.tensors, [copies], overrides=overrides))

    def close(self) -> None:
        """Nothing to end."""


def _sums(logits: Tensor, labels: Tensor, plans: int) -> Tensor:
    """How many records of each plan are right, and the sum of their losses: (2, plans)."""
    rows = logits.reshape(len(labels), plans, -1, logits.shape[-1])  # tokens are records
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    wanted = labels.reshape(len(labels), 1, -1).expand(rows.shape[:-1])
    right = (rows.argmax(-1) == wanted).sum((0, 2))
    losses = F.cross_entropy(rows.flatten(0, 2), wanted.flatten(), reduction="none")
    return torch.stack([right.double(), losses.view(wanted.shape).double().sum((0, 2))]).cpu()


def _batch_norms(nodes: Sequence[Node], plans: int) -> dict[str, Override]:
    """Batch norms that take the statistics of each plan for itself."""

    def run(function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, weight, bias, eps = args[0], args[1], args[2], float(args[7])
        apart = x.reshape(len(x) // plans, plans * x.shape[1], *x.shape[2:])  # the channels of all plans
        weight, bias = (None if t is None else t.repeat(plans) for t in (weight, bias))
        return F.batch_norm(apart, None, None, weight, bias, training=True, eps=eps).reshape(x.shape)

    return {n.name: run for n in nodes if n.base == "batch_norm" and isinstance(n.args[3], Ref)}


def _parts(keeps: Sequence[Keep], most: int) -> Iterator[Sequence[Keep]]:
    for start in range(0, len(keeps), most):
        yield keeps[start : start + most]


def _most(scorer: Scorer) -> int:
    """How many plans fit into the memory of the device; one by one on a CPU, which one plan fills."""
    if scorer.device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(scorer.device)
    each = costs(scorer.axes.program).peak_activation_bytes * max(len(c.images) for c in scorer.chunks)
    return int(min(MOST, max(1, _SHARE * free // max(1, each))))
