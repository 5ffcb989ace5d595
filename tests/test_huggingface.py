"""Checkpoints of transformers: what is saved comes back, and nothing but tensors is taken from the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from collected import Collected, no_search, quick_clocks
from safetensors.torch import load_file, save_file

from graph.errors import ArchitectureError, ModelFileError, PruneError, UntrustedCodeError, UsageError
from prune.config import CompressConfig
from prune.demands import parse_demand
from prune.input_spec import read_input_spec
from prune.inputs import InputRequest, parse_shape
from prune.load import LoadedModel, ModelSource, load
from prune.pipeline import compress
from prune.pruned import load_pruned
from prune.subject import open_model

transformers = pytest.importorskip("transformers")

TEXT = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def saved(folder: Path, name: str, config: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    model.save_pretrained(folder, **options)
    return model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "bert"
    saved(folder, "BertForSequenceClassification", transformers.BertConfig(**TEXT, num_labels=4))
    return folder


def opened(folder: Path, **options: Any) -> LoadedModel:
    return load(ModelSource(model=f"hf:{folder}", **options))


# What is good


def test_the_same_model_comes_back(bert: Path) -> None:
    found = opened(bert)
    original = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
    (ids,) = found.inputs.example()
    with torch.no_grad():
        assert torch.equal(found.module(ids), original(input_ids=ids).logits)
    assert found.arch == "transformers:BertForSequenceClassification"
    assert found.inputs.told() == "input_ids 2x16 int64"
    assert found.inputs.items[0].high == 60 and ids.max() < 60
    assert len(found.sha256) == 64 and found.size_bytes > 1000 and not found.module.training


def test_shards_are_put_together(tmp_path: Path) -> None:
    model = saved(tmp_path, "LlamaForCausalLM", transformers.LlamaConfig(**TEXT), max_shard_size="8KB")
    assert not (tmp_path / "model.safetensors").exists() and len(list(tmp_path.glob("*.safetensors"))) > 1
    found = opened(tmp_path)
    (ids,) = found.inputs.example()
    with torch.no_grad():
        assert torch.equal(found.module(ids), model(input_ids=ids, use_cache=False).logits)


CONFIGS: dict[str, Callable[[], tuple[str, Any, str]]] = {
    "t5": lambda: (
        "T5ForConditionalGeneration",
        transformers.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2),
        "input_ids 2x128 int64, decoder_input_ids 2x128 int64",
    ),
    "bart": lambda: (
        "BartForConditionalGeneration",
        transformers.BartConfig(
            vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32,
        ),
        "input_ids 2x16 int64, decoder_input_ids 2x16 int64",
    ),
    "vit": lambda: (
        "ViTForImageClassification", transformers.ViTConfig(**VISION), "pixel_values 2x3x16x16 float32",
    ),
    "clip": lambda: (
        "CLIPModel",
        transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8),
        "input_ids 2x16 int64, pixel_values 2x3x16x16 float32",
    ),
    "whisper": lambda: (
        "WhisperForConditionalGeneration",
        transformers.WhisperConfig(
            vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=20,
            max_target_positions=16, num_mel_bins=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
        ),
        "input_features 2x8x40 float32, decoder_input_ids 2x8 int64",
    ),
    "wav2vec2": lambda: (
        "Wav2Vec2ForCTC",
        transformers.Wav2Vec2Config(
            vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            conv_dim=(8, 8), conv_stride=(20, 16), conv_kernel=(20, 16), num_feat_extract_layers=2,
            num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        ),
        "input_values 2x16000 float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_the_configuration_tells_the_inputs(tmp_path: Path, case: str) -> None:
    name, config, told = CONFIGS[case]()
    saved(tmp_path, name, config)
    found = opened(tmp_path)
    assert found.inputs.told() == told
    with torch.no_grad():
        assert isinstance(found.module(*found.inputs.example()), torch.Tensor | tuple)


def test_the_user_may_say_otherwise(bert: Path, tmp_path: Path) -> None:
    for text in ("1x9", "9"):
        assert opened(bert, request=InputRequest(shape=parse_shape(text))).inputs.items[0].shape == (2, 9)
    with pytest.raises(UsageError, match="takes input_ids 2x16 int64"):
        opened(bert, request=InputRequest(shape=(3, 8, 8)))
    spec = {
        "attention_mask": {"shape": [1, 7], "dtype": "int64", "low": 1, "high": 2},
        "input_ids": {"shape": [1, 7], "dtype": "int64", "high": 60},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    found = opened(bert, request=InputRequest(inputs=read_input_spec(tmp_path / "spec.json")))
    assert sorted(found.inputs.names) == ["attention_mask", "input_ids"]
    with torch.no_grad():
        assert found.module(*found.inputs.example()).shape == (2, 4)


def test_a_class_goes_before_the_configuration(bert: Path) -> None:
    assert opened(bert, arch="BertForSequenceClassification").arch.endswith("BertForSequenceClassification")
    with pytest.raises(ArchitectureError, match="do not fit BertForMaskedLM: .* missing .cls.predictions"):
        opened(bert, arch="transformers:BertForMaskedLM")


# From end to end


def test_a_checkpoint_is_pruned_without_data(bert: Path, tmp_path: Path) -> None:
    seen = Collected()
    config = CompressConfig(
        source=ModelSource(model=f"hf:{bert}"),
        demands=(parse_demand("--flops", "0.7"),),
        output=tmp_path / "out",
    )
    with quick_clocks():
        report = compress(config, no_search, seen)
    assert report.verification["max_error"] <= 1e-9 and report.onnx["max_error"] <= 1e-4
    assert 0.6 <= report.ratios()["macs"] <= 0.7
    assert report.model["inputs"][0]["high"] == 60
    module = load_pruned(tmp_path / "out")
    assert (module.program.inputs[0].name, module.program.inputs[0].high) == ("input_ids", 60)
    assert module(*module.program.random_inputs(3)).shape[-1] == 4
    assert any("nothing is measured for accuracy" in note for note in seen.notes)


def test_names_of_weights_stay_the_models_own(bert: Path) -> None:
    program = open_model(ModelSource(model=f"hf:{bert}")).program
    assert "bert.embeddings.word_embeddings.weight" in program.tensors
    assert [s.name for s in program.inputs] == ["input_ids"]


# What is refused


def changed(folder: Path, bert: Path, **changes: Any) -> Path:
    """A copy of the checkpoint with other settings; None takes one away."""
    folder.mkdir(exist_ok=True)
    for path in bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((bert / "config.json").read_text()) | changes
    settings = {k: v for k, v in settings.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def without_weights(folder: Path, *others: str) -> None:
    (folder / "model.safetensors").unlink()
    for name in others:
        (folder / name).write_bytes(b"x")


def reweighted(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def indexed(folder: Path, entry: Any) -> None:
    without_weights(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(entry))


Change = Callable[[Path], Any]
REFUSED: dict[str, tuple[dict[str, Any], Change, type[PruneError], str]] = {
    "code of its own": (
        {"auto_map": {"AutoModel": "modeling.Mine"}}, lambda p: None, UntrustedCodeError, "auto_map",
    ),
    "code in a part": (
        {"text_config": {"auto_map": {}}}, lambda p: None, UntrustedCodeError, "never run",
    ),
    "quantized": ({"quantization_config": {"bits": 4}}, lambda p: None, ModelFileError, "quantized"),
    "pickled": (
        {}, lambda p: without_weights(p, "pytorch_model.bin"), UntrustedCodeError, "pytorch_model.bin",
    ),
    "configuration only": ({}, without_weights, ModelFileError, "holds no weights"),
    "adapter": ({}, lambda p: without_weights(p, "adapter_config.json"), ModelFileError, "an adapter"),
    "no configuration": ({}, lambda p: (p / "config.json").unlink(), ModelFileError, "no config.json"),
    "broken configuration": (
        {}, lambda p: (p / "config.json").write_text("{"), ModelFileError, "config.json",
    ),
    "no architecture": ({"architectures": None}, lambda p: None, ArchitectureError, "no architecture"),
    "unknown": ({"architectures": ["Nope"]}, lambda p: None, ArchitectureError, "no model 'Nope'"),
    "no model": ({"architectures": ["BertConfig"]}, lambda p: None, ArchitectureError, "no model"),
    "code for a name": ({"architectures": ["os.system"]}, lambda p: None, ArchitectureError, "no model"),
    "missing": (
        {}, lambda p: reweighted(p, lambda s: s.pop("classifier.weight")), ArchitectureError,
        r"1 missing \(classifier.weight\)",
    ),
    "unexpected": (
        {}, lambda p: reweighted(p, lambda s: s.update(extra=torch.ones(1))), ArchitectureError,
        r"1 unexpected \(extra\)",
    ),
    "shape": (
        {"num_labels": None, "id2label": {str(i): str(i) for i in range(9)}, "label2id": None},
        lambda p: None, ArchitectureError, r"classifier.bias is \(4,\) in the file, \(9,\) in the model",
    ),
    "not a number": (
        {}, lambda p: reweighted(p, lambda s: s["classifier.bias"].fill_(torch.nan)), ModelFileError, "NaN",
    ),
    "impossible": ({"hidden_size": -3}, lambda p: None, ArchitectureError, "cannot build"),
    "broken weights": (
        {}, lambda p: (p / "model.safetensors").write_bytes(b"\x09" + b"\0" * 7 + b"{" + b" " * 20),
        ModelFileError, "broken or truncated",
    ),
    "index": ({}, lambda p: indexed(p, {}), ModelFileError, "no weight_map"),
    "shard outside": (
        {}, lambda p: indexed(p, {"weight_map": {"a": "../b.safetensors"}}), ModelFileError, "no safetensors",
    ),
    "pickled shard": (
        {}, lambda p: indexed(p, {"weight_map": {"a": "a.bin"}}), ModelFileError, "no safetensors",
    ),
    "lost shard": (
        {}, lambda p: indexed(p, {"weight_map": {"a": "a.safetensors"}}), ModelFileError, "lacks the shard",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_checkpoint_is_one_clear_line(bert: Path, tmp_path: Path, case: str) -> None:
    changes, spoil, kind, says = REFUSED[case]
    folder = changed(tmp_path / "bad", bert, **changes)
    spoil(folder)
    with pytest.raises(kind, match=says) as caught:
        opened(folder)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, says in (("none", "no such folder"), ("file", "is a file")):
        with pytest.raises(ModelFileError, match=says):
            opened(tmp_path / name)
    with pytest.raises(UsageError, match="--weights goes with a network's name"):
        opened(tmp_path / "none", weights=tmp_path / "file")
    with pytest.raises(UsageError, match="--arch-args does not go with hf:DIR"):
        opened(tmp_path / "none", arch_args={"a": 1})


def test_without_the_library_the_command_is_told(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ArchitectureError, match="needs the package transformers") as caught:
        opened(bert)
    assert "pip install" in caught.value.hint


def test_a_configuration_that_does_not_tell_asks_for_a_specification(bert: Path, tmp_path: Path) -> None:
    saved(
        tmp_path,
        "PatchTSTForPrediction",
        transformers.PatchTSTConfig(
            num_input_channels=2, context_length=16, d_model=8, ffn_dim=8, num_attention_heads=2,
            num_hidden_layers=1, patch_length=4, patch_stride=4, prediction_length=4,
        ),
    )  # fmt: skip
    assert opened(tmp_path).inputs.told() == "past_values 2x16x2 float32"
    saved(tmp_path / "perceiver", "PerceiverModel", transformers.PerceiverConfig(
        num_latents=4, d_latents=8, d_model=8, num_blocks=1, num_self_attends_per_block=1,
        num_self_attention_heads=2, num_cross_attention_heads=2, vocab_size=20,
    ))  # fmt: skip
    with pytest.raises(UsageError, match="does not tell the shape of its input 'inputs'") as caught:
        opened(tmp_path / "perceiver")
    assert "--input-spec" in caught.value.hint


def test_a_factory_may_return_a_model_of_the_library(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mymodels.py").write_text(
        "import transformers\n"
        "def bert(labels):\n"
        f"    config = transformers.BertConfig(**{TEXT}, num_labels=labels)\n"
        "    return transformers.BertForSequenceClassification(config)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    named = load(ModelSource(model="mymodels:bert", arch_args={"labels": 5}))
    assert named.inputs.told() == "input_ids 2x16 int64"
    file = load(
        ModelSource(model=str(bert / "model.safetensors"), arch="mymodels:bert", arch_args={"labels": 4})
    )
    with torch.no_grad():
        (ids,) = file.inputs.example()
        assert torch.equal(file.module(ids), opened(bert).module(ids))
