"""One operator at a time: the groups that are worked out by hand, and the proof on random plans."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from networks import INPUT, prune_and_prove, random_plan
from operators import OPERATORS

from graph.axes import infer
from graph.capture import capture
from prune.plan import WidthSpace, make_plan


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str) -> None:
    case = OPERATORS[name]
    axes = infer(capture(case.build(), [torch.randn(INPUT)]))
    units: Counter[str] = Counter()
    for group in axes.groups:
        units[group.name.partition("#")[0]] += len(group.units)
    assert dict(units) == case.groups, axes.pinned
    assert axes.unsupported == case.unsupported
    assert len(axes.bundles) == (len(axes.groups) if case.bundles is None else case.bundles)
    for tensor, part in case.pinned.items():
        assert any(p.tensor == tensor and part in p.reason for p in axes.pinned), axes.pinned
    for seed in range(3):
        prune_and_prove(axes, random_plan(axes, seed), batch=1 + seed)
    space = WidthSpace(axes)
    narrowest = np.zeros(space.bundles, dtype=np.int64)
    prune_and_prove(axes, make_plan(space, narrowest, np.zeros(axes.classes), "narrowest"))
