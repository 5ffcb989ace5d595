"""The doctor: whether this machine has what prune needs, what else it could use, and whether export works."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from graph.errors import PruneError, first_line

PROJECT = "prune-networks"
State = Literal["ok", "missing", "broken"]
_DEVELOPERS = ("dev", "bench", "docs")  # extras of whoever works on prune itself
# Libraries that no extra brings, for each has its own builds: what they are for.
_OPTIONAL = {"timm": "models timm:NAME", "torchvision": "models torchvision:NAME"}
_REQUIREMENT = re.compile(
    r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\d.]+))?.*?(?:extra\s*==\s*[\"']([^\"']+)[\"'])?$"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: a package, or what was tried.
        state: ``missing`` is for what prune can do without.
        found: a version, or what came out.
        hint: what to do about it.
    """

    name: str
    state: State
    found: str
    hint: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at.

    Attributes:
        machine: facts by name.
        findings: packages first, then what was tried.
    """

    machine: dict[str, str]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing that prune needs is broken."""
        return all(f.state != "broken" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "format": "prune-doctor",
            "schema": 1,
            "healthy": self.healthy,
            "machine": self.machine,
            "findings": [asdict(f) for f in self.findings],
        }


def examine() -> Diagnosis:
    """Look at the machine, import each package, and export a small network."""
    with suppress(Exception):  # a broken onnxruntime is told among the packages
        import profilers.onnx_runtime  # noqa: F401 - before the package itself, which would report
    packages = list(_packages())
    return Diagnosis(_machine(), (*packages, _round_trip(), _cache()))


def _machine() -> dict[str, str]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cores": str(affinity),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    with suppress(Exception):  # a broken torch is told among the packages
        import torch

        found["threads of torch"] = str(torch.get_num_threads())
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found["GPU"] = ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "none"
    with suppress(Exception):
        from profilers.latency import cpu_model

        found["processor"] = cpu_model()
    return found


def _packages() -> Iterator[Finding]:
    """The requirements of our own metadata, and what is used where it is there."""
    try:
        wanted = metadata.requires(PROJECT) or []
        yield Finding("prune", "ok", metadata.version(PROJECT))
    except metadata.PackageNotFoundError:
        yield Finding("prune", "broken", "not installed", "python -m pip install -c constraints.txt .")
        return
    modules: dict[str, str] = {}
    for module, owners in metadata.packages_distributions().items():
        for owner in owners:
            if not module.startswith("_") or owner not in modules:
                modules.setdefault(_normal(owner), module)
    for text in wanted:
        match = _REQUIREMENT.match(text)
        assert match is not None, text
        name, least, extra = match.groups()
        if extra not in _DEVELOPERS:
            yield _package(name, least or "", extra, modules)
    for name, use in _OPTIONAL.items():
        found = _package(name, "", None, modules)
        if found.state == "broken" and found.found == "not installed":
            found = Finding(name, "missing", "not installed", f"only for {use}: python -m pip install {name}")
        yield found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _package(name: str, least: str, extra: str | None, modules: dict[str, str]) -> Finding:
    wanted = f"{name}>={least}" if least else name
    install = f"python -m pip install '{wanted}'" if extra else "python -m pip install -c constraints.txt ."
    absent: State = "missing" if extra else "broken"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, absent, "not installed", install)
    if _numbers(version) < _numbers(least):
        return Finding(name, "broken", f"{version}, {least} is needed", install)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(modules.get(_normal(name), name.replace("-", "_")))
    except Exception as err:  # noqa: BLE001 - a broken package raises what it likes
        return Finding(name, "broken", f"{version}, cannot be imported: {first_line(err)}", install)
    return Finding(name, "ok", version)


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version: (2, 13, 0) of 2.13.0+cpu."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(n) for n in match[0].split(".")) if match else ()


def _round_trip() -> Finding:
    """Capture a small network, export it and compare it with onnxruntime."""
    name = "capture and ONNX export"
    try:
        import torch

        from graph.capture import capture
        from graph.program import ProgramModule
        from prune.export import export_onnx

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = torch.nn.Sequential(
                torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 2)
            ).eval()
            example = torch.randn(2, 3, 8, 8)
        with tempfile.TemporaryDirectory() as folder:
            module = ProgramModule(capture(net, [example]))
            found = export_onnx(module, example, Path(folder) / "tiny.onnx")
    except Exception as err:  # noqa: BLE001 - whatever goes wrong here is the finding
        hint = err.hint if isinstance(err, PruneError) else ""
        told = f"{type(err).__name__}: {first_line(err)}"
        return Finding(name, "broken", told, hint or "install the versions of constraints.txt")
    return Finding(name, "ok", f"opset {found.opset}; {found.told}")


def _cache() -> Finding:
    """Whether anything can be remembered between runs; they only take longer where it cannot."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prune"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Finding("cache", "ok", str(folder))
    except OSError as err:
        hint = "set XDG_CACHE_HOME to a folder that can be written; without it some runs take longer"
        return Finding("cache", "missing", f"{folder}: {err.strerror}", hint)
