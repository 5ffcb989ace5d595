"""The folder of a supernet: its program and weights as any pruned model has them, and what can be chosen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from graph.axes import infer
from graph.errors import ModelFileError
from graph.program import Program, ProgramModule
from prune.files import OutputFolder, read_json, write_json
from prune.huggingface import CONFIG
from prune.inputs import inputs_of
from prune.load import LoadedModel
from prune.manifest import check_folder, write_manifest
from prune.origin import SUPERNET_FILE
from prune.pruned import load_program, save_program
from prune.regular import regular_size
from prune.tensor_files import load_weights, save_tensors
from prune.text import TOKENIZER
from supernet.elastic import Elastic, ElasticConfig
from supernet.layers import find_layers
from supernet.net import Supernet

FOUND_FILE = "found.json"
ORIGINAL_FILE = "original.safetensors"  # the weights before the training, of the teacher
SOURCE_CONFIG = "source_config.json"  # of the checkpoint of transformers that it was made from
_FORMAT, _VERSION = "prune-supernet", 1
# What reads text and images for a checkpoint of transformers, and how it writes.
_PREPROCESSING = (
    TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "generation_config.json",
)  # fmt: skip
_MOST_BYTES = 1 << 27  # of one of these


@dataclass(frozen=True)
class Stored:
    """A supernet that was read from its folder.

    Attributes:
        folder: where it is.
        net: the supernet.
        settings: of the checkpoint of transformers that it was made from; None where it was made of another
            model.
    """

    folder: Path
    net: Supernet
    settings: Mapping[str, Any] | None

    @property
    def data(self) -> str | None:
        """Name of the data that it was trained on."""
        found = self.net.origin.get("data")
        return found if isinstance(found, str) else None

    def loaded(self) -> LoadedModel:
        """The whole network as a model that was loaded."""
        program = self.net.program
        module = ProgramModule(program).eval()
        return LoadedModel(module, "program", {}, inputs_of(program), self.data, {}, str(self.folder), "", 0)


def save_supernet(
    net: Supernet, folder: Path, companions: Mapping[str, Path], *, force: bool = False
) -> None:
    """Write a supernet, whole or not at all.

    Args:
        net: the supernet.
        folder: where to.
        companions: further files by the name that they get, see ``companions_of``.
        force: replace files of an earlier one.

    Raises:
        OutputError: the folder cannot be written.
    """
    with OutputFolder(folder, force) as out:
        save_program(net.program, out.staging, {"supernet": "true"})
        about = {"format": _FORMAT, "version": _VERSION, "origin": dict(net.origin), "notes": list(net.notes)}
        write_json(out.staging / SUPERNET_FILE, about | net.told())
        if net.original is not None:
            save_tensors(net.original, out.staging / ORIGINAL_FILE, {})
        for name, path in companions.items():
            shutil.copyfile(path, out.staging / name)
        write_manifest(out.staging)
    stale = (FOUND_FILE,) if net.original is not None else (FOUND_FILE, ORIGINAL_FILE)  # of other weights
    for name in stale:
        (folder / name).unlink(missing_ok=True)


def load_supernet(folder: Path) -> Stored:
    """Read a supernet.

    Raises:
        ModelFileError: there is none, or a file is missing or broken.
        ProgramError: its graph is malformed.
    """
    if not (folder / SUPERNET_FILE).is_file():
        raise ModelFileError(
            f"{folder} is no supernet: it holds no {SUPERNET_FILE}",
            hint="`prune supernet build MODEL -o DIR` makes one",
        )
    check_folder(folder)
    about = read_json(folder / SUPERNET_FILE, "a supernet")
    program = load_program(folder)
    axes, layers = infer(program), find_layers(program)
    try:
        if (about["format"], about["version"]) != (_FORMAT, _VERSION):
            raise ValueError(f"of format {about['format']} {about['version']}")
        origin = dict(about["origin"])
        given = dict(origin["elastic"])
        config = ElasticConfig(**given | {"kinds": tuple(given["kinds"])})
        salience = [float(s) for s in origin["layer_salience"]]
        elastic = Elastic(axes, layers, salience, config)
        if [b.name for b in layers] != about["layers"]:
            raise ValueError("it lists other layers than its graph has")
        notes = tuple(map(str, about["notes"]))
        net = Supernet(axes, elastic, origin, float(about["max_error"]), notes, _original(folder, program))
    except (LookupError, TypeError, ValueError, AttributeError) as err:
        raise ModelFileError(
            f"{folder / SUPERNET_FILE} is malformed: {err}", hint="build the supernet anew"
        ) from err
    settings = None
    if (folder / SOURCE_CONFIG).is_file():
        settings = read_json(folder / SOURCE_CONFIG, "configuration", constants=True)
    return Stored(folder, net, settings)


def _original(folder: Path, program: Program) -> dict[str, Tensor] | None:
    path = folder / ORIGINAL_FILE
    if not path.is_file():
        return None
    found = load_weights(path)
    if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in program.tensors.items()}:
        raise ValueError(f"{ORIGINAL_FILE} does not fit its graph")
    return found


def with_origin(net: Supernet, **more: Any) -> Supernet:
    """A supernet with further words about where it comes from."""
    return replace(net, origin={**net.origin, **more})


def preprocessing_of(folder: Path) -> dict[str, Path]:
    """Tokenizer, image processor and so on of a checkpoint or a supernet, for its subnetworks, too.

    Raises:
        ModelFileError: one of them is larger than such files are, or no regular file.
    """
    found = {name: folder / name for name in _PREPROCESSING if (folder / name).exists()}
    for path in found.values():
        if (size := regular_size(path)) > _MOST_BYTES:
            raise ModelFileError(
                f"{path} has {size:,} bytes, more than a file that goes with the model ({_MOST_BYTES:,})",
                hint="take it out of the folder",
            )
    return found


def companions_of(model: str) -> dict[str, Path]:
    """What goes with a model: of a checkpoint of transformers, or a supernet, configuration and tokenizer.

    Raises:
        ModelFileError: as ``preprocessing_of``.
    """
    home = Path(model.removeprefix("hf:"))
    config = home / (CONFIG if model.startswith("hf:") else SOURCE_CONFIG)
    return preprocessing_of(home) | ({SOURCE_CONFIG: config} if config.is_file() else {})
