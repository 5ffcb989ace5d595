"""The pipeline: from a model to a smaller, fine-tuned, verified and exported one, stage by stage.

Without data there is nothing to search by and nothing to tune on: the plan then follows from the weights
alone, and no accuracy is claimed. All else is the same.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from graph.channels import Axes
from graph.cost import costs
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from models_zoo.mamba_lm import MambaLM
from profilers.device import told
from profilers.latency import environment
from prune import __version__
from prune.budget import Budget
from prune.command import repeated
from prune.compensation import compensate
from prune.config import CompressConfig, Listener
from prune.config_words import runs_code
from prune.decision import decide
from prune.demands import Demand
from prune.evaluation import Evaluation, evaluate
from prune.export import OnnxCheck, export_onnx, export_pt2
from prune.files import write_json
from prune.importance import sampled
from prune.journal import Journal
from prune.load import LoadedModel
from prune.manifest import write_manifest
from prune.measurement import measured, used_of
from prune.mend import Mender, Way
from prune.native import NativeResult, native_module
from prune.page import PAGE_FILE, write_page
from prune.placement import CPU, on
from prune.plan import Plan, make_plan
from prune.preparation import Prepared, prepare
from prune.pruned import NATIVE_FILE, PLAN_FILE, save_program
from prune.report import REPORT_FILE, Report
from prune.run_folder import RunFolder
from prune.sections import (
    accuracy_section,
    data_section,
    limits_section,
    model_section,
    native_section,
    plan_section,
    proof_section,
    search_section,
    states_section,
    tune_section,
)
from prune.smaller_mamba import write_checkpoint
from prune.states import CALIBRATION, kept_states
from prune.stored import of_report
from prune.student import Student, student_of
from prune.surgery import prune_program
from prune.tensor_files import save_tensors
from prune.trials import Planner, SearchResult
from prune.tune import TuneResult, fit
from prune.tune_config import settled
from prune.tune_state import Checkpoints
from prune.unfinished import PYTHON
from prune.verify import Verification, check, verify

# Running the user's own module in float64 and looking for its sizes is an extra: it must not cost much.
_NATIVE_MACS = 20_000_000_000
_NATIVE_SECONDS = 30.0
# Options that count only once the plan is made, and the leave that a user gives anew each time.
LATE = ("tune", "epochs", "lr", "batch-size", "tensorboard", "trust-code")


@dataclass(frozen=True, slots=True)
class OnCurve:
    """What a point of a curve is told.

    Attributes:
        name: of the point.
        command: the words that make the whole curve again, without which no point of it is made.
        starts: keep ratios by name that its search scores beside the baselines.
    """

    name: str
    command: Sequence[str]
    starts: Mapping[str, Sequence[float]]


def compress(config: CompressConfig, planner: Planner, listener: Listener) -> Report:
    """Prune a model until all limits hold, fine-tune it, export it and report.

    Args:
        config: what to do.
        planner: searches for the plan; ``rl.search.planner`` makes one.
        listener: sees the run.

    Returns:
        The report; the files are in ``config.output`` by then, or nothing is.

    Raises:
        PruneError: any of the named failures. What was found out by then is in ``config.output`` for
            ``config.resume``, but for failures that come before anything is; see ``prune.run_folder``.
    """
    with run_folder(config) as run:
        for note in run.notes:
            listener.note(note)
        ready = prepare(config, listener, run.staging, run.journal)
        report, _ = complete(ready, config, planner, listener, run.staging, run.journal)
        ready.remove_files()
        write_manifest(run.staging)
    return report


def run_folder(config: CompressConfig, points: Sequence[Demand] = ()) -> RunFolder:
    """The folder of a run; with options, which say what it is, the run can be gone on with."""
    again = ""
    if config.options:
        again = resuming(config.output, config.options, trust_code=config.source.trust_code)
    return RunFolder(
        config.output,
        config.options or {"command": shlex.join(repeated(config, points))},
        output=str(config.output),
        late=LATE,
        force=config.force,
        resume=config.resume,
        again=again,
    )


def resuming(folder: Path, options: Mapping[str, object], *, trust_code: bool) -> str:
    """The command that goes on with a run; to run code is allowed anew: a folder may come from anywhere."""
    if PYTHON in options:
        return f"prune.compress(..., output={str(folder)!r}, resume=True)"
    trust_code = trust_code or any(runs_code(name, value) for name, value in options.items())
    words = ["prune", "compress", "--resume", str(folder), *(["--trust-code"] if trust_code else [])]
    return shlex.join(words)


def complete(
    ready: Prepared,
    config: CompressConfig,
    planner: Planner,
    listener: Listener,
    folder: Path,
    journal: Journal,
    *,
    point: OnCurve | None = None,
) -> tuple[Report, SearchResult]:
    """All that comes after preparation: plan, cut, prove, tune, export and report into a folder.

    Args:
        ready: the model, prepared.
        config: what to do.
        planner: searches for the plan.
        listener: sees the run.
        folder: for the files.
        journal: of the run, or of this point of a curve.
        point: of a curve, where the run is one.
    """
    start = time.perf_counter()
    subject, data = ready.subject, ready.data
    budget = ready.budget(config.demands)

    mender: Mender | None = None
    if data is not None:
        mender = Mender(subject.axes, data, reconstruct=config.reconstruct, device=config.device)
    decision = decide(
        ready, config, budget, planner, listener, journal, mender=mender, starts=point.starts if point else {}
    )
    found, plan = decision.found, decision.found.plan

    listener.stage("removing channels")
    pruned, proof = _operate(subject.axes, plan, verify_result=config.verify)
    if proof is not None and ready.depth is not None:
        proof = replace(proof, max_error=max(proof.max_error, ready.depth.max_error or 0.0))
    way: Way | None = None
    usual: Mapping[str, Tensor] | None = None  # weights that were not fitted
    if mender is not None:
        listener.stage("mending what remains")
        mending = mender.mended(plan.keep_mask(subject.axes), pruned)
        pruned, way = mending.program, mending.way
        usual = mending.usual.tensors if way == "reconstructed" else None
    student = student_of(subject, pruned)
    before: Evaluation | None = None
    uniform: float | None = None
    if data is not None and mender is not None:
        with on(config.device, student.module):
            before = evaluate(student.module, data.test)
        uniform = _uniform_accuracy(ready, budget, mender) if config.demands else None
    mender = None  # it holds much of what the whole program made
    cut = before
    if data is not None and not config.demands and config.states.compensate:
        before = _compensated(ready, plan, student, data, listener) or before

    tuned: TuneResult | None = None
    tuning = config.tuning(data)
    after = before
    if tuning.epochs and data is not None:
        listener.stage("fine-tuning")
        with on(config.device, student.module, ready.reference):
            tuning = settled(tuning, ready.reference, data.train)
            tuned = fit(
                student.module,
                data,
                tuning,
                teacher=ready.reference,
                on_epoch=listener.epoch,
                on_step=listener.step,
                note=listener.note,
                checkpoints=Checkpoints(journal, listener.note),
                initial=usual,
            )
            after = evaluate(student.module, data.test)

    listener.stage("exporting")
    final = student.updated()
    write_results(folder, final, plan, subject.loaded)
    checked = export_all(folder, ProgramModule(final), final)
    checkpoint = write_checkpoint(subject.loaded, final, folder)

    listener.stage("trying the model's own class")
    native = _native(ready, final, folder / NATIVE_FILE)

    listener.stage("measuring latency")
    figures = measured(ready, student.module, final, (before, after), folder)
    used = used_of(ready, budget, plan, figures)
    importance = config.criterion if config.demands else None
    report = Report(
        command=list(point.command) if point else repeated(config, data=data),
        environment={"prune": __version__, **environment(), **_device(config, data)},
        model=model_section(subject.loaded),
        data=data_section(data),
        limits=limits_section(budget, plan, used),
        latency_check=decision.timed.to_json() if decision.timed is not None else None,
        original=figures["original"],
        pruned=figures["pruned"],
        accuracy=accuracy_section(ready.base, uniform, before, after, way),
        search=search_section(found),
        sensitivity=found.sensitivity,
        plan=plan_section(plan, importance, subject.minimum, subject.axes, pruned),
        blocks=ready.depth.to_json() if ready.depth is not None else None,
        states=states_section(ready.states, plan, subject.axes, cut, checkpoint),
        tune=tune_section(tuned, tuning),
        verification=proof_section(proof),
        onnx={
            "opset": checked.opset,
            "max_error": checked.max_error,
            "rounding": checked.rounding,
            "comparisons": checked.comparisons,
        },
        native=native_section(native),
        seed=config.seed,
        seconds=time.perf_counter() - start + ready.seconds,
        point=point.name if point else None,
    )
    if (slower := report.slower(free=config.aligns and not config.limits_latency)) is not None:
        listener.note(slower)
    write_json(folder / REPORT_FILE, report.to_json())
    write_page(of_report(report.to_json()), folder / PAGE_FILE)
    return report, found


def write_results(folder: Path, program: Program, plan: Plan, loaded: LoadedModel) -> None:
    """Write the pruned program: graph, weights and plan."""
    save_program(program, folder, {"arch": loaded.arch, "pruned": "true"})
    write_json(folder / PLAN_FILE, plan.to_json())


def export_all(folder: Path, module: ProgramModule, program: Program) -> OnnxCheck:
    """Write ``model.onnx`` and ``model.pt2``, each checked against the module."""
    example = program.random_inputs(2)
    export_pt2(module, example, folder / "model.pt2", dynamic_batch=program.dynamic_batch)
    return export_onnx(module, example, folder / "model.onnx", dynamic_batch=program.dynamic_batch)


def _operate(axes: Axes, plan: Plan, *, verify_result: bool) -> tuple[Program, Verification | None]:
    """Surgery, the recount and the proof."""
    pruned = prune_program(axes, plan)
    recounted = costs(pruned).macs
    if recounted != plan.macs:
        raise AssertionError(f"the pruned program has {recounted} MACs, the plan says {plan.macs}")
    if not verify_result:
        return pruned, None
    proof = verify(axes, plan.keep_mask(axes), pruned)
    check(proof)
    return pruned, proof


def _compensated(
    ready: Prepared, plan: Plan, student: Student, data: DataSet, listener: Listener
) -> Evaluation | None:
    """Fit what remains to the original where that helps; how good the student is then."""
    own, whole = ready.subject.loaded.module, ready.whole.loaded.module
    if not isinstance(own, MambaLM) or not isinstance(whole, MambaLM):
        return None
    if isinstance(student.module, ProgramModule) or (ready.states is None and ready.depth is None):
        return None
    kept = layers = None
    if ready.states is not None:
        kept = kept_states(ready.states.layers, plan.keep_mask(ready.subject.axes))
    if ready.depth is not None:
        layers = ready.depth.kept
    listener.stage("compensating")
    cut = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    before = evaluate(student.module, data.search)
    compensate(own, student.module, kept, list(sampled(data, CALIBRATION)), whole, layers)
    if evaluate(student.module, data.search).loss > before.loss:
        listener.note("the fit made it worse on the search split, and was undone")
        student.module.load_state_dict(cut)
        return None
    return evaluate(student.module, data.test)


def _device(config: CompressConfig, data: DataSet | None) -> dict[str, str]:
    """What else but the CPU computed."""
    return {} if config.device == CPU or data is None else {"device": told(config.device)}


def _uniform_accuracy(ready: Prepared, budget: Budget, mender: Mender) -> float:
    """Test accuracy of the uniform plan, mended alike, for comparison in the report."""
    axes = ready.subject.axes
    plan = make_plan(ready.space, budget.project([1.0] * ready.space.bundles), ready.scores, "uniform")
    pruned, _ = _operate(axes, plan, verify_result=False)
    mending = mender.mended(plan.keep_mask(axes), pruned)
    module = student_of(ready.subject, mending.program).module
    with on(mender.device, module):
        return evaluate(module, mender.data.test).accuracy


def _native(ready: Prepared, final: Program, path: Path) -> NativeResult:
    """The user's own module with the pruned weights, if it runs with them; its state dict is written."""
    subject = ready.subject
    if ready.depth is not None:
        return NativeResult(None, reason="blocks of it went")
    if subject.costs.macs > _NATIVE_MACS:
        return NativeResult(None, reason=f"not tried: over {_NATIVE_MACS / 1e9:.0f} GMACs for one record")
    found = native_module(subject.loaded.module, subject.program, final, seconds=_NATIVE_SECONDS)
    if found.module is not None:
        state = {k: v for k, v in found.module.state_dict().items() if isinstance(v, Tensor)}
        save_tensors(state, path, {"arch": subject.loaded.arch, "pruned": "true"})
    return found
