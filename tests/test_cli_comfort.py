"""The comforts of the command line: JSON, options of a file, quiet and verbose, completion, gate, doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import cli
from front.commands import terminal
from front.commands.failures import can_go_on, farewell
from front.commands.grammar import Anywhere
from prune.trials import Trial
from tests.reports import write_report

ROOT = Path(__file__).parents[1]


def run(*args: object) -> tuple[int, str, str]:
    """Exit code, stdout, and both streams with line breaks undone."""
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.output.split())


@pytest.fixture(scope="module", autouse=True)
def _wide_terminal() -> None:
    terminal.console.width = terminal.stderr.width = 200


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("zoo") / "net.pt"
    code, out, both = run("zoo", "train", "resnet20", "--data", "digits", "--epochs", 1, "-o", path, "--json")
    assert code == 0, both
    return path, json.loads(out)


@pytest.fixture(scope="module")
def half(trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose options are from a file, but for one that the command line has otherwise."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "prune.toml").write_text(
        '[compress]\nmacs = "70%"\nplanner = "uniform"\ntune = false\nexclude = ["layer1.*"]\nseed = 3\n'
        "[gate]\nmax-macs-ratio = 0.5\n"
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        code, out, both = run("compress", trained[0], "--flops", 0.5, "-o", "half", "--json")
    finally:
        os.chdir(before)
    assert code == 0, both
    assert "options of prune.toml: --planner=uniform --no-tune" in both
    assert json.loads(out) == json.loads((folder / "half" / "report.json").read_text())
    return folder / "half"


def test_options_of_the_file_were_taken_and_the_command_line_won(half: Path) -> None:
    report = json.loads((half / "report.json").read_text())
    command = " ".join(report["command"])
    for words in ("--flops 0.5", "--planner uniform", "--epochs 0", "--seed 3", "--exclude layer1.*"):
        assert words in command
    assert "--macs" not in command
    assert report["ratios"]["macs"] <= 0.5


def test_json_of_every_command(half: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, told = trained
    assert told["file"] == str(path) and 0 < told["accuracy"] <= 1
    report = json.loads((half / "report.json").read_text())
    for args, key, expected in (
        (["eval", half], "accuracy", report["pruned"]["accuracy"]),
        (["export", half, "-o", tmp_path / "m.onnx"], "file", str(tmp_path / "m.onnx")),
        (["inspect", half], "macs", report["pruned"]["macs"]),
        (["diff", half, half], "format", "prune-diff"),
        (["gate", half, "--max-macs", 1], "result", "broken"),
        (["doctor"], "healthy", True),
    ):
        code, out, both = run(*args, "--json")
        assert code == (1 if args[0] == "gate" else 0), both
        assert json.loads(out)[key] == expected
    names = [entry["name"] for entry in json.loads(run("zoo", "list", "--json")[1])]
    assert "resnet20" in names


def test_a_policy_is_shown_as_json() -> None:
    code, out, _ = run("policy", "show", ROOT / "rl" / "policies" / "gnn-rl.safetensors", "--json")
    assert code == 0 and json.loads(out)["agent"] == "gnn-rl"


def test_gate_in_the_folder_of_its_file(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(half.parent)
    code, _, both = run("gate", "half")
    assert code == 0 and "max-macs-ratio" in both and "half: kept" in both
    code, _, both = run("gate", "half", "half/model.onnx")
    assert code == 2 and "only the report of a run has it" in both
    assert run("gate", "half", "--max-macs-ratio", 0.4)[0] == 1
    assert run("gate", "half", "half/model.onnx", "--max-macs-ratio", 0.4)[0] == 1
    code, _, both = run("gate", "half/model.pt2", "--max-params", "1M", "--max-macs-ratio", 2)
    assert code == 2 and "error:" in both and "--trust-code" in both
    assert run("diff", "half", "half/model.onnx")[0] == 0


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["gate", "r.json"], "no budget to judge by"),
        (["gate", "r.json", "--max-macs", "1", "--format", "jnit"], "did you mean junit?"),
        (["diff", "r.json", "absent"], "absent cannot be read"),
        (["diff", "r.json", "r.json", "--format", "xml"], "one of table, json, markdown"),
        (["gate", "r.json", "--max-mac", "1"], "--max-macs"),
        (["gat", "r.json"], "Did you mean 'gate'?"),
        (["compress", "r.json", "--config", "bad.toml"], "bad.toml: unknown option epoch"),
        (["compress", "r.json", "--config", "text.toml"], "text.toml has options, too"),
        (["compress", "r.json", "--config", "absent.toml"], "absent.toml: no such file"),
    ],
)
def test_a_slip_ends_with_a_clear_line(
    args: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_report(Path("r.json"))
    Path("bad.toml").write_text("[compress]\nepoch = 3\n")
    Path("text.toml").write_text('[compress]\nepochs = "ten"\n')
    code, _, both = run(*args)
    assert code == 2 and told in both.replace("│ ", "")


@pytest.mark.parametrize(
    ("option", "hint"),
    [("--agent=agcm", "agmc"), ("--importance=taylr", "taylor"), ("--reward=eror", "error")],
)
def test_misspelled_values_are_suggested(option: str, hint: str, tmp_path: Path) -> None:
    code, _, both = run("compress", tmp_path / "net.pt", "--flops", 0.5, option)
    assert code == 2 and f"did you mean {hint}?" in both


@pytest.mark.smoke
def test_quiet_is_quiet_before_and_behind_the_command(tmp_path: Path) -> None:
    file = write_report(tmp_path / "r.json")
    assert run("gate", file, "--max-macs", "1G", "-q") == (0, "", "")
    assert run("-q", "gate", file, "--max-macs", "1") == (1, "", "")
    assert run("gate", file, "--max-macs", "1G")[1]
    assert json.loads(run("gate", file, "--max-macs", "1G", "-q", "--json")[1])["result"] == "pass"
    assert "error:" in run("gate", tmp_path / "absent", "--max-macs", "1", "--quiet")[2]


@pytest.mark.smoke
@pytest.mark.parametrize(("verbose", "lines"), [(False, 2), (True, 4)])
def test_verbose_tells_every_plan(
    verbose: bool, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(terminal.state, "verbose", verbose)
    monkeypatch.setattr(terminal.console, "quiet", False)
    screen = terminal.new_screen(trials=4, as_json=True)
    for index, accuracy in enumerate((0.5, 0.4, 0.6, 0.3)):
        screen.trial(Trial("random", index, 1000, accuracy, 1.0, 0.0, (), accuracy))
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("MFLOPs") == lines


def every_command() -> dict[str, Any]:
    """The commands by the words that call them."""

    def walk(command: Any, words: tuple[str, ...]) -> dict[str, Any]:
        inner = getattr(command, "commands", None)
        if inner is None:
            return {" ".join(words): command}
        return {k: v for name, c in inner.items() for k, v in walk(c, (*words, name)).items()}

    return walk(typer.main.get_command(cli.app), ())


# Nothing that these do is drawn at random: inputs of a profile, and records that rank, are always the same.
SEEDLESS = {
    *("inspect", "eval", "export", "profile model", "gate", "report", "diff", "doctor", "zoo list"),
    *("policy show", "supernet build"),
}


@pytest.mark.smoke
def test_every_command_has_json_and_a_seed_where_anything_is_drawn() -> None:
    flags = {name: {o for p in c.params for o in p.opts} for name, c in every_command().items()}
    assert len(flags) == 18 and all("--json" in found for found in flags.values())
    assert {name for name, found in flags.items() if "--seed" not in found} == SEEDLESS
    assert all(p.help for c in every_command().values() for p in c.params if p.opts[0].startswith("--"))


@pytest.mark.smoke
def test_an_interrupt_says_how_to_go_on_where_that_is_possible(tmp_path: Path) -> None:
    app = typer.Typer(cls=Anywhere)

    @app.command()
    def resumable(written: bool = False) -> None:
        can_go_on("go on with: this", lambda: (tmp_path / "checkpoint").exists())
        if written:
            (tmp_path / "checkpoint").touch()
        raise KeyboardInterrupt

    @app.command()
    def other() -> None:
        raise KeyboardInterrupt

    for words, told in (
        (["resumable"], "nothing was written"),
        (["resumable", "--written"], "go on with: this"),
        (["other"], "nothing was written"),  # whatever was called before it
    ):
        result = CliRunner().invoke(app, words)
        assert (result.exit_code, result.output.strip()) == (130, f"interrupted; {told}")
        assert farewell() == ""  # the thread that waits for a slow end says it no more


@pytest.mark.smoke
@pytest.mark.parametrize("words", ["", "zoo", "policy", "supernet", "profile"])
def test_wrong_words_are_no_failure_of_prune(words: str) -> None:
    commands = [name.split() for name in every_command() if name.rpartition(" ")[0] == words]
    for command in commands:
        code, _, told = run(*command, "--nosuch")
        assert code == 2 and "No such option: --nosuch" in told and "error:" not in told, command
    if words != "profile":  # where it is the name of a model
        code, _, told = run(*words.split(), "nosuch")
        assert code == 2 and "No such command 'nosuch'" in told and "error:" not in told


@pytest.mark.smoke
def test_every_option_of_every_command_is_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_PRUNE_COMPLETE", "complete_bash")

    def completed(words: str) -> set[str]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            cli.app(prog_name="prune")
        return set(capsys.readouterr().out.split())

    for name, command in every_command().items():
        assert name.split()[-1] in completed(f"prune {name[:-1]}"), name
        shown = [p for p in command.params if not getattr(p, "hidden", False)]
        wanted = {o for p in shown for o in p.opts if o.startswith("--")}
        assert completed(f"prune {name} --") >= wanted, name


@pytest.mark.smoke
def test_the_shell_completes_commands_and_options() -> None:
    code = "import cli, sys; cli.main()"
    env = {**os.environ, "_PRUNE_COMPLETE": "complete_bash"}

    def completed(words: str) -> list[str]:
        more = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=env | more,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.split()

    assert completed("prune do") == ["doctor"]
    assert "--max-macs-ratio" in completed("prune gate --max")
