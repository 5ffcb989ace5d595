"""The zoo's transformers, and the masks that one of them learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graph.capture import capture
from graph.cost import costs
from graph.errors import ArchitectureError, DataError
from models_zoo import registry, shapes
from models_zoo.data import DataSet
from prune.data import load_data
from prune.evaluation import Evaluation, evaluate
from prune.segmentation import confusion, scores_of
from prune.train import build_for, recipe
from prune.tune import fit

NAMES = ("vit_tiny", "seg_tiny", "gpt_tiny")


@pytest.fixture(scope="module")
def data() -> DataSet:
    return shapes.load(sizes=(192, 48, 48))


@pytest.mark.parametrize("name", NAMES)
def test_the_zoo_says_what_they_cost(name: str) -> None:
    entry = registry.find(name)
    kind = torch.int64 if entry.is_language_model else torch.float32
    found = costs(capture(registry.build(name).eval(), [torch.zeros(2, *entry.input_shape, dtype=kind)]))
    assert (found.macs, found.params) == (entry.macs, entry.params)


def test_a_language_model_sees_nothing_that_comes_later() -> None:
    lm = registry.build("gpt_tiny", width=16, depth=2, length=8).eval()
    ids = torch.randint(0, 256, (1, 8))
    other = ids.clone()
    other[0, 5:] = 7
    with torch.no_grad():
        torch.testing.assert_close(lm(ids)[:, :5], lm(other)[:, :5])
        assert not torch.allclose(lm(ids)[:, 5:], lm(other)[:, 5:])
        assert lm(ids[:, :3]).shape == (1, 3, 256)


def test_shapes_are_the_same_each_time_and_tell_what_is_on_top(data: DataSet) -> None:
    again = shapes.load(sizes=(192, 48, 48))
    x, y = next(iter(data.train.batches(192)))
    assert x.shape == (192, 3, 32, 32) and y.shape == (192, 32, 32) and data.unit == "pixels"
    assert torch.equal(next(iter(again.train.batches(192)))[0], x)
    assert set(y.unique().tolist()) == set(range(5)) and not data.is_text
    assert not torch.equal(x[:48], next(iter(data.test.batches(48)))[0])
    share = (y == 0).float().mean()
    assert 0.4 < share < 0.95, "figures lie on a background"
    inside = [x[i][:, y[i] == k].var(1).mean() for i in range(40) for k in (1, 2) if (y[i] == k).sum() > 30]
    whole = x[:40].flatten(2).var(2).mean()
    assert torch.stack(inside).mean() < whole / 2, "a figure has one colour"


def test_masks_are_learned(data: DataSet) -> None:
    module, args = build_for("seg_tiny", data, width=32, depth=1, heads=2)
    assert args["image_size"] == 32 and args["num_classes"] == 5
    before = evaluate(module, data.search)
    fit(module, data, replace(recipe("seg_tiny"), epochs=3, lr=4e-3, batch_size=16))
    after = evaluate(module, data.search)
    assert after.unit == "pixels" and after.records == 48 * 32 * 32
    assert after.mean_iou is not None and before.mean_iou is not None and after.mean_dice is not None
    assert before.mean_iou < after.mean_iou < after.mean_dice and after.loss < before.loss
    assert "mIoU" in after.told() and after.to_json()["mean_iou"] == after.mean_iou
    better = replace(after, accuracy=0.0, mean_iou=after.mean_iou + 0.1)
    assert better.rank > after.rank


def test_scores_of_masks_by_hand() -> None:
    wanted = torch.tensor([0, 0, 0, 1, 1, 2])
    found = torch.tensor([0, 0, 1, 1, 1, 0])
    scores = scores_of(confusion(found, wanted, 4))
    assert scores.iou[:3] == pytest.approx((2 / 4, 2 / 3, 0.0)) and scores.iou[3] != scores.iou[3]
    assert scores.mean_iou == pytest.approx((2 / 4 + 2 / 3) / 3)
    assert scores.mean_dice == pytest.approx((4 / 6 + 4 / 5) / 3)


def test_tasks_are_not_mixed_up(data: DataSet) -> None:
    for name, given in (("vit_tiny", data), ("seg_tiny", load_data("digits"))):
        with pytest.raises(ArchitectureError, match="gives a class to"):
            build_for(name, given)
    with pytest.raises(ArchitectureError, match="takes text"):
        build_for("gpt_tiny", data)
    module, _ = build_for("vit_tiny", load_data("digits"), width=16, depth=1, heads=2)
    with pytest.raises(DataError, match="images with masks"):
        evaluate(torch.nn.Sequential(torch.nn.AvgPool2d(4), module), DataSetOfGrey(data).search)
    assert not Evaluation(0.5, 1.0, 4).is_text


def DataSetOfGrey(data: DataSet) -> DataSet:
    """The same masks, with images of one channel."""
    from models_zoo.data import TensorSplit

    split = data.search
    assert isinstance(split, TensorSplit)
    return replace(data, search=TensorSplit(split.images[:, :1], split.labels, mean=(0.5,), std=(0.3,)))


def pairs(folder: Path, count: int, *, values: tuple[int, int] = (0, 2)) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(
            folder / "images" / f"{i}.jpg"
        )
        mask = np.full((20, 24), values[0], dtype=np.uint8)
        mask[:10] = values[1]
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    return folder


def test_images_with_masks_from_a_folder(tmp_path: Path) -> None:
    data = load_data(f"maskfolder:{pairs(tmp_path / 'a', 12)}?size=16")
    assert data.input_shape == (3, 16, 16) and data.classes == ("0", "1", "2") and data.unit == "pixels"
    assert len(data.train) + len(data.search) + len(data.test) == 12
    _, y = next(iter(data.train.batches(4)))
    assert (y[:, :8] == 2).all() and (y[:, 8:] == 0).all()
    black_white = load_data(f"maskfolder:{pairs(tmp_path / 'b', 4, values=(0, 255))}")
    assert black_white.classes == ("0", "1") and black_white.input_shape == (3, 64, 64)
    build_for("seg_tiny", data, width=16, depth=1, heads=2)


def test_folders_that_hold_no_masks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no folder images"):
        load_data(f"maskfolder:{tmp_path}")
    few = pairs(tmp_path / "few", 2)
    with pytest.raises(DataError, match="holds 2 pairs"):
        load_data(f"maskfolder:{few}")
    (few / "masks" / "1.png").unlink()
    with pytest.raises(DataError, match="1 has no mask"):
        load_data(f"maskfolder:{few}")
    with pytest.raises(DataError, match="class 200"):
        load_data(f"maskfolder:{pairs(tmp_path / 'many', 3, values=(0, 200))}")
    colour = pairs(tmp_path / "colour", 3)
    Image.new("RGB", (20, 24)).save(colour / "masks" / "0.png")
    with pytest.raises(DataError, match="mask of mode RGB"):
        load_data(f"maskfolder:{colour}")
    with pytest.raises(DataError, match="lacks its folder"):
        load_data("maskfolder:")
