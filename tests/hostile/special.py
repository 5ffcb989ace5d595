"""Places that are no files: pipes, devices, links, holes, and what is no model at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case, Payload
from tests.hostile.honest import write_bert, write_run, zoo_file


def _fifo(name: str) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: os.mkfifo(folder / name)


def _link(target: str, name: str = "m.pt") -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (folder / name).symlink_to(target)


def _hole(name: str, head: bytes = b"", size: int = 1 << 40) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        (folder / name).write_bytes(head)
        os.truncate(folder / name, size)

    return make


def _text(content: bytes, name: str = "m.pt") -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (folder / name).write_bytes(content)


def _run_with(change: Callable[[Path], object]) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: change(write_run(folder / "run", manifest=False))


def _bert_with(change: Callable[[Path], object]) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: change(write_bert(folder / "bert"))


def _replaced(name: str, by: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        by(folder / name)

    return change


def cases() -> Iterator[Case]:
    """What is no file, or no model."""
    run, bert = ("inspect", "run"), ("inspect", "hf:bert")
    header = b"\x00\x00\x00\x00\x01\x00\x00\x00{"
    made: dict[str, tuple[str, Callable[[Path, Payload], object], tuple[str, ...], str]] = {
        "pipe": ("opening it waits for ever", _fifo("m.pt"), ("inspect", "m.pt"), "no regular file"),
        "pipe for ONNX": ("waits", _fifo("m.onnx"), ("gate", "m.onnx", "--max-macs", "1G"), "no regular file"),
        "pipe for a report": ("waits", _fifo("report.json"), ("report", "report.json"), "no regular file"),
        "pipe for a policy": ("waits", _fifo("p.safetensors"), ("policy", "show", "p.safetensors"), "no regular file"),
        "pipe for a specification": ("waits", _fifo("s.json"), ("inspect", "m.pt", "--input-spec", "s.json"), "no such file"),
        "pipe for settings": ("waits", _fifo("c.toml"), ("gate", "r.json", "--config", "c.toml"), "no such file"),
        "pipe for weights of a run": ("waits", _run_with(_replaced("model.safetensors", os.mkfifo)), run, "no regular file"),
        "pipe for a graph": ("waits", _run_with(_replaced("graph.json", os.mkfifo)), run, "graph.json"),
        "pipe for a report of a run": ("waits", _run_with(_replaced("report.json", os.mkfifo)), ("gate", "run", "--max-macs", "1G"), "no regular file"),
        "pipe for a configuration": ("waits", _bert_with(_replaced("config.json", os.mkfifo)), bert, "config.json"),
        "pipe for weights of transformers": ("waits", _bert_with(_replaced("model.safetensors", os.mkfifo)), bert, "no weights"),
        "zeros for ever": ("a device without an end", _link("/dev/zero"), ("inspect", "m.pt"), "no regular file"),
        "random for ever": ("a device without an end", _link("/dev/urandom"), ("inspect", "m.pt"), "no regular file"),
        "null": ("a device without content", _link("/dev/null"), ("inspect", "m.pt"), "no regular file"),
        "link to itself": ("it leads nowhere", _link("m.pt"), ("inspect", "m.pt"), "m.pt"),
        "link to nothing": ("it leads nowhere", _link("absent"), ("inspect", "m.pt"), "no such file"),
        "link to a file of secrets": ("its first line could be told", _link("/etc/passwd"), ("inspect", "m.pt"), "it is text"),
        "folder": ("no file", lambda f, p: (f / "m.pt").mkdir(), ("inspect", "m.pt"), "folder without graph.json"),
        "empty": ("no content", _text(b""), ("inspect", "m.pt"), "is empty"),
        "missing": ("there is nothing", lambda f, p: None, ("inspect", "m.pt"), "no such file"),
        "hole": ("a terabyte of nothing", _hole("m.pt"), ("inspect", "m.pt"), "claims"),
        "hole with a header": ("a terabyte of weights", _hole("m.safetensors", header), ("inspect", "m.safetensors"), "claims"),
        "hole of an archive": ("a terabyte in an archive", _hole("m.pt", b"PK\x03\x04"), ("inspect", "m.pt"), "claims"),
        "hole of ONNX": ("a terabyte of graph", _hole("m.onnx", b"\x08\x09"), ("gate", "m.onnx", "--max-macs", "1G"), "m.onnx"),
        "hole of JSON": ("a terabyte of text", _run_with(lambda r: os.truncate(r / "graph.json", 1 << 40)), run, "claims"),
        "hole of weights of a run": ("a terabyte", _run_with(lambda r: os.truncate(r / "model.safetensors", 1 << 40)), run, "claims"),
        "hole of a policy": ("a terabyte", _hole("p.safetensors", header), ("policy", "show", "p.safetensors"), "p.safetensors"),
        "text": ("no model", _text(b"hello\n" * 100), ("inspect", "m.pt"), "it is text"),
        "page": ("an error of a server", _text(b"<!DOCTYPE html><html>404</html>"), ("inspect", "m.pt"), "web page"),
        "XML": ("no model", _text(b"<?xml version='1.0'?><x/>"), ("inspect", "m.pt"), "web page"),
        "pointer": ("of Git-LFS", _text(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), ("inspect", "m.pt"), "Git-LFS"),
        "program of this machine": ("an ELF file", _text(b"\x7fELF" + bytes(200)), ("inspect", "m.pt"), "not a model file"),
        "picture": ("a PNG", _text(b"\x89PNG\r\n\x1a\n" + bytes(100)), ("inspect", "m.pt"), "not a model file"),
        "HDF5": ("weights of Keras", _text(b"\x89HDF\r\n\x1a\n" + bytes(100)), ("inspect", "m.pt"), "not a model file"),
        "GGUF": ("weights of llama.cpp", _text(b"GGUF" + bytes(100)), ("inspect", "m.pt"), "not a model file"),
        "name with escapes": ("clears the terminal", _text(b"x", "a\x1b[2Jb.pt"), ("inspect", "a\x1b[2Jb.pt"), r"\x1b[2J"),
        "name of two lines": ("a second error in the first", _text(b"x", "a\nerror: b.pt"), ("inspect", "a\nerror: b.pt"), r"a\nerror"),
        "name with markup": ("colours of rich", _text(b"x", "[red]a[link=x].pt"), ("inspect", "[red]a[link=x].pt"), "[red]a[link=x].pt"),
        "name too long": ("no disk has it", lambda f, p: None, ("inspect", "a" * 5000), ""),
        "name with a zero": ("no file has it", lambda f, p: None, ("inspect", "a\0b.pt"), ""),
        "output is the model": ("it would be lost", lambda f, p: (f / "m.pt").write_bytes(zoo_file()), ("export", "m.pt", "-o", "m.pt"), "m.pt"),
        "output of a device": ("it would be replaced", lambda f, p: (f / "m.pt").write_bytes(zoo_file()), ("export", "m.pt", "-o", "/dev/null/x.onnx"), "cannot be written"),
    }  # fmt: skip
    for name, (why, make, command, says) in made.items():
        yield Case(f"special: {name}", why, make, command, says=says)
