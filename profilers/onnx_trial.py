"""Trial: an ONNX file from elsewhere is opened and run once in a process of its own, before it is here.

onnxruntime folds constants when it opens a file and follows the file's loops when it runs it: either may take
all memory or all time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graph.errors import ModelFileError, first_line
from profilers.confined import confined
from profilers.onnx_runtime import onnxruntime

_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
_FATAL = 4  # what onnxruntime tells in its log: nothing else


def try_onnx(path: Path, record: Sequence[int]) -> None:
    """Run a file of one input once on zeros; of several inputs, only open it.

    Args:
        path: its external data, if any, has been checked.
        record: shape of one record of the input.

    Raises:
        ModelFileError: onnxruntime refuses the file or the record, crashes, or takes more memory or time than
            such a file needs.
    """
    confined("profilers.onnx_trial:run_here", path, json.dumps(list(record)))


def run_here(path: Path, record: str) -> dict[str, Any]:
    """Open and run a file in this process, which a hostile one may bring down; the names of its outputs.

    Raises:
        ModelFileError: onnxruntime refuses it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if len(inputs := session.get_inputs()) == 1:
            name, shape, kind = inputs[0].name, inputs[0].shape, inputs[0].type
            batch = shape[0] if shape and isinstance(shape[0], int) else 1
            session.run(None, {name: np.zeros((batch, *json.loads(record)), _DTYPES.get(kind, np.float32))})
    except Exception as err:  # noqa: BLE001 - a dozen classes without a common base of their own
        raise ModelFileError(
            f"onnxruntime cannot run {path}: {first_line(err)}",
            hint="check that it is whole, and that the data fits it",
        ) from err
    return {"outputs": [o.name for o in session.get_outputs()]}
