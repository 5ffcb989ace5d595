"""Files that mean harm, or that were harmed: every one of them must end with one clear line.

Written from scratch after what is publicly known of attacks on model files; no file of anybody else's is here.
Payloads create a canary file and knock at a local port, nothing else.
"""

from importlib.util import find_spec

from tests.hostile import (
    archives,
    datasets,
    folders,
    numbers,
    onnx_files,
    pickles,
    programs,
    settings,
    special,
    unfinished,
)
from tests.hostile.case import Case, Payload

MODULES = (pickles, archives, numbers, programs, folders, onnx_files, datasets, settings, special, unfinished)


def cases() -> list[Case]:
    """All cases, under names that are unique; those of folders of transformers where that is installed."""
    found = [case for module in MODULES for case in module.cases()]
    if find_spec("transformers") is None:
        found = [case for case in found if not any("hf:" in word for word in case.command)]
    names = [case.name for case in found]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
    return found


__all__ = ["Case", "Payload", "cases"]
