"""Saved policies: written, read back on another network, refused where they do not fit; and training."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from cli import app
from graph import topology
from graph.axes import Axes, infer
from graph.capture import capture
from graph.errors import OutputError, PolicyError, TargetError, UsageError
from models_zoo import registry
from models_zoo.data import load_embedded
from prune.budget import Budget
from prune.importance import magnitude
from prune.load import save_model
from prune.train import build_for
from prune.trials import Problem, SearchResult
from prune.widths import Levels, WidthSpace
from rl import policy
from rl.agents.agent import AGENTS, Agent, AgentName, contained
from rl.book import Reward
from rl.env import Task
from rl.policy import Origin, agent_of
from rl.processes import Processes, _Worker
from rl.reward import Evaluator, Score
from rl.search import SearchConfig, planner, search
from rl.training import TrainingConfig, train_policy

ORIGIN = Origin(("resnet20 (digits)",), (0.5,), 8, 0, "prune policy train", "loss", 0.1)


@functools.cache
def axes(name: str) -> Axes:
    torch.manual_seed(0)
    module = registry.build(name, in_channels=1, width=8)
    return infer(capture(module, [torch.randn(2, 1, 8, 8)]))


@functools.cache
def graph_of(name: str) -> topology.Topology:
    return topology.build(axes(name))


def half_of(space: WidthSpace) -> Budget:
    return Budget.of(space, macs=space.base_macs // 2)


def task(name: str = "resnet20") -> Task:
    space = WidthSpace(axes(name))

    def worth(plans: list[Levels]) -> list[float]:
        return [-float(space.ratios(levels)[0]) for levels in plans]

    return Task(space, graph_of(name), half_of(space), worth, np.full(space.bundles, 0.7))


def written(path: Path, name: AgentName = "gnn-rl", seed: int = 0) -> dict[str, torch.Tensor]:
    with contained():
        agent = Agent(name, [task()], seed=seed)
        agent.learn(agent.walks)
        policy.save(path, agent, ORIGIN)
        return {k: t.half().float() for k, t in agent.weights().items()}  # as the file holds them


@pytest.mark.parametrize("name", AGENTS)
def test_a_policy_comes_back_and_plans_for_another_network(name: AgentName, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    weights = written(path, name)
    found = policy.find(str(path), name)
    assert found is not None and found.origin == ORIGIN and found.agent == name
    with contained():
        plans = []
        for seed in (1, 2):  # of weights that the file replaces
            other = Agent(name, [task("resnet32")], seed=seed)
            found.load_into(other)
            plans.append(other.plan())
            for key, tensor in other.weights().items():
                torch.testing.assert_close(tensor, weights[key], rtol=0, atol=0)
        other.learn(other.walks)  # and goes on from there
        assert task("resnet32").holds(other.plan())
    assert (plans[0] == plans[1]).all()
    assert task("resnet32").holds(plans[0])


@pytest.mark.parametrize("name", AGENTS)
def test_learning_moves_every_weight_the_encoders_too(name: AgentName) -> None:
    with contained():
        agent = Agent(name, [task()], seed=0)
        before = {key: tensor.clone() for key, tensor in agent.weights().items()}
        agent.learn(4 * agent.walks)
    still = [key for key, tensor in agent.weights().items() if torch.equal(tensor, before[key])]
    assert not still and len(before) > 10


def test_zero_shot_scores_the_policys_plan_among_the_baselines(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    written(path)
    found_axes = axes("resnet32")
    space = WidthSpace(found_axes)
    data = load_embedded("digits")
    asked = Problem(found_axes, space, half_of(space), magnitude(found_axes), data, lambda _: None)
    evaluator = Evaluator(found_axes, data, images=32)
    config = SearchConfig(agent="gnn-rl", episodes=0, policy=str(path))
    result = search(asked, graph_of("resnet32"), evaluator, config)
    assert [t.method for t in result.trials][7:] == ["gnn-rl"] and len(result.trials) == config.trials == 8
    alone = SearchConfig(agent="gnn-rl", episodes=0)
    assert len(search(asked, graph_of("resnet32"), evaluator, alone).trials) == alone.trials == 7
    further = SearchConfig(agent="gnn-rl", episodes=6, policy=str(path), refine=0.0)
    trials = search(asked, graph_of("resnet32"), evaluator, further).trials
    assert trials[7].ratios == result.trials[7].ratios  # the search goes on from the policy's plan
    assert len(trials) == further.trials == 13


def _tampered(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["prune-policy"])
        weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    change(header)
    save_file(weights, path, metadata={"prune-policy": json.dumps(header)})


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "version": lambda h: h.update(version=99),
    "format": lambda h: h.update(format="other"),
    "agent": lambda h: h.update(agent="dqn"),
    "features": lambda h: h["features"]["state"].reverse(),
    "no features": lambda h: h.pop("features"),
    "features of another kind": lambda h: h.update(features=[1]),
    "origin": lambda h: h.update(origin=3),
    "targets": lambda h: h["origin"].update(targets=["x"]),
    "seed": lambda h: h["origin"].pop("seed"),
    "gain": lambda h: h["origin"].update(gain=float("nan")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_foreign_metadata_is_refused(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    written(path)
    _tampered(path, change)
    with pytest.raises(PolicyError, match="policy.safetensors") as caught:
        policy.load(path)
    assert caught.value.hint


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    written(path)
    whole = path.read_bytes()
    with pytest.raises(PolicyError, match="cannot read"):
        policy.load(tmp_path / "missing.safetensors")
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not a policy\n",
        "pickle": b"\x80\x04K\x01.",
        "long header": (1 << 60).to_bytes(8, "little") + whole[8:],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PolicyError):
            policy.load(tmp_path / name)
    save_file({"a": torch.zeros(1)}, tmp_path / "model")
    with pytest.raises(PolicyError, match="not a policy"):
        policy.load(tmp_path / "model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PolicyError):
        policy.load(tmp_path / "folder")


def test_weights_that_are_no_numbers_or_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    weights = written(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    name = next(n for n, t in weights.items() if t.dim() == 2)
    save_file({**weights, name: weights[name] * float("nan")}, path, metadata=header)
    with pytest.raises(PolicyError, match="finite"):
        policy.load(path)
    save_file({**weights, name: weights[name][:, 1:].contiguous()}, path, metadata=header)
    with contained(), pytest.raises(PolicyError, match="do not fit"):
        policy.load(path).load_into(Agent("gnn-rl", [task()], seed=0))


def test_a_policy_of_another_agent_is_refused_before_the_search(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    written(path, "amc")
    with pytest.raises(PolicyError, match="amc, not of gnn-rl"):
        planner(SearchConfig(agent="gnn-rl", policy=str(path))).__enter__()
    assert CliRunner().invoke(app, ["policy", "show", str(path)]).exit_code == 0


def test_the_shipped_policy_loads_and_is_the_default_start() -> None:
    found = policy.find(policy.DEFAULT, "gnn-rl")
    assert found is not None and found.path.stat().st_size < 1 << 20
    assert found.origin.command.startswith("prune policy train --on ")
    with contained():
        agent = Agent("gnn-rl", [task()], seed=0)
        found.load_into(agent)
        assert task().holds(agent.plan())
    assert policy.find(policy.NONE, "gnn-rl") is None


class _Baselines(Evaluator):
    """Likes what is scored first and nothing else."""

    def many(self, keeps: Sequence[np.ndarray]) -> list[Score]:
        self.evaluations += len(keeps)
        return [Score(1.0, 0.0) if self.evaluations <= 4 else Score(0.0, 9.0) for _ in keeps]


@pytest.mark.parametrize(
    ("reward", "worse", "better"),
    [("error", "0.00%", "100.00%"), ("loss", "a loss of 9.0000", "a loss of 0.0000")],
)
def test_a_default_policy_that_is_worse_than_the_baselines_makes_room_for_fresh_weights(
    reward: Reward, worse: str, better: str
) -> None:
    found = axes("resnet20")
    space, data = WidthSpace(found), load_embedded("digits")
    asked = Problem(found, space, half_of(space), magnitude(found), data, lambda _: None)
    runs = []
    for start, episodes in ((policy.NONE, 4), (None, 5)):
        config = SearchConfig(agent="gnn-rl", episodes=episodes, policy=start, refine=0.0, reward=reward)
        evaluator = _Baselines(found, data, images=2)
        runs.append(search(asked, graph_of("resnet20"), evaluator, config))
    fresh, left = ([t.ratios for t in run.trials] for run in runs)
    assert fresh[7:] == left[8:] and len(left) == 7 + 5
    told = f"the policy's first plan has {worse} on the search split, the best baseline (uniform) {better}"
    assert runs[0].notes == ()
    assert runs[1].notes == (
        f"{told}, so the search starts from the baseline and the agent with fresh weights",
    )
    # One that is named stays, and that it is worse is told.
    for episodes, then in ((0, ""), (5, "; the agent goes on from the policy, since it was named")):
        config = SearchConfig(
            agent="gnn-rl", episodes=episodes, policy=policy.DEFAULT, refine=0.0, reward=reward
        )
        evaluator = _Baselines(found, data, images=2)
        named = search(asked, graph_of("resnet20"), evaluator, config)
        assert named.notes == (told + then,) and named.trials[7].ratios == left[7]
        assert len(named.trials) == config.trials == 7 + max(1, episodes)
    assert SearchResult.from_json(json.loads(json.dumps(named.to_json()))).notes == named.notes


def test_the_agent_is_that_of_the_policy_where_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    written(path, "amc")
    assert agent_of(None, str(path)) == "amc" and agent_of("gnn-rl", str(path)) == "gnn-rl"
    assert agent_of(None, None) == agent_of(None, policy.NONE) == policy.AGENT
    assert agent_of(None, policy.DEFAULT) == policy.AGENT


def test_the_policy_that_comes_along_is_named_default() -> None:
    found = policy.find(policy.DEFAULT)
    assert found is not None and found.agent == "gnn-rl" and policy.find(None, "agmc") is None
    wanted = SearchConfig(agent="agmc", policy=policy.DEFAULT)
    for refused in (lambda: policy.find(policy.DEFAULT, "agmc"), wanted.saved):
        with pytest.raises(PolicyError, match="no policy of agmc comes with prune, only of gnn-rl") as caught:
            refused()
        assert "train --agent agmc" in str(caught.value.hint)
    with pytest.raises(UsageError, match="takes no policy"):
        SearchConfig(agent="random", policy=policy.DEFAULT)
    shown = CliRunner().invoke(app, ["policy", "show", "default", "--json"])
    said = json.loads(shown.stdout)
    assert shown.exit_code == 0 and said["file"] == str(found.path) and said["agent"] == "gnn-rl"
    for words, told in (
        (["default", "--agent", "agmc"], "no policy of agmc comes with prune"),
        ([str(found.path), "--agent", "amc"], "gnn-rl, not of amc"),
        (["none"], "stands for no policy"),
    ):
        done = CliRunner().invoke(app, ["policy", "show", *words])
        assert done.exit_code == 2 and told in " ".join(done.output.split()), done.output


def test_a_policy_is_told_in_numbers_to_programs_and_in_words_to_people(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    weights = written(path)
    said = json.loads(CliRunner().invoke(app, ["policy", "show", str(path), "--json"]).stdout)
    assert said == {
        "file": str(path), "agent": "gnn-rl", "trained_on": ["resnet20 (digits)"], "targets": [0.5],
        "episodes": 8, "seed": 0, "command": "prune policy train", "reward": "loss", "gain": 0.1,
        "parameters": sum(t.numel() for t in weights.values()), "tensors": len(weights),
    }  # fmt: skip
    assert "10.0% on average" in CliRunner().invoke(app, ["policy", "show", str(path)]).output


def test_what_training_prints_is_what_is_shown(tmp_path: Path) -> None:
    network, path = _network(tmp_path, "resnet20"), tmp_path / "p.safetensors"
    quick = ("--episodes", "1", "--targets", "0.5", "--images", "4", "--agent", "amc", "--json")
    done = CliRunner().invoke(app, ["policy", "train", "--on", str(network), *quick, "-o", str(path)])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["policy", "show", str(path), "--json"])
    assert json.loads(done.stdout) == json.loads(shown.stdout)
    assert json.loads(done.stdout)["episodes"] == 1


def _network(folder: Path, name: str) -> Path:
    module, arguments = build_for(name, load_embedded("digits"), width=8)
    path = folder / f"{name}.safetensors"
    save_model(path, module, arch=name, arch_args=arguments, input_shape=(1, 8, 8), data="digits", metrics={})
    return path


def test_training_on_several_networks_repeats_by_seed_and_tells_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []  # plans that workers were asked to score
    give = _Worker.give
    monkeypatch.setattr(_Worker, "give", lambda self, *task: given.append(task[0]) or give(self, *task))
    monkeypatch.setattr(Processes.__init__, "__kwdefaults__", {"patience": 0.0})
    files = tuple(str(_network(tmp_path, name)) for name in ("resnet20", "resnet32"))
    config = TrainingConfig(
        on=files, data=None, output=tmp_path / "a.safetensors", episodes=8, targets=(0.5,), images=16,
    )  # fmt: skip
    first = train_policy(config)
    assert not given
    second = train_policy(replace(config, output=tmp_path / "b.safetensors", workers="2"))
    assert len(given) > 8
    assert first.origin.trained_on == ("resnet20 (digits)", "resnet32 (digits)")
    assert first.origin.episodes == 8 and "--episodes 8" in first.origin.command
    for name, tensor in first.weights.items():
        torch.testing.assert_close(second.weights[name], tensor, rtol=0, atol=0)
    with pytest.raises(OutputError):
        train_policy(config)
    with pytest.raises(TargetError):
        train_policy(replace(config, targets=(1e-5,), force=True))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--on", "nothing-like-it", "--data", "digits"], "neither a file nor"),
        (["--on", "resnet20"], "trained first"),
        (["--on", "resnet20", "--targets", "0.5,x"], "not numbers"),
        (["--on", "resnet20", "--targets", "1.5"], "between 0 and 1"),
        (["--on", "resnet20", "--agent", "random"], "has no policy"),
        (["--on", ","], "no network"),
    ],
)
def test_senseless_trainings_are_refused(options: list[str], told: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["policy", "train", *options, "-o", str(tmp_path / "p.safetensors")])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split()), done.output


def test_the_configuration_checks_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        TrainingConfig(on=("resnet20",), data="digits", output=tmp_path / "p", reward="hope")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="several networks cannot share a cluster"):
        TrainingConfig(on=("resnet20", "vgg11"), data="digits", output=tmp_path / "p", workers="ray:")
