"""The rules that DESIGN's room plan states, checked on the source text: nothing is imported to check them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parent.parent

# A room imports from itself and from the rooms before it, nothing else of ours.
ROOMS = ["graph", "models_zoo", "profilers", "prune", "rl", "supernet", "front", "cli"]

# What `import prune` promises, wherever it is defined: none of it is imported before it is used.
DOOR = "prune/__init__.py"

# One door per library: the only files and rooms ("room/") that may import it. No door: nobody may.
DOORS = {
    "torch_geometric": ["graph/"],
    "stable_baselines3": ["rl/"],
    "gymnasium": ["rl/"],
    "ray": ["rl/ray_workers.py"],
    "onnx": ["prune/export.py", "prune/onnx_model.py", "profilers/"],
    "onnxruntime": ["profilers/onnx_runtime.py"],  # which keeps it from reporting
    "transformers": ["prune/huggingface.py"],
    "tokenizers": ["prune/text.py"],
    "timm": ["prune/libraries.py"],
    "torchvision": ["prune/libraries.py"],
    "optuna": ["supernet/search.py"],
    "typer": ["cli.py", "front/commands/"],
    "rich": ["front/"],
    # Unpickling runs code that the file brings along; CIFAR's own files come in no other form.
    "pickle": ["prune/cifar10.py"],
    "_pickle": [],
    "cloudpickle": [],
    "dill": [],
    "joblib": [],
    "shelve": [],
}


class Import(NamedTuple):
    """One imported name, in full: ``from prune import plan`` is ``prune.plan``."""

    target: str
    line: int
    at_load: bool  # runs when the module is loaded: not in a function, not under TYPE_CHECKING


class Module(NamedTuple):
    path: str  # from the root, with forward slashes
    name: str  # dotted, as imported
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]


def parse(path: str, text: str) -> Module:
    parts = path.removesuffix(".py").split("/")
    return Module(path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.parse(text, path))


def imports(module: Module) -> Iterator[Import]:
    def walk(node: ast.AST, at_load: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                yield from (Import(name.name, node.lineno, at_load) for name in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                if level:
                    above = module.package.split(".")
                    base = ".".join(above[: len(above) - level + 1] + ([base] if base else []))
                yield from (Import(f"{base}.{name.name}", node.lineno, at_load) for name in names)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(target)), *_],
            ):
                yield Import(target, node.lineno, at_load)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for typed in node.body:
                    yield from walk(typed, False)
                for other in node.orelse:
                    yield from walk(other, at_load)
                return
        inside = at_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    return walk(module.tree, True)


def is_promise(module: Module, imp: Import) -> bool:
    """Whether the door imports it once it is used, which it may from any room."""
    return module.path == DOOR and not imp.at_load


def wrong_way(modules: list[Module]) -> list[str]:
    found = []
    for module in modules:
        room = module.name.split(".")[0]
        allowed = ROOMS[: ROOMS.index(room) + 1]
        for imp in imports(module):
            if is_promise(module, imp):
                continue
            target = imp.target.split(".")[0]
            if target in ("tests", "benchmarks") or (target in ROOMS and target not in allowed):
                found.append(f"{module.path}:{imp.line}: {room} may not import {imp.target}")
    return found


def wrong_door(modules: list[Module]) -> list[str]:
    found = []
    for module in modules:
        for imp in imports(module):
            doors = DOORS.get(imp.target.split(".")[0])
            if doors is not None and not any(
                module.path == door or (door.endswith("/") and module.path.startswith(door)) for door in doors
            ):
                found.append(
                    f"{module.path}:{imp.line}: imports {imp.target}; only {doors or 'nobody'} may do that"
                )
    return found


def cycle(modules: list[Module]) -> list[str]:
    """Modules in a ring of imports, in functions, too; the door may import late what lies behind it."""
    names = {module.name for module in modules}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for module in modules:
        for imp in imports(module):
            # `from a.b import c` loads the module a.b.c where there is one, else c is a name inside a.b.
            target = imp.target if imp.target in names else imp.target.rpartition(".")[0]
            if not is_promise(module, imp) and target in names and target != module.name:
                sorter.add(module.name, target)
    try:
        sorter.prepare()
    except CycleError as err:
        return list(err.args[1])
    return []


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    paths = [ROOT / "cli.py", *(p for room in ROOMS[:-1] for p in sorted((ROOT / room).rglob("*.py")))]
    return [parse(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def test_every_room_is_looked_at(modules: list[Module]) -> None:
    assert {module.name for module in modules} >= set(ROOMS)


def test_rooms_import_one_way(modules: list[Module]) -> None:
    assert wrong_way(modules) == []


def test_no_import_cycles(modules: list[Module]) -> None:
    assert cycle(modules) == []


def test_one_door_per_library(modules: list[Module]) -> None:
    assert wrong_door(modules) == []


def test_every_module_says_what_it_is(modules: list[Module]) -> None:
    assert [module.path for module in modules if not (ast.get_docstring(module.tree) or "").strip()] == []


def test_no_module_is_a_drawer(modules: list[Module]) -> None:
    assert [module.path for module in modules if module.path.split("/")[-1] == "utils.py"] == []


def test_the_command_line_starts_without_torch() -> None:
    check = "import sys, cli; sys.exit('import cli loads torch' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The checks themselves: each finds the break it is there for.


@pytest.mark.parametrize(
    "text",
    [
        "import prune.plan",
        "from prune import plan",
        "def f():\n    from rl.env import PruningEnv",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import cli",
        "import importlib\nimportlib.import_module('prune.plan')",
        "from tests import conftest",
    ],
)
def test_a_wrong_way_import_is_found(text: str) -> None:
    assert len(wrong_way([parse("graph/axes.py", text)])) == 1


def test_imports_of_earlier_rooms_and_others_are_fine() -> None:
    text = "import torch\nimport graph.axes\nfrom . import plan\nfrom .plan import Plan\nimport models_zoo"
    assert wrong_way([parse("prune/surgery.py", text)]) == []


@pytest.mark.parametrize(
    ("path", "text", "count"),
    [
        ("graph/encoder.py", "from torch_geometric.nn import GATConv", 0),
        ("prune/plan.py", "from torch_geometric.nn import GATConv", 1),
        ("prune/export.py", "import onnx", 0),
        ("prune/export_more.py", "import onnx", 1),
        ("prune/load.py", "def f():\n    import pickle", 1),
        ("prune/cifar10.py", "import pickle", 0),
        ("rl/search.py", "import cloudpickle", 1),
        ("rl/search.py", "import richness", 0),
    ],
)
def test_a_wrong_door_is_found(path: str, text: str, count: int) -> None:
    assert len(wrong_door([parse(path, text)])) == count


def test_a_cycle_is_found() -> None:
    a = parse("graph/a.py", "from graph.b import B")
    late = parse("graph/b.py", "def f():\n    from graph.a import A")
    typed = parse("graph/b.py", "import typing\nif typing.TYPE_CHECKING:\n    from graph.a import A")
    early = parse("graph/b.py", "try:\n    from . import a\nexcept ImportError:\n    pass")
    for b in (late, typed, early):
        assert set(cycle([a, b])) == {"graph.a", "graph.b"}
    door = parse(DOOR, "def f():\n    from prune.load import A")
    assert cycle([door, parse("prune/load.py", "from prune import f")]) == []
