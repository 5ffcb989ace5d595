"""Tuning: real runs of a small network on the digits; what gets better, what repeats, what is refused."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from graph.capture import capture
from graph.errors import DataError, TrainingError, UsageError
from graph.program import ProgramModule
from models_zoo import digits, registry
from models_zoo.data import DataSet, TensorSplit
from prune.evaluation import Evaluation, evaluate, even
from prune.loaders import LoaderSplit
from prune.placement import ordered_for, takes_any_order
from prune.tune import EpochResult, _Best, fit
from prune.tune_config import FINE_TUNE, SCRATCH, TuneConfig, knows_by_heart, settled

SHORT = TuneConfig(epochs=4, lr=0.1, batch_size=32)


@functools.cache
def data() -> DataSet:
    return digits.load()


def part(records: int) -> DataSet:
    """The digits with so few training images."""
    whole = data().train
    assert isinstance(whole, TensorSplit)
    train = TensorSplit(whole.images[:records], whole.labels[:records], mean=(0.305,), std=(0.376,))
    return replace(data(), train=train)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.build("resnet20", in_channels=1, num_classes=10, width=4)


def layers(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes))


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@functools.cache
def expert() -> nn.Module:
    """A network that knows the digits; whoever changes it copies it first."""
    module = network()
    fit(module, data(), replace(SHORT, epochs=8))
    return module


def test_training_from_scratch_learns_the_digits() -> None:
    module, seen, steps = network(), list[EpochResult](), list[tuple[int, int]]()
    before = evaluate(module, data().search)
    result = fit(module, data(), SHORT, on_epoch=seen.append, on_step=lambda *at: steps.append(at))
    assert tuple(seen) == result.history
    assert [(e.epoch, e.epochs) for e in seen] == [(n, 4) for n in (1, 2, 3, 4)]
    assert seen[-1].loss < seen[0].loss / 2
    assert before.accuracy < 0.3 and result.best_accuracy > 0.8
    assert steps == [(n, 136) for n in range(1, 137)]  # 1,078 images are 34 steps an epoch
    assert 0 < seen[-1].lr < seen[0].lr <= SHORT.lr
    top = max((e.found for e in seen), key=lambda found: found.rank)
    assert result.best_epoch == max(e.epoch for e in seen if even(e.found, top))
    assert result.best_accuracy == seen[result.best_epoch - 1].accuracy
    assert evaluate(module, data().search).accuracy == result.best_accuracy  # its weights are restored
    assert not module.training


def test_a_captured_program_trains_like_the_module_it_came_from() -> None:
    program = ProgramModule(capture(network(), [torch.zeros(2, 1, 8, 8)]))
    config = replace(SHORT, epochs=1)
    ours, theirs = fit(program, data(), config), fit(network(), data(), config)
    assert ours.history[0].loss == pytest.approx(theirs.history[0].loss, rel=1e-3)
    assert not program.training


def test_the_test_split_is_never_looked_at() -> None:
    class Forbidden:
        def __len__(self) -> int:
            raise AssertionError("the test split was touched")

        def batches(self, *args: object, **kwargs: object) -> Iterator[tuple[Tensor, Tensor]]:
            raise AssertionError("the test split was touched")

    fit(layers(), replace(part(64), test=Forbidden()), replace(SHORT, epochs=1), teacher=layers())


def test_the_same_seed_gives_the_same_weights_and_the_callers_generator_goes_on() -> None:
    found = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        module = layers()
        torch.manual_seed(elsewhere)
        state = torch.get_rng_state()
        fit(module, part(256), replace(SHORT, epochs=2, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        found.append(flat(module))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_distillation_pulls_the_student_towards_its_teacher() -> None:
    x = next(iter(data().search.batches(359)))[0]

    def divergence(student: nn.Module) -> float:
        with torch.no_grad():
            ours, wanted = student.eval()(x).log_softmax(1), expert()(x).log_softmax(1)
        return F.kl_div(ours, wanted, reduction="batchmean", log_target=True).item()

    taught, alone, before = network(1), network(1), flat(expert())
    start = divergence(taught)
    config = replace(SHORT, epochs=8)
    fit(taught, data(), replace(config, distill=1.0), teacher=expert())
    fit(alone, data(), replace(config, distill=0.0), teacher=expert())
    assert divergence(taught) < divergence(alone) < start
    assert torch.equal(flat(expert()), before)


def test_fine_tuning_never_ends_worse_than_it_began() -> None:
    module = copy.deepcopy(expert())
    config = replace(SHORT, epochs=9, lr=30.0, warmup=0.0, patience=1)
    result = fit(module, part(64), config, teacher=expert())
    assert result.best_epoch == 0 and len(result.history) == 1  # patience ended it
    assert result.best_accuracy > result.history[0].accuracy
    assert torch.equal(flat(module), flat(expert()))


@pytest.mark.parametrize(
    ("accuracies", "patience", "taken"),
    [
        pytest.param((0.90, 0.938, 0.933), None, 3, id="no worse that one could tell"),
        pytest.param((0.90, 0.938, 0.80), None, 2, id="worse"),
        pytest.param((0.94, 0.925, 0.905), None, 2, id="compared with the best one, not with the one before"),
        pytest.param((0.90, 0.91, 0.905, 0.906, 0.99), 2, 4, id="patience waits for a better one"),
    ],
)
def test_the_last_epoch_as_good_as_any_is_taken(
    accuracies: Sequence[float], patience: int | None, taken: int
) -> None:
    weights, ahead = [], iter(accuracies)

    def judge(module: nn.Module) -> Evaluation:
        weights.append(flat(module))
        return Evaluation(next(ahead), 0.5, 1000)

    module = layers()
    config = replace(SHORT, epochs=len(accuracies), patience=patience)
    result = fit(module, part(64), config, judge=judge)
    assert (result.best_epoch, result.best_accuracy) == (taken, accuracies[taken - 1])
    assert torch.equal(flat(module), weights[taken - 1])


def test_of_text_the_epoch_of_the_least_loss_is_taken() -> None:
    weights, ahead = [], iter((2.0, 1.5, 1.50001))

    def judge(module: nn.Module) -> Evaluation:
        weights.append(flat(module))
        return Evaluation(0.5, next(ahead), 1000, "bytes", 1.0)

    module = layers()
    result = fit(module, part(64), replace(SHORT, epochs=3), judge=judge)
    assert result.best_epoch == 2 and torch.equal(flat(module), weights[1])


def test_training_may_begin_from_another_state_than_epoch_0() -> None:
    module, other, seen = copy.deepcopy(expert()), network(1), list[Tensor]()

    def watched(module: nn.Module, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        seen.append(flat(module))
        yield F.cross_entropy(module(x), y)

    config = replace(SHORT, epochs=1, lr=1e-9, momentum=0.0)
    result = fit(module, part(64), config, initial=other.state_dict(), losses=watched)
    assert torch.equal(seen[0], flat(other)) and not torch.equal(seen[0], flat(expert()))
    assert result.best_epoch == 0 and torch.equal(flat(module), flat(expert())), "which is better by far"
    near = copy.deepcopy(expert())
    with torch.no_grad():
        for parameter in near.parameters():
            parameter.mul_(1.01)
    config, begun = replace(SHORT, epochs=1, lr=1e-3), near.state_dict()
    result = fit(module, part(64), config, teacher=expert(), initial=begun)
    fit(near, part(64), config, teacher=expert())
    assert result.best_epoch == 1 and torch.equal(flat(module), flat(near)), "as good, so it stays trained"


def test_a_teacher_knows_by_heart_what_it_is_nearly_always_right_on() -> None:
    class Told(nn.Module):
        """Right on all images but every so-manieth."""

        def __init__(self, every: int) -> None:
            super().__init__()
            self.every = every

        def forward(self, x: Tensor) -> Tensor:
            rows = {tuple(image.flatten().tolist()): label for image, label in known}
            labels = torch.tensor([rows[tuple(image.flatten().tolist())] for image in x])
            wrong = torch.arange(len(x)) % self.every == 0
            return F.one_hot(torch.where(wrong, (labels + 1) % 10, labels), 10).float()

    split = part(200).train
    x, y = next(iter(split.batches(200)))
    known = list(zip(x, y.tolist(), strict=True))
    assert knows_by_heart(Told(25), split) and not knows_by_heart(Told(15), split)
    assert settled(FINE_TUNE, Told(25), split).mixup and not settled(FINE_TUNE, Told(15), split).mixup
    assert not settled(replace(FINE_TUNE, distill=0.0), Told(25), split).mixup
    assert not settled(FINE_TUNE, None, split).mixup


def test_what_is_no_image_is_learned_as_it_is_however_well_it_is_known() -> None:
    class Sorted(nn.Module):
        """Right on every record."""

        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(x.argmax(1), 3).float()

    rows = torch.eye(3).repeat(8, 1)
    split = LoaderSplit(DataLoader(TensorDataset(rows, rows.argmax(1))), torch.arange(24))
    assert knows_by_heart(Sorted(), split) and not settled(FINE_TUNE, Sorted(), split).mixup


def test_what_the_search_split_cannot_tell_apart_is_trained() -> None:
    """The untouched module stays only where it is better by two standard errors of the difference."""

    def found(accuracy: float, records: int = 1000, unit: str = "images") -> Evaluation:
        return Evaluation(accuracy, 1.0 - accuracy, records, unit)

    module = network(0)
    for before, after, wins in (
        (found(0.987), found(0.980), True),  # 1.3 standard errors
        (found(0.987), found(0.960), False),  # 3.8
        (found(0.987, 100_000), found(0.980, 100_000), False),
        (found(0.987, unit="bytes"), found(0.980, unit="bytes"), False),
        (found(0.5), found(0.6), True),
        (replace(found(0.9), mean_iou=0.8), replace(found(0.8999), mean_iou=0.4), False),
    ):
        best = _Best(None)
        best.offer(0, module, before)
        best.offer(1, module, after)
        assert (best.epoch == 1) is wins


def test_no_epochs_only_evaluate() -> None:
    module = copy.deepcopy(expert())
    result = fit(module, data(), replace(SHORT, epochs=0))
    assert result.history == () and result.best_epoch == 0
    assert result.best_accuracy == evaluate(module, data().search).accuracy


def test_a_last_batch_of_one_record_is_left_out() -> None:
    steps: list[tuple[int, int]] = []
    fit(network(), part(65), replace(SHORT, epochs=1), on_step=lambda *at: steps.append(at))
    assert steps == [(1, 2), (2, 2)]


def test_weight_decay_spares_biases_and_normalisation() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    with torch.no_grad():
        module[1].weight.fill_(0.5)
        module[2].weight.zero_()  # so that the linear layer gets no gradient
        module[2].bias.zero_()
    bias = module[1].bias.detach().clone()  # type: ignore[union-attr]
    fit(module, part(64), replace(SHORT, epochs=1, weight_decay=0.1, warmup=0.0))
    assert (module[1].weight < 0.5).all()
    assert torch.allclose(module[1].bias, bias, atol=1e-6)  # type: ignore[arg-type]


def test_evaluation_counts_and_restores_the_mode() -> None:
    module = expert().train()
    found = evaluate(module, data().search, batch_size=50, limit=130)
    assert found.records == 130 and module.training
    again = evaluate(module.eval(), data().search, limit=130, device="cpu")
    assert found.accuracy == again.accuracy and found.loss == pytest.approx(again.loss)
    assert not module.training


@pytest.mark.parametrize(
    ("module", "records", "message"),
    [
        (layers(classes=9), 64, "class 9, the model only 9 outputs"),
        (nn.Conv2d(1, 10, 3), 64, r"returns \(\d+, 10, 6, 6\) for \d+ images"),
        (layers(), 1, "1 training records are too few"),
    ],
)
def test_data_that_does_not_fit_is_told(module: nn.Module, records: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(module, part(records), SHORT)


def test_nothing_to_evaluate_is_told() -> None:
    with pytest.raises(DataError, match="no records"):
        evaluate(layers(), data().search, limit=0)


def test_a_loss_that_explodes_is_told() -> None:
    with pytest.raises(TrainingError, match="the loss became (nan|inf) in epoch") as caught:
        fit(layers(), part(256), replace(SHORT, lr=1e30))
    assert "lower the learning rate" in caught.value.hint


def test_a_frozen_model_is_told() -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        fit(layers().requires_grad_(False), data(), SHORT)


def test_a_teacher_of_other_classes_is_told() -> None:
    with pytest.raises(TrainingError, match=r"teacher's outputs are \(32, 12\), the student's \(32, 10\)"):
        fit(layers(), data(), SHORT, teacher=layers(classes=12))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1), ("lr", 0.0), ("lr", float("nan")), ("lr", float("inf")), ("batch_size", 1),
        ("momentum", 1.0), ("weight_decay", -1e-4), ("distill", 1.5), ("temperature", 0.0),
        ("patience", 0), ("mixup", 2), ("warmup", 1.0), ("seed", -1),
    ],
)  # fmt: skip
def test_a_config_checks_itself(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field.replace("_", " ")):
        replace(SHORT, **{field: value})  # type: ignore[arg-type]


def test_the_presets_differ_where_they_should() -> None:
    assert FINE_TUNE.mixup and not SCRATCH.mixup
    assert SCRATCH.lr > FINE_TUNE.lr and SCRATCH.epochs > FINE_TUNE.epochs


class Viewed(nn.Module):
    """A user's module, which asks for a view that not every order of memory allows."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.convolution(x))
        logits: Tensor = self.last(hidden.view(x.shape[0], -1))
        return logits


class Strided(Viewed):
    """One that reads values by their places in memory."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.convolution(x))
        weight = torch.as_strided(self.last.weight, (10, 6 * 64), (6 * 64, 1))
        return F.linear(hidden.flatten(1), weight, self.last.bias)


def coloured() -> DataSet:
    """Digits of three channels that differ."""
    found = data()

    def split(records: int, first: int) -> TensorSplit:
        x, y = next(iter(found.train.batches(records + first)))
        images = torch.cat([x, x.flip(2), x.flip(3)], 1)[first:]
        images = ((images - images.min()) / (images.max() - images.min()) * 255).to(torch.uint8)
        return TensorSplit(images, y[first:], mean=(0.5,) * 3, std=(0.25,) * 3)

    return replace(
        found, train=split(256, 0), search=split(128, 256), test=split(128, 384), input_shape=(3, 8, 8)
    )


def orders(module: nn.Module) -> set[bool]:
    """Whether a module met images pixel by pixel while it was evaluated and trained."""
    met: set[bool] = set()

    def look(_: nn.Module, inputs: tuple[Tensor]) -> None:
        met.add(inputs[0].is_contiguous(memory_format=torch.channels_last))

    handle = module.register_forward_pre_hook(look)
    evaluate(module, coloured().search)
    fit(module, coloured(), TuneConfig(epochs=1, lr=0.01), teacher=copy.deepcopy(module))
    handle.remove()
    return met


def test_images_go_pixel_by_pixel_where_every_order_is_taken() -> None:
    torch.manual_seed(0)
    viewed, strided = Viewed(), Strided()
    assert orders(viewed) == {False}  # a view of another order would be refused
    zoo = registry.build("resnet20", width=8)
    example = [torch.randn(2, 3, 8, 8)]
    captured = ProgramModule(capture(viewed, example))
    by_place = ProgramModule(capture(strided, example))
    assert orders(captured) == orders(zoo) == {True}
    assert any(n.base == "as_strided" for n in by_place.program.nodes)
    assert not takes_any_order(by_place.program) and takes_any_order(captured.program)
    images = next(iter(coloured().train.batches(2)))[0]
    assert ordered_for(captured, zoo)(images).is_contiguous(memory_format=torch.channels_last)
    for modules in ((by_place,), (captured, by_place), (captured, viewed)):
        assert ordered_for(*modules)(images) is images
