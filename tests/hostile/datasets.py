"""Data that means harm: CIFAR's files, images, texts, tokens, tokenizers."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.case import Case, Payload
from tests.hostile.honest import write_images, write_mamba, zoo_file

IMAGES = ("eval", "zoo.pt", "--data", "imagefolder:d?size=32")
CIFAR = ("eval", "zoo.pt", "--data", "cifar10:d")
TOKENS = ("eval", "hf:mamba", "--data", "tokens:t.npy")
TEXT = ("eval", "hf:mamba", "--data", "text:t.txt")


def _png(width: int, height: int, data: bytes = b"", *, bomb: bool = False) -> bytes:
    """A PNG that claims a size; with ``bomb`` its rows are all there, all black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    if bomb:
        row = bytes(1 + width // 8)
        packer = zlib.compressobj(9)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _image(content: Callable[[], bytes], suffix: str = ".png") -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        (folder / "zoo.pt").write_bytes(zoo_file())
        data, hostile = write_images(folder / "d"), content()
        for path in list((data / "b").iterdir()):  # whichever of them the test images are
            path.unlink()
            path.with_suffix(suffix).write_bytes(hostile)

    return make


def _link(target: str) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        (folder / "zoo.pt").write_bytes(zoo_file())
        (write_images(folder / "d") / "b" / "x.png").symlink_to(target)

    return make


def _pipe(folder: Path, payload: Payload) -> None:
    (folder / "zoo.pt").write_bytes(zoo_file())
    data = write_images(folder / "d")
    for file in (data / "b").iterdir():
        file.unlink()
    os.mkfifo(data / "b" / "x.png")


def _batches(content: bytes, suffix: str = "") -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        (folder / "zoo.pt").write_bytes(zoo_file())
        (folder / "d").mkdir()
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            (folder / "d" / f"{name}{suffix}").write_bytes(content)

    return make


def _saved(image: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, image)
    return buffer.getvalue()


def _mamba_with(
    name: str, content: Callable[[], bytes], tokenizer: object = None
) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        mamba = write_mamba(folder / "mamba")
        (folder / name).write_bytes(content())
        if tokenizer is not None:
            text = tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizer)
            (mamba / "tokenizer.json").write_text(text)

    return make


def _npy(array: object, header: str | None = None) -> Callable[[], bytes]:
    def make() -> bytes:
        if header is not None:
            raw = header.encode().ljust(117) + b"\n"
            return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + b"\0" * 64
        buffer = io.BytesIO()
        np.save(buffer, np.array(array), allow_pickle=True)
        return buffer.getvalue()

    return make


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def _header(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def _model(kind: str, **more: object) -> dict[str, object]:
    vocab = {chr(97 + i): i for i in range(8)}
    return {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": kind, "vocab": vocab, "merges": [], **more},
    }


def cases() -> Iterator[Case]:
    """Hostile data sets."""
    text = (b"the quick brown fox jumps over the lazy dog\n" * 800,)
    images: dict[str, tuple[str, Callable[[Path, Payload], object], str]] = {
        "bomb": ("100 million pixels in 20 kB", _image(lambda: _png(10_000, 10_000, bomb=True)), ".png"),
        "small bomb": ("36 million pixels in 5 kB", _image(lambda: _png(6_000, 6_000, bomb=True)), ".png"),
        "claims 2^31": ("sizes beyond measure", _image(lambda: _png((1 << 31) - 1, (1 << 31) - 1)), ".png"),
        "claims zero": ("no pixels", _image(lambda: _png(0, 0)), ".png"),
        "no rows": ("the data is missing", _image(lambda: _png(32, 32)), ".png"),
        "cut": ("truncated", _image(lambda: _saved("PNG")[:60]), ".png"),
        "empty": ("nothing", _image(lambda: b""), ".png"),
        "text": ("no image", _image(lambda: b"hello"), ".png"),
        "GIF": ("another decoder", _image(lambda: _saved("GIF")), ".png"),
        "TIFF": ("another decoder", _image(lambda: _saved("TIFF")), ".png"),
        "ICO": ("another decoder", _image(lambda: _saved("ICO")), ".png"),
        "PostScript": ("a program for Ghostscript", _image(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch x) run\n"), ".png"),
        "SVG": ("a document", _image(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"), ".png"),
        "PPM of 2^40": ("sizes beyond measure", _image(lambda: b"P6 1048576 1048576 255\n", ".ppm"), "ppm"),
        "BMP of 2^30": ("sizes beyond measure", _image(
            lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, 0, 0, 0, 0, 0, 0), ".bmp"), "bmp"),
        "link out": ("reads another file", _link("/etc/passwd"), "leads out"),
        "link to a device": ("reads for ever", _link("/dev/zero"), "leads out"),
        "pipe": ("waits for ever", _pipe, "no images"),
        "one class": ("nothing to tell apart", lambda f, p: ((f / "zoo.pt").write_bytes(zoo_file()), write_images(f / "d"), (f / "d" / "b").rename(f / "b")), "1 class"),
    }  # fmt: skip
    for name, (why, make, says) in images.items():
        yield Case(f"image: {name}", why, make, IMAGES, says=says)
    pixels = bytes(3072)
    batches: dict[str, tuple[str, bytes, str, str]] = {
        "label of 2^70": ("no class", pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1 << 70]}, 2), "", ""),
        "label of text": ("no class", pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["0"]}, 2), "", ""),
        "label 10": ("no class", b"\x0a" + pixels, ".bin", "label 10"),
        "objects": ("an array of objects", pickle.dumps({b"data": np.array([[_Evil()]]), b"labels": [0]}, 2), "", "not a readable pickle"),
        "floats": ("not bytes", pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [0]}, 2), "", "type"),
        "another shape": ("not 3,072", pickle.dumps({b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 0]}, 2), "", ""),
        "fewer labels": ("than images", pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, 2), "", ""),
        "half a record": ("truncated", b"\0" + pixels[:100], ".bin", "whole records"),
        "nothing": ("empty", b"", ".bin", "whole records"),
        "pickle of nothing": ("empty", b"", "", "data_batch_1"),
        "a list": ("no table", pickle.dumps([1], 2), "", ""),
    }  # fmt: skip
    for name, (why, content, suffix, says) in batches.items():
        yield Case(f"cifar: {name}", why, _batches(content, suffix), CIFAR, says=says or "data_batch_1")
    evil = _Evil()
    tokens: dict[str, tuple[str, Callable[[], bytes], str]] = {
        "objects": ("a pickle in an array", _npy([evil, evil]), "cannot be read"),
        "2^60": ("lies about its shape", _npy(0, _header("'<i8'", f"({1 << 60},)")), "cannot be read"),
        "2^40": ("lies about its shape", _npy(0, _header("'<i8'", f"({1 << 40},)")), "cannot be read"),
        "below zero": ("no shape", _npy(0, _header("'<i8'", "(-8,)")), "tokens"),
        "expression": ("a header of code", _npy(0, "__import__('os').system('touch evil')"), "cannot be read"),
        "nested header": ("1,000 brackets", _npy(0, "(" * 1000), "cannot be read"),
        "type of text": ("no numbers", _npy(["evil"] * 100), "not a row"),
        "type of a table": ("fields", _npy(0, _header("[('a', '<i8'), ('b', 'O')]", "(4,)")), "cannot be read"),
        "reals": ("no whole numbers", _npy([0.5] * 100), "not a row"),
        "two dimensions": ("no row", _npy([[1, 2]] * 100), "not a row"),
        "negative": ("below zero", _npy([-1] * 10_000), "-1"),
        "beyond the vocabulary": ("no such token", _npy([9_999] * 10_000), "vocabulary"),
        "of 2^62": ("no token", _npy([1 << 62] * 10_000), "numbers"),
        "none": ("empty", _npy(np.zeros(0, np.int64)), "not a row"),
        "bare pickle": ("no array", lambda: pickle.dumps(evil), "cannot be read"),
        "archive": ("another format", lambda: b"PK\x03\x04" + bytes(100), "cannot be read"),
        "text": ("no array", lambda: b"1 2 3", "cannot be read"),
    }  # fmt: skip
    for name, (why, content, says) in tokens.items():
        yield Case(f"tokens: {name}", why, _mamba_with("t.npy", content), TOKENS, says=says)
    texts: dict[str, tuple[str, object, str]] = {
        "tokenizer of text": ("no JSON", "hello", "no tokenizer"),
        "tokenizer is deep": ("nested 100,000 times", '{"a":' * 100_000, "no tokenizer"),
        "tokenizer without a model": ("it is missing", {"version": "1.0"}, "no tokenizer"),
        "tokenizer of no kind": ("an unknown model", _model("Evil"), "no tokenizer"),
        "vocabulary of numbers below zero": ("no tokens", _model("WordLevel", vocab={"a": -1}, unk_token="a"), "no tokenizer"),
        "merges of nothing": ("parts that are no tokens", _model("BPE", merges=["x y"]), "no tokenizer"),
        "expression that explodes": ("a pattern that tries all ways", {
            **_model("WordLevel", unk_token="a"),
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((a|b|[a-z ])+)+$X"}, "behavior": "Isolated", "invert": False}}, ""),
        "expression that is none": ("a broken pattern", {
            **_model("WordLevel", unk_token="a"),
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False}}, "no tokenizer"),
        "larger vocabulary": ("than the model's", {
            **_model("WordLevel", vocab={str(i): i for i in range(99)}, unk_token="0"), "pre_tokenizer": {"type": "Whitespace"}}, "vocabulary"),
    }  # fmt: skip
    for name, (why, tokenizer, says) in texts.items():
        yield Case(
            f"text: {name}",
            why,
            _mamba_with("t.txt", lambda: text[0], tokenizer),
            TEXT,
            says=says,
            harmless=says == "",
        )
    yield Case("text: binary", "no text", _mamba_with("t.txt", lambda: bytes(10_000)), TEXT, says="no text")
    yield Case("text: short", "too little", _mamba_with("t.txt", lambda: b"a"), TEXT)
    yield Case(
        "text: vocabulary",
        "bytes that the model does not have",
        _mamba_with("t.txt", lambda: text[0]),
        TEXT,
        says="vocabulary",
    )
