"""Tests of distillation: mixtures of records, and the loss that a teacher gives."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.errors import TrainingError
from models_zoo.data import DataSet, TensorSplit
from prune.distillation import Mixture, distilled
from prune.tune import _loss, fit
from prune.tune_config import TuneConfig


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 1, 4, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])


def test_each_image_is_mixed_with_another_one_and_its_label_likewise() -> None:
    x, y = batch()
    torch.manual_seed(3)
    mixture = Mixture.drawn(x)
    assert mixture is not None
    assert sorted(mixture.other_B.tolist()) == list(range(6))
    assert bool(((mixture.share_B >= 0) & (mixture.share_B <= 1)).all()) and mixture.share_B.std() > 0.1
    mixed, logits = mixture.images(x), torch.randn(6, 3)
    target = torch.zeros(6, 3)
    for b, (share, other) in enumerate(zip(mixture.share_B, mixture.other_B, strict=True)):
        torch.testing.assert_close(mixed[b], share * x[b] + (1 - share) * x[other])
        target[b, y[b]] += share
        target[b, y[other]] += 1 - share
    torch.testing.assert_close(mixture.cross_entropy(logits, y), F.cross_entropy(logits, target))
    whole = replace(mixture, share_B=torch.ones(6))
    assert torch.equal(whole.images(x), x)
    torch.testing.assert_close(whole.cross_entropy(logits, y), F.cross_entropy(logits, y))


def test_labels_of_pixels_are_mixed_pixel_by_pixel() -> None:
    x, masks = torch.randn(2, 1, 2, 3), torch.randint(0, 4, (2, 2, 3))
    mixture = Mixture(torch.tensor([0.75, 1.0]), torch.tensor([1, 0]))
    logits = torch.randn(2, 2, 3, 4)
    own = F.cross_entropy(logits.flatten(0, 2), masks.flatten(), reduction="none").view(2, 2, 3)
    other = F.cross_entropy(logits[0].flatten(0, 1), masks[1].flatten(), reduction="none").view(2, 3)
    wanted = torch.stack([0.75 * own[0] + 0.25 * other, own[1]]).mean()
    torch.testing.assert_close(mixture.cross_entropy(logits.flatten(0, 2), masks), wanted)
    torch.testing.assert_close(mixture.images(x)[0], 0.75 * x[0] + 0.25 * x[1])


@pytest.mark.parametrize(
    "x", [torch.zeros(4, 8, dtype=torch.long), torch.zeros(4, 8), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)]
)
def test_what_is_no_image_is_not_mixed(x: Tensor) -> None:
    assert Mixture.drawn(x) is None


def test_training_goes_by_the_loss_of_mixed_labels() -> None:
    x, y = batch()
    student, teacher, config = Watched(), Watched(), TuneConfig(distill=0.25, temperature=2.0, mixup=True)
    torch.manual_seed(5)
    found = _loss(student, teacher, x, y, config)
    torch.manual_seed(5)
    mixture = Mixture.drawn(x)
    assert mixture is not None
    mixed = mixture.images(x)
    cross_entropy = mixture.cross_entropy(student(mixed), y)
    wanted = distilled(cross_entropy, student(mixed), teacher(mixed), share=0.25, temperature=2.0)
    torch.testing.assert_close(found, wanted)
    plain = _loss(student, teacher, x, y, replace(config, mixup=False))
    assert not torch.isclose(found, plain)


def test_the_loss_is_labels_and_teacher_by_their_shares() -> None:
    _, y = batch()
    student, teacher = torch.randn(6, 3), torch.randn(6, 3)
    cross_entropy = F.cross_entropy(student, y)
    p, q = (F.softmax(logits / 2, 1) for logits in (teacher, student))
    divergence = (p * (p / q).log()).sum(1).mean()
    found = distilled(cross_entropy, student, teacher, share=0.25, temperature=2.0)
    torch.testing.assert_close(found, 0.75 * cross_entropy + 0.25 * 4 * divergence)
    same = distilled(cross_entropy, student, student, share=1.0, temperature=2.0)
    torch.testing.assert_close(same, torch.tensor(0.0), atol=1e-6, rtol=0)
    with pytest.raises(TrainingError, match=r"outputs are \(6, 4\), the student's \(6, 3\)"):
        distilled(cross_entropy, student, torch.zeros(6, 4), share=0.5, temperature=4.0)


class Watched(nn.Module):
    """A classifier that keeps what it was given while it had to teach or to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 4, 4) to (B, 3)."""
        self.seen.append(x.clone())
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("taught", "config", "mixes"),
    [
        (True, TuneConfig(epochs=1, batch_size=8, mixup=True), True),
        (True, TuneConfig(epochs=1, batch_size=8), False),
        (True, TuneConfig(epochs=1, batch_size=8, distill=0.0, mixup=True), False),
        (False, TuneConfig(epochs=1, batch_size=8, mixup=True), False),
    ],
)
def test_training_asks_the_teacher_about_mixtures(taught: bool, config: TuneConfig, mixes: bool) -> None:
    images = torch.randint(
        0, 256, (8, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    split = TensorSplit(images, torch.arange(8) % 3, mean=[0.5], std=[0.5])
    data = DataSet("own", split, split, split, (1, 4, 4), 3)
    records = next(iter(split.batches(8)))[0]
    student, teacher = Watched(), Watched()
    own = copy.deepcopy(student.state_dict())
    fit(student, data, config, teacher=teacher if taught else None)
    trained = student.seen[1 if taught else 0]  # the first look of a taught one is at the search split
    strange = [not any(torch.equal(x, known) for known in records) for x in trained]
    assert len(trained) == 8 and any(strange) is mixes
    if taught and config.distill:
        assert len(teacher.seen) == 1 and torch.equal(teacher.seen[0], trained)
    assert not torch.equal(student.head.weight, own["head.weight"])
