"""Data that a file names: used where prune reads it itself, never where it would be a function to call."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graph.errors import DataError
from models_zoo.registry import build
from prune.inputs import InputRequest
from prune.load import ModelSource, load, save_model
from prune.manifest import write_manifest
from prune.pruned import save_program
from prune.subject import find_data, open_model
from supernet.elastic import ElasticConfig
from supernet.net import make_supernet
from supernet.store import load_supernet, save_supernet

CODE = "evil:data"
ARGS = {"image_size": 8, "in_channels": 1, "width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2}


def model_file(path: Path, data: str) -> Path:
    path = path.with_suffix(".pt")
    module = build("vit_tiny", **ARGS)
    save_model(path, module, arch="vit_tiny", arch_args=ARGS, input_shape=(1, 8, 8), data=data, metrics={})
    return path


def run_folder(path: Path, data: str) -> Path:
    subject = open_model(ModelSource(model=str(model_file(path.with_suffix(".pt"), "digits"))))
    path.mkdir()
    save_program(subject.program, path, {})
    (path / "report.json").write_text(json.dumps({"data": {"name": data}}))
    write_manifest(path)
    return path


def subnetwork(path: Path, data: str) -> Path:
    run_folder(path, data).joinpath("report.json").unlink()
    (path / "subnet.json").write_text(json.dumps({"origin": {"data": data}}))
    write_manifest(path)
    return path


@pytest.mark.parametrize("made", [model_file, run_folder, subnetwork])
def test_a_function_is_run_only_where_the_user_names_it(
    made: Callable[[Path, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text(
        "from models_zoo.digits import load\nopen('ran', 'w').close()\ndef data(**_):\n    return load()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    loaded = load(ModelSource(model=str(made(tmp_path / "m", CODE))))
    with pytest.raises(DataError, match="only where you name it") as caught:
        find_data(None, loaded)
    assert CODE in caught.value.hint and not (tmp_path / "ran").exists()
    assert find_data(CODE, loaded) is not None and (tmp_path / "ran").exists()
    monkeypatch.delitem(sys.modules, "evil")
    plain = find_data(None, load(ModelSource(model=str(made(tmp_path / "plain", "digits")))))
    assert plain is not None and plain.name == "digits"


def test_a_supernet_cannot_have_one_run_either(tmp_path: Path) -> None:
    source = ModelSource(model="v", module=build("vit_tiny", **ARGS), request=InputRequest(shape=(1, 8, 8)))
    net = make_supernet(open_model(source), ElasticConfig(), None, origin={"data": CODE})
    save_supernet(net, tmp_path / "net", {})
    stored = load_supernet(tmp_path / "net")
    assert stored.data == CODE
    with pytest.raises(DataError, match="only where you name it"):
        find_data(None, stored.loaded())
