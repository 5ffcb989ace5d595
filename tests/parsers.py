"""The parsers that fuzzers feed: each takes bytes, and lets nothing through but an error of ours."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from graph.errors import PruneError
from graph.guard import check_stored
from graph.program import Program
from prune import cifar10
from prune.checkpoint import check_readable, checked_weights, read_file
from prune.files import read_json
from prune.input_spec import read_input_spec
from prune.manifest import check_folder
from prune.opcodes import PickleError, names_in
from prune.page import page
from prune.plan import Plan
from prune.settings import read_settings
from prune.stored import read_stored
from tests.hostile.honest import program


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as home:
            path = Path(home, name)
            path.write_bytes(data)
            try:
                read(path)
            except PruneError as err:
                assert "\n" not in str(err)

    return parse


def _weights(path: Path) -> None:
    size = check_readable(path)
    content, _ = read_file(path, size, trust_code=False)
    for tensor in checked_weights(path, size, content).values():
        torch.isfinite(tensor).all()


def _graph(path: Path) -> None:
    check_stored(Program.from_json(read_json(path, "graph"), program().tensors))


def _opcodes(data: bytes) -> None:
    try:
        names_in(io.BytesIO(data))
    except PickleError as err:
        assert "\n" not in str(err)


PARSERS: dict[str, Callable[[bytes], None]] = {
    "weights": _file("m.pt", _weights),
    "opcodes": _opcodes,
    "cifar pickle": _file("data_batch_1", cifar10._read_pickle),
    "graph": _file("graph.json", _graph),
    "plan": _file("plan.json", lambda path: Plan.from_json(read_json(path, "plan"))),
    "report": _file("report.json", lambda path: page(read_stored(path))),
    "manifest": _file("manifest.json", lambda path: check_folder(path.parent)),
    "specification in JSON": _file("s.json", read_input_spec),
    "specification in TOML": _file("s.toml", read_input_spec),
    "specification in npz": _file("s.npz", read_input_spec),
    "settings": _file("prune.toml", lambda path: read_settings("compress", path)),
}


def seeds() -> dict[str, list[bytes]]:
    """Honest inputs, from which a fuzzer goes on."""
    from tests.hostile.honest import torch_file, zoo_file
    from tests.hostile.mutations import _batch, _report
    from tests.hostile.pickle_words import plain_state
    from tests.hostile.settings import _npz

    plan = {"format": "prune-plan", "version": 1, "method": "uniform", "macs": 5, "base_macs": 9}
    spec = {"x": {"shape": [1, 3, 8, 8]}, "n": {"shape": [1, 8], "dtype": "int64", "high": 30}}
    legacy = torch_file({"w": torch.ones(3)}, zipped=False)
    return {
        "weights": [plain_state(), legacy, zoo_file(".safetensors")[:2000]],
        "opcodes": [_batch(), legacy],
        "cifar pickle": [_batch()],
        "graph": [json.dumps(program().to_json()).encode()],
        "plan": [json.dumps(plan | {"groups": {"c": {"width": 4, "kept": [0, 1]}}}).encode()],
        "report": [_report()],
        "manifest": [b'{\n  "format": "prune-manifest",\n  "version": 1,\n  "files": {}\n}\n'],
        "specification in JSON": [json.dumps(spec).encode()],
        "specification in TOML": [b'[x]\nshape = [1, 3]\ndtype = "int64"\n'],
        "specification in npz": [_npz(x=[[1.0, 2.0]])],
        "settings": [b"[compress]\nflops = 0.5\n"],
    }
