"""The environment, the rewards and the search on a real, tiny network."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from graph import topology
from graph.axes import Axes, infer
from graph.capture import capture
from graph.encoder import DECISIONS, MultiStageEncoder
from graph.program import ProgramModule
from models_zoo import registry
from models_zoo.data import load_embedded
from prune.budget import Budget
from prune.importance import magnitude
from prune.plan import make_plan
from prune.recalibrate import recalibrated
from prune.surgery import prune_program
from prune.trials import Problem, Trial
from prune.widths import WidthSpace
from rl.env import PruningEnv
from rl.reward import Evaluator, Score
from rl.search import SearchConfig, search


@functools.cache
def axes() -> Axes:
    torch.manual_seed(0)
    module = registry.build("resnet20", in_channels=1, width=8)
    return infer(capture(module, [torch.randn(2, 1, 8, 8)]))


def problem() -> Problem:
    space = WidthSpace(axes())
    return Problem(
        axes(),
        space,
        Budget.of(space, macs=space.base_macs // 2),
        magnitude(axes()),
        load_embedded("digits"),
        lambda _: None,
    )


def evaluator() -> Evaluator:
    return Evaluator(axes(), load_embedded("digits"), images=64, calibration=64)


def environment(score: object = None) -> PruningEnv:
    asked = problem()
    fake = score or (lambda levels: Score(float(np.mean(asked.space.ratios(levels))), 0.0))
    return PruningEnv(
        asked.space,
        topology.build(axes()),
        asked.budget,
        fake,
        np.full(asked.space.bundles, 0.7),  # type: ignore[arg-type]
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_checkers_accept_the_environment() -> None:
    check_env(environment(), skip_render_check=True)
    check_sb3_env(environment())


def test_every_sequence_of_actions_ends_within_the_target() -> None:
    env = environment()
    random = np.random.default_rng(0)
    for episode in range(30):
        env.reset(seed=episode)
        done, info = False, {}
        scale = [0.0, 1.0, 3.0][episode % 3]
        while not done:
            action = np.full(1, -1.0 if episode == 0 else 1.0) if episode < 2 else random.normal(0, scale, 1)
            _, reward, done, _, info = env.step(action.astype(np.float32))
            assert done or reward == 0.0
        macs, target = env.space.macs(info["levels"]), env.space.base_macs // 2
        assert 0.98 * target <= macs <= target


def test_masks_score_what_surgery_yields() -> None:
    scorer, space = evaluator(), WidthSpace(axes())
    data = load_embedded("digits")
    for seed in range(3):
        wish = np.random.default_rng(seed).uniform(0.1, 1, space.bundles)
        plan = make_plan(
            space, Budget.of(space, macs=space.base_macs // 2).project(wish), magnitude(axes()), "t"
        )
        pruned = prune_program(axes(), plan)
        batches = [x for x, _ in data.train.batches(128, shuffle=True, limit=64)]
        pruned = replace(pruned, tensors=recalibrated(pruned, pruned.tensors, batches))
        x, y = next(data.search.batches(64, limit=64))
        with torch.no_grad():
            accuracy = float((ProgramModule(pruned)(x).argmax(1) == y).double().mean())
        assert scorer(plan.keep_mask(axes())).accuracy == pytest.approx(accuracy, abs=1.5 / 64)


def test_scores_are_remembered() -> None:
    scorer = evaluator()
    keep = np.ones(axes().classes, dtype=bool)
    assert scorer(keep) is scorer(keep.copy())
    assert scorer.evaluations == 1


def test_a_search_repeats_by_seed_and_returns_the_best() -> None:
    runs: list[tuple[Trial, ...]] = []
    for _ in range(2):
        config = SearchConfig(episodes=6, random_plans=3, seed=5)
        found = search(problem(), topology.build(axes()), evaluator(), config)
        runs.append(tuple(replace(t, seconds=0.0) for t in found.trials))
        best = max(found.trials, key=lambda t: t.rank)
        assert found.best[found.plan.method].rank == best.rank
        assert found.plan.macs == best.macs
    assert runs[0] == runs[1]
    assert [t.method for t in runs[0]] == ["uniform", "global-magnitude", *["random"] * 3, *["ppo"] * 6]


class _Toy(Evaluator):
    """Likes the first bundle narrow: a task that can be solved."""

    def __call__(self, keep: np.ndarray) -> Score:
        units = [u for g in axes().bundles[0].groups for u in axes().groups[g].units]
        return Score(1.0 - float(keep[units].mean()), 0.0)


def test_the_agent_learns_a_toy() -> None:
    asked = problem()
    toy = _Toy(axes(), load_embedded("digits"), images=2, calibration=2)
    found = search(asked, topology.build(axes()), toy, SearchConfig(episodes=120, random_plans=0))
    scores = [t.accuracy for t in found.trials if t.method == "ppo"]
    assert np.mean(scores[-20:]) > np.mean(scores[:20]) + 0.05


def test_the_encoder_fits_any_network_and_ignores_the_numbering_of_nodes() -> None:
    torch.manual_seed(0)
    encoder = MultiStageEncoder(width=8)
    for name in ("resnet20", "mobilenet_v2"):
        entry = registry.find(name)
        found = topology.build(infer(capture(registry.build(name), [torch.randn(2, *entry.input_shape)])))
        torch.testing.assert_close(found.motifs.sum(dim=1), torch.ones(len(found.motifs)))
        motifs = int(found.stages[1].num_nodes or 0)
        decisions = torch.rand(2, motifs, DECISIONS)
        embedded, _, network = encoder(found, decisions)
        assert embedded.shape == (2, motifs, 8)

        first = found.stages[0].clone()
        order = torch.randperm(len(first.x))
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        first.x, first.assign, first.edge_index = first.x[order], first.assign[order], place[first.edge_index]
        again, _, network_again = encoder(replace(found, stages=(first, *found.stages[1:])), decisions)
        torch.testing.assert_close(again, embedded)
        torch.testing.assert_close(network_again, network)
