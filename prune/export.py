"""Export: ONNX and .pt2, each checked before it counts.

A file gets its final name only after it was read back and gave the model's own outputs; see ``prune.files``.
The exporter is not trusted: it writes another opset than it was asked for, and says so in a log at most.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from graph.errors import ExportError, ModelFileError, first_line
from graph.program import ProgramModule
from prune.files import write_file
from prune.onnx_model import OnnxModel, external_files, opset_of
from prune.parity import compare, outputs_of
from prune.report import agreement

ONNX_TOLERANCE = 1e-4
PT2_TOLERANCE = 1e-6
_INPUTS_PER_BATCH = 5
# A protobuf message ends at 2 GiB; the rest is room for the graph itself.
_ONE_FILE_BYTES = int(1.8 * 2**30)


@dataclass(frozen=True, slots=True)
class OnnxCheck:
    """What was found out about an ONNX file.

    Attributes:
        opset: version of the standard operators.
        max_error: largest difference between its outputs and the model's, relative to the model's largest
            output or to 1, whichever is more.
        comparisons: number of batches compared.
        size_bytes: of the file and its external data.
        rounding: where ``max_error`` is more than ``ONNX_TOLERANCE``: what the model's own outputs in float32
            and in float64 differ on such inputs, as those of a top-k over nearly equal scores do.
    """

    opset: int
    max_error: float
    comparisons: int
    size_bytes: int
    rounding: float = 0.0

    @property
    def told(self) -> str:
        """The comparison in words."""
        return f"{agreement(self.max_error, self.rounding)} in {self.comparisons} comparisons"


def export_onnx(
    module: nn.Module,
    example: Tensor | Sequence[Tensor],
    path: Path,
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
    dynamic_length: bool = False,
) -> OnnxCheck:
    """Write an ONNX file that computes what ``module`` computes in eval mode, and check that it does.

    One input is called ``input``; several have the names of the program or of ``forward``'s arguments. One
    output is called ``output``, several ``output_0`` and so on. Weights are in the file itself up to 1.8 GiB,
    else beside it in ``NAME.data``.

    Args:
        module: a ``ProgramModule`` or any other module from tensors to tensors; it is left as it was.
        example: (N, ...) input, or one for each of several; only shapes, types and, for integers, ranges
            count.
        path: the file to write; an older one is replaced.
        opset: version of the standard operators; the exporter's choice when left out.
        dynamic_batch: leave N free. A program that was captured with a fixed batch keeps it.
        dynamic_length: leave the second dimension of each input free as well, as of sequences (N, L).

    Raises:
        ExportError: the exporter fails, writes another opset, or writes a file that is invalid or does not
            agree with the model. No file is left then.
        OutputError: the file cannot be written.
    """
    frozen, inputs, free = _prepare(module, example, dynamic_batch)
    traced = _trace(frozen, inputs, free, dynamic_length)
    _copy_before_views(traced)
    outputs = len(traced.graph_signature.user_outputs)
    try:
        with _quiet():
            program = torch.onnx.export(
                traced,
                dynamo=True,
                input_names=_input_names(frozen, len(inputs)),
                output_names=["output"] if outputs == 1 else [f"output_{i}" for i in range(outputs)],
                opset_version=opset,
                dynamic_shapes=_sizes(frozen, len(inputs), free, dynamic_length),
                verbose=False,
            )
    except Exception as err:  # noqa: BLE001 - the exporter wraps whatever its many passes raise
        raise ExportError(
            f"the ONNX exporter fails: {first_line(_root(err))}",
            hint="the model may use an operator that has no ONNX form",
        ) from err
    assert program is not None  # without a file name, the exporter hands the program back
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # notes of the exporter, longer than the graph itself
    weights = sum(t.numel() * t.element_size() for t in frozen.state_dict().values())
    checks: list[OnnxCheck] = []

    def write(temporary: Path) -> None:
        with _quiet():
            program.save(temporary, external_data=weights > _ONE_FILE_BYTES)
        checks.append(
            check_onnx(
                temporary, frozen, inputs, opset=opset, dynamic_batch=free, dynamic_length=dynamic_length
            )
        )

    write_file(path, write)
    return checks[0]


def check_onnx(
    path: Path,
    module: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
    dynamic_length: bool = False,
) -> OnnxCheck:
    """Check an ONNX file of our own against the model it came from, in onnxruntime.

    Args:
        path: the file.
        module: the model; compared in eval mode.
        example: as in ``export_onnx``.
        opset: the version it must have; any when left out.
        dynamic_batch: compare with batches of 1, 2 and 5 records, else only with the example's.
        dynamic_length: compare with several lengths as well.

    Raises:
        ExportError: another opset, an invalid file, a batch that is not free, or outputs that differ by
            more than ``ONNX_TOLERANCE`` and by more than rounding explains.
    """
    frozen, inputs, free = _prepare(module, example, dynamic_batch)
    try:
        files = [path, *external_files(path)]
        written = opset_of(path)
        if opset not in (None, written):
            raise ExportError(
                f"opset {opset} was asked for, the exporter wrote {written}", hint=f"ask for opset {written}"
            )
        onnx.checker.check_model(str(path), full_check=True)
        model = OnnxModel(path)
        if free and model.batch is not None:
            raise ExportError(
                f"the exported file is fixed to batches of {model.batch}", hint="ask for a fixed batch size"
            )
        found = [
            compare(frozen, model.run, given, free, _INPUTS_PER_BATCH, ONNX_TOLERANCE)
            for given in (_lengths(inputs) if dynamic_length else [inputs])
        ]
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(f"the exported file is not valid ONNX: {first_line(err)}") from err
    except ModelFileError as err:
        raise ExportError(f"the exported file does not run: {first_line(err.__cause__ or err)}") from err
    errors, roundings, counts = zip(*found, strict=True)
    size = sum(file.stat().st_size for file in files)
    return OnnxCheck(written, max(errors), sum(counts), size, max(roundings))


def export_pt2(
    module: nn.Module, example: Tensor | Sequence[Tensor], path: Path, *, dynamic_batch: bool = True
) -> None:
    """Write an archive of ``torch.export`` and check that it gives the model's outputs when loaded.

    The arguments are those of ``export_onnx``.

    Raises:
        ExportError: the model cannot be traced, or the loaded archive does not agree with it.
        OutputError: the file cannot be written.
    """
    frozen, inputs, free = _prepare(module, example, dynamic_batch)
    traced = _trace(frozen, inputs, free)

    def write(temporary: Path) -> None:
        with _quiet():
            buffer = io.BytesIO()  # torch's own writer reports a full disk as an internal error
            torch.export.save(traced, buffer)
            temporary.write_bytes(buffer.getbuffer())
            loaded = torch.export.load(temporary).module()
        compare(frozen, lambda *xs: outputs_of(loaded, xs), inputs, free, 1, PT2_TOLERANCE)

    write_file(path, write)


def _prepare(
    module: nn.Module, example: Tensor | Sequence[Tensor], dynamic_batch: bool
) -> tuple[nn.Module, tuple[Tensor, ...], bool]:
    """A copy for the CPU in eval mode, examples that fit it, and whether the batch is free."""
    free = dynamic_batch and not (isinstance(module, ProgramModule) and not module.program.dynamic_batch)
    given = (example,) if isinstance(example, Tensor) else tuple(example)
    inputs = tuple(x.detach().cpu().contiguous() for x in given)
    if free and len(inputs[0]) == 1:
        inputs = tuple(torch.cat([x, x]) for x in inputs)  # torch.export takes a batch of 1 for a constant
    return copy.deepcopy(module).cpu().eval(), inputs, free


def _input_names(module: nn.Module, count: int) -> list[str]:
    """Names for the inputs of an exported file."""
    if count == 1:
        return ["input"]
    if isinstance(module, ProgramModule):
        return [s.name for s in module.program.inputs]
    given = getattr(module, "input_names", None)  # of a module whose forward takes *inputs
    names = list(given or inspect.signature(module.forward).parameters)
    return names[:count] if len(names) >= count else [f"input_{i}" for i in range(count)]


def _lengths(inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Examples (N, L, ...) cut to 1 step, whole, and repeated to more than twice the length."""
    length = inputs[0].shape[1]
    for times, steps in ((1, 1), (1, length), (3, 2 * length + 1)):
        yield tuple(torch.cat([x] * times, 1)[:, :steps] for x in inputs)


def _trace(
    module: nn.Module, inputs: tuple[Tensor, ...], free: bool, free_length: bool = False
) -> ExportedProgram:
    if free_length:  # loops are traced by torch's compiler, which would take up sizes of an earlier trace
        torch.compiler.reset()
    try:
        with _quiet(), torch.no_grad():
            traced = torch.export.export(
                module, inputs, dynamic_shapes=_sizes(module, len(inputs), free, free_length), strict=False
            )
    except Exception as err:  # noqa: BLE001 - the tracer raises whatever the user's code raises
        raise ExportError(
            f"torch.export cannot trace the model: {first_line(err)}",
            hint="ask for a fixed batch size" if free else "",
        ) from err
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds the paths of this machine
    return traced


def _copy_before_views(traced: ExportedProgram) -> None:
    """Copy what was transposed before it is viewed; the exporter takes needless copies out again.

    A view is recorded where the strides of this machine's kernels allow it. The exporter puts other operators
    in the place of these (for attention, above all), whose strides do not.
    """
    aten = torch.ops.aten
    views = (aten.view.default, aten.reshape.default)
    moved = (aten.transpose.int, aten.permute.default, aten.scaled_dot_product_attention.default)
    for node in traced.graph.find_nodes(op="call_function", target=aten.contiguous.default):
        node.target = aten.clone.default  # which copies, contiguous or not
        node.kwargs = {"memory_format": torch.contiguous_format, **node.kwargs}
    for node in [n for n in traced.graph.nodes if n.target in views and n.args[0].target in moved]:
        source = node.args[0]
        with traced.graph.inserting_before(node):
            copied = traced.graph.call_function(
                aten.clone.default, (source,), {"memory_format": torch.contiguous_format}
            )
        copied.meta = {**source.meta, "val": source.meta["val"].clone(memory_format=torch.contiguous_format)}
        node.replace_input_with(source, copied)
    traced.graph_module.recompile()


def _sizes(module: nn.Module, count: int, free: bool, free_length: bool = False) -> tuple[Any, ...]:
    """The sizes that are free, in the form of the module's arguments."""
    named = ({0: Dim("batch")} if free else {}) | ({1: Dim("length")} if free_length else {})
    sizes = tuple(named or None for _ in range(count))
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    # All that *inputs takes counts as one argument, which is a tuple.
    rest = inspect.Parameter.VAR_POSITIONAL
    plain = kinds.index(rest) if rest in kinds else count
    return sizes if plain >= count else (*sizes[:plain], sizes[plain:])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress lines, logs and warnings about their own code from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _root(err: BaseException) -> BaseException:
    """What an error was raised from in the first place: the exporter's own says in which step it was."""
    while err.__cause__ is not None:
        err = err.__cause__
    return err
