"""Folders of runs whose graph asks for what no model needs, and whose files are not what was written."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from tests.hostile.case import Case, Payload
from tests.hostile.honest import program, write_run

Graph = dict[str, Any]
RUN = ("inspect", "run")


def _node(op: str, *args: object, name: str = "evil", **kwargs: object) -> Graph:
    return {"name": name, "op": op, "args": list(args), "kwargs": kwargs, "module": ""}


def _with(*nodes: Graph, output: bool = True) -> Callable[[Graph], object]:
    """The graph with more nodes, the last of which is the output."""

    def change(graph: Graph) -> None:
        graph["nodes"] += nodes
        if output:
            graph["output"] = {"tuple": [graph["output"], {"ref": nodes[-1]["name"]}]}

    return change


def _set(path: str, new: object) -> Callable[[Graph], object]:
    """The graph with another value at a path of keys and numbers."""

    def change(graph: Graph) -> None:
        *way, last = (int(p) if p.isdigit() else p for p in path.split("/"))
        at: Any = graph
        for step in way:
            at = at[step]
        at[last] = new

    return change


def _chain(op: str, first: int, count: int) -> Callable[[Graph], object]:
    """A number that grows with each of many nodes."""
    nodes = [_node(op, first, first, name="n0")]
    nodes += [_node(op, {"ref": f"n{i}"}, {"ref": f"n{i}"}, name=f"n{i + 1}") for i in range(count)]
    return _with(*nodes)


def _x() -> Graph:
    return {"ref": next(n.name for n in program().nodes if n.op == "input")}


def _deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"tuple": [value]}
    return value


def _changes() -> dict[str, tuple[str, Callable[[Graph], object], str]]:
    no = "not allowed"
    return {
        "file": ("maps a file of any name", _with(_node("aten.from_file.default", "evil", True, 8)), no),
        "set data": ("puts foreign memory into a tensor", _with(_node("aten.set_.source_Tensor", _x(), _x())), no),
        "in place": ("changes another value", _with(_node("aten.add_.Tensor", _x(), _x())), no),
        "os": ("no operator", _with(_node("os.system", "touch evil")), no),
        "builtin exec": ("no builtin of ours", _with(_node("builtin.exec", "1")), no),
        "builtin eval": ("no builtin of ours", _with(_node("builtin.__import__", "os")), no),
        "other name space": ("operators of another library", _with(_node("prims.add.default", _x(), _x())), no),
        "attribute of the name space": ("no operator", _with(_node("aten.__class__.mro")), no),
        "attribute of a packet": ("no overload", _with(_node("aten.add.__init__", _x(), _x())), no),
        "path": ("a name with dots", _with(_node("aten.add.Tensor.__globals__", _x(), _x())), no),
        "unchecked kernel": ("trusts its arguments", _with(_node("aten._sparse_coo_tensor_unsafe.default", _x(), _x(), [4])), no),
        "packed weights": ("takes bytes for an object", _with(_node("aten.fbgemm_linear_fp16_weight.default", _x(), _x(), _x())), no),
        "quantized": ("another kind of tensor", _with(_node("aten.quantize_per_tensor.default", _x(), 0.1, 0, {"dtype": "qint8"})), no),
        "device memory": ("a stream of a device", _with(_node("aten.record_stream.default", _x(), 0)), no),
        "no operator": ("an empty name", _with(_node("")), no),
        "ones of terabytes": ("asks for memory", _with(_node("aten.ones.default", [1 << 20, 1 << 20])), "numbers"),
        "zeros of 32 GB": ("asks for memory", _with(_node("aten.zeros.default", [1 << 33])), "numbers"),
        "range of terabytes": ("asks for memory", _with(_node("aten.arange.default", 1 << 40)), ""),
        "repeat": ("an input, very often", _with(_node("aten.repeat.default", _x(), [1 << 20, 1 << 10, 1, 1])), "numbers"),
        "expand": ("one number, very often", _with(_node("aten.sum.default", _x()), _node("aten.expand.default", {"ref": "evil"}, [1 << 30], name="e2")), "numbers"),
        "outer products": ("sizes multiply", _with(_node("aten.flatten.using_ints", _x()), _node("aten.repeat.default", {"ref": "evil"}, [1 << 14], name="e2"), _node("aten.outer.default", {"ref": "e2"}, {"ref": "e2"}, name="e3")), "numbers"),
        "pieces": ("a million tensors", _with(_node("aten.repeat.default", _x(), [1, 1, 1, 1 << 17]), _node("aten.unbind.int", {"ref": "evil"}, 3, name="e2")), "pieces"),
        "pad": ("asks for memory", _with(_node("aten.constant_pad_nd.default", _x(), [1 << 30, 1 << 30], 0.0)), ""),
        "power": ("a number of a billion digits", _with(_node("builtin.pow", 10, 10**9)), "exponent"),
        "power of powers": ("a number that explodes", _chain("builtin.pow", 60, 10), ""),
        "products": ("a number that doubles its digits", _chain("builtin.mul", 1 << 60, 60), "bits"),
        "text times number": ("a text of gigabytes", _with(_node("builtin.mul", "evil", 1 << 33)), "arithmetic"),
        "list times number": ("a list of gigabytes", _with(_node("builtin.mul", [0], 1 << 33)), "arithmetic"),
        "divided by zero": ("no number", _with(_node("builtin.floordiv", 1, 0)), "failed"),
        "infinite": ("no whole number", _with(_node("builtin.int", {"float": "inf"})), "failed"),
        "index": ("there is no such part", _with(_node("builtin.getitem", [1], 7)), "failed"),
        "attribute": ("a key of a dict", _with(_node("builtin.getitem", {"dict": {"a": 1}}, "b")), "failed"),
        "wrong arguments": ("does not fit the operator", _with(_node("aten.conv2d.default", 3, "x")), "failed"),
        "wrong shapes": ("does not fit the weights", _with(_node("aten.matmul.default", _x(), {"ref": "evil0"}) | {"args": [_x(), _x()]}, _node("aten.mm.default", _x(), _x(), name="e2")), "failed"),
        "unknown keyword": ("the operator has no such argument", _with(_node("aten.relu.default", _x(), evil=1)), "failed"),
        "nested argument": ("a thousand levels", _with(_node("aten.relu.default", _deep(300))), "deeply"),
        "two kinds of argument": ("malformed", _with(_node("aten.relu.default", {"ref": "x", "tuple": []})), "malformed"),
        "unknown kind of argument": ("malformed", _with(_node("aten.relu.default", {"object": "os.system"})), "malformed"),
        "dtype of a name": ("an attribute of torch", _with(_node("aten.relu.default", {"dtype": "load"})), "malformed"),
        "device of a name": ("no device", _with(_node("aten.relu.default", {"device": "evil"})), "malformed"),
        "float of text": ("no number", _with(_node("aten.relu.default", {"float": "evil"})), "malformed"),
        "cycle": ("takes itself", _with(_node("aten.relu.default", {"ref": "evil"})), "no earlier node"),
        "twice": ("one name for two", _set("nodes/1/name", "x") if False else lambda g: g["nodes"].append(g["nodes"][-1]), "twice"),
        "unknown output": ("nothing of that name", _set("output", {"ref": "evil"}), "not defined"),
        "no output": ("returns nothing", _set("output", None), "nothing"),
        "output of a number": ("returns a number", _set("output", 7), "nothing"),
        "no nodes": ("an empty graph", _set("nodes", []), ""),
        "nodes of text": ("no list", _set("nodes", "evil"), "malformed"),
        "node of text": ("no table", _set("nodes/0", "evil"), "malformed"),
        "version": ("of the future", _set("version", 9), "version"),
        "format": ("of something else", _set("format", "evil"), "version"),
        "tensor by number": ("no name", _set("nodes/1/args", [7]), "missing"),
        "tensor of no name": ("no such weight", _set("nodes/1/args", ["evil"]), "missing"),
        "shape of a weight": ("not that of the file", lambda g: next(iter(g["tensors"].values())).update(shape=[9]), "shape"),
        "type of a weight": ("not that of the file", lambda g: next(iter(g["tensors"].values())).update(dtype="int64"), "type"),
        "trainable": ("names that mix kinds", _set("trainable", [1, "a", None]), "missing"),
        "trainable of tables": ("no names", _set("trainable", [{}]), ""),
        "notes of numbers": ("no texts", _set("notes", [1, {"a": 2}]), ""),
        "input of gigabytes": ("a shape beyond measure", _set("inputs/0/shape", [2, 1, 1 << 20, 1 << 20]), "cannot be of shape"),
        "input below zero": ("no shape", _set("inputs/0/shape", [2, 1, -8, 8]), "cannot be of shape"),
        "input of no dimension": ("no batch", _set("inputs/0/shape", []), "cannot be of shape"),
        "input of text": ("no shape", _set("inputs/0/shape", "evil"), "malformed"),
        "input type": ("no type of numbers", _set("inputs/0/dtype", "load"), "type of numbers"),
        "input type of tables": ("no type of numbers", _set("inputs/0/dtype", {}), "type of numbers"),
        "range of the input": ("beyond 64 bits", _set("inputs/0/high", 1 << 70), "cannot hold"),
        "infinite range": ("no whole number", _set("inputs/0/low", 1e999), "malformed"),
        "input renamed": ("a node that is no input", _set("inputs/0/name", "evil"), "input nodes"),
        "no inputs": ("the list is empty", _set("inputs", []), "input nodes"),
    }  # fmt: skip


def _graph(change: Callable[[Graph], object]) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        run = write_run(folder / "run", manifest=False)
        graph = copy.deepcopy(json.loads((run / "graph.json").read_text()))
        change(graph)
        (run / "graph.json").write_text(json.dumps(graph).replace("Infinity", "1e999"))

    return make


def _renamed(name: str) -> Callable[[Path, Payload], object]:
    """A weight, in graph and file, under a name that a module has for something else."""

    def make(folder: Path, payload: Payload) -> None:
        run = write_run(folder / "run", manifest=False)
        old = "linear.bias"
        text = (run / "graph.json").read_text()
        (run / "graph.json").write_text(text.replace(json.dumps(old), json.dumps(name)))
        tensors = load((run / "model.safetensors").read_bytes())
        (run / "model.safetensors").write_bytes(
            save({name if k == old else k: v for k, v in tensors.items()})
        )

    return make


def _damaged(damage: Callable[[Path], object]) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: damage(write_run(folder / "run"))


def _flip(path: Path) -> None:
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(blob)


def _manifest(**changes: object) -> Callable[[Path], object]:
    """Another manifest, or other entries of its table of files."""

    def damage(run: Path) -> None:
        found = json.loads((run / "manifest.json").read_text())
        for name, new in changes.items():
            if name in found:
                found[name] = new
            else:
                found["files"][name.replace("__", "/")] = new
        (run / "manifest.json").write_text(json.dumps(found, indent=2) + "\n")

    return damage


def cases() -> Iterator[Case]:
    """Hostile graphs; runs whose files changed; hostile manifests."""
    for name, (why, change, says) in _changes().items():
        yield Case(f"graph: {name}", why, _graph(change), RUN, says=says, harmless=name == "notes of numbers")
    for name in (
        "forward",
        "program",
        "conv",
        "training",
        "a..b",
        "",
        "_slots",
        "a." * 100 + "b",
        "__class__",
    ):
        yield Case(f"graph: tensor called {name[:20]!r}", "a name that a module has for something else",
                   _renamed(name), RUN, harmless=name == "__class__")  # fmt: skip
    entry = {"size": 1, "sha256": "0" * 64}
    damages: dict[str, tuple[str, Callable[[Path], object], str]] = {
        **{f"{n} flipped": ("one bit", lambda r, n=n: _flip(r / n), f"{n} has changed")
           for n in ("graph.json", "model.safetensors", "plan.json", "report.json", "model.onnx")},
        "weights cut": ("truncated", lambda r: os.truncate(r / "model.safetensors", 100), "model.safetensors has 100 bytes"),
        "plan missing": ("a file is gone", lambda r: (r / "plan.json").unlink(), "plan.json is missing"),
        "weights of another run": ("swapped", lambda r: (r / "model.safetensors").write_bytes(save({"w": torch.ones(9)})), "model.safetensors"),
        "report is a folder": ("no file", lambda r: ((r / "report.json").unlink(), (r / "report.json").mkdir()), "report.json"),
        "plan is a pipe": ("opening it waits for ever", lambda r: ((r / "plan.json").unlink(), os.mkfifo(r / "plan.json")), "no regular file"),
        "plan is a device": ("it never ends", lambda r: ((r / "plan.json").unlink(), (r / "plan.json").symlink_to("/dev/zero")), "no regular file"),
        "manifest flipped": ("one bit", lambda r: _flip(r / "manifest.json"), "manifest"),
        "manifest cut": ("truncated", lambda r: os.truncate(r / "manifest.json", 100), "manifest"),
        "manifest empty": ("nothing", lambda r: os.truncate(r / "manifest.json", 0), "manifest"),
        "manifest is a pipe": ("waits", lambda r: ((r / "manifest.json").unlink(), os.mkfifo(r / "manifest.json")), "manifest"),
        "manifest points outside": ("reads another file", _manifest(**{"..__evil": entry}), "damaged"),
        "manifest of an absolute path": ("reads another file", _manifest(**{"__etc__passwd": entry}), "damaged"),
        "manifest of a device": ("reads for ever", _manifest(**{"__dev__zero": entry}), "damaged"),
        "manifest without files": ("no table", _manifest(files=[]), "damaged"),
        "manifest of short hashes": ("no SHA-256", _manifest(**{"plan.json": {"size": 1, "sha256": "0"}}), "damaged"),
        "manifest of fractions": ("no size", _manifest(**{"plan.json": {"size": 1.5, "sha256": "0" * 64}}), "damaged"),
        "manifest of the future": ("version 2", _manifest(version=2), "damaged"),
    }  # fmt: skip
    for name, (why, damage, says) in damages.items():
        yield Case(f"run: {name}", why, _damaged(damage), RUN, says=says)
    yield Case("gate: report flipped", "one bit", _damaged(lambda r: _flip(r / "report.json")),
               ("gate", "run/report.json", "--max-macs", "1G"), says="has changed")  # fmt: skip
    yield Case("gate: weights flipped", "one bit", _damaged(lambda r: _flip(r / "model.safetensors")),
               ("gate", "run", "--max-macs", "1G"), says="has changed")  # fmt: skip
    yield Case("gate: ONNX flipped", "one bit", _damaged(lambda r: _flip(r / "model.onnx")),
               ("gate", "run/model.onnx", "--max-macs", "1G"), says="has changed")  # fmt: skip
    yield Case("report: report flipped", "one bit", _damaged(lambda r: _flip(r / "report.json")),
               ("report", "run", "--force"), says="has changed")  # fmt: skip
    yield Case("diff: report flipped", "one bit", _damaged(lambda r: _flip(r / "report.json")),
               ("diff", "run", "run"), says="has changed")  # fmt: skip
