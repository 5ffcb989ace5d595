"""The command line: the names of the commands, the options of all of them, the process."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from front.commands.compress import compress
from front.commands.doctor import doctor
from front.commands.failures import farewell
from front.commands.grammar import Anywhere, Configured, ModelByDefault
from front.commands.inspection import evaluate, export, inspect
from front.commands.policy import policy_show, policy_train
from front.commands.profile import profile_mamba, profile_model
from front.commands.reports import diff, gate, report
from front.commands.supernet_search import supernet_extract, supernet_search
from front.commands.supernet_training import supernet_build, supernet_train
from front.commands.terminal import console, state
from front.commands.zoo import zoo_list, zoo_train

app = typer.Typer(
    cls=Anywhere,
    help="Make trained PyTorch networks smaller: prune channels under limits of FLOPs, parameters, memory or "
    "latency by a search that sees the network as a graph, fine-tune, export ONNX, and prove the result.",
    epilog="FLOPs = 2 x MACs; convolutions and matrix products count, as in torch's own counter. -v, -q and "
    "--debug may also be given behind a command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("compress", cls=Configured)(compress)
app.command("inspect")(inspect)
app.command("eval")(evaluate)
app.command("export")(export)
app.command("gate")(gate)
app.command("report")(report)
app.command("diff")(diff)
app.command("doctor")(doctor)

zoo = typer.Typer(help="The networks of the papers: list them, train one.", no_args_is_help=True)
zoo.command("list")(zoo_list)
zoo.command("train")(zoo_train)
app.add_typer(zoo, name="zoo")

policy = typer.Typer(help="Policies of the search: train one on several networks.", no_args_is_help=True)
policy.command("train")(policy_train)
policy.command("show")(policy_show)
app.add_typer(policy, name="policy")

supernet = typer.Typer(
    help="One transformer that holds smaller ones: make a supernet of a model, train it, search it, take "
    "subnetworks out.",
    no_args_is_help=True,
)
supernet.command("build")(supernet_build)
supernet.command("train")(supernet_train)
supernet.command("search")(supernet_search)
supernet.command("extract")(supernet_extract)
app.add_typer(supernet, name="supernet")

profile = typer.Typer(
    cls=ModelByDefault,
    help="Measure where a model's time, memory and traffic go, against this machine's roofline.\n\n"
    "prune profile MODEL: any model, by operator and by module. prune profile mamba: Mamba-1 and -2 by "
    "component, over length.",
    no_args_is_help=True,
)
profile.command("model")(profile_model)
profile.command("mamba")(profile_mamba)
app.add_typer(profile, name="profile")


def _show_version(wanted: bool) -> None:
    if wanted:
        from prune import __version__

        console.print(f"prune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell every plan and every epoch.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors, notes and --json.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    state.update(debug=debug, verbose=verbose)
    console.quiet = quiet


def main() -> None:
    """The entry point ``prune``."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")  # third-party deprecations are not the user's business
    from prune.interrupts import interruptible

    with interruptible(farewell):
        sys.exit(app(prog_name="prune"))


if __name__ == "__main__":
    main()
