"""Confinement: a file from elsewhere is read in a process of its own, with a limit of memory and of time.

Libraries in C++ that parse files and reason about them can be led to take all memory, to run for ever, or to
crash. What happens to a process of its own is an answer, and harms nobody.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from graph.errors import ModelFileError

_MEMORY = 1 << 30  # bytes of address space: Python, its libraries, and room to work
_COPIES = 4  # of the file
_SECONDS = 10
_BYTES_PER_SECOND = 1 << 25  # by which a long file has more time
_CHILD = "from profilers.confined import _answer; _answer()"


def confined(function: str, path: Path, *words: str) -> Any:
    """What a function of ours says about a file.

    Args:
        function: ``package.module:name``; it takes the path and the words, and returns JSON data.
        path: the file.
        words: further arguments.

    Raises:
        ModelFileError: the function raises one, takes more memory or time than such a file needs, or crashes.
    """
    try:
        size = path.stat().st_size
    except OSError as err:
        raise ModelFileError(f"{path} cannot be read: {err.strerror}", hint="check the path") from err
    seconds = _SECONDS + size // _BYTES_PER_SECOND
    memory = _MEMORY + _COPIES * size
    # -P: nothing is imported from the working directory, unless this process does so, too.
    paths = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, function, str(memory), str(seconds), str(path), *words],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=4 * seconds,
            check=False,
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as err:
        raise ModelFileError(
            f"{path} cannot be read with {memory / 1e9:.1f} GB in {seconds} s", hint="do not use this file"
        ) from err
    if "error" in answer:
        raise ModelFileError(answer["error"], hint=answer["hint"])
    return answer["found"]


def _answer() -> None:
    """The child: limits itself, calls the function and prints what it says."""
    function, memory, seconds, path, *words = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = function.partition(":")
    try:
        answer = {"found": getattr(importlib.import_module(module), name)(Path(path), *words)}
    except ModelFileError as err:
        answer = {"error": str(err), "hint": err.hint}
    print(json.dumps(answer))
