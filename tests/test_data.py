"""Data sets: each spec through its real reader; splits are disjoint, draws repeat, bad input is named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from graph.errors import DataError
from models_zoo import digits, glyphs
from models_zoo.data import Augment, DataSet, MapSplit, Split, TensorSplit, carve_search, stratified_order
from prune.data import load_data

CIFAR_PART = Path(__file__).parents[2] / "shared" / "data" / "cifar10-part"
SMALL = (70, 20, 30)


def whole(split: Split, **options: object) -> tuple[Tensor, Tensor]:
    xs, ys = zip(*split.batches(16, **options), strict=True)  # type: ignore[arg-type]
    return torch.cat(xs), torch.cat(ys)


def fingerprints(split: Split) -> set[bytes]:
    return {x.numpy().tobytes() for x in whole(split)[0]}


def check(data: DataSet) -> None:
    """What every data set promises, whatever it was made from."""
    seen: set[bytes] = set()
    for split in (data.train, data.search, data.test):
        x, y = whole(split)
        assert x.shape == (len(split), *data.input_shape)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert y.min() >= 0 and y.max() < len(data.classes)
        assert x.is_contiguous() and x.isfinite().all() and x.std() > 0.3
        assert not seen & fingerprints(split)
        seen |= fingerprints(split)


def refused(spec: str, *words: str) -> DataError:
    with pytest.raises(DataError) as caught:
        data = load_data(spec)
        for split in (data.train, data.search, data.test):
            whole(split)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint and "\n" not in str(caught.value)
    return caught.value


# Splits


@pytest.fixture
def split() -> TensorSplit:
    images = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorSplit(
        images, torch.arange(50) % 5, mean=[0.5] * 3, std=[0.25] * 3, augment=Augment(2, flip=True)
    )


@pytest.mark.smoke
def test_batches_normalise_and_stop_at_the_limit(split: TensorSplit) -> None:
    batches = list(split.batches(16, limit=40))
    assert [len(y) for _, y in batches] == [16, 16, 8]
    assert torch.allclose(batches[0][0], (split.images[:16] / 255 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.smoke
@pytest.mark.parametrize("how", [{"shuffle": True}, {"augment": True}, {"shuffle": True, "augment": True}])
def test_draws_repeat_with_the_seed_and_change_without(split: TensorSplit, how: dict[str, bool]) -> None:
    (x, y), (again, _), (other, _) = (whole(split, **how, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(x, again) and not torch.equal(x, other)
    assert x.shape == (50, 3, 8, 8) and sorted(y.tolist()) == sorted(split.labels.tolist())


def test_augment_crops_and_mirrors_whole_images() -> None:
    x = torch.arange(1.0, 17).view(1, 1, 4, 4).expand(200, 1, 4, 4)
    out = Augment(pad=1, flip=True)(x, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x[0], (1, 1, 1, 1))
    crops = [padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    expected = {c.numpy().tobytes() for crop in crops for c in (crop, crop.flip(2))}
    assert {image.numpy().tobytes() for image in out} == expected  # 18 outcomes, all met in 200 draws


def test_every_stretch_of_a_stratified_order_is_a_fair_sample() -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    order = stratified_order(labels, seed=3)
    assert sorted(order.tolist()) == list(range(1000))
    for part in order.view(10, 100):
        assert (labels[part].bincount(minlength=3) - torch.tensor([60, 30, 10])).abs().max() <= 1
    assert not torch.equal(order, stratified_order(labels, seed=4))


@pytest.mark.parametrize(
    ("n", "expected"), [(2, 1), (100, 20), (7_728, 1_000), (20_000, 2_000), (60_000, 5_000)]
)
def test_size_of_the_search_split(n: int, expected: int) -> None:
    train, search = carve_search(torch.arange(n) % 2, seed=0)
    assert len(search) == expected and sorted(torch.cat([train, search]).tolist()) == list(range(n))


def test_one_image_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="1 training images"):
        carve_search(torch.zeros(1), seed=0)


# Embedded sets


@pytest.mark.smoke
def test_digits() -> None:
    data = load_data("digits")
    check(data)
    sizes = [len(part) for part in (data.train, data.search, data.test)]
    assert sizes == [1078, 359, 360]
    assert whole(data.test)[1].bincount().min() >= 34  # stratified: 174 of the rarest class in 1,797
    x, _ = whole(data.train)
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02
    assert torch.equal(x, whole(digits.load(seed=0).train)[0])
    assert not torch.equal(x, whole(digits.load(seed=1).train)[0])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prune"


def test_glyphs_are_the_same_bytes_each_time_drawn_or_cached(cache: Path) -> None:
    drawn = glyphs.load(sizes=SMALL)
    check(drawn)
    assert len(drawn.classes) == 62 and set(whole(drawn.train)[1].tolist()) == set(range(62))
    (file,) = cache.iterdir()
    cached = glyphs.load(sizes=SMALL)
    file.unlink()
    redrawn = glyphs.load(sizes=SMALL)
    other = glyphs.load(sizes=SMALL, seed=1)
    for name in ("train", "search", "test"):
        x, y = whole(getattr(drawn, name))
        for same in (cached, redrawn):
            assert torch.equal(x, whole(getattr(same, name))[0])
            assert torch.equal(y, whole(getattr(same, name))[1])
        assert not torch.equal(x, whole(getattr(other, name))[0])
    assert len(list(cache.iterdir())) == 2  # one file per seed and no temporary file


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "other arrays", "pickled"])
def test_glyphs_survive_a_damaged_cache(cache: Path, damage: str) -> None:
    first = whole(glyphs.load(sizes=SMALL).train)[0]
    (file,) = cache.iterdir()
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    match damage:
        case "truncated":
            file.write_bytes(raw[:1000])
        case "flipped":
            file.write_bytes(raw)
        case "text":
            file.write_text("no archive")
        case "other arrays":
            with file.open("wb") as out:
                np.savez(out, train_x=np.zeros(3))
        case "pickled":
            with file.open("wb") as out:
                np.savez(out, train_x=np.array([{}], dtype=object))
    assert torch.equal(first, whole(glyphs.load(sizes=SMALL).train)[0])


def test_glyphs_need_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made below a file
    check(glyphs.load(sizes=SMALL))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# CIFAR-10


def cifar_records(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(n, 3072), dtype=np.uint8), np.arange(n) % 10


def write_cifar(folder: Path, form: str, n: int = 20) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        x, y = cifar_records(n, seed)
        if form == "bin":
            (folder / f"{name}.bin").write_bytes(np.column_stack([y.astype(np.uint8), x]).tobytes())
        else:
            # Protocol 2 is the published files' own; its bytes objects go through _codecs.encode.
            batch = {b"batch_label": b"test", b"data": x, b"labels": y.tolist(), b"filenames": [b"a.png"] * n}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


@pytest.mark.parametrize("form", ["bin", "py"])
@pytest.mark.parametrize("inner", ["", "cifar-10-batches-{}"])
def test_cifar10_in_both_forms(tmp_path: Path, form: str, inner: str) -> None:
    write_cifar(tmp_path / "data" / inner.format(form), form)
    data = load_data(f"cifar10:{tmp_path / 'data'}")
    check(data)
    assert [len(part) for part in (data.train, data.search, data.test)] == [80, 20, 20]
    assert whole(data.search)[1].bincount().tolist() == [2] * 10
    assert "of 10,000 images data_batch_1 has 20, " in data.notes[0]
    pixels, labels = cifar_records(20, 5)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x, y = whole(data.test)
    assert torch.allclose(x, (torch.from_numpy(pixels).view(-1, 3, 32, 32) / 255 - mean) / std, atol=1e-5)
    assert y.tolist() == labels.tolist()


def test_cifar10_python_2_pickle(tmp_path: Path) -> None:
    """The published files were written by Python 2: text opcodes, `numpy.core`, byte strings as keys."""
    folder = write_cifar(tmp_path / "c", "py")
    pixels = bytes(range(256)) * 12
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nI3072\nt"
        b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nT\x00\x0c\x00\x00"
        + pixels
        + b"tb"
    )
    (folder / "test_batch").write_bytes(b"(dS'data'\n" + array + b"sS'labels'\n(lI7\nas.")
    data = load_data(f"cifar10:{folder}")
    assert whole(data.test)[1].tolist() == [7]
    check(data)


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def test_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    folder, marker = write_cifar(tmp_path / "c", "py"), tmp_path / "ran"
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": _Hostile(marker), b"labels": []}))
    refused(f"cifar10:{folder}", "data_batch_3", f"{os.system.__module__}.system")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "readable pickle"),
        (b"<html>404</html>", "readable pickle"),
        (pickle.dumps([1, 2]), "not a CIFAR-10 batch"),
        (pickle.dumps({b"data": b"abc", b"labels": [1]}), "not a CIFAR-10 batch"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, 2), "not a CIFAR-10 batch"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["1"]}, 2), "not a CIFAR-10 batch"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [12]}, 2), "label 12"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}, 2), "readable pickle"),
        (pickle.dumps({b"data": np.array([[{}]], object), b"labels": [1]}, 2), "readable pickle"),
    ],
)
def test_broken_pickles(tmp_path: Path, content: bytes, words: str) -> None:
    folder = write_cifar(tmp_path / "c", "py")
    (folder / "test_batch").write_bytes(content)
    refused(f"cifar10:{folder}", "test_batch", words)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "0 bytes"), (bytes(3072), "3072 bytes"), (bytes([10]) + bytes(3072), "label 10")],
)
def test_broken_binary_batches(tmp_path: Path, content: bytes, words: str) -> None:
    folder = write_cifar(tmp_path / "c", "bin")
    (folder / "data_batch_2.bin").write_bytes(content)
    refused(f"cifar10:{folder}", "data_batch_2.bin", words)


def test_missing_batches_are_named(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "c", "bin")
    (folder / "data_batch_4.bin").unlink()
    (folder / "test_batch.bin").unlink()
    refused(f"cifar10:{folder}", "data_batch_4.bin, test_batch.bin")
    refused(f"cifar10:{tmp_path}", "no CIFAR-10 batches")
    refused(f"cifar10:{tmp_path / 'nowhere'}", "not a folder")


@pytest.mark.skipif(not CIFAR_PART.is_dir(), reason=f"the real images are not at {CIFAR_PART}")
def test_the_real_part_of_cifar10() -> None:
    data = load_data(f"cifar10:{CIFAR_PART}")
    assert len(data.train) + len(data.search) == 7_728
    assert (len(data.search), len(data.test)) == (1_000, 932)
    assert "data_batch_1 has 4,000" in data.notes[0]
    x, y = whole(data.search)
    assert y.bincount().min() > 90 and abs(x.mean()) < 0.2 and abs(x.std() - 1.1) < 0.2


def test_unreadable_paths_are_named(tmp_path: Path) -> None:
    for name in ("cifar10", "imagefolder"):
        refused(f"{name}:{tmp_path}/{'x' * 300}", "cannot be read", "xxx")


# Folders of images


def write_images(folder: Path, n: int, *, size: tuple[int, int] = (20, 16), suffix: str = ".png") -> None:
    """Write two classes of n images: names differ per image, and class `b` is bluer."""
    rng = np.random.default_rng([n, *folder.name.encode()])
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(128, size=(size[1], size[0], 3), dtype=np.uint8)
            pixels[..., 2] += np.uint8(120 * label)
            Image.fromarray(pixels).save(folder / name / f"{i}{suffix}")


@pytest.mark.parametrize("held_out", [["test"], ["val"], ["val", "test"]])
def test_imagefolder_with_parts(tmp_path: Path, held_out: list[str]) -> None:
    for n, name in enumerate(["train", *held_out]):
        write_images(tmp_path / name, 10 - n)
    data = load_data(f"imagefolder:{tmp_path}")
    check(data)
    sizes = [len(part) for part in (data.train, data.search, data.test)]
    assert sizes == ([20, 18, 16] if len(held_out) == 2 else [16, 4, 18])
    assert (data.classes, data.input_shape) == (("a", "b"), (3, 32, 32))
    x, y = whole(data.test)
    blue = x[:, 2].mean((1, 2))
    assert blue[y == 1].min() > blue[y == 0].max()


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".bmp", ".webp", ".ppm"])
def test_plain_imagefolder(tmp_path: Path, suffix: str) -> None:
    write_images(tmp_path, 10, suffix=suffix)
    (tmp_path / "a" / "notes.txt").write_text("no image, and no matter")
    data = load_data(f"imagefolder:{tmp_path}")
    check(data)
    assert [len(part) for part in (data.train, data.search, data.test)] == [13, 3, 4]
    first, again, other = (whole(data.train, shuffle=True, augment=True, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (13, 3, 32, 32)


def test_side_follows_the_images_or_the_option(tmp_path: Path) -> None:
    write_images(tmp_path, 5, size=(90, 70))
    assert load_data(f"imagefolder:{tmp_path}").input_shape == (3, 224, 224)
    data = load_data(f"imagefolder:{tmp_path}?size=48")
    assert data.input_shape == (3, 48, 48)
    check(data)
    for option in ("size=", "size=0", "size=9999", "size=ten", "size=32&x=1", "crop=1"):
        refused(f"imagefolder:{tmp_path}?{option}", option)


def test_broken_images_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    good = (tmp_path / "b" / "3.png").read_bytes()
    for content in (b"", b"GIF89a not allowed", good[: len(good) // 2]):
        (tmp_path / "b" / "3.png").write_bytes(content)
        refused(f"imagefolder:{tmp_path}", "b/3.png")


@pytest.mark.parametrize("limit", [100, 200])  # 320 pixels: beyond twice the limit PIL raises, else it warns
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    refused(f"imagefolder:{tmp_path}", "a/0.png")


def test_bad_folders(tmp_path: Path) -> None:
    refused(f"imagefolder:{tmp_path / 'nowhere'}", "not a folder")
    refused(f"imagefolder:{tmp_path}", "0 class folders")
    write_images(tmp_path / "one" / "train", 5)
    refused(f"imagefolder:{tmp_path / 'one'}", "neither test nor val")
    write_images(tmp_path / "one" / "test", 5)
    (tmp_path / "one" / "test" / "b").rename(tmp_path / "one" / "test" / "c")
    refused(f"imagefolder:{tmp_path / 'one'}", "test/c", "training images lack")
    write_images(tmp_path / "two", 5)
    (tmp_path / "two" / "empty").mkdir()
    refused(f"imagefolder:{tmp_path / 'two'}", "two/empty", "no images")


def test_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 5)
    (tmp_path / "in" / "a" / "inner.png").symlink_to(tmp_path / "in" / "a" / "0.png")
    assert len(load_data(f"imagefolder:{tmp_path / 'in'}").test) == 2
    (tmp_path / "secret.png").write_bytes((tmp_path / "in" / "a" / "0.png").read_bytes())
    (tmp_path / "in" / "b" / "outer.png").symlink_to(tmp_path / "secret.png")
    refused(f"imagefolder:{tmp_path / 'in'}", "b/outer.png", "leads out")


# Factories

FACTORIES = """
import torch
from torch.utils.data import Dataset, TensorDataset
from models_zoo import digits

def make(n, seed=0):
    g = torch.Generator().manual_seed(seed + n)
    return TensorDataset(torch.randn(n, 1, 6, 6, generator=g), torch.arange(n) % 3)

class Named(Dataset):
    classes, targets = ["x", "y"], [0, 1] * 10
    def __len__(self): return 20
    def __getitem__(self, i): return torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(i)), i % 2

def dataset(): return digits.load()
def pair(): return make(60), make(30)
def triple(seed): return make(60, seed), make(31, seed), make(30, seed)
def named(): return Named(), Named()
def boom(): raise RuntimeError("disk on fire")
def needs(path): return make(6), make(7)
def single(): return make(60)
def empty(): return make(60), make(0)
def shapes(): return make(60), Named()
def images(): return [("not a tensor", 0)] * 9, make(7)
def labels(): return [(torch.zeros(1, 6, 6), None)] * 9, make(7)
number = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"factories_{tmp_path.name.replace('-', '_')}"  # a fresh name, for modules stay imported
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_broken.py").write_text("import absent_package")
    monkeypatch.chdir(tmp_path)
    return name


def test_factories(factories: str) -> None:
    assert load_data(f"{factories}:dataset").name == "digits"
    pair = load_data(f"{factories}:pair")
    check(pair)
    assert [len(part) for part in (pair.train, pair.search, pair.test)] == [48, 12, 30]
    assert (pair.classes, pair.input_shape) == (("0", "1", "2"), (1, 6, 6))
    assert "carved" in pair.notes[0]
    triple = load_data(f"{factories}:triple", seed=5)
    check(triple)
    assert len(triple.search) == 31 and not triple.notes
    assert not torch.equal(whole(triple.test)[0], whole(load_data(f"{factories}:triple").test)[0])
    assert load_data(f"{factories}:named").classes == ("x", "y")


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("boom", "RuntimeError: disk on fire"),
        ("needs", "TypeError"),
        ("single", "returned TensorDataset"),
        ("empty", "non-empty"),
        ("shapes", "shapes"),
        ("images", "item 0"),
        ("labels", "item 0"),
        ("number", "not callable"),
        ("absent", "has no 'absent'"),
    ],
)
def test_bad_factories(factories: str, attribute: str, words: str) -> None:
    err = refused(f"{factories}:{attribute}", words)
    assert attribute != "boom" or isinstance(err.__cause__, RuntimeError)


def test_bad_modules(factories: str) -> None:
    refused("no_such_module_here:make", "no module 'no_such_module_here'")
    refused(f"{factories}_broken:make", "absent_package")


def test_items_of_different_shapes_are_refused() -> None:
    class Ragged:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.zeros(1, 4 + index, 4), 0

    with pytest.raises(DataError, match="different shapes"):
        next(MapSplit(Ragged()).batches(2))


# Specs


@pytest.mark.smoke
@pytest.mark.parametrize(
    "spec", ["", "mnist", "cifar10", "cifar10:", "imagefolder:", "digits:x", "a b:c", "glyphs:"]
)
def test_bad_specs(spec: str) -> None:
    refused(spec, repr(spec))


def test_unknown_names_tell_the_known() -> None:
    assert all(
        word in refused("mnist").hint for word in ("digits", "glyphs", "cifar10:PATH", "imagefolder:PATH")
    )
