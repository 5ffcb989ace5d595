"""Search: the best subnetworks within limits, whoever proposes them, all scored alike.

Every agent starts from the same plain choices: at each depth the widest equal share that the limits allow. A
proposal that uses too much is narrowed until it fits, its widest axis first, so that each one that is scored
keeps the limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from graph.errors import UsageError
from models_zoo.data import DataSet
from supernet.agents import LEARNING, SearchConfig, check_agent, check_elastic
from supernet.elastic import Subnet
from supernet.learning import learn
from supernet.limits import Limits
from supernet.net import Supernet
from supernet.scoring import Book, Found, Trial, choice_of, chosen, front_of
from supernet.timing import timed

PLAIN = "uniform"


def search(
    net: Supernet,
    data: DataSet | None,
    limits: Limits,
    config: SearchConfig,
    *,
    pareto: bool = False,
    on_trial: Callable[[Trial], None] = lambda _: None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Found:
    """Search a supernet.

    Args:
        net: the supernet.
        data: its search split judges; None for a plain choice, which is not scored.
        limits: that each subnetwork keeps.
        config: who searches, and how long.
        pareto: look for a front of accuracy against multiply-adds rather than for one subnetwork.
        on_trial: is told of each scored one.
        on_stage: is told what is done after that.

    Raises:
        UsageError: what the agent cannot do, or a front without data.
        TargetError: even the smallest subnetwork takes longer than it may when it is timed.
    """
    start = time.perf_counter()
    if data is None:
        if pareto:
            raise UsageError("a front needs scores, and so data", hint="give --data, or a limit")
        timing = timed(net, limits, lambda within: choice_of(net.elastic, within.plain(), PLAIN), on_stage)
        seconds = time.perf_counter() - start
        return Found(timing.best, (), (), 0, None, seconds, "", timing.whole_ms, timing.too_slow)
    check_agent(config.agent, limits.demands, pareto=pareto)
    check_elastic(config.agent, net.elastic)
    book = Book(net, data, config.records, on_trial)
    plain = list(dict.fromkeys(limits.fitted(s) for s in _plain(net, pareto)))
    for subnet in plain[: config.trials]:
        book.score(subnet, PLAIN)
    if config.agent == "random":
        _random(book, limits, config)
    elif config.agent in LEARNING:
        learn(book, limits, config)
    else:
        _optuna(book, limits, config, plain, pareto)

    def best(within: Limits) -> Trial:
        trials = [t for t in book.known.values() if within.kept(t.subnet)]
        if not trials:
            return book.score(within.plain(), PLAIN)
        return front_of(trials)[-1] if pareto else chosen(trials)

    timing = timed(net, limits, best, on_stage)
    trials = tuple(t for t in book.known.values() if timing.limits.kept(t.subnet))
    return Found(
        timing.best, front_of(trials), trials, len(book.known), book.evaluated(net.elastic.largest),
        time.perf_counter() - start, config.agent, timing.whole_ms, timing.too_slow,
    )  # fmt: skip


def _plain(net: Supernet, pareto: bool) -> Iterator[Subnet]:
    """At each depth the whole width, which the limits narrow; of a front some equal shares as well."""
    elastic = net.elastic
    for kept in range(len(elastic.layers), elastic.least_layers - 1, -1):
        for share in (1.0, 0.5, 0.0) if pareto else (1.0,):
            yield elastic.at(share, kept)
        if not elastic.layers:
            break


def _random(book: Book, limits: Limits, config: SearchConfig) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for _ in range(20 * config.trials):  # of few choices all may be known
            if len(book.known) >= config.trials:
                break
            book.score(limits.fitted(book.net.elastic.random()), "random")


def _optuna(book: Book, limits: Limits, config: SearchConfig, plain: Sequence[Subnet], pareto: bool) -> None:
    """Let Optuna propose: a whole number for each axis, yes or no for each layer."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    elastic = book.net.elastic
    several = pareto or config.agent == "nsga2"
    sampler: Any = (
        optuna.samplers.NSGAIISampler(population_size=max(4, min(20, config.trials // 4)), seed=config.seed)
        if config.agent == "nsga2"
        else optuna.samplers.TPESampler(seed=config.seed, n_startup_trials=max(4, config.trials // 5))
    )

    def objective(trial: Any) -> Any:
        levels = tuple(
            trial.suggest_int(f"axis {i}", 0, len(c.layouts) - 1) for i, c in enumerate(elastic.choices)
        )
        gone = [i for i in elastic.depth_order if trial.suggest_categorical(f"drop {i}", [False, True])]
        dropped = tuple(sorted(gone[: len(elastic.layers) - elastic.least_layers]))
        scored = book.score(limits.fitted(Subnet(levels, dropped)), config.agent)
        worth = -scored.rank[0] - 1e-3 * max(-10.0, scored.rank[1])
        return (worth, scored.macs_ratio) if several else worth

    study = optuna.create_study(directions=["minimize"] * (2 if several else 1), sampler=sampler)
    for subnet in plain:
        told: dict[str, Any] = {f"axis {i}": level for i, level in enumerate(subnet.levels)}
        study.enqueue_trial(told | {f"drop {i}": i in subnet.dropped for i in range(len(elastic.layers))})
    while len(book.known) < config.trials and len(study.trials) < 4 * config.trials + len(plain):
        study.optimize(objective, n_trials=1)
