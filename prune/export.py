"""Export: ONNX, .pt2 and safetensors, each checked before it counts.

A file gets its final name only after it was read back and gave the model's own outputs; see ``prune.files``.
The exporter is not trusted: it writes another opset than it was asked for, and says so in a log at most.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from graph.errors import ExportError, ModelFileError
from graph.program import Program, ProgramModule
from profilers.latency import onnx_session
from profilers.onnx_tensors import locations
from prune.external_data import plain_file
from prune.files import write_file
from prune.regular import regular_size
from prune.report import agreement
from prune.verify import run_program

ONNX_TOLERANCE = 1e-4
PT2_TOLERANCE = 1e-6
_BATCHES = (1, 2, 5)
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
            f"the ONNX exporter fails: {_first_line(_root(err))}",
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
        written = _opset(path)
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
            _compare(frozen, model.run, given, free, _INPUTS_PER_BATCH, ONNX_TOLERANCE)
            for given in (_lengths(inputs) if dynamic_length else [inputs])
        ]
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(f"the exported file is not valid ONNX: {_first_line(err)}") from err
    except ModelFileError as err:
        raise ExportError(f"the exported file does not run: {_first_line(err.__cause__ or err)}") from err
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
        _compare(frozen, lambda *xs: _run(loaded, xs), inputs, free, 1, PT2_TOLERANCE)

    write_file(path, write)


def save_weights(program: Program, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a program's tensors and some words about them as safetensors.

    Raises:
        OutputError: the file cannot be written.
    """
    save_tensors(program.tensors, path, metadata)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors by name, and some words about them, as safetensors.

    Raises:
        OutputError: the file cannot be written.
    """
    # Clones, because the format takes neither views nor tensors that share memory.
    clones = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    data = _ordered(save(clones, dict(metadata)))
    write_file(path, lambda temporary: temporary.write_bytes(data))


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its words in order; the library's own changes with every process."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU.

    Raises:
        ModelFileError: the file is missing, unreadable or not safetensors.
    """
    try:
        regular_size(path)  # a pipe would be waited for
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as err:
        raise ModelFileError(
            f"{path} is not a safetensors file: {_first_line(err)}",
            hint="check the path and that the file is whole",
        ) from err


class OnnxModel:
    """An ONNX file, from anywhere, to be called like a module: one tensor for each input, batch first.

    A file with a fixed batch takes any number of records too: they are cut into such batches.

    Args:
        path: the file. External data is accepted only from plain files in its own folder.
        threads: for each operator; one per core when left out.

    Raises:
        ModelFileError: malformed, external data from elsewhere, or inputs without one batch for all.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        external_files(path)
        self.path = path
        self._session = onnx_session(path, threads=threads)
        inputs = self._session.get_inputs()
        sizes = {i.shape[0] if i.shape and isinstance(i.shape[0], int) else None for i in inputs}
        if len(sizes) != 1 or not all(i.shape for i in inputs):
            raise ModelFileError(
                f"{path} has no batch that is the same for all of its inputs: "
                + ", ".join(f"{i.name} {i.shape}" for i in inputs),
                hint="only models that take their records along the first dimension can be run",
            )
        self.inputs: tuple[str, ...] = tuple(i.name for i in inputs)
        self.batch: int | None = sizes.pop()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run (N, ...) records; the first output, of N records. Errors as ``run``."""
        return self.run(*inputs)[0]

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """Run (N, ...) records, one tensor for each input in the order of the file; all outputs.

        Raises:
            ModelFileError: the model takes other inputs, or refuses their shapes or types.
        """
        if len(inputs) != len(self.inputs):
            raise ModelFileError(
                f"{self.path} takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), got {len(inputs)}",
                hint="give a tensor for each",
            )
        if self.batch in (None, len(inputs[0])):
            return self._run(inputs)
        parts = []
        for group in zip(*(torch.split(x, self.batch) for x in inputs), strict=True):
            count = len(group[0])
            full = [torch.cat([p, p[-1:].expand(self.batch - count, *p.shape[1:])]) for p in group]
            parts.append([y[:count] for y in self._run(full)])
        return [torch.cat(ys) for ys in zip(*parts, strict=True)]

    def _run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: x.detach().cpu().numpy() for name, x in zip(self.inputs, inputs, strict=True)}
        try:
            found = self._session.run(None, feed)
        except Exception as err:  # noqa: BLE001 - a dozen classes without a common base of their own
            told = ", ".join(f"{tuple(x.shape)} of {x.dtype}" for x in inputs)
            raise ModelFileError(
                f"{self.path} cannot run on {told}: {_first_line(err)}",
                hint="give the input that the model was exported for",
            ) from err
        return [torch.from_numpy(y) for y in found]


def run_onnx(path: Path, *inputs: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Run (N, ...) records through an ONNX file once; the first output. Errors as ``OnnxModel``."""
    return OnnxModel(path)(*(torch.as_tensor(x) for x in inputs)).numpy()


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its external data.

    Raises:
        ModelFileError: the file is malformed, or names anything but plain files within its own folder.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as err:
        raise ModelFileError(f"{path} cannot be read: {err.strerror}", hint="check the path") from err
    except Exception as err:  # noqa: BLE001 - protobuf's own class, which it ships without types
        raise ModelFileError(
            f"{path} is not an ONNX file: {_first_line(err)}", hint="check that it is whole"
        ) from err
    if not model.HasField("graph"):
        raise ModelFileError(f"{path} holds no ONNX graph", hint="check that it is whole")
    return [plain_file(path.parent, location) for location in locations(model)]


def _opset(path: Path) -> int:
    model = onnx.load(path, load_external_data=False)
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


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
            f"torch.export cannot trace the model: {_first_line(err)}",
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


def _run(module: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [y for y in tree_leaves(module(*inputs)) if isinstance(y, Tensor)]


def _compare(
    module: nn.Module,
    exported: Callable[..., Sequence[Tensor]],
    example: Sequence[Tensor],
    free: bool,
    inputs: int,
    tolerance: float,
) -> tuple[float, float, int]:
    """Largest relative difference, what rounding explains of it, and how many batches were compared."""
    worst: list[tuple[float, int]] = []  # of each output: the largest difference, and the batch size
    rounding: list[float] = []
    count = 0
    alike = [False] * len(example)
    if isinstance(module, ProgramModule):
        alike = [s.alike for s in module.program.inputs]
    for batch in _BATCHES if free else (len(example[0]),):
        for seed in range(inputs):
            generator = torch.Generator().manual_seed(seed)
            given = [_random_like(x, batch, generator, a) for x, a in zip(example, alike, strict=True)]
            outputs = _run(module, given)
            found = [_difference(wanted, got) for wanted, got in zip(outputs, exported(*given), strict=True)]
            errors = [math.inf if math.isnan(e) else e for e in found]
            worst = [
                max(w, (e, batch)) for w, e in zip(worst or [(0.0, 0)] * len(errors), errors, strict=True)
            ]
            if any(tolerance < e < math.inf for e in errors):
                own = _own_rounding(module, given, outputs)
                rounding = [max(pair) for pair in zip(rounding or [0.0] * len(own), own, strict=True)]
            count += 1
    for index, (error, batch) in enumerate(worst):
        if error > tolerance and error > 2 * (rounding[index] if rounding else 0.0):
            raise ExportError(
                f"the exported file differs from the model by {error:.2g} at batch size {batch}, "
                f"more than {tolerance:g}",
                hint="the fault is the exporter's, or the model's outputs are not finite",
            )
    largest = max((e for e, _ in worst), default=0.0)
    return largest, max(rounding, default=0.0) if largest > tolerance else 0.0, count


def _own_rounding(module: nn.Module, given: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[float]:
    """What each output differs from its own in float64; 0 of modules that are no program, and if infinite."""
    if not isinstance(module, ProgramModule):
        return [0.0] * len(outputs)
    exact = run_program(module.updated(), [x.double() if x.is_floating_point() else x for x in given])
    found = map(_difference, exact, outputs)
    return [own if math.isfinite(own) else 0.0 for own in found]


def _difference(wanted: Tensor, got: Tensor) -> float:
    if wanted.shape != got.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    a, b = wanted.double(), got.double()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1))


def _random_like(example: Tensor, batch: int, generator: torch.Generator, alike: bool) -> Tensor:
    """``alike``: each record holds one integer throughout, see ``InputSpec``."""
    shape = (batch, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator).to(example.dtype)
    low, high = int(example.min()), int(example.max())
    drawn = (batch, *(1 for _ in shape[1:])) if alike else shape
    return (
        torch.randint(low, high + 1, drawn, generator=generator).to(example.dtype).expand(shape).contiguous()
    )


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


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0] if lines else type(err).__name__
