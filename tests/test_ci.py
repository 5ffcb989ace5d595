"""What others put into their CI: the Action and the pre-commit hooks, run as GitHub and pre-commit do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.reports import write_report

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder with the `prune` of this checkout, wherever the installed one is from."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "prune").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m cli "$@"\n')
    (folder / "prune").chmod(0o755)
    return folder


def filled(text: str, context: dict[str, str]) -> str:
    """A value of the action with its expressions worked out; only plain names occur in it."""
    return re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", lambda m: context[m[1]], text)


def run_step(
    name: str, inputs: dict[str, str], folder: Path, path: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """One step, as GitHub runs it: the script in a file, bash with its own options, inputs by expression."""
    step = next(s for s in ACTION["runs"]["steps"] if s["name"] == name)
    assert step["shell"] == "bash"
    known = {n: str(about.get("default", "")) for n, about in ACTION["inputs"].items()} | inputs
    context = {f"inputs.{n}": v for n, v in known.items()} | {"github.action_path": str(ROOT)} | more
    script = folder / "step.sh"
    script.write_text(step["run"])
    env = {n: filled(v, context) for n, v in step["env"].items()}
    output = {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    search = os.pathsep.join([str(path), str(Path(sys.executable).parent), os.environ["PATH"]])
    extra = {k: v for k, v in more.items() if k.isupper()}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        cwd=folder / filled(step.get("working-directory", "."), context),
        env={**os.environ, "PATH": search, **output, **env, **extra},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_nothing_of_a_workflow_becomes_part_of_a_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]


@pytest.mark.parametrize(
    ("args", "code", "result"),
    [
        ("--max-macs-ratio 0.5\n--min-accuracy 90%", 0, "pass"),
        ("--max-macs-ratio 0.4", 1, "broken"),
        ("--max-latency-ratio", 2, "unjudged"),
        ("--max-mac 3", 2, "unjudged"),
    ],
)
def test_the_action_judges(args: str, code: int, result: str, tmp_path: Path, bin_folder: Path) -> None:
    write_report(tmp_path / "run" / "report.json")
    done = run_step("Gate", {"files": "run\nrun/report.json", "args": args}, tmp_path, bin_folder)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "output").read_text() == f"result={result}\n"
    if result != "unjudged":
        kind = {"pass": "notice", "broken": "error"}[result]
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"::{kind} file=run")]
        assert len(lines) == 2
        assert "max-macs-ratio" in (tmp_path / "summary").read_text()


def test_the_action_takes_its_budgets_from_a_file(tmp_path: Path, bin_folder: Path) -> None:
    write_report(tmp_path / "deep" / "report.json")
    (tmp_path / "deep" / "prune.toml").write_text("[gate]\nmax-macs-ratio = 0.4\n")
    inputs = {"files": "report.json", "working-directory": "deep"}
    assert run_step("Gate", inputs, tmp_path, bin_folder).returncode == 1
    (tmp_path / "deep" / "my own.toml").write_text("[gate]\nmax-macs-ratio = 0.6\n")
    assert run_step("Gate", inputs | {"config": "my own.toml"}, tmp_path, bin_folder).returncode == 0


@pytest.mark.parametrize(
    "evil", ["$(touch pwned)", "; touch pwned", "`touch pwned`", "x' ; touch pwned '", "*"]
)
def test_inputs_of_the_action_are_words_not_commands(evil: str, tmp_path: Path, bin_folder: Path) -> None:
    for name in ("files", "args", "config"):
        inputs = {"files": "report.json", "args": "--max-macs 1"} | {name: evil}
        assert run_step("Gate", inputs, tmp_path, bin_folder).returncode == 2
        assert not (tmp_path / "pwned").exists()


def test_a_file_of_the_action_is_no_option(tmp_path: Path, bin_folder: Path) -> None:
    done = run_step("Gate", {"files": "--help", "args": "--max-macs 1"}, tmp_path, bin_folder)
    assert done.returncode == 2 and "::error file=--help" in done.stdout


def test_the_action_installs_what_it_judges_with(tmp_path: Path) -> None:
    checkout = tmp_path / "action"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "cli.py"):
        shutil.copy(ROOT / name, checkout)
    for room in ("front", "graph", "models_zoo", "profilers", "prune", "rl"):
        shutil.copytree(ROOT / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path / "target"
    # What it needs is there already, and the test has no network.
    pip = {"PIP_TARGET": str(target), "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    context: dict[str, Any] = {"github.action_path": str(checkout), **pip}
    done = run_step("Install prune", {}, tmp_path, tmp_path, **context)
    assert done.returncode == 0, done.stderr
    write_report(tmp_path / "report.json")
    inputs = {"files": "report.json", "args": "--max-macs-ratio 0.5"}
    done = run_step("Gate", inputs, tmp_path, target / "bin", PYTHONPATH=str(target))
    assert (done.returncode, "::notice" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("name", ["prune-gate", "prune-gate-installed"])
def test_a_hook_judges_the_files_it_is_given(name: str, tmp_path: Path, bin_folder: Path) -> None:
    write_report(tmp_path / "a" / "report.json")
    write_report(tmp_path / "b" / "report.json", macs=1_200_000)
    (tmp_path / "prune.toml").write_text("[gate]\nmax-macs-ratio = 0.5\n")
    command = f"{HOOKS[name]['entry']} a/report.json"
    env = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for words, code in ((command, 0), (f"{command} b/report.json", 1), (f"{command} c/report.json", 2)):
        assert subprocess.run(words.split(), cwd=tmp_path, env=env, capture_output=True).returncode == code


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("report.json", True), ("runs/half/report.json", True), ("model.onnx", True), ("a/b.onnx", True),
        ("myreport.json", False), ("report.json.txt", False), ("model.onnx.md", False),
    ],
)  # fmt: skip
def test_which_files_a_hook_is_given(path: str, given: bool) -> None:
    for hook in HOOKS.values():
        assert bool(re.search(hook["files"], path)) == given


def test_pre_commit_runs_the_hook(tmp_path: Path, bin_folder: Path) -> None:
    """In a repository of its own; the hook that needs no installation, which would need a network."""
    repository = tmp_path / "repository"
    write_report(repository / "runs" / "report.json", macs=1_200_000)
    (repository / "prune.toml").write_text("[gate]\nmax-macs-ratio = 0.5\n")
    hooks = {"repos": [{"repo": "local", "hooks": [HOOKS["prune-gate-installed"]]}]}
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump(hooks))
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PRE_COMMIT_HOME": str(tmp_path / "home"),
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=repository, env=env, capture_output=True, text=True, check=False)

    assert run("git", "init", "-q").returncode == 0
    assert run("git", "add", ".").returncode == 0
    pre_commit = [sys.executable, "-m", "pre_commit", "run"]
    done = run(*pre_commit)
    assert done.returncode == 1 and "max-macs-ratio" in done.stdout, done.stdout + done.stderr
    write_report(repository / "runs" / "report.json")
    run("git", "add", ".")
    assert run(*pre_commit).returncode == 0
