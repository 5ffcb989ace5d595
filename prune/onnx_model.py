"""ONNX models: a file from anywhere, called like a module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.errors import ModelFileError, first_line
from profilers.latency import onnx_session
from profilers.onnx_tensors import locations
from prune.external_data import plain_file


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
                f"{self.path} cannot run on {told}: {first_line(err)}",
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
            f"{path} is not an ONNX file: {first_line(err)}", hint="check that it is whole"
        ) from err
    if not model.HasField("graph"):
        raise ModelFileError(f"{path} holds no ONNX graph", hint="check that it is whole")
    return [plain_file(path.parent, location) for location in locations(model)]


def opset_of(path: Path) -> int:
    """The version of the standard operators that an ONNX file uses."""
    model = onnx.load(path, load_external_data=False)
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))
