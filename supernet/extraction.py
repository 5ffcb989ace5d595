"""Extraction: a subnetwork becomes a folder that stock transformers loads, where its configuration can."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from graph.cost import costs
from graph.program import Program, ProgramModule
from prune.export import export_onnx
from prune.files import OutputFolder, write_json
from prune.huggingface import save_stock
from prune.manifest import write_manifest
from prune.origin import SUBNET_FILE
from prune.pruned import save_program
from prune.verify import check
from supernet.elastic import Subnet
from supernet.net import Supernet
from supernet.segmenting import encoder_of
from supernet.stock import NotStock, stock_model
from supernet.tuning import Tuned

ONNX_FILE = "model.onnx"
ENCODER = "encoder"  # folder of a segmenter's encoder alone


@dataclass(frozen=True)
class Extracted:
    """What was written.

    Attributes:
        folder: where.
        stock: whether it is a checkpoint of transformers, to be named ``hf:DIR``.
        encoder: folder of its encoder alone as such a checkpoint, where that got a head of ours; else None.
        reason: why it is none, where one was wanted; empty else.
        macs: of the subnetwork, recounted.
        params: likewise.
        macs_ratio: share of the whole.
        params_ratio: likewise.
        seconds: that cutting it out took; writing and checking take longer.
        max_error: of the proof in float64; None where it did not run.
        tuned: what its training was worth; None where it was not trained.
        search: as JSON data how good it is, and what the search for it cost, see ``supernet.found``.
    """

    folder: str
    stock: bool
    reason: str
    macs: int
    params: int
    macs_ratio: float
    params_ratio: float
    seconds: float
    max_error: float | None
    tuned: Tuned | None = None
    encoder: str | None = None
    search: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return found | {"tuned": None if self.tuned is None else self.tuned.to_json()}


def write_subnet(
    net: Supernet,
    subnet: Subnet,
    folder: Path,
    settings: Mapping[str, Any] | None,
    *,
    about: Mapping[str, Any] | None = None,
    companions: Mapping[str, Path] | None = None,
    tune: Callable[[Program], Tuned] | None = None,
    verify: bool = True,
    onnx: bool = False,
    force: bool = False,
) -> Extracted:
    """Cut a subnetwork out, prove it, write it.

    Args:
        net: the supernet.
        subnet: the choice.
        folder: where to.
        settings: configuration of the checkpoint of transformers that the supernet was made from, if any.
        about: as JSON data what a search told of it.
        companions: further files by the name that they get in the folder.
        tune: trains it once it is proved.
        verify: prove in float64 that it computes what the whole computes without the rest.
        onnx: write an ONNX file as well.
        force: replace files in a folder that is not empty.

    Raises:
        VerificationError: the proof fails.
        ExportError: the ONNX file does not agree.
        OutputError: the folder cannot be written.
    """
    net.cutter.forget()
    start = time.perf_counter()
    program = net.extract(subnet)
    seconds = time.perf_counter() - start
    error = None
    if verify:
        proof = net.proof(subnet, program)
        check(proof)
        error = proof.max_error
    tuned = None if tune is None else tune(program)
    if tuned is not None:
        program = tuned.program
    reason, model, alone = "", None, None
    if settings is not None:
        try:
            model = stock_model(net, subnet, program, settings)
        except NotStock as err:
            reason = str(err)
    if model is not None and encoder_of(program) is not None:
        alone = folder / ENCODER
        reason = f"its head for masks is ours; its encoder alone is one: hf:{alone}"
    counted, whole = costs(program), net.elastic.cost(net.elastic.largest)
    result = Extracted(
        str(folder),
        model is not None and alone is None,
        reason,
        counted.macs,
        counted.params,
        counted.macs / whole.macs,
        counted.params / whole.params,
        seconds,
        error,
        tuned,
        None if alone is None else str(alone),
        about,
    )
    with OutputFolder(folder, force) as out:
        checkpoint = out.staging if alone is None else out.staging / ENCODER
        checkpoint.mkdir(exist_ok=True)
        if model is not None:
            save_stock(model, checkpoint, settings)
        if not result.stock:
            save_program(program, out.staging, {"pruned": "true"})
        for name, path in (companions or {}).items():
            shutil.copyfile(path, checkpoint / name)
        if onnx:
            example: Sequence[Any] = program.random_inputs(2)
            export_onnx(ProgramModule(program), example, out.staging / ONNX_FILE)
        told = {"format": "prune-subnet", "version": 1, **subnet.to_json(), "origin": dict(net.origin)}
        write_json(out.staging / SUBNET_FILE, told | {"result": result.to_json()})
        write_manifest(out.staging)
    return result
