"""Training and searching supernets: the sandwich, resuming, limits, agents, budgets of devices."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graph.errors import OutputError, ResumeError, TargetError, UsageError
from models_zoo.data import DataSet, TensorSplit
from models_zoo.digits import load as digits
from models_zoo.registry import build
from profilers.latency import Latency
from prune.demands import parse_demand
from prune.evaluation import Evaluation
from prune.inputs import InputRequest
from prune.journal import Journal
from prune.load import ModelSource
from prune.subject import open_model
from prune.targets import labelled
from prune.tune_config import TuneConfig
from supernet.agents import SearchConfig
from supernet.devices import read_devices
from supernet.elastic import Elastic, ElasticConfig
from supernet.limits import Limits
from supernet.net import ElasticModule, Supernet, make_supernet
from supernet.scoring import Trial, chosen, trial_of
from supernet.search import search
from supernet.store import load_supernet, save_supernet
from supernet.training import SANDWICH, Sandwich, SandwichConfig, ends, kept, teacher_of, train_supernet
from supernet.tuning import tune_subnet

TUNE = TuneConfig(epochs=2, lr=2e-3, batch_size=32, weight_decay=0.05, optimizer="adamw", temperature=2.0)


@pytest.fixture(scope="module")
def data() -> DataSet:
    """The first digits."""
    whole = digits()

    def first(split: object, count: int) -> TensorSplit:
        assert isinstance(split, TensorSplit)
        return TensorSplit(split.images[:count], split.labels[:count], mean=(0.305,), std=(0.376,))

    return replace(whole, train=first(whole.train, 160), search=first(whole.search, 64))


@pytest.fixture(scope="module")
def net(data: DataSet) -> Supernet:
    torch.manual_seed(0)
    module = build("vit_tiny", image_size=8, in_channels=1, width=16, depth=3, heads=4, mlp_ratio=2)
    subject = open_model(ModelSource(model="vit", module=module, request=InputRequest(shape=(1, 8, 8))))
    return make_supernet(subject, ElasticConfig(), data, origin={})


def test_a_step_is_a_sandwich(net: Supernet, data: DataSet) -> None:
    """The largest by the labels; the others by its outputs; each differentiated on its own."""
    module, seen = ElasticModule(net), []
    x, y = next(iter(data.train.batches(16)))
    torch.manual_seed(3)
    losses = []
    for loss in Sandwich(net, SandwichConfig(tune=replace(TUNE, distill=1.0), random=2))(module, x, y):
        seen.append(module.subnet)
        losses.append(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
    assert seen[:2] == [net.elastic.largest, net.elastic.smallest] and len(seen) == 4
    assert module.subnet == net.elastic.largest
    logits, labels = labelled(module, x, y)
    assert losses[0] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    module.subnet = seen[2]
    soft = torch.log_softmax(labelled(module, x, y)[0] / 2, 1)
    wanted = torch.log_softmax(logits.detach() / 2, 1)
    kl = torch.nn.functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)
    assert losses[2] == pytest.approx(4 * kl.item(), rel=1e-4)


def test_the_network_as_it_was_teaches_all(net: Supernet, data: DataSet) -> None:
    """The largest, too; and the teacher stays as it was while the supernet moves."""
    module, original = ElasticModule(net), teacher_of(net, data, "original")
    assert original is not None
    x, y = next(iter(data.train.batches(16)))
    logits, labels = labelled(original, x, y)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1)
    config = SandwichConfig(tune=replace(TUNE, distill=1.0), random=1)
    for loss in Sandwich(net, config, original)(module, x, y):
        soft = torch.log_softmax(labelled(module, x, y)[0] / 2, 1)
        wanted = torch.log_softmax(logits.detach() / 2, 1)
        kl = torch.nn.functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)
        assert loss.item() == pytest.approx(4 * kl.item(), rel=1e-4)
    assert torch.equal(labelled(original, x, y)[0], logits)


def test_the_network_as_it_was_stays_the_teacher(net: Supernet, data: DataSet, tmp_path: Path) -> None:
    """Of further trainings and of subnetworks, also when the supernet comes back from its folder."""
    config = SandwichConfig(tune=replace(TUNE, epochs=1), random=0, teacher="original")
    once, _ = train_supernet(net, data, config, None)
    twice, _ = train_supernet(once, data, replace(config, teacher="auto"), None)
    save_supernet(twice, tmp_path / "net", {})
    again = load_supernet(tmp_path / "net").net
    assert again.original is not None and net.original is None
    for name, tensor in net.program.tensors.items():
        assert torch.equal(again.teacher.program.tensors[name], tensor)
    assert not torch.equal(again.program.tensors["head.weight"], net.program.tensors["head.weight"])
    save_supernet(net, tmp_path / "net", {}, force=True)  # built anew
    assert load_supernet(tmp_path / "net").net.original is None


def test_only_who_knows_something_teaches(net: Supernet, data: DataSet) -> None:
    assert teacher_of(net, data, "auto") is None  # random weights
    assert teacher_of(net, data, "largest") is None and teacher_of(net, data, "original") is not None
    trained, _ = train_supernet(net, data, SandwichConfig(tune=replace(TUNE, epochs=1), random=0), None)
    assert trained.origin["trained"]["teacher"] == "largest" and trained.original is None
    sure = {n: t * 100 if n == "head.weight" else t for n, t in trained.program.tensors.items()}
    assert isinstance(data.search, TensorSplit)
    x, _ = next(iter(data.search.batches(64)))
    guessed = ElasticModule(trained.with_weights(sure))(x).argmax(1)
    split = TensorSplit(data.search.images, guessed, mean=(0.305,), std=(0.376,))
    knowing = replace(trained.with_weights(sure), origin=net.origin)
    assert teacher_of(knowing, replace(data, search=split), "auto") is not None, "a model that was trained"
    goes_on = trained.with_weights(sure)
    assert teacher_of(goes_on, replace(data, search=split), "auto") is None, "it learnt from itself so far"


def test_a_training_that_was_cut_short_ends_the_same(net: Supernet, data: DataSet, tmp_path: Path) -> None:
    config = SandwichConfig(tune=TUNE, random=1)
    whole, result = train_supernet(net, data, config, None)
    large, small = ends(ElasticModule(whole), data)
    before = ends(ElasticModule(net), data)
    assert large.loss < before[0].loss and small.loss < before[1].loss

    class Cut(Exception):
        pass

    def stop(epoch: object) -> None:
        raise Cut

    with pytest.raises(Cut):
        train_supernet(net, data, config, tmp_path / ".training", on_epoch=stop)
    notes: list[str] = []
    again, resumed = train_supernet(net, data, config, tmp_path / ".training", note=notes.append)
    assert any("goes on after 1 of 2 epochs" in n for n in notes)
    assert resumed.best_epoch == result.best_epoch
    assert all(torch.equal(t, whole.program.tensors[n]) for n, t in again.program.tensors.items())
    other = net.with_weights({n: t + 1 for n, t in net.program.tensors.items()})
    with pytest.raises(ResumeError):
        train_supernet(other, data, config, tmp_path / ".training")


@pytest.mark.parametrize("agent", ["random", "tpe", "nsga2", "gnn-rl"])
def test_a_search_keeps_its_limits(net: Supernet, data: DataSet, agent: str) -> None:
    if agent in ("tpe", "nsga2") and importlib.util.find_spec("optuna") is None:
        pytest.skip("optuna is not installed")
    limits = Limits(net, [parse_demand("--flops", 0.6), parse_demand("--params", 0.7)])
    config = SearchConfig(agent=agent, trials=16, records=32)
    seen = []
    found = search(net, data, limits, config, on_trial=seen.append)
    assert len(found.trials) == len(seen) == len({t.subnet for t in found.trials})
    assert len(seen) == 16 or (agent == "gnn-rl" and 8 < len(seen) < 16)  # whose plans may repeat
    assert all(t.macs_ratio <= 0.6 and t.params_ratio <= 0.7 for t in found.trials)
    assert found.best is chosen(found.trials)
    assert {t.method for t in found.trials} == {"uniform", agent}
    again = search(net, data, limits, config)
    assert [t.subnet for t in again.trials] == [t.subnet for t in found.trials]
    for a, b in zip(found.front, found.front[1:], strict=False):
        assert a.cost.macs < b.cost.macs and a.rank < b.rank


def test_what_chance_may_have_put_behind_is_judged_by_loss(net: Supernet) -> None:
    def trial(accuracy: float, loss: float, records: int = 100, **more: Any) -> Trial:
        found = Evaluation(accuracy, loss, records, **more)
        return trial_of(net.elastic, net.elastic.largest, "random", found)

    first, near, far = trial(0.90, 0.5), trial(0.88, 0.3), trial(0.80, 0.1)
    assert chosen([far, first, near]) is near
    many = [trial(0.90, 0.5, 10_000), trial(0.88, 0.3, 10_000)]  # two points are no chance here
    assert chosen(many) is many[0]
    masks = [trial(0.9, 0.5, mean_iou=0.6), trial(0.9, 0.3, mean_iou=0.59)]
    assert chosen(masks) is masks[0]
    text = [trial(0.5, 0.5, unit="bytes"), trial(0.6, 0.6, unit="bytes")]
    assert chosen(text) is text[0]


def test_a_front_spans_small_and_large(net: Supernet, data: DataSet) -> None:
    found = search(
        net, data, Limits(net, []), SearchConfig(agent="random", trials=24, records=32), pareto=True
    )
    ratios = [t.macs_ratio for t in found.trials]
    assert max(ratios) == 1 and min(ratios) == pytest.approx(
        net.elastic.cost(net.elastic.smallest).macs / net.elastic.cost(net.elastic.largest).macs
    )


def test_limits_out_of_reach_are_told(net: Supernet) -> None:
    with pytest.raises(TargetError, match="smallest subnetwork has .*% of the whole") as caught:
        Limits(net, [parse_demand("--flops", 0.01)])
    least = float(caught.value.hint.split("--flops ")[1].split(",")[0])
    Limits(net, [parse_demand("--flops", least)])
    with pytest.raises(TargetError, match="memory"):
        Limits(net, [parse_demand("--memory", "1MB")])
    with pytest.raises(UsageError, match="--agent genetic"):
        SearchConfig(agent="genetic")


def test_latency_is_a_limit_like_others(net: Supernet) -> None:
    """With a model of it that a test can foresee: a millisecond for each layer."""
    limits = Limits(net, [parse_demand("--latency", "2ms")], lambda s: 3.0 - len(s.dropped))
    subnet = limits.fitted(net.elastic.largest)
    assert len(subnet.dropped) == 1 and limits.kept(subnet)
    assert len(limits.plain().dropped) == 1
    with pytest.raises(TargetError, match="the smallest subnetwork has 2ms latency") as caught:
        Limits(net, [parse_demand("--latency", "10us")], limits.latency)
    assert "ask for at least --latency 2ms" in caught.value.hint


def test_budgets_of_devices(tmp_path: Path) -> None:
    path = tmp_path / "devices.toml"
    path.write_text('[phone]\nflops = 0.3\n[tablet]\nflops = "50%"\nparams = "1.2M"\n')
    phone, tablet = read_devices(path)
    assert phone.name == "phone" and phone.demands[0].share == 0.3
    assert [str(d) for d in tablet.demands] == ["--flops 50%", "--params 1.2M"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops = 0.3", "no table"),
        ("[phone]", "no table"),
        ("", "names no devices"),
        ("[phone]\nspeed = 1", "a limit 'speed'"),
        ('[phone]\nmemory = "1MB"', "a limit 'memory'"),
        ("[phone]\nflops = true", "is True"),
        ("[phone]\nflops = 1.5", "phone: .*ratio must be below 1"),
        ('["../up"]\nflops = 0.5', "no name of a folder"),
        ("[phone", "no TOML"),
    ],
)
def test_budgets_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "devices.toml"
    path.write_text(text)
    with pytest.raises((UsageError, TargetError), match=message):
        read_devices(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_devices(tmp_path / "none.toml")


@pytest.mark.parametrize("wrong", [{"random": -1}, {"removal": 1.5}, {"teacher": "nobody"}])
def test_sandwiches_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        SandwichConfig(tune=SANDWICH, **wrong)  # type: ignore[arg-type]


def test_a_subnetwork_is_tuned_alone(net: Supernet, data: DataSet, tmp_path: Path) -> None:
    """A tuning that was cut short ends the same; another subnetwork does not go on with it."""
    trained, _ = train_supernet(net, data, SandwichConfig(tune=TUNE, random=1), None)
    program = trained.extract(trained.elastic.smallest)
    before = {n: t.clone() for n, t in program.tensors.items()}
    whole = tune_subnet(trained, program, data, TUNE, Journal())
    assert whole.after.loss < whole.before.loss and whole.best_epoch > 0
    assert all(torch.equal(t, before[n]) for n, t in program.tensors.items())

    class Cut(Exception):
        pass

    def stop(epoch: object) -> None:
        raise Cut

    keeps, notes = tmp_path / "out" / "kept", list[str]()
    with pytest.raises(Cut), kept(keeps, trained, data) as journal:
        tune_subnet(trained, program, data, TUNE, journal, on_epoch=stop)
    with kept(keeps, trained, data) as journal:
        again = tune_subnet(trained, program, data, TUNE, journal, note=notes.append)
        with pytest.raises(ResumeError, match="another subnetwork"):
            tune_subnet(trained, trained.program, data, TUNE, journal)
    assert any("goes on after 1 of 2 epochs" in n for n in notes)
    assert all(torch.equal(t, whole.program.tensors[n]) for n, t in again.program.tensors.items())
    with pytest.raises(ResumeError), kept(keeps, net, data):
        pass
    shutil.rmtree(keeps)
    with pytest.raises(Cut), kept(keeps, trained, data):
        raise Cut
    assert not keeps.parent.exists(), "nothing stays where nothing was trained"
    keeps.parent.write_text("a file")
    with pytest.raises(OutputError), kept(keeps, trained, data):
        pass


def test_what_is_slower_than_foretold_gives_way(net: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Foretold a millisecond for each layer; the clock says that all but the least takes twice as long."""
    import supernet.timing as timing

    asked: list[int] = []

    def clock(calls: dict[str, int]) -> dict[str, Latency]:
        asked.append(calls["best"])
        slow = {name: float(layers * (2 if name == "best" else 1)) for name, layers in calls.items()}
        return {name: Latency(ms, ms, ms, 1) for name, ms in slow.items()}

    def layers(programs: dict[str, Any], folder: Path) -> dict[str, int]:
        return {n: sum(t.endswith("up.weight") for t in p.tensors) for n, p in programs.items()}

    monkeypatch.setattr(timing, "compare", clock)
    monkeypatch.setattr(timing, "onnx_calls", layers)
    for most, expected in (("4ms", [3, 2]), ("6ms", [3])):
        limits = Limits(net, [parse_demand("--latency", most)], lambda s: 3.0 - len(s.dropped))
        asked.clear()
        found = search(net, None, limits, SearchConfig(agent="random"))
        assert asked == expected and found.too_slow == len(expected) - 1
        assert found.best.latency_ms == 2.0 * expected[-1] and found.whole_ms == 3.0
    limits = Limits(net, [parse_demand("--latency", "3ms")], lambda s: 3.0 - len(s.dropped))
    with pytest.raises(TargetError, match="the fastest one foretold takes 4ms"):
        search(net, None, limits, SearchConfig(agent="random"))


def test_uniform_widths_are_not_for_agents_that_walk_layers(net: Supernet, data: DataSet) -> None:
    tied = Elastic(net.axes, net.elastic.layers, net.elastic.salience, ElasticConfig(uniform=True))
    uniform = replace(net, elastic=tied)
    limits = Limits(uniform, [parse_demand("--flops", 0.6)])
    with pytest.raises(UsageError, match="one for all"):
        search(uniform, data, limits, SearchConfig(agent="amc"))
