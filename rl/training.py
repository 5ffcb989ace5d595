"""Training a policy on several networks in turn, so that it can start the search on others.

Each network, at each target, is one task of the environment; an update sees episodes of all of them. The
reward is the share of the best baseline's error (or loss) that a plan saves, so that networks count alike.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from graph import topology
from graph.errors import ArchitectureError, UsageError
from graph.suggest import suggestion
from models_zoo import registry
from models_zoo.data import DataSet
from prune.budget import Budget
from prune.data import is_code, load_data
from prune.files import check_output_file
from prune.importance import magnitude, scores_of
from prune.load import ModelSource
from prune.placement import CPU
from prune.subject import Subject, check_batch, must_find_data, open_model
from prune.train import recipe, train
from prune.trials import Problem, Trial
from prune.tune import EpochResult
from rl import policy
from rl.agents.agent import AGENTS, WALKS, Agent, contained
from rl.baselines import score_baselines
from rl.book import REWARDS, Book, Reward
from rl.env import Task
from rl.policy import Origin
from rl.reward import Evaluator
from rl.search import task_of
from rl.workers import check_alone, check_workers


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train a policy.

    Attributes:
        on: networks: files of ``prune zoo train``, or names of the zoo, which are trained first.
        data: data set for networks that name none, and for those trained first.
        output: file of the policy.
        agent: whose policy.
        episodes: plans to score in all, shared out evenly over the tasks.
        targets: shares of the MACs; each network at each target is a task.
        epochs: of training for networks given by name.
        images: of the search split that score a plan.
        workers: how many processes score plans of each network, or for one network the address of a Ray
            cluster; they change no result.
        device: computes scores and trains the networks given by name; the agent is the CPU's.
        reward: ``error`` or ``loss``.
        seed: of everything random.
        start: a policy to go on from.
        force: replace the output.

    Raises:
        UsageError: a value out of range.
    """

    on: tuple[str, ...]
    data: str | None
    output: Path
    agent: str = policy.AGENT
    episodes: int = 600
    targets: tuple[float, ...] = (0.5, 0.3)
    epochs: int = 10
    images: int = 256
    workers: str = "1"
    device: torch.device = CPU
    reward: Reward = "error"
    seed: int = 0
    start: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise UsageError(f"--agent {self.agent}: has no policy", hint="one of " + ", ".join(AGENTS))
        if self.reward not in REWARDS:
            raise UsageError(f"--reward {self.reward}: unknown", hint=suggestion(self.reward, REWARDS))
        if not self.on:
            raise UsageError("no network is named to train on", hint="--on FILE,NAME,...")
        if not self.targets or not all(0 < t < 1 for t in self.targets):
            raise UsageError("targets must lie between 0 and 1", hint="--targets 0.5,0.3")
        if self.episodes < 1:
            raise UsageError("at least one episode is needed", hint="--episodes 600")
        check_workers(self.workers)
        check_alone(self.workers, self.device)
        if (
            self.workers.startswith("ray:") and len(self.on) > 1
        ):  # the first network's actors would keep all cores
            raise UsageError(
                f"--workers {self.workers}: several networks cannot share a cluster",
                hint="such as --workers 2",
            )

    @property
    def rounds(self) -> int:
        """Episodes of each task: whole updates, at least ``episodes`` in all."""
        walks = WALKS if self.agent == "gnn-rl" else 1
        return math.ceil(self.episodes / len(self.on) / len(self.targets) / walks) * walks

    @property
    def trials(self) -> int:
        """How many plans will be scored after the baselines: the episodes, and the plans at the end."""
        return len(self.on) * len(self.targets) * (self.rounds + 1)

    def command(self) -> str:
        """The command that repeats the training, files without their folders."""
        on = ",".join(Path(n).name for n in self.on)
        words = ["prune", "policy", "train", "--on", on, "--agent", self.agent]
        options = {
            "--data": self.data,
            "--episodes": self.episodes,
            "--targets": ",".join(f"{t:g}" for t in self.targets),
            "--epochs": self.epochs,
            "--images": self.images,
            "--reward": self.reward,
            "--device": str(self.device) if self.device != CPU else None,
            "--start": self.start.name if self.start is not None else None,
            "--seed": self.seed,
            "-o": self.output.name,
        }
        for name, value in options.items():
            if value is not None:
                words += [name, str(value)]
        return " ".join(words)


@dataclass(frozen=True)
class Events:
    """Whom to tell what happens: the command line draws it.

    Attributes:
        stage: a stage begins.
        note: something the user should know.
        trial: a plan was scored.
        epoch: an epoch of training a network ended.
        step: a step of training a network ended.
    """

    stage: Callable[[str], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
    trial: Callable[[Trial], None] = lambda _: None
    epoch: Callable[[EpochResult], None] | None = None
    step: Callable[[int, int], None] | None = None


def train_policy(config: TrainingConfig, events: Events | None = None) -> policy.Policy:
    """Train a policy and write it.

    Returns:
        What was written.

    Raises:
        PruneError: a network or its data cannot be had, a target cannot be reached, or the output cannot be
            written.
    """
    told = events or Events()
    check_output_file(config.output, config.force)
    start = policy.find(str(config.start), config.agent) if config.start is not None else None
    tasks: list[Task] = []
    names: list[str] = []
    with ExitStack() as opened, contained():
        for name in config.on:
            subject, data = _network(name, config, told)
            names.append(f"{Path(name).stem if Path(name).exists() else name} ({data.name})")
            evaluator = Evaluator(
                subject.axes, data, images=config.images, workers=config.workers, device=config.device,
                note=told.note,
            )  # fmt: skip
            tasks += _tasks(subject, opened.enter_context(evaluator), config, told)
        told.stage("training the policy")
        agent = Agent(config.agent, tasks, seed=config.seed)  # type: ignore[arg-type]
        if start is not None:
            start.load_into(agent)
        agent.learn(config.rounds)
        gains = [task.rewards([agent.plan(i)])[0] for i, task in enumerate(tasks)]
        origin = Origin(
            tuple(names), config.targets, config.rounds * len(tasks), config.seed, config.command(),
            config.reward, float(np.mean(gains)),
        )  # fmt: skip
        policy.save(config.output, agent, origin)
    return policy.load(config.output)


def _tasks(subject: Subject, evaluator: Evaluator, config: TrainingConfig, told: Events) -> list[Task]:
    # Any widths, as the policy that comes along was trained: blocks are an affair of one runtime.
    space, graph = subject.space(align=False), topology.build(subject.axes)
    scores = magnitude(subject.axes)
    by_taylor = scores_of(subject.axes, "taylor", evaluator.data, config.device)
    tasks = []
    for target in config.targets:
        budget = Budget.of(space, macs=int(target * space.base_macs))
        budget.check_reachable()
        problem = Problem(
            subject.axes, space, budget, scores, evaluator.data, told.trial, device=config.device
        )
        book = Book(problem, evaluator, config.reward)
        score_baselines(problem, book, by_taylor)
        tasks.append(task_of(problem, graph, book, config.agent))
    return tasks


def _network(name: str, config: TrainingConfig, told: Events) -> tuple[Subject, DataSet]:
    """A trained network and its data."""
    if Path(name).exists():
        told.stage(f"loading {name}")
        subject = open_model(ModelSource(model=name))
        own = subject.loaded.data
        data = must_find_data(config.data if own is None or is_code(own) else None, subject.loaded)
        check_batch(subject.program, data, name)
        return subject, data
    try:
        entry = registry.find(name)
    except ArchitectureError as err:
        raise UsageError(f"--on {name}: neither a file nor a network of the zoo", hint=err.hint) from err
    if config.data is None:
        raise UsageError(f"--on {name}: it has to be trained first, on which data?", hint="--data digits")
    data = load_data(config.data)
    told.stage(f"training {entry.name} on {data.name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{entry.name}.safetensors"
        tuning = replace(recipe(entry.name), epochs=config.epochs, seed=config.seed)
        found = train(
            entry.name, data, tuning, path, device=config.device, on_epoch=told.epoch, on_step=told.step
        )
        told.note(f"{entry.name}: accuracy {found.accuracy:.2%} on the test images of {data.name}")
        return open_model(ModelSource(model=str(path))), data
