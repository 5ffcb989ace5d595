"""Mutations: honest files of every format that a command reads, damaged at random places."""

from __future__ import annotations

import json
import pickle
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from profilers.onnx_cost import count_here
from prune import cifar10, imagefolder
from prune.config_words import Option, config_words
from prune.figures import read_figures
from prune.input_spec import read_input_spec
from prune.load import ModelSource, load, load_model
from prune.page import page
from prune.pruned import load_plan
from prune.settings import read_settings
from prune.stored import read_stored
from prune.subject import open_model
from prune.text import TextOptions, load_text, load_tokens
from rl.policy import SHIPPED
from rl.policy import load as load_policy
from tests.hostile.honest import (
    onnx_model,
    state,
    torch_file,
    write_bert,
    write_mamba,
    write_run,
    zoo_file,
)
from tests.hostile.settings import _npz
from tests.reports import HALF, figures, report

Prepare = Callable[[Path], object]


@dataclass(frozen=True)
class Format:
    """A format that is read.

    Attributes:
        name: of the format.
        file: path of the file, within a folder, that is damaged.
        prepare: writes the folder, the file among the others.
        read: reads it, as a command would.
        weight: how often it is drawn.
    """

    name: str
    file: str
    prepare: Prepare
    read: Callable[[Path], object]
    weight: int = 1


def _put(name: str, content: Callable[[], bytes]) -> Prepare:
    def prepare(folder: Path) -> None:
        (folder / name).write_bytes(content())

    return prepare


def _cifar(suffix: str, content: Callable[[], bytes]) -> Prepare:
    def prepare(folder: Path) -> None:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            (folder / f"{name}{suffix}").write_bytes(content())

    return prepare


def _image(kind: str) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = BytesIO()
        pixels = np.random.default_rng(0).integers(256, size=(24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    return make


@cache
def _batch() -> bytes:
    pixels = np.random.default_rng(0).integers(256, size=(20, 3072), dtype=np.uint8)
    return pickle.dumps({b"data": pixels, b"labels": [i % 10 for i in range(20)]}, 2)


def _npy() -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.arange(2000) % 16)
    return buffer.getvalue()


def _tokenizer() -> bytes:
    vocab = {c: i for i, c in enumerate("abcdefgh ")}
    found = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
    return json.dumps(found | {"model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}}).encode()


def _curve(folder: Path) -> None:
    points = [{"name": "original", "macs": 9, "accuracy": 0.9}, {"name": "0.50", "macs": 5, "accuracy": 0.8}]
    found = {
        "format": "prune-pareto",
        "schema": 1,
        "command": ["prune", "compress", "m.pt", "--pareto", "0.5,0.4"],
        "points": points,
    }
    (folder / "pareto.json").write_text(json.dumps(found))


def _with_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(_tokenizer())
    (folder / "t.txt").write_bytes(b"a b c d e f g h\n" * 400)


_SPEC = {"x": {"shape": [1, 3, 32, 32]}, "n": {"shape": [1, 8], "dtype": "int64", "high": 30}}
_TOML = (
    '[compress]\nflops = 0.5\ndata = "digits"\nlimit = ["layer1.*=0.5"]\ntune = false\narch-args = {a = 1}\n'
)
_OPTIONS = {"flops": Option(False, False), "data": Option(False, False), "limit": Option(False, True),
            "tune": Option(True, False, ("--no-tune",)), "arch-args": Option(False, False)}  # fmt: skip


def _report() -> bytes:
    return json.dumps(report(figures(), figures(**HALF))).encode()


def _run(folder: Path) -> None:
    write_run(folder, manifest=False)


_FORMATS: tuple[Format, ...] = (
    Format("torch archive", "m.pt", _put("m.pt", zoo_file), lambda f: load_model(f / "m.pt"), 3),
    Format("torch legacy", "m.pt", _put("m.pt", lambda: torch_file(state(), zipped=False)),
           lambda f: load_model(f / "m.pt", arch="resnet20", arch_args={"width": 4}), 3),
    Format("safetensors", "m.safetensors", _put("m.safetensors", lambda: zoo_file(".safetensors")),
           lambda f: load_model(f / "m.safetensors"), 3),
    Format("graph.json", "graph.json", _run, lambda f: open_model(ModelSource(model=str(f))), 4),
    Format("weights of a run", "model.safetensors", _run, lambda f: open_model(ModelSource(model=str(f))), 2),
    Format("plan.json", "plan.json", _run, load_plan),
    Format("report of a run", "report.json", _run, lambda f: (read_figures(f), load(ModelSource(model=str(f))))),
    Format("model.onnx", "model.onnx", _put("model.onnx", lambda: onnx_model().SerializeToString()),
           lambda f: count_here(f / "model.onnx"), 3),
    Format("config.json", "config.json", write_bert, lambda f: load(ModelSource(model=f"hf:{f}")), 2),
    Format("weights of transformers", "model.safetensors", write_bert, lambda f: load(ModelSource(model=f"hf:{f}"))),
    Format("Mamba's config.json", "config.json", write_mamba, lambda f: load(ModelSource(model=f"hf:{f}"))),
    Format("policy", "p.safetensors", _put("p.safetensors", lambda: _policy()), lambda f: load_policy(f / "p.safetensors")),
    Format("report.json", "report.json", _put("report.json", _report), lambda f: page(read_stored(f)), 2),
    Format("pareto.json", "pareto.json", _curve, lambda f: page(read_stored(f))),
    Format("specification in JSON", "s.json", _put("s.json", lambda: json.dumps(_SPEC).encode()), lambda f: read_input_spec(f / "s.json")),
    Format("specification in TOML", "s.toml", _put("s.toml", lambda: b'[x]\nshape = [1, 3]\ndtype = "int64"\nhigh = 9\n'),
           lambda f: read_input_spec(f / "s.toml")),
    Format("specification in npz", "s.npz", _put("s.npz", lambda: _npz(x=np.ones((2, 3), np.float32), n=np.arange(8).reshape(2, 4))),
           lambda f: read_input_spec(f / "s.npz")),
    Format("specification in safetensors", "s.safetensors", _put("s.safetensors", lambda: save({"x": torch.ones(2, 3)})),
           lambda f: read_input_spec(f / "s.safetensors")),
    Format("settings", "c.toml", _put("c.toml", lambda: _TOML.encode()),
           lambda f: config_words(read_settings("compress", f / "c.toml"), _OPTIONS, [])),
    Format("CIFAR pickle", "data_batch_3", _cifar("", lambda: _batch()), lambda f: cifar10.load(f), 3),
    Format("CIFAR binary", "data_batch_3.bin", _cifar(".bin", lambda: bytes([3] + [7] * 3072) * 20), lambda f: cifar10.load(f)),
    *(Format(f"image in {kind}", f"x.{kind}", _put(f"x.{kind}", _image(kind)), lambda f, k=kind: imagefolder._open(f / f"x.{k}"))
      for kind in ("png", "jpeg", "bmp", "webp", "ppm")),
    Format("tokens", "t.npy", _put("t.npy", _npy), lambda f: load_tokens(f / "t.npy", TextOptions(16))),
    Format("tokenizer", "tokenizer.json", _with_tokenizer, lambda f: load_text(f / "t.txt", TextOptions(16, f / "tokenizer.json"))),
    Format("text", "t.txt", _with_tokenizer, lambda f: load_text(f / "t.txt", TextOptions(16))),
)  # fmt: skip
_MADE_WITH = {write_bert: "transformers", write_mamba: "transformers", _with_tokenizer: "tokenizers"}
FORMATS = tuple(f for f in _FORMATS if find_spec(_MADE_WITH.get(f.prepare, "torch")) is not None)


@cache
def _policy() -> bytes:
    return next(SHIPPED.glob("*.safetensors")).read_bytes()


def mutated(blob: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Another content: the kind of the damage, and what came of it.

    Args:
        blob: honest.
        draw: chooses kind and place; most places are near the beginning or the end, where headers are.
    """
    while True:
        kind = draw.choice(("bits", "bytes", "cut", "splice", "insert", "length", "text"))
        changed = bytearray(blob)
        at = _place(len(blob), draw)
        match kind:
            case "bits":
                for _ in range(draw.choice((1, 1, 1, 4, 32))):
                    changed[_place(len(blob), draw)] ^= 1 << draw.randrange(8)
            case "bytes":
                size = draw.choice((1, 2, 8, 64))
                changed[at : at + size] = draw.randbytes(size)
            case "cut":
                del changed[at:]
            case "splice":
                size, source = draw.choice((4, 64, 1024)), draw.randrange(len(blob))
                changed[at : at + size] = blob[source : source + size]
            case "insert":
                changed[at:at] = draw.choice((b"\0" * 16, b"\xff" * 16, blob[:32], draw.randbytes(200)))
            case "length":
                value = draw.choice(
                    (0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1)
                )
                size = draw.choice((1, 2, 4, 8))
                raw = (
                    struct.pack("<Q", value)[:size]
                    if draw.random() < 0.7
                    else struct.pack(">Q", value)[-size:]
                )
                changed[at : at + size] = raw
            case "text":
                old = draw.choice(
                    (b"0", b"1", b"2", b'"', b",", b"[", b"{", b"e", b"float32", b"aten", b"ref")
                )
                new = draw.choice(
                    (
                        b"-1",
                        b"99999999999",
                        b"1e999",
                        b"null",
                        b"true",
                        b'""',
                        b"[]",
                        b"{}",
                        b"int64",
                        b"\\u0000",
                    )
                )
                spots = [i for i in range(len(blob)) if blob.startswith(old, i)][:5000]
                if spots:
                    spot = draw.choice(spots)
                    changed[spot : spot + len(old)] = new
        if bytes(changed) != blob:
            return kind, bytes(changed)


def _place(size: int, draw: random.Random) -> int:
    near = min(size, 1024)
    where = draw.random()
    if where < 0.4:
        return draw.randrange(near)
    return size - 1 - draw.randrange(near) if where < 0.6 else draw.randrange(size)
