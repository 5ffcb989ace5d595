"""Supernets of models of transformers: stock classes load what is extracted, and compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import cli
from front.commands import terminal
from graph.errors import ModelFileError
from graph.program import Program, run
from prune.files import read_json
from prune.load import ModelSource, load
from prune.subject import open_model
from supernet.elastic import ElasticConfig, Subnet
from supernet.expressible import made_expressible
from supernet.extraction import write_subnet
from supernet.net import Supernet, make_supernet, origin_of
from supernet.store import companions_of, load_supernet, preprocessing_of, save_supernet

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32}
VISION = {**SIZES, "image_size": 8, "patch_size": 4}
TEXT = {**SIZES, "vocab_size": 40, "max_position_embeddings": 16}
SAM = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_dim": 32, "image_size": 16,
    "patch_size": 4, "window_size": 2, "global_attn_indexes": [1, 3], "output_channels": 8,
}  # fmt: skip
GREY, BYTES = {**VISION, "num_channels": 1}, {**TEXT, "vocab_size": 256}
GROUPED = {"num_key_value_heads": 2, "tie_word_embeddings": True}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}
GPT = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 3, "n_head": 4, **ENDS}

# Class, configuration, elastic kinds, and whether a configuration can say the shape.
MODELS: dict[str, tuple[str, Any, str, bool]] = {
    "vit": ("ViTForImageClassification", lambda t: t.ViTConfig(**VISION), "head,mlp", True),
    "deit": ("DeiTForImageClassification", lambda t: t.DeiTConfig(**VISION), "head,mlp", True),
    "bert": ("BertForMaskedLM", lambda t: t.BertConfig(**TEXT), "mlp", True),
    "bert heads": ("BertForMaskedLM", lambda t: t.BertConfig(**TEXT), "head,mlp", False),
    "gpt2": ("GPT2LMHeadModel", lambda t: t.GPT2Config(**GPT), "mlp", True),
    "llama": ("LlamaForCausalLM", lambda t: t.LlamaConfig(**TEXT, **GROUPED), "head,mlp,residual", True),
    "sam": ("SamVisionModel", lambda t: t.SamVisionConfig(**SAM), "mlp", True),
    "clip": (
        "CLIPModel",
        lambda t: t.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8),
        "mlp",
        True,
    ),
}


def saved(folder: Path, name: str) -> None:
    cls, config, _, _ = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(config(transformers)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)


def made(folder: Path, name: str) -> Supernet:
    saved(folder, name)
    subject = open_model(ModelSource(model=f"hf:{folder}"))
    kinds: Any = tuple(MODELS[name][2].split(","))
    config = ElasticConfig(kinds=kinds, uniform=True)
    return make_supernet(subject, config, None, origin=origin_of(subject, None))


@pytest.mark.parametrize("name", MODELS)
def test_stock_classes_load_what_is_extracted(name: str, tmp_path: Path) -> None:
    net = made(tmp_path / "whole", name)
    elastic, cls = net.elastic, MODELS[name][0]
    narrow = elastic.at(0.5)
    gone = (0,) if len(elastic.layers) < 6 else (0, 3)  # of two towers one layer each
    subnet = Subnet(narrow.levels, gone)
    settings = read_json(tmp_path / "whole" / "config.json", "configuration", constants=True)
    found = write_subnet(net, subnet, tmp_path / "small", settings)
    assert found.max_error is not None and found.max_error <= 1e-9
    assert found.stock == MODELS[name][3], found.reason
    if not found.stock:
        assert cls in found.reason
        assert (tmp_path / "small" / "graph.json").is_file()
        return
    stock = getattr(transformers, cls).from_pretrained(tmp_path / "small").eval()
    assert sum(p.numel() for p in stock.parameters()) <= found.params  # but for what nothing reads
    program: Program = net.extract(subnet)
    inputs = program.random_inputs(2)
    loaded = load(ModelSource(model=f"hf:{tmp_path / 'small'}"))
    with torch.no_grad():
        wanted, got = run(program, program.tensors, inputs), loaded.module(*inputs)
    for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (wanted, got)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_supernet_comes_back_from_its_folder(tmp_path: Path) -> None:
    net = made(tmp_path / "whole", "llama")
    save_supernet(net, tmp_path / "net", companions_of(f"hf:{tmp_path / 'whole'}"))
    stored = load_supernet(tmp_path / "net")
    assert stored.settings is not None and stored.settings["model_type"] == "llama"
    again = stored.net
    assert again.elastic.choices == net.elastic.choices and again.elastic.smallest == net.elastic.smallest
    one, two = (n.extract(net.elastic.smallest) for n in (net, again))
    assert one.nodes == two.nodes
    assert all(torch.equal(t, two.tensors[n]) for n, t in one.tensors.items())


def test_heads_that_no_configuration_can_say_are_left_out(tmp_path: Path) -> None:
    saved(tmp_path / "gpt", "gpt2")
    settings = read_json(tmp_path / "gpt" / "config.json", "configuration", constants=True)
    subject = open_model(ModelSource(model=f"hf:{tmp_path / 'gpt'}"))
    net = make_supernet(subject, ElasticConfig(uniform=True), None, origin=origin_of(subject, None))
    left = made_expressible(net, settings, asked=False)
    assert {c.kind for c in left.elastic.choices} == {"mlp"}
    assert "kind head is left out" in left.notes[-1] and "--kinds mlp,head takes it" in left.notes[-1]
    save_supernet(left, tmp_path / "net", {})
    assert load_supernet(tmp_path / "net").net.elastic.choices == left.elastic.choices
    asked = made_expressible(net, settings, asked=True)
    assert asked.elastic is net.elastic and "fewer units of kind head alone" in asked.notes[-1]


def test_pinned_heads_are_told(tmp_path: Path) -> None:
    saved(tmp_path / "sam", "sam")
    subject = open_model(ModelSource(model=f"hf:{tmp_path / 'sam'}"))
    net = make_supernet(subject, ElasticConfig(uniform=True), None, origin=origin_of(subject, None))
    assert "kind head" in net.notes[0] and "attn.qkv.weight is pinned" in net.notes[0]


def test_what_reads_images_and_the_type_of_the_weights_go_along(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**VISION)
    transformers.ViTForImageClassification(config).to(torch.bfloat16).save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8})
    processor.save_pretrained(tmp_path / "vit")
    subject = open_model(ModelSource(model=f"hf:{tmp_path / 'vit'}"))
    net = make_supernet(subject, ElasticConfig(uniform=True), None, origin=origin_of(subject, None))
    save_supernet(net, tmp_path / "net", companions_of(f"hf:{tmp_path / 'vit'}"))
    stored = load_supernet(tmp_path / "net")
    companions = preprocessing_of(tmp_path / "net")
    write_subnet(net, net.elastic.smallest, tmp_path / "out", stored.settings, companions=companions)
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    found = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert found.size == processor.size
    big = tmp_path / "vit" / "vocab.txt"
    with big.open("wb") as file:
        file.truncate(1 << 28)
    with pytest.raises(ModelFileError):
        companions_of(f"hf:{tmp_path / 'vit'}")


@pytest.mark.parametrize(
    ("name", "config", "data", "message"),
    [
        (
            "ViTForImageClassification",
            lambda t: t.ViTConfig(**GREY, num_labels=2),
            "digits",
            "only 2 outputs",
        ),
        ("ViTModel", lambda t: t.ViTConfig(**GREY), "digits", "must be a classifier"),
        (
            "BertForSequenceClassification",
            lambda t: t.BertConfig(**BYTES),
            "text:",
            "must be a language model",
        ),
        ("BertForMaskedLM", lambda t: t.BertConfig(**BYTES), "text:", "sees the tokens"),
    ],
)
def test_data_that_do_not_fit_are_told(
    name: str, config: Any, data: str, message: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    getattr(transformers, name)(config(transformers)).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    data = f"{data}{tmp_path / 'text.txt'}" if data == "text:" else data
    words = ["supernet", "build", f"hf:{tmp_path / 'model'}", "-o", str(tmp_path / "net"), "--data", data]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 2 and message in " ".join(done.output.split()), done.output
    assert not (tmp_path / "net").exists()


def test_commands_on_a_checkpoint(tmp_path: Path) -> None:
    """A language model of bytes with grouped queries and a tied embedding, from build to extract."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**TEXT, "vocab_size": 256}, **GROUPED)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)

    def prune(*args: object) -> str:
        terminal.console.width = terminal.stderr.width = 300
        done = CliRunner().invoke(cli.app, ["supernet", *map(str, args)])
        assert done.exit_code == 0, done.output
        return done.stdout

    (tmp_path / "lm" / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    data = f"text:{tmp_path / 'text.txt'}"
    prune("build", f"hf:{tmp_path / 'lm'}", "-o", tmp_path / "net", "--data", data)
    shown = prune("train", tmp_path / "net", "--data", data, "--epochs", 1, "--random", 1, "--lr", 0.01)
    assert "perplexity" in shown
    shown = prune("search", tmp_path / "net", "--data", data, "--flops", 0.5, "--agent", "random",
                  "--trials", 4)  # fmt: skip
    assert shown.count("perplexity") == 2, "before and after"
    found = json.loads(prune("extract", tmp_path / "net", "-o", tmp_path / "small", "--json"))["subnet"]
    assert found["stock"] and found["macs_ratio"] <= 0.5
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert json.loads((tmp_path / "small" / "tokenizer_config.json").read_text()) == {"model_max_length": 16}
    assert stock.lm_head.weight.data_ptr() == stock.model.embed_tokens.weight.data_ptr()
