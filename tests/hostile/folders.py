"""Folders of transformers and Mamba whose configuration, index or weights mean harm."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case, Payload
from tests.hostile.honest import bert_weights, mamba_weights, torch_file, write_bert, write_mamba
from tests.hostile.pickle_words import called, in_archive, named, whole

BERT, MAMBA = ("inspect", "hf:bert"), ("inspect", "hf:mamba")


def _bert(**changes: object) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: write_bert(folder / "bert", **changes)


def _mamba(**changes: object) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: write_mamba(folder / "mamba", **changes)


def _config(text: bytes) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (write_bert(folder / "bert") / "config.json").write_bytes(text)


def _index(index: object, *, shard: Callable[[], bytes] | None = None) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        bert = write_bert(folder / "bert")
        (bert / "model.safetensors").rename(folder / "elsewhere.safetensors")
        (bert / "model.safetensors.index.json").write_text(
            index if isinstance(index, str) else json.dumps(index)
        )
        if shard is not None:
            (bert / "a.safetensors").write_bytes(shard())

    return make


def _instead(name: str, content: Callable[[Payload], bytes]) -> Callable[[Path, Payload], object]:
    def make(folder: Path, payload: Payload) -> None:
        bert = write_bert(folder / "bert")
        (bert / "model.safetensors").unlink()
        (bert / name).write_bytes(content(payload))

    return make


def _reference(content: Callable[[Payload], bytes]) -> Callable[[Path, Payload], object]:
    """The layout of mamba_ssm, whose weights are a file of torch."""

    def make(folder: Path, payload: Payload) -> None:
        (folder / "mamba").mkdir()
        settings = {"d_model": 8, "n_layer": 1, "vocab_size": 16, "ssm_cfg": {"layer": "Mamba1"}}
        (folder / "mamba" / "config.json").write_text(json.dumps(settings))
        (folder / "mamba" / "pytorch_model.bin").write_bytes(content(payload))

    return make


def _code(folder: Path, payload: Payload) -> None:
    bert = write_bert(folder / "bert", auto_map={"AutoModel": "modeling_evil.Evil"})
    (bert / "modeling_evil.py").write_text(payload.python)


def _code_beside(folder: Path, payload: Payload) -> None:
    """Modules of Python in the folder and in the working directory: none of them may be imported."""
    write_bert(folder / "bert", num_labels=7)
    for name in (
        "json.py",
        "torch.py",
        "transformers.py",
        "sitecustomize.py",
        "modeling_bert.py",
        "random.py",
    ):
        (folder / name).write_text(payload.python)
        (folder / "bert" / name).write_text(payload.python)


def cases() -> Iterator[Case]:
    """Checkpoints of folders."""
    pickled = lambda p: in_archive(whole(called(named("os", "system"), p.shell)))  # noqa: E731
    made: dict[str, tuple[str, Callable[[Path, Payload], object], tuple[str, ...], str]] = {
        "remote code": ("asks to import a file of its folder", _code, BERT, "code of its own"),
        "remote code in a part": ("the same, hidden in a section", _bert(text_config={"auto_map": {"AutoModel": "evil.Evil"}}), BERT, "code of its own"),
        "trust_remote_code": ("trusts itself", _bert(trust_remote_code=True), BERT, "code of its own"),
        "code beside it": ("modules of Python lie about", _code_beside, BERT, "do not fit"),
        "pickled weights": ("pytorch_model.bin", _instead("pytorch_model.bin", pickled), BERT, "can run code"),
        "weights of Keras": ("tf_model.h5", _instead("tf_model.h5", lambda p: b"x"), BERT, "can run code"),
        "adapter": ("no model", _instead("adapter_config.json", lambda p: b"{}"), BERT, "adapter"),
        "no weights": ("none", _instead("x", lambda p: b""), BERT, "no weights"),
        "weights that are a pickle": ("the ending lies", _instead("model.safetensors", pickled), BERT, "broken or truncated"),
        "quantized": ("weights of another kind", _bert(quantization_config={"bits": 4}), BERT, "quantized"),
        "class of no model": ("a function of the library", _bert(architectures=["pipeline"]), BERT, "has no model"),
        "class of a path": ("walks through modules", _bert(architectures=["utils.logging.os"]), BERT, "has no model"),
        "class of dunder": ("an attribute of the module", _bert(architectures=["__loader__"]), BERT, "has no model"),
        "base class": ("no model of its own", _bert(architectures=["PreTrainedModel"]), BERT, ""),
        "several classes": ("which one?", _bert(architectures=["BertModel", "GPT2Model"]), BERT, "names"),
        "class of a number": ("no text", _bert(architectures=[7]), BERT, "names"),
        "unknown class": ("nobody has it", _bert(architectures=["EvilModel"]), BERT, "has no model"),
        "million layers": ("takes for ever to build", _bert(num_hidden_layers=10**6), BERT, ""),
        "hidden size of 10^6": ("takes terabytes", _bert(hidden_size=10**6, num_attention_heads=1), BERT, ""),
        "vocabulary of 10^9": ("takes terabytes", _bert(vocab_size=10**9), BERT, ""),
        "positions of 10^10": ("takes gigabytes", _bert(max_position_embeddings=10**10), BERT, ""),
        "labels of 10^7": ("a table of names", _bert(num_labels=10**7), BERT, ""),
        "sizes below zero": ("no network", _bert(hidden_size=-8), BERT, ""),
        "sizes of zero": ("no network", _bert(hidden_size=0), BERT, ""),
        "sizes of text": ("no numbers", _bert(hidden_size="8; touch evil"), BERT, ""),
        "sizes of fractions": ("no whole numbers", _bert(hidden_size=8.5), BERT, ""),
        "heads that do not divide": ("8 by 3", _bert(num_attention_heads=3), BERT, ""),
        "no heads": ("division by zero", _bert(num_attention_heads=0), BERT, ""),
        "activation of a name": ("a function to look up", _bert(hidden_act="os.system"), BERT, ""),
        "dtype of a name": ("an attribute of torch", _bert(dtype="load"), BERT, ""),
        "attention of a name": ("kernels to be downloaded", _bert(_attn_implementation="evil/kernel", num_labels=9), BERT, "do not fit"),
        "other classes": ("more labels than weights", _bert(num_labels=5), BERT, "do not fit"),
        "configuration of a list": ("no table", _config(b"[]"), BERT, "not an object"),
        "configuration is deep": ("nested 100,000 times", _config(b'{"a":' * 100_000), BERT, "not JSON"),
        "configuration of 17 MB": ("more than any has", _config(b'{"a":"' + b"x" * (17 << 20) + b'"}'), BERT, "more than"),
        "configuration of empty tables": ("24 bytes of memory for one", _config(b'{"a":[' + b"{}," * 2_000_000 + b"{}]}"), BERT, "parts"),
        "configuration of a number": ("5,000 digits", _config(b'{"hidden_size":' + b"9" * 5000 + b"}"), BERT, "not JSON"),
        "configuration is not text": ("no UTF-8", _config(b"\xff\xfe{}"), BERT, "not JSON"),
        "configuration is empty": ("nothing", _config(b""), BERT, "not JSON"),
        "index outside": ("a shard elsewhere", _index({"weight_map": {"w": "../elsewhere.safetensors"}}), BERT, "no safetensors file of the folder"),
        "index of an absolute path": ("a shard elsewhere", _index({"weight_map": {"w": "/etc/passwd"}}), BERT, "no safetensors file of the folder"),
        "index of a pickle": ("a shard that is none", _index({"weight_map": {"w": "pytorch_model.bin"}}), BERT, "no safetensors file of the folder"),
        "index of numbers": ("no names", _index({"weight_map": {"w": 7}}), BERT, "no weight_map"),
        "index of a list": ("no table", _index({"weight_map": ["a.safetensors"]}), BERT, "no weight_map"),
        "index without a map": ("nothing", _index({"metadata": {}}), BERT, "no weight_map"),
        "index that is deep": ("nested 100,000 times", _index('{"a":' * 100_000), BERT, "not JSON"),
        "shard missing": ("it is not there", _index({"weight_map": {"w": "b.safetensors"}}), BERT, "lacks the shard"),
        "shard cut": ("truncated", _index({"weight_map": {"w": "a.safetensors"}}, shard=lambda: bert_weights()[:500]), BERT, "broken or truncated"),
        "shard of a header": ("longer than the file", _index({"weight_map": {"w": "a.safetensors"}}, shard=lambda: struct.pack("<Q", 1 << 40) + b"{"), BERT, "broken or truncated"),
        "shard with a zero": ("no file name", _index({"weight_map": {"w": "a\0.safetensors"}}), BERT, ""),
        "Mamba of a million layers": ("takes for ever to build", _mamba(num_hidden_layers=10**6), MAMBA, ""),
        "Mamba of 10^6": ("takes terabytes", _mamba(hidden_size=10**6), MAMBA, ""),
        "Mamba of 10^9 states": ("takes terabytes", _mamba(state_size=10**9), MAMBA, ""),
        "Mamba below zero": ("no network", _mamba(hidden_size=-8), MAMBA, ""),
        "Mamba of text": ("no numbers", _mamba(hidden_size="8"), MAMBA, ""),
        "Mamba of null": ("no numbers", _mamba(num_hidden_layers=None), MAMBA, ""),
        "Mamba of nothing": ("no layers", _mamba(num_hidden_layers=0), MAMBA, ""),
        "Mamba of infinite epsilon": ("no number", _mamba(layer_norm_epsilon=1e999), MAMBA, ""),
        "Mamba with code": ("asks to import", _mamba(auto_map={"AutoModel": "evil.Evil"}), MAMBA, "code of its own"),
        "Mamba pickled": ("pytorch_model.bin calls", _reference(pickled), MAMBA, "would run code"),
        "Mamba bare pickle": ("pytorch_model.bin is none", _reference(lambda p: whole(called(named("os", "system"), p.shell))), MAMBA, "bare pickle"),
        "Mamba without weights": ("an empty state dict", _reference(lambda p: torch_file({})), MAMBA, "nothing"),
        "Mamba cut": ("truncated", lambda f, p: (write_mamba(f / "mamba") / "model.safetensors").write_bytes(mamba_weights()[:300]), MAMBA, "broken or truncated"),
        "no configuration": ("an empty folder", lambda f, p: (f / "bert").mkdir(), BERT, "config.json"),
        "no folder": ("there is nothing", lambda f, p: None, BERT, "no such folder"),
        "a file": ("no folder", lambda f, p: (f / "bert").write_bytes(b""), BERT, "is a file"),
    }  # fmt: skip
    for name, (why, make, command, says) in made.items():
        yield Case(f"folder: {name}", why, make, command, says=says)
