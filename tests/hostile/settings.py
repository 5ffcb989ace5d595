"""Text that is read beside models: specifications of inputs, settings, reports, curves, policies."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from tests.hostile.case import Case, Payload
from tests.hostile.honest import state, torch_file
from tests.reports import HALF, figures, report

SPEC = ("inspect", "m.pt", "--arch", "resnet20", "--arch-args", '{"width": 4}', "--input-spec")
GATE = ("gate", "report.json", "--max-macs", "1G")
PAGE = ("report", "report.json", "-o", "page.html")


def _spec(name: str, content: bytes) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        (folder / "m.pt").write_bytes(torch_file(state()))
        (folder / name).write_bytes(content)

    return make


def _npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: np.asarray(v) for k, v in arrays.items()})
    return buffer.getvalue()


def _zip(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def _report(change: Callable[[dict[str, Any]], object] | bytes) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        if isinstance(change, bytes):
            (folder / "report.json").write_bytes(change)
            return
        found = json.loads(json.dumps(report(figures(), figures(**HALF))))
        change(found)
        (folder / "report.json").write_text(json.dumps(found))

    return make


def _toml(text: str, name: str = "prune.toml") -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        _report(lambda r: None)(folder, payload)
        (folder / name).write_text(text.replace("CANARY", payload.python))
        (folder / "evil.py").write_text(payload.python)

    return make


def _curve(**changes: object) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        points = [{"name": "original"}, {"name": "0.50"}]
        found = {"format": "prune-pareto", "schema": 1, "command": [], "points": points} | changes
        (folder / "pareto.json").write_text(json.dumps(found))

    return make


def _policy(
    header: object, tensors: dict[str, torch.Tensor] | None = None
) -> Callable[[Path, Payload], object]:
    said = header if isinstance(header, str) else json.dumps(header)
    blob = save(tensors or {"w": torch.ones(2)}, {"prune-policy": said})
    return lambda folder, payload: (folder / "p.safetensors").write_bytes(blob)


def cases() -> Iterator[Case]:
    """Hostile texts."""
    evil = np.array([_Evil()], dtype=object)
    specs: dict[str, tuple[str, bytes, str]] = {
        "s.npz objects": ("a pickle in an array", _npz(x=evil), "cannot be read"),
        "s.npz bomb": ("100 MB in 100 kB", _npz(x=np.zeros((1, 25_000_000), np.float32)), "claims"),
        "s.npz pickle": ("no archive", pickle.dumps(_Evil()), "broken or truncated"),
        "s.npz text": ("no archive", b"hello", ""),
        "s.npz array": ("no archive", b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}".ljust(117) + b"\n", ""),
        "s.npz parent": ("a member outside", _zip("../x.npy", b"x"), "outside"),
        "s.npz member": ("no array", _zip("x.npy", b"hello"), ""),
        "s.npz header": ("code as a header", _zip("x.npy", b"\x93NUMPY\x01\x00v\x00" + b"__import__('os').system('touch evil')".ljust(117) + b"\n"), "cannot be read"),
        "s.npz shape": ("lies", _zip("x.npy", b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({1 << 50},)}}".encode().ljust(117) + b"\n"), "cannot be read"),
        "s.npz texts": ("no numbers", _npz(x=["evil"]), "cannot be read"),
        "s.npz nothing": ("empty", _npz(), ""),
        "s.safetensors text": ("no safetensors", b"hello", "cannot be read"),
        "s.safetensors empty": ("nothing", b"", ""),
        "s.safetensors half": ("bfloat16 of no dimension", save({"x": torch.tensor(1.0)}), "has shape"),
        "s.safetensors complex": ("no type of inputs", save({"x": torch.ones(2, 3, dtype=torch.complex64)}), "complex"),
        "s.json deep": ("nested 100,000 times", b'{"x":' * 100_000, "not JSON"),
        "s.json list": ("no table", b"[1]", "table for each input"),
        "s.json huge shape": ("gigabytes", b'{"x": {"shape": [1, 100000, 100000]}}', "not a shape"),
        "s.json negative": ("below zero", b'{"x": {"shape": [1, -3]}}', "not a shape"),
        "s.json fraction": ("no whole number", b'{"x": {"shape": [1, 2.5]}}', "not a shape"),
        "s.json dtype": ("an attribute of torch", b'{"x": {"shape": [1, 3], "dtype": "load"}}', "dtype"),
        "s.json dtype list": ("no text", b'{"x": {"shape": [1, 3], "dtype": ["float32"]}}', ""),
        "s.json range": ("beyond 64 bits", b'{"x": {"shape": [1, 3], "dtype": "int64", "high": 1e30}}', "whole number"),
        "s.json name": ("clears the terminal", b'{"\\u001b[2J": {"shape": [1, 3]}}', ""),
        "s.json digits": ("5,000 digits", b'{"x": {"shape": [' + b"9" * 5000 + b"]}}", "not JSON"),
        "s.toml broken": ("no TOML", b"x = [", "not TOML"),
        "s.toml deep": ("nested 10,000 times", b"x = " + b"[" * 10_000, "not TOML"),
        "s.toml large": ("two megabytes", b"# " + b"x" * (2 << 20), "too many"),
        "s.pkl pickle": ("another kind", pickle.dumps(_Evil()), "unknown kind"),
    }  # fmt: skip
    for name, (why, content, says) in specs.items():
        file, _, what = name.partition(" ")
        yield Case(f"specification: {file} {what}", why, _spec(file, content), (*SPEC, file), says=says)

    def put(path: str, value: object) -> Callable[[dict[str, Any]], object]:
        *way, last = path.split("/")

        def change(found: dict[str, Any]) -> None:
            for step in way:
                found = found[step]
            found[last] = value

        return change

    reports: dict[str, tuple[str, Callable[[dict[str, Any]], object] | bytes, tuple[str, ...], str]] = {
        "deep": ("nested 100,000 times", b'{"a":' * 100_000, GATE, "not JSON"),
        "17 MB": ("more than any has", b'{"a":"' + b"x" * (17 << 20) + b'"}', GATE, "more than"),
        "list": ("no table", b"[]", GATE, "not an object"),
        "digits": ("a number of 5,000 digits", b'{"a":' + b"9" * 5000 + b"}", GATE, "not JSON"),
        "not text": ("no UTF-8", b"{\xff}", GATE, "not JSON"),
        "NaN": ("no number", put("pruned/macs", float("nan")), GATE, ""),
        "infinite": ("no number", put("pruned/macs", float("inf")), GATE, ""),
        "below zero": ("no count", put("pruned/macs", -5), GATE, "cannot be"),
        "text": ("no number", put("pruned/macs", "0"), GATE, "no whole"),
        "true": ("no number", put("pruned/macs", True), GATE, "no whole"),
        "fraction": ("no count", put("pruned/macs", 0.5), GATE, "no whole"),
        "10^300": ("no count", put("pruned/macs", 10**300), GATE, "cannot be"),
        "accuracy of 7": ("more than all", put("pruned/accuracy", 7), GATE, "more than 1"),
        "no figures": ("a section is missing", put("pruned", None), GATE, "no section"),
        "groups of text": ("no widths", put("plan/groups", {"a": "b"}), GATE, "no pair"),
        "name with escapes": ("clears the terminal", put("plan/groups", {"\x1b[2J": "b"}), GATE, r"\x1b[2J"),
        "page: groups": ("no widths", put("plan/groups", {"a": [1, 2, 3]}), PAGE, "no pair"),
        "page: limits": ("no list", put("limits", "evil"), PAGE, "no list"),
        "page: trials": ("no list", put("search", {"evaluations": 1, "best": {"uniform": {"accuracy": 0.5}}, "trials": {"a": 1}}), PAGE, "no list"),
        "page: 10^30": ("no number that can be", put("seconds", 10**30), PAGE, ""),
        "page: schema": ("of the future", put("schema", 99), PAGE, "schema"),
        "page: format": ("of something else", put("format", "evil"), PAGE, "no report"),
    }  # fmt: skip
    for name, (why, change, command, says) in reports.items():
        yield Case(f"report: {name}", why, _report(change), command, says=says)
    settings: dict[str, tuple[str, str, str]] = {
        "data": ("imports code", '[compress]\ndata = "evil:data"', "would run code"),
        "arch": ("imports code", '[compress]\narch = "evil:net"', "would run code"),
        "trust": ("trusts itself", "[compress]\ntrust-code = true", "no option of a file"),
        "workers": ("connects", '[compress]\nworkers = "ray:127.0.0.1:1"', "would run code"),
        "unknown": ("no option", "[compress]\nevil = 1", "unknown option"),
        "table": ("no command", "[evil]\na = 1", "unknown table"),
        "config": ("names another file", '[compress]\nconfig = "x"', "unknown option"),
        "broken": ("no TOML", "[compress", "not TOML"),
        "deep": ("nested 10,000 times", "a = " + "[" * 10_000, "not TOML"),
        "list": ("no number", "[compress]\nflops = [[1]]", "must be"),
        "escapes": ("clears the terminal", '[compress]\n"\\u001b[2J" = 1', r"\x1b[2J"),
    }  # fmt: skip
    for name, (why, text, says) in settings.items():
        yield Case(
            f"settings: {name}",
            why,
            _toml(text),
            ("compress", "m.pt", "--flops", "0.5", "-o", "out"),
            says=says,
        )
    yield Case("settings: pyproject", "imports code", _toml('[tool.prune.compress]\ndata = "evil:data"', "pyproject.toml"),
               ("compress", "m.pt", "--flops", "0.5", "-o", "out"), says="would run code")  # fmt: skip
    curves: dict[str, tuple[str, dict[str, object], str]] = {
        "point outside": ("reads another folder", {"points": [{"name": "original"}, {"name": "../evil"}]}, "a point is called"),
        "point absolute": ("reads another folder", {"points": [{"name": "original"}, {"name": "/etc"}]}, "a point is called"),
        "point of dots": ("reads another folder", {"points": [{"name": "original"}, {"name": ".."}]}, "a point is called"),
        "point of markup": ("writes into the page", {"points": [{"name": "original"}, {"name": "<script>"}]}, "a point is called"),
        "one point": ("no curve", {"points": [{"name": "original"}]}, "1 points"),
        "thousand points": ("more than any has", {"points": [{"name": "original"}] * 1000}, "1000 points"),
        "points of text": ("no table", {"points": "evil"}, "no list"),
        "schema": ("of the future", {"schema": 7}, "schema"),
    }  # fmt: skip
    for name, (why, changes, says) in curves.items():
        yield Case(f"curve: {name}", why, _curve(**changes), ("report", ".", "-o", "page.html"), says=says)
    policies: dict[str, tuple[str, object, str]] = {
        "not JSON": ("no header", "{", "malformed"),
        "deep": ("nested 100,000 times", "[" * 100_000, "malformed"),
        "list": ("no table", [1], "malformed"),
        "format": ("of something else", {"format": "evil"}, "malformed"),
        "version": ("of the future", {"format": "prune-policy", "version": 9}, "version"),
        "agent": ("nobody knows it", {"format": "prune-policy", "version": 1, "agent": "evil"}, "malformed"),
        "features": ("of another kind", {"format": "prune-policy", "version": 1, "agent": "agmc", "features": 7}, "malformed"),
        "no origin": ("it is missing", {"format": "prune-policy", "version": 1, "agent": "agmc", "features": {}}, "features"),
    }  # fmt: skip
    for name, (why, header, says) in policies.items():
        yield Case(f"policy: {name}", why, _policy(header), ("policy", "show", "p.safetensors"), says=says)
    yield Case("policy: pickle", "the ending lies", lambda f, p: (f / "p.safetensors").write_bytes(pickle.dumps(_Evil())),
               ("policy", "show", "p.safetensors"), says="not a policy")  # fmt: skip
    yield Case("policy: plain weights", "no policy", lambda f, p: (f / "p.safetensors").write_bytes(save({"w": torch.ones(2)})),
               ("policy", "show", "p.safetensors"), says="not a policy")  # fmt: skip
