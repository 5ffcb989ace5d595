"""Precision: bfloat16 scores rank plans as float32 does, wherever found, and are never forced on a model."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_plan
from scipy.stats import kendalltau
from torch import Tensor, nn
from torch.nn import functional as F

from graph.axes import Axes, infer
from graph.capture import capture
from graph.errors import UsageError
from models_zoo.data import load_embedded
from prune.budget import Budget
from prune.importance import magnitude
from prune.journal import Journal
from prune.onepass import _moments
from prune.sections import search_section
from prune.train import build_for
from prune.trials import Problem, SearchResult
from prune.tune import fit
from prune.tune_config import TuneConfig
from prune.widths import WidthSpace
from rl import precision
from rl.precision import is_native, lowered, settled
from rl.processes import Processes
from rl.reward import Evaluator
from rl.scorer import Keep, Scorer, chunks
from rl.search import SearchConfig, command_words, planner

DIGITS = load_embedded("digits")


@functools.cache
def trained() -> Axes:
    """A ResNet that has learnt digits."""
    torch.manual_seed(0)
    module, _ = build_for("resnet20", DIGITS)
    fit(module, DIGITS, TuneConfig(epochs=2, lr=0.1))
    return infer(capture(module.eval(), [torch.randn(2, *DIGITS.input_shape)]))


def plans(count: int) -> list[Keep]:
    return [random_plan(trained(), seed).keep_mask(trained()) for seed in range(count)]


def native(monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    monkeypatch.setattr(precision, "is_native", lambda device: yes)


def exact(module: nn.Module, shape: tuple[int, ...] = DIGITS.input_shape) -> Scorer:
    axes = infer(capture(module.eval(), [torch.randn(2, *shape)]))
    return Scorer(axes, chunks(axes, DIGITS, 64))


def found(scorer: Scorer, asked: str = "auto") -> str:
    return settled(asked, scorer, lambda find: find())[0]


def test_plans_are_ranked_alike() -> None:
    in_full, in_half = (Evaluator(trained(), DIGITS, precision=p) for p in ("float32", "bfloat16"))
    assert in_full.precision == "float32" and in_half.precision == "bfloat16"
    losses = np.array([[s.loss for s in e.many(plans(12))] for e in (in_full, in_half)])
    assert not np.array_equal(losses[0], losses[1])  # other numbers, or the option did nothing
    assert kendalltau(*losses)[0] > 0.9
    assert np.abs(losses[1] / losses[0] - 1).max() < 0.1


def test_a_worker_finds_the_same_scores() -> None:
    scorer = lowered(Scorer(trained(), chunks(trained(), DIGITS, 64)))
    workers = Processes(scorer, 2, print, patience=0.0)
    try:
        assert workers.map(plans(4)) == [scorer(keep) for keep in plans(4)]
    finally:
        workers.close()


def test_weights_stay_as_they_are() -> None:
    before = {name: tensor.clone() for name, tensor in trained().program.tensors.items()}
    Evaluator(trained(), DIGITS, images=16, precision="bfloat16").many(plans(2))
    after = trained().program.tensors
    assert all(after[n].dtype == t.dtype and torch.equal(after[n], t) for n, t in before.items())


@pytest.mark.parametrize(("yes", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_auto_goes_by_the_processor(monkeypatch: pytest.MonkeyPatch, yes: bool, wanted: str) -> None:
    native(monkeypatch, yes)
    assert Evaluator(trained(), DIGITS, precision="auto").precision == wanted


@pytest.mark.parametrize(
    ("capabilities", "yes"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({}, False),
     ({"avx512_f": True, "avx512_bf16": False, "num_physical_cores": 2}, False)],
)  # fmt: skip
def test_which_processors_have_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], yes: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert is_native() is yes
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not is_native()  # no kernels that use them


class Typed(nn.Module):
    """Mixes in numbers of a type of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x.flatten(1))).to(torch.float32) * torch.arange(1.0, 17.0))


class Fine(nn.Module):
    """Tells classes by differences that bfloat16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(F.relu(self.inner(x.flatten(1))))
        return ((y + 1e4) - 1e4) * 10


def test_auto_leaves_models_that_do_not_run_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    native(monkeypatch, True)
    torch.manual_seed(0)
    assert found(exact(Typed())) == "float32"
    with pytest.raises(UsageError, match="does not run in it"):
        found(exact(Typed()), "bfloat16")


def test_auto_leaves_models_that_score_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    native(monkeypatch, True)
    torch.manual_seed(0)
    assert found(exact(Fine())) == "float32"
    assert found(exact(Fine()), "bfloat16") == "bfloat16"  # whoever asks for it


def test_auto_leaves_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    native(monkeypatch, True)
    scorer = exact(Fine())
    doubled = Scorer(scorer.axes, tuple(type(c)(c.images.double(), c.labels) for c in scorer.chunks))
    assert found(doubled) == "float32"


def test_a_resumed_run_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    native(monkeypatch, True)
    first = Evaluator(trained(), DIGITS, images=32, precision="auto", journal=Journal(path))
    scores = first.many(plans(2))
    first.journal.close()

    native(monkeypatch, False)  # on another machine
    again = Evaluator(trained(), DIGITS, images=32, precision="auto", journal=Journal(path))
    monkeypatch.setattr("rl.scorer.Scorer.__call__", None)
    assert again.precision == "bfloat16" and again.many(plans(2)) == scores


def test_unknown_ones_are_refused_before_anything_is_loaded() -> None:
    with (
        pytest.raises(UsageError, match="--precision float16: unknown"),
        planner(SearchConfig(precision="float16")),
    ):
        pass


def test_command_words() -> None:
    assert command_words(SearchConfig(precision="float32")) == ("--precision", "float32")
    assert command_words(SearchConfig(precision="auto")) == ()


def test_statistics_of_bfloat16_are_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = (
        torch.randn(5000, 8, generator=generator) * 0.1 + 30
    ).bfloat16()  # the mean swallows the deviation
    mean, var = _moments(wide, 8)
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(mean, wide.double().mean(0).float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(var, wide.double().var(0, correction=0).float(), rtol=1e-3, atol=0)


def test_the_report_tells() -> None:
    space = WidthSpace(trained())
    half = Budget.of(space, macs=space.base_macs // 2)
    problem = Problem(trained(), space, half, magnitude(trained()), DIGITS, lambda _: None)
    config = SearchConfig(episodes=0, baselines=("uniform",), precision="bfloat16", sensitivity=False)
    with planner(config, images=32) as plan:
        found = plan(problem)
    assert search_section(found)["precision"] == "bfloat16"
    assert SearchResult.from_json(json.loads(json.dumps(found.to_json()))).precision == "bfloat16"
