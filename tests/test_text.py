"""Text for language models: parts that share no file, windows that hide nothing, training that learns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mambas import model

from graph.errors import ArchitectureError, DataError, UsageError
from models_zoo import pystdlib
from models_zoo.data import DataSet
from models_zoo.mamba_lm import MambaLM
from models_zoo.text import TokenSplit, byte_tokens, parted
from prune.data import load_data
from prune.evaluation import Evaluation, evaluate
from prune.load import load_model
from prune.mamba import save_mamba
from prune.subject import find_data
from prune.train import build_for, train
from prune.tune_config import TuneConfig


def library(folder: Path, files: int = 40) -> Path:
    """A small library whose files can be told from each other by their text."""
    for i in range(files):
        (folder / f"m{i % 4}").mkdir(exist_ok=True)
        (folder / f"m{i % 4}" / f"f{i}.py").write_text(f"# {i:03d}\n" * 30)
    (folder / "tests").mkdir()
    (folder / "tests" / "t.py").write_text("# 999\n" * 100)
    return folder


def numbers(split: object) -> set[str]:
    assert isinstance(split, TokenSplit)
    lines = bytes(split.tokens.tolist()).replace(b"\0", b"").split(b"\n")
    return {line.decode().removeprefix("# ") for line in lines if len(line) == 5}


def test_files_part_by_their_names_alone() -> None:
    names = [f"lib/{i}.py" for i in range(1000)]
    train_part, search, test = parted(names)
    assert sorted(train_part + search + test) == sorted(names)
    assert 70 < len(test) < 130 and 70 < len(search) < 130
    fewer = parted(names[::3])
    assert all(set(a) <= set(b) for a, b in zip(fewer, (train_part, search, test), strict=True))
    assert [len(p) for p in parted(["a", "b", "c"])] == [1, 1, 1]


def test_the_library_is_parted_by_file(tmp_path: Path) -> None:
    data = pystdlib.load(length=16, root=library(tmp_path))
    parts = [numbers(s) for s in (data.train, data.search, data.test)]
    assert all(parts) and not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert "999" not in set.union(*parts), "tests of the library are left out"
    assert len(set.union(*parts)) == 40
    with pytest.raises(DataError, match="0 source files"):
        pystdlib.load(root=tmp_path / "m0" / "none")


def test_this_python_has_a_library() -> None:
    data = load_data("pystdlib?length=64")
    assert data.is_text and data.unit == "bytes" and data.input_shape == (64,) and len(data.classes) == 256
    x, y = next(data.test.batches(3))
    assert x.shape == y.shape == (3, 64) and x.dtype == torch.int64 and torch.equal(x[:, 1:], y[:, :-1])
    assert len(data.test) * 64 <= 200_000 < len(data.train) * 64 <= 3_000_000
    assert "standard library of Python 3" in data.notes[0]


def test_windows_follow_each_other_and_shift() -> None:
    split = TokenSplit(torch.arange(103, dtype=torch.int32), 10, bytes_per_token=None)
    assert len(split) == 10
    x, y = next(split.batches(99))
    assert torch.equal(x.flatten(), torch.arange(100)) and torch.equal(y, x + 1)
    shifted = {int(next(split.batches(1, augment=True, seed=s))[0][0, 0]) for s in range(20)}
    assert shifted == {0, 1, 2}, "whatever the tokens at the end leave room for"
    a, b = (torch.cat([x for x, _ in split.batches(4, shuffle=True, seed=s)]) for s in (1, 2))
    assert not torch.equal(a, b) and torch.equal(a.sort(0).values, b.sort(0).values)
    assert sum(len(x) for x, _ in split.batches(4, limit=7)) == 7
    assert byte_tokens([b"ab", b"cd"], 4).tolist() == [97, 98, 0, 99]


def test_texts_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abcdefghij" * 100)
    data = load_data(f"text:{tmp_path / 'a.txt'}?length=8")
    assert [len(s) for s in (data.train, data.search, data.test)] == [112, 6, 6]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".hidden").write_text("hidden" * 99)
    (folder / "binary").write_bytes(b"\0" * 99)
    with pytest.raises(DataError, match="0 text files"):
        load_data(f"text:{folder}")
    for i in range(3):
        (folder / f"{i}.md").write_text(f"# {i:03d}\n" * 9)
    found = load_data(f"text:{folder}", length=8)
    assert [len(numbers(s)) for s in (found.train, found.search, found.test)] == [1, 1, 1]


def test_token_files(tmp_path: Path) -> None:
    ids = np.arange(1000) % 700
    np.save(tmp_path / "t.npy", ids)
    ids.astype("<u2").tofile(tmp_path / "t.bin")
    for name in ("t.npy", "t.bin"):
        data = load_data(f"tokens:{tmp_path / name}", length=9)
        assert (data.unit, len(data.classes), len(data.train)) == ("tokens", 700, 99)
        x, _ = next(data.search.batches(1))
        assert x[0, 0] == 900 % 700


def test_a_tokenizer_makes_the_tokens(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "ab": 1, "abc": 2}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    lm = model(1, vocab_size=8)
    save_mamba(tmp_path / "lm", lm)
    words.save(str(tmp_path / "lm" / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("ab abc " * 2000)
    data = find_data(f"text:{tmp_path / 'a.txt'}", load_model(f"hf:{tmp_path / 'lm'}", input_shape=(16,)))
    assert data is not None and data.unit == "tokens" and len(data.classes) == 3
    x, _ = next(data.train.batches(1))
    assert set(x.flatten().tolist()) == {1, 2}
    found = evaluate(lm, data.test)
    assert found.bytes_per_token == pytest.approx(3.5, abs=0.05)
    assert found.bits == pytest.approx(found.loss / math.log(2) / found.bytes_per_token)
    assert "bits per byte" in found.told() and "per token" in found.told()
    (tmp_path / "lm" / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="is no tokenizer"):
        find_data(f"text:{tmp_path / 'a.txt'}", load_model(f"hf:{tmp_path / 'lm'}"))


BAD = {
    "text:": "lacks its path",
    "text:nowhere": "no such file or folder",
    "tokens:nowhere.npy": "no such file",
    "tokens:ids.txt": "neither .npy nor .bin",
    "tokens:float.npy": "not a row of token numbers",
    "tokens:negative.npy": "holds the numbers -1",
    "tokens:broken.npy": "cannot be read",
    "text:binary": "is no text",
    "text:short": "a window takes 257",
    "text:short?length=0": "not a length",
    "text:short?size=8": "not a length",
    "pystdlib:path": "takes no path",
}


@pytest.mark.parametrize("spec", BAD)
def test_bad_texts_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("float.npy", np.ones(9))
    np.save("negative.npy", np.arange(-1, 900))
    Path("broken.npy").write_bytes(b"\x93NUMPY")
    Path("binary").write_bytes(b"\0" * 999)
    Path("short").write_text("a" * 99)
    with pytest.raises(DataError, match=BAD[spec]) as caught:
        load_data(spec)
    assert "\n" not in str(caught.value) and caught.value.hint


# Training and judging


def tiny(tmp_path: Path) -> DataSet:
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    return load_data(f"text:{tmp_path / 'a.txt'}", length=32)


@pytest.mark.parametrize("name", ["mamba1-tiny", "mamba2-tiny"])
def test_a_mamba_learns_and_its_file_says_what_it_learned_from(name: str, tmp_path: Path) -> None:
    data, path = tiny(tmp_path), tmp_path / "m.pt"
    config = TuneConfig(epochs=1, lr=1e-2, batch_size=16, optimizer="adamw")
    result = train(name, data, config, path)
    assert result.unit == "bytes" and result.bits < 4.0 < 8.0, result.told()
    found = load_model(path)
    assert isinstance(found.module, MambaLM) and found.inputs.told() == "input_ids 2x32 int64"
    assert found.metrics["test_bits"] == pytest.approx(result.bits)
    again = find_data(None, found)
    assert again is not None and again.input_shape == (32,)
    assert evaluate(found.module, again.test).loss == pytest.approx(result.loss, rel=1e-4)


def test_an_untrained_model_knows_nothing() -> None:
    torch.manual_seed(0)
    split = TokenSplit(torch.randint(256, (2000,)), 50, bytes_per_token=1.0)
    data = DataSet("noise", split, split, split, tuple(map(str, range(256))), (50,), unit="bytes")
    module, arguments = build_for("mamba1-tiny", data, d_model=16, n_layer=1)
    assert arguments == {"vocab_size": 256, "d_model": 16, "n_layer": 1}
    found = evaluate(module, split)
    assert found.bits == pytest.approx(8, abs=0.2) and found.records == 1950 and found.unit == "bytes"
    assert found.perplexity == pytest.approx(256, rel=0.2)
    alone = evaluate(module, split, batch_size=3)
    assert alone.loss == pytest.approx(found.loss, rel=1e-5)


def test_text_ranks_by_loss_and_images_by_accuracy() -> None:
    assert Evaluation(0.5, 1.0, 9, "bytes", 1.0).rank > Evaluation(0.6, 1.1, 9, "bytes", 1.0).rank
    assert Evaluation(0.5, 1.0, 9).rank < Evaluation(0.6, 1.1, 9).rank
    assert Evaluation(0.5, 1.0, 9).told() == "accuracy 50.00%"
    with pytest.raises(UsageError, match="optimizer must be sgd or adamw"):
        TuneConfig(optimizer="adam")


def test_networks_and_data_of_different_kinds(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="mamba1_tiny takes text, digits is images"):
        build_for("mamba1-tiny", load_data("digits"))
    with pytest.raises(ArchitectureError, match="resnet20 takes images, .* is text"):
        build_for("resnet20", tiny(tmp_path))
    save_mamba(tmp_path / "lm", model(2, vocab_size=8))
    loaded = load_model(f"hf:{tmp_path / 'lm'}")
    with pytest.raises(DataError, match="gives one image for each label"):
        find_data("digits", loaded)
    with pytest.raises(DataError, match="256 different bytes, the vocabulary .* only 8"):
        find_data(f"text:{tmp_path / 'a.txt'}", loaded)
