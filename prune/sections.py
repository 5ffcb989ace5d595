"""The sections of a report, made from what a run holds in its hands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graph.adapter import Adapter
from graph.channels import Axes
from graph.program import Program
from models_zoo.data import DataSet
from prune.budget import Budget
from prune.evaluation import Evaluation
from prune.layers import layer_widths
from prune.load import LoadedModel
from prune.mend import Way
from prune.native import NativeResult
from prune.plan import Plan, kept_widths
from prune.pruned import NATIVE_FILE
from prune.smaller_mamba import Checkpoint
from prune.states import StateChoice, kept_states
from prune.trials import SearchResult
from prune.tune import TuneResult
from prune.tune_config import TuneConfig
from prune.verify import Verification


def model_section(loaded: LoadedModel) -> dict[str, Any]:
    """Which model it was."""
    return {
        "path": loaded.path,
        "sha256": loaded.sha256,
        "arch": loaded.arch,
        "arch_args": dict(loaded.arch_args),
        "input_shape": list(loaded.input_shape),
        "inputs": [i.to_json() for i in loaded.inputs.items],
        "by_keyword": loaded.inputs.named,
        "prediction_first": isinstance(loaded.module, Adapter) and loaded.module.every,
        "metrics": dict(loaded.metrics),
    }


def data_section(data: DataSet | None) -> dict[str, Any]:
    """Which data it was measured on."""
    if data is None:
        return {"name": None, "notes": ["no data: nothing was measured for accuracy"]}
    return {
        "name": data.name,
        "unit": data.unit,
        "notes": list(data.notes),
        "train": len(data.train),
        "search": len(data.search),
        "test": len(data.test),
    }


def limits_section(
    budget: Budget, plan: Plan, measured: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Each limit: as it was asked for, what it means, and what the original and the result really use.

    Args:
        budget: the limits.
        plan: of the result.
        measured: for the original and the pruned model, what was counted or timed of each quantity.
    """
    widths = kept_widths(budget.space.axes, plan)
    return [
        {
            "quantity": b.quantity.name,
            "unit": b.quantity.unit,
            "option": b.demand.option if b.demand else None,
            "asked": b.demand.text if b.demand else None,
            "limit": b.limit,
            "original": measured["original"][b.quantity.name],
            "predicted": float(b.quantity.value(widths)),
            "pruned": measured["pruned"][b.quantity.name],
        }
        for b in budget.bounds
    ]


def accuracy_section(
    base: Evaluation | None,
    uniform: float | None,
    before: Evaluation | None,
    after: Evaluation | None,
    way: Way | None,
) -> dict[str, Any]:
    """How accurate the models are; nothing of it is known without data."""
    return {
        "split": "test" if base else None,
        "records": base.records if base else 0,
        "each": base.each if base else None,
        "bits": {
            name: e.bits if e and e.is_text else None
            for name, e in (("original", base), ("before_tuning", before), ("after_tuning", after))
        },
        "original": base.accuracy if base else None,
        "uniform_before_tuning": uniform,
        "before_tuning": before.accuracy if before else None,
        "mended": way,
        "after_tuning": after.accuracy if after else None,
    }


def search_section(found: SearchResult) -> dict[str, Any]:
    """Which plans were scored, and which one won."""
    first = max(found.best, key=lambda name: found.best[name].rank, default=None)
    uniform = found.best.get("uniform")
    return {
        "agent": found.agent,
        "winner": found.plan.method,
        "mended": None if found.mended_loss is None else len(found.finalists),
        "mended_loss": found.mended_loss,
        "best_method": first,
        "gain_over_uniform": found.best[first].accuracy - uniform.accuracy if first and uniform else None,
        "images": found.images,
        "precision": found.precision,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "best": {
            name: {
                "accuracy": t.accuracy,
                "loss": t.loss,
                "macs": t.macs,
                "plans": sum(o.method == name for o in found.trials),
            }
            for name, t in found.best.items()
        },
        "trials": [t.to_json() for t in found.trials],
        "notes": list(found.notes),
    }


def plan_section(
    plan: Plan, importance: str | None, minimum: Mapping[str, int], axes: Axes, pruned: Program
) -> dict[str, Any]:
    """What each group and each layer keeps, and by what its channels were ranked."""
    return {
        "method": plan.method,
        "importance": plan.importance or importance,
        "ratio": plan.ratio,
        "groups": {name: [len(kept), plan.widths[name]] for name, kept in plan.kept.items()},
        "kinds": {group.name: group.kind for group in axes.groups},
        "layers": layer_widths(axes, plan, pruned),
        "minimum": dict(minimum),
    }


def states_section(
    choice: StateChoice | None, plan: Plan, axes: Axes, cut: Evaluation | None, checkpoint: Checkpoint | None
) -> dict[str, Any] | None:
    """Which states stay and what became of the checkpoint; None for models that have neither."""
    if choice is None and checkpoint is None:
        return None
    section: dict[str, Any] = {"checkpoint": None, "bits_when_cut": cut.bits if cut and cut.is_text else None}
    if checkpoint is not None:
        section["checkpoint"] = {"layout": checkpoint.layout, "reason": checkpoint.reason}
    if choice is not None:
        keep = plan.keep_mask(axes)
        section |= choice.to_json()
        section["layers"] = [
            {"name": layer.name, "states": int(layer.units.shape[1]), "kept": kept.tolist()}
            for layer, kept in zip(choice.layers, kept_states(choice.layers, keep), strict=True)
        ]
    return section


def tune_section(tuned: TuneResult | None, config: TuneConfig) -> dict[str, Any]:
    """How the model was fine-tuned."""
    if tuned is None:
        return {"epochs": 0}
    return {
        "epochs": config.epochs,
        "lr": config.lr,
        "batch_size": config.batch_size,
        "distill": config.distill,
        "mixup": config.mixup,
        "best_epoch": tuned.best_epoch,
        "best_search_accuracy": tuned.best_accuracy,
        "seconds": tuned.seconds,
        "history": [
            {
                "epoch": e.epoch,
                "loss": e.loss,
                "accuracy": e.accuracy,
                "search_loss": e.found.to_json()["loss"],
                "lr": e.lr,
                "seconds": e.seconds,
            }
            for e in tuned.history
        ],
    }


def native_section(found: NativeResult) -> dict[str, Any]:
    """Whether the user's own class runs with the pruned weights, with which attributes, or why not."""
    return {
        "runs": found.module is not None,
        "reason": found.reason,
        "file": NATIVE_FILE if found.module is not None else None,
        "attributes": [{"name": c.name, "old": c.old, "new": c.new} for c in found.changes],
    }


def proof_section(proof: Verification | None) -> dict[str, Any]:
    """Whether and how well the pruned program was proved."""
    if proof is None:
        return {"ran": False}
    return {"ran": True, "max_error": proof.max_error, "limit": proof.limit, "records": proof.records}
