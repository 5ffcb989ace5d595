"""onnxruntime, kept from reporting.

Since 1.29 its builds for Linux and macOS send its makers what sessions and models are made, and keep an
identifier of the machine in the user's cache folder. The variable must be set before the import.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # who sets it to 0 lets it report

import onnxruntime  # noqa: E402

__all__ = ["onnxruntime"]
