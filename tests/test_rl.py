"""The environment, the agents, the rewards and the search on real, tiny networks."""

from __future__ import annotations

import functools
import multiprocessing
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from graph import topology
from graph.axes import Axes, infer
from graph.capture import capture
from graph.cost import costs
from graph.errors import TargetError, UsageError
from graph.program import ProgramModule
from models_zoo import registry
from models_zoo.data import load_embedded
from profilers.latency import PairedRatio
from profilers.latency_model import LatencyModel
from profilers.op_latency import OpTable, Point
from prune.alignment import blocks
from prune.baselines import baseline_plan, global_ratios, prices
from prune.budget import Budget, Quantity, exact_quantities
from prune.demands import parse_demand
from prune.export import export_onnx
from prune.importance import magnitude, scores_of, taylor
from prune.journal import Journal
from prune.latency_limit import Clock
from prune.plan import Plan, kept_ratios, kept_widths, make_plan
from prune.recalibrate import recalibrated
from prune.surgery import prune_program
from prune.trials import Problem, Trial
from prune.widths import Levels, WidthSpace
from rl.agents.agent import AGENTS, Agent, AgentName, contained
from rl.agents.ddpg import Walker
from rl.baselines import baseline_ratios
from rl.env import LAYER, PruningEnv, Task, Walks
from rl.processes import Processes
from rl.reward import Evaluator, Score
from rl.search import METHODS, Book, SearchConfig, command_words, planner, search


@functools.cache
def axes(name: str = "resnet20") -> Axes:
    torch.manual_seed(0)
    arguments = {"width": 8} if name.startswith("resnet") else {}
    side = 32 if "net_v" in name else 8
    module = registry.build(name, in_channels=1, **arguments)
    return infer(capture(module, [torch.randn(2, 1, side, side)]))


@functools.cache
def graph_of(name: str = "resnet20") -> topology.Topology:
    return topology.build(axes(name))


def problem() -> Problem:
    space = WidthSpace(axes())
    budget = Budget.of(space, macs=space.base_macs // 2)
    return Problem(axes(), space, budget, magnitude(axes()), load_embedded("digits"), lambda _: None)


def evaluator() -> Evaluator:
    return Evaluator(axes(), load_embedded("digits"), images=64)


class _Law(OpTable):
    """Operators whose times follow a law, so that nothing is measured and every run sees the same."""

    def milliseconds(
        self, points: Sequence[Point], on_progress: Callable[[int, int], None] | None = None
    ) -> list[float]:
        return [1e-3 + 1e-5 * a * max(1, b) for _, a, b in points]


@functools.cache
def quantities(name: str) -> dict[str, Quantity]:
    """Everything that can be limited."""
    space = WidthSpace(axes(name))
    model = LatencyModel(axes(name), _Law())
    latency = Quantity("latency", "ms", float(model.milliseconds(space.cost.widths)), model.milliseconds)
    return exact_quantities(space) | {"latency": latency}


def task(name: str = "resnet20", share: float = 0.5, limited: Sequence[str] = ("macs",)) -> Task:
    """Likes the first bundle narrow: a task that can be solved.

    Each limit lies at the same share of the way from the least that any widths use to the whole.
    """
    space = WidthSpace(axes(name))
    known = {n: quantities(name)[n] for n in limited}
    least = {n: float(q.value(space.widths(space.narrowest))) for n, q in known.items()}
    limits = {n: least[n] + share * (q.whole - least[n]) for n, q in known.items()}
    budget = Budget.of(space, known, **limits)

    def worth(plans: list[Levels]) -> list[float]:
        return [-float(space.ratios(levels)[0]) for levels in plans]

    prior = space.ratios(budget.project(np.ones(space.bundles)))
    return Task(space, graph_of(name), budget, worth, prior, -float(prior[0]))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("mobilenet_v2", "blocks"), ("shufflenet_v2", "blocks"), ("resnet20", "blocks"),
        ("resnet20", "multiples"), ("vgg11", "multiples"), ("resnet20", "one width"),
    ],
)  # fmt: skip
def test_with_few_widths_every_sequence_of_actions_ends_within_the_target(name: str, how: str) -> None:
    found = axes(name)
    first = found.groups[found.bundles[0].groups[0]]
    options: dict[str, Any] = {
        "blocks": {"multiples": blocks(found, 10_000_000)},
        "multiples": {"round_to": 4},
        "one width": {"fixed": {first.name: len(first.units)}},
    }[how]
    space = WidthSpace(found, **options)
    assert all(options.values()) and sum(space.level_counts) < sum(WidthSpace(found).level_counts)
    assert how != "one width" or space.level_counts[0] == 1
    budget = Budget.of(space, macs=space.base_macs // 2)
    prior = space.ratios(budget.project(np.ones(space.bundles)))
    inner = Task(space, graph_of(name), budget, lambda plans: [0.0] * len(plans), prior, 0.0)
    env, chance = PruningEnv(inner), np.random.default_rng(0)
    for episode in range(12):
        env.reset()
        levels = None
        while levels is None:
            action = [-1.0, 1.0][episode] if episode < 2 else chance.normal(0, 2)
            levels = env.decide(np.full(1, action, np.float32))
        assert usage(inner, levels)["macs"] <= 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_checkers_accept_the_environment() -> None:
    check_env(PruningEnv(task(), task("vgg11")), skip_render_check=True)
    check_sb3_env(PruningEnv(task(), task("vgg11")))


LIMITED = (
    ("macs",), ("params",), ("memory",), ("latency",), ("params", "memory"),
    ("macs", "params", "memory", "latency"),
)  # fmt: skip


def usage(inner: Task, levels: Levels) -> dict[str, float]:
    """The share of each limit that a plan uses, told by the network that it makes where that is possible."""
    plan = make_plan(inner.space, levels, np.zeros(inner.space.axes.classes), "t")
    cut = costs(prune_program(inner.space.axes, plan))
    exact = {"macs": cut.macs, "params": cut.params, "memory": cut.memory_bytes}
    modelled = inner.budget.used(levels)
    return {
        b.quantity.name: exact[b.quantity.name] / b.limit if b.quantity.name in exact else modelled["latency"]
        for b in inner.budget.bounds
    }


@pytest.mark.parametrize("limited", LIMITED, ids="+".join)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_every_sequence_of_actions_ends_within_the_target(share: float, limited: tuple[str, ...]) -> None:
    env = PruningEnv(task(share=share, limited=limited), task("vgg11", share, limited))
    chance = np.random.default_rng(0)
    for episode in range(24):
        env.reset()
        scale = [0.0, 1.0, 3.0][episode % 3]
        levels = None
        while levels is None:
            high = env.widest()
            assert env.ratio(1.0) == pytest.approx(high) and env.ratio(-1.0) <= min(0.1, high) + 1e-9
            extreme = -1.0 if episode < 2 else 1.0
            action = np.full(1, extreme) if episode < 4 else chance.normal(0, scale, 1)
            levels = env.decide(action.astype(np.float32))
            if levels is None:
                assert env.observation_space.contains(env.observe())
        assert env.task.holds(levels)
        # Latency has steps: onnxruntime computes channels in blocks.
        assert env.task.budget.slack(levels) <= (0.05 if "latency" in limited else 0.02)
        assert max(usage(env.task, levels).values()) <= 1


def test_several_limits_hold_at_once_and_a_hopeless_one_is_refused() -> None:
    inner = task()
    cost = inner.space.cost
    params = int(0.3 * cost.params(cost.widths))
    both = replace(inner, budget=Budget.of(inner.space, macs=inner.space.base_macs // 2, params=params))
    assert both.share == pytest.approx(0.3, abs=1e-3) and both.share < inner.share
    env = PruningEnv(both)
    for action in (-1.0, 0.0, 1.0):
        env.reset()
        levels = None
        while levels is None:
            levels = env.decide(np.full(1, action, np.float32))
        widths = inner.space.widths(levels)
        assert cost.params(widths) <= params and cost.macs(widths) <= inner.space.base_macs // 2
    with pytest.raises(TargetError, match="cannot be reached"):
        PruningEnv(replace(inner, budget=Budget.of(inner.space, macs=inner.space.base_macs // 2, params=9)))


def test_tasks_take_turns_and_the_reward_comes_once_at_the_end() -> None:
    env = PruningEnv(task(), task("vgg11"))
    lengths, networks = [], []
    for _ in range(3):
        seen, _ = env.reset()
        networks.append(int(seen["network"][0]))
        rewards, done = [], False
        while not done:
            _, reward, done, _, _ = env.step(np.zeros(1, np.float32))
            rewards.append(reward)
        lengths.append(len(rewards))
        assert not any(rewards[:-1])
    assert networks == [0, 1, 0]
    assert lengths == [t.space.bundles for t in (task(), task("vgg11"), task())]


def test_the_action_zero_is_the_prior() -> None:
    found = task()
    wish = np.random.default_rng(0).uniform(0.3, 0.9, found.space.bundles)
    levels = found.project(wish)
    prior = replace(found, prior=found.space.ratios(levels))
    env = PruningEnv(prior)
    env.reset()
    plan = None
    while plan is None:
        plan = env.decide(np.zeros(1, np.float32))
    assert (plan == levels).all()
    assert prior.rewards([levels])[0] == pytest.approx(
        (prior.worth([levels])[0] - prior.reference) / (abs(prior.reference) + 0.05)
    )


def test_the_state_of_amc_is_normalised_over_the_network() -> None:
    found = task("vgg11")
    assert len(LAYER) == 11
    np.testing.assert_allclose(found.layers.min(axis=0), 0.0)
    varied = np.asarray(found.topology.bundle_layers).std(axis=0) > 0
    np.testing.assert_allclose(found.layers.max(axis=0)[varied], 1.0)
    assert varied[0] and varied[-1]  # filters and MACs differ from layer to layer


@pytest.mark.parametrize("name", AGENTS)
def test_no_weight_depends_on_the_number_of_bundles(name: AgentName) -> None:
    shapes = []
    with contained():
        for tasks in ([task()], [task("vgg11")], [task(), task("vgg11")]):
            found = Agent(name, tasks, seed=0).weights()
            shapes.append({k: tuple(t.shape) for k, t in found.items()})
    assert task().space.bundles != task("vgg11").space.bundles
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("limited", LIMITED, ids="+".join)
@pytest.mark.parametrize("name", AGENTS)
def test_fuzzed_agents_keep_the_target(name: AgentName, limited: tuple[str, ...]) -> None:
    plans: list[tuple[Task, Levels]] = []

    def noted(inner: Task) -> Task:
        def worth(found: list[Levels]) -> list[float]:
            plans.extend((inner, levels) for levels in found)
            return [0.0] * len(found)

        return replace(inner, worth=worth)

    with contained():
        tasks = [noted(task(share=0.3, limited=limited)), noted(task("vgg11", 0.6, limited))]
        agent = Agent(name, tasks, seed=0)
        generator = torch.Generator().manual_seed(1)
        for tensor in agent.weights().values():  # wild weights, wild actions
            tensor.data.copy_(3.0 * torch.randn(tensor.shape, generator=generator))
        agent.learn(agent.walks)
        plans += [(t, agent.plan(i)) for i, t in enumerate(agent.tasks)]
    assert len(plans) == 2 * agent.walks + 2
    assert all(t.holds(levels) and max(usage(t, levels).values()) <= 1 for t, levels in plans)


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_leaves_no_files_behind(
    name: AgentName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with contained():
        Agent(name, [replace(task(), worth=lambda found: [0.0] * len(found))], seed=0).learn(4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_repeats_by_seed_and_leaves_global_chance_alone(name: AgentName) -> None:
    def run(seed: int) -> list[tuple[int, ...]]:
        plans: list[tuple[int, ...]] = []

        def worth(found: list[Levels]) -> list[float]:
            plans.extend(tuple(levels.tolist()) for levels in found)
            return [-float(levels.sum()) for levels in found]

        with contained():
            Agent(name, [replace(task(), worth=worth)], seed=seed).learn(8)
        return plans

    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    before = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    first = run(3)
    assert (torch.rand(1), np.random.rand(), random.random()) == before
    torch.rand(5), np.random.rand(5)  # the state outside does not matter either
    assert run(3) == first
    assert run(4) != first


def test_steps_of_a_walk_share_its_reward_less_the_moving_average() -> None:
    with contained():
        agent = Agent("amc", [task()], seed=0)
        assert isinstance(agent.learner, Walker)
        n = task().space.bundles
        agent.learner.learn(3 * n, noise=0.5)
        buffer = agent.learner.model.replay_buffer
        per_walk = buffer.rewards[: 3 * n, 0].reshape(3, n)
        assert (per_walk == per_walk[:, :1]).all() and len(set(per_walk[:, 0].tolist())) > 1
        average = per_walk[0, 0]
        for reward in per_walk[1:, 0]:
            average = 0.95 * average + 0.05 * reward
        sampled = buffer.sample(64).rewards.unique()
        wanted = torch.tensor(sorted(per_walk[:, 0] - average), dtype=sampled.dtype)
        assert all(torch.isclose(wanted, s, atol=1e-5).any() for s in sampled)


def test_walks_in_step_score_their_plans_together() -> None:
    calls: list[int] = []

    def worth(found: list[Levels]) -> list[float]:
        calls.append(len(found))
        return [float(levels[0]) for levels in found]

    walks = Walks([replace(task(), worth=worth, reference=0.0)], 3)
    walks.reset()
    for step in range(task().space.bundles):  # they differ in the first bundle alone
        actions = np.array([[-1.0], [0.0], [1.0]], np.float32)
        seen, rewards, dones, infos = walks.step(actions if step == 0 else 0 * actions)
    assert calls == [3] and dones.all()
    assert rewards[0] < rewards[1] < rewards[2]
    assert all(int(i["terminal_observation"]["at"][0]) == task().space.bundles for i in infos)
    assert (seen["at"] == 0).all()


@pytest.mark.parametrize(("name", "rounds"), [("gnn-rl", 60), ("agmc", 40), ("amc", 40)])
def test_an_agent_learns_a_toy(name: AgentName, rounds: int) -> None:
    found = task()
    with contained():
        agent = Agent(name, [found], seed=0)
        agent.learn(rounds, exploration=2.5)  # the best plan lies far from the prior
        assert found.rewards([agent.plan()])[0] > 0.2  # the prior's is 0


def test_a_score_is_what_surgery_and_recalibration_on_the_same_images_yield() -> None:
    scorer, space = evaluator(), WidthSpace(axes())
    data = load_embedded("digits")
    for seed in range(3):
        wish = np.random.default_rng(seed).uniform(0.1, 1, space.bundles)
        plan = make_plan(space, problem().budget.project(wish), magnitude(axes()), "t")
        pruned = prune_program(axes(), plan)
        x, y = next(data.search.batches(64, limit=64))
        pruned = replace(pruned, tensors=recalibrated(pruned, pruned.tensors, [x]))
        with torch.no_grad():
            accuracy = float((ProgramModule(pruned)(x).argmax(1) == y).double().mean())
        assert scorer(plan.keep_mask(axes())).accuracy == pytest.approx(accuracy, abs=1.5 / 64)


def test_scores_are_remembered() -> None:
    scorer = evaluator()
    keep = np.ones(axes().classes, dtype=bool)
    assert scorer(keep) is scorer(keep.copy())
    assert scorer.evaluations == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_search_repeats_by_seed_keeps_its_budget_and_returns_the_best(method: str) -> None:
    runs: list[tuple[Trial, ...]] = []
    for _ in range(2):
        config = SearchConfig(agent=method, episodes=11, seed=5, policy="none", reward="loss")
        told: list[Trial] = []
        found = search(replace(problem(), on_trial=told.append), graph_of(), evaluator(), config)
        runs.append(tuple(replace(t, seconds=0.0) for t in found.trials))
        assert len(told) == len(found.trials) == config.trials == 7 + 11
        best = min(found.trials, key=lambda t: t.loss)
        assert found.best[found.plan.method].loss == best.loss
        assert found.plan.macs == best.macs <= problem().budget.bounds[0].limit
    assert runs[0] == runs[1]
    methods = [t.method for t in runs[0]]
    assert methods[:7] == [
        "uniform", "global-magnitude", "global-sum", *["global-per-cost"] * 3, "global-taylor",
    ]  # fmt: skip
    assert set(methods[7:]) == ({method, "refinement"} if method in AGENTS else {method})


class Predicted(Clock):
    """A clock that goes as its table says."""

    def _timed(self, plan: Plan) -> PairedRatio:
        ratio = float(self._model.milliseconds(kept_widths(self.axes, plan))) / self._whole
        return PairedRatio(ratio, 0.0, self.base_ms, self.base_ms * ratio)


def test_a_plan_that_is_too_slow_shrinks_by_its_own_ranks(tmp_path: Path) -> None:
    net = axes("vgg11")
    space, found = WidthSpace(net, round_to=4), scores_of(net, "magnitude-taylor", problem().data)
    path = tmp_path / "original.onnx"
    export_onnx(ProgramModule(net.program), net.program.random_inputs(2), path, dynamic_batch=True)
    clock = Predicted(net, space, path, Journal())
    budget = clock.budget([parse_demand("--latency", "0.8")], found)
    nearly = space.widest.copy()
    nearly[-1] -= 1
    slow = replace(make_plan(space, nearly, found, "t"), importance="magnitude-taylor")
    checked = clock.checked(slow, budget, found)
    assert checked.held and checked.chosen > 0
    assert checked.plan.ratio < slow.ratio and checked.plan.importance == "magnitude-taylor"
    levels = space.levels(kept_ratios(space, checked.plan))
    assert checked.plan.kept == make_plan(space, levels, found, "t").kept
    assert checked.plan.kept != make_plan(space, levels, magnitude(net), "t").kept


def test_the_baselines_of_the_search_are_those_of_the_planners() -> None:
    asked = problem()
    found = baseline_ratios(asked, scores_of(axes(), "taylor", asked.data))
    data = asked.data.train.batches(128, shuffle=True, limit=512)
    for name, method, scores in (
        ("uniform", "uniform", asked.scores),
        ("global-magnitude", "global", magnitude(axes())),
        ("global-taylor", "global", taylor(axes(), data)),
    ):
        plan = baseline_plan(method, asked.space, scores, asked.budget)
        widths = {k: len(v) for k, v in plan.kept.items()}
        levels = asked.budget.project(*found[name])
        ours = make_plan(asked.space, levels, asked.scores, name)
        assert {k: len(v) for k, v in ours.kept.items()} == widths
    undivided = global_ratios(asked.space, magnitude(axes()), asked.budget, relative=False)
    assert np.array_equal(*found["global-sum"], undivided)
    assert len({wish.tobytes() for wishes in found.values() for wish in wishes}) == 7


def test_a_price_is_what_the_limits_say_a_unit_costs() -> None:
    asked = problem()
    space, budget = asked.space, asked.budget
    found = prices(space, budget)
    limit = budget.bounds[0].limit
    for bundle in range(space.bundles):
        narrow = space.widest.copy()
        narrow[bundle] = 0
        gone = space.sizes[bundle] - round(space.ratios(narrow)[bundle] * space.sizes[bundle])
        assert found[bundle] * gone * limit == pytest.approx(space.base_macs - space.macs(narrow))
    # A dear bundle keeps the less, the more its price counts.
    dear, cheap = found.argmax(), found.argmin()
    shares = [
        global_ratios(space, magnitude(axes()), budget, relative=False, by_price=power)
        for power in (0.0, 1.0)
    ]
    assert shares[1][dear] < shares[0][dear] and shares[1][cheap] >= shares[0][cheap]


def test_plans_found_elsewhere_are_scored_beside_the_baselines() -> None:
    asked = problem()
    wish = [0.2, *[0.9] * (asked.space.bundles - 1)]
    told = replace(asked, starts={"elsewhere": wish})
    found = search(told, graph_of(), evaluator(), SearchConfig(episodes=0))
    assert [t.method for t in found.trials][7:] == ["elsewhere"]
    assert found.best["elsewhere"].ratios == tuple(asked.space.ratios(asked.budget.project(wish)))


def test_searches_of_one_program_and_data_set_run_no_plan_twice() -> None:
    asked = problem()
    other = replace(asked, data=replace(asked.data))
    with planner(SearchConfig(episodes=0), images=64) as plan:
        assert [plan(p).evaluations for p in (asked, asked, other, asked)] == [7, 0, 7, 7]


@pytest.mark.parametrize("method", ["evolution", "gnn-rl"])
def test_workers_serve_all_searches_of_a_planner_and_end_with_it(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processes.__init__, "__kwdefaults__", {"patience": 0.0})
    asked, config = problem(), SearchConfig(agent=method, episodes=8)
    with planner(config, images=16) as alone:
        expected = alone(replace(asked, journal=Journal()))  # a journal would answer for the workers
    with pytest.raises(KeyboardInterrupt), planner(config, images=16, workers="2") as shared:
        found = shared(asked)
        pids = {p.pid for p in multiprocessing.active_children()}
        assert len(pids) == 2
        shared(replace(asked, starts={"elsewhere": [0.3] * asked.space.bundles}))
        assert {p.pid for p in multiprocessing.active_children()} == pids
        raise KeyboardInterrupt
    assert multiprocessing.active_children() == []
    assert [replace(t, seconds=0.0) for t in found.trials] == [
        replace(t, seconds=0.0) for t in expected.trials
    ]


def test_the_options_of_a_search_are_told_where_they_are_not_the_defaults() -> None:
    assert command_words(SearchConfig()) == ()
    config = SearchConfig(agent="amc", episodes=7, reward="loss", policy="mine.safetensors", seed=3)
    assert command_words(config, images=64) == (
        *("--agent", "amc", "--policy", "mine.safetensors", "--episodes", "7"),
        *("--reward", "loss", "--images", "64"),
    )


class _Fixed(Evaluator):
    """Two scores, in turn."""

    turn = 0

    def many(self, keeps: Sequence[np.ndarray]) -> list[Score]:
        self.turn += len(keeps)
        return [Score(0.9, 1.0), Score(0.8, 0.5)][self.turn - len(keeps) : self.turn]


@pytest.mark.parametrize(("reward", "worths", "best"), [("error", [-0.1, -0.2], 0), ("loss", [-1, -0.5], 1)])
def test_the_reward_decides_what_is_best(reward: str, worths: list[float], best: int) -> None:
    scorer = _Fixed(axes(), load_embedded("digits"), images=2)
    book = Book(problem(), scorer, reward)  # type: ignore[arg-type]
    plans = [np.full(problem().space.bundles, level) for level in (0, 1)]
    assert book.score(plans, "random") == [pytest.approx(w) for w in worths]
    assert (book.winner()[1] == plans[best]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"agent": "dqn"},
        {"reward": "hope"},
        {"episodes": -1},
        {"refine": 1.5},
        {"agent": "random", "policy": "x"},
    ],
)
def test_a_senseless_search_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SearchConfig(**wrong)  # type: ignore[arg-type]


def test_the_winner_is_the_first_finalist_so_that_it_stays_where_nothing_tells_them_apart() -> None:
    found = search(problem(), graph_of(), evaluator(), SearchConfig(agent="evolution", episodes=6))
    assert found.plan.method != found.trials[0].method
    assert found.finalists[0] == found.plan
