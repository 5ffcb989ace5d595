"""Encoders of transformers on masks: SAM's gets a head, is trained, searched and cut out; whole SAMs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import cli
from front.commands import terminal
from graph.errors import ArchitectureError
from graph.program import run
from prune.data import load_data
from prune.huggingface import read_settings
from prune.load import ModelSource, load, load_model
from prune.pruned import load_program
from prune.selection import Selection
from prune.subject import open_model, program_of, selected
from supernet.elastic import ElasticConfig, Subnet
from supernet.extraction import write_subnet
from supernet.net import make_supernet, origin_of
from supernet.segmenting import encoder_of, for_masks

transformers = pytest.importorskip("transformers")

VISION = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_dim": 64, "image_size": 16,
    "patch_size": 4, "window_size": 3, "global_attn_indexes": [1], "output_channels": 8, "num_pos_feats": 4,
}  # fmt: skip
PROMPTS = {"hidden_size": 8, "image_size": 16, "patch_size": 4, "mask_input_channels": 4}
DECODER = {"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 8}


def prune(*args: object) -> Result:
    terminal.console.width = terminal.stderr.width = 400
    return CliRunner().invoke(cli.app, [str(a) for a in args])


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a whole SAM, with weights that make a difference."""
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
    )
    model = transformers.SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Bright boxes on dark ground, and where they are."""
    folder = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(40):
        mask = np.zeros((16, 16), dtype=np.uint8)
        top, left = rng.integers(0, 8, 2)
        mask[top : top + 8, left : left + 8] = 1
        image = (mask[..., None] * 120 + rng.integers(0, 100, (16, 16, 3))).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return f"maskfolder:{folder}?size=16"


def test_the_encoder_of_a_whole_sam_is_had_alone(sam: Path) -> None:
    encoder = load(ModelSource(model=f"hf:{sam}", arch="SamVisionModel"))
    whole = transformers.SamModel.from_pretrained(sam).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        wanted = whole.vision_encoder(x).last_hidden_state
        torch.testing.assert_close(encoder.module(x), wanted)
    with pytest.raises(ArchitectureError, match="do not fit SamPromptEncoder|no model"):
        load_model(f"hf:{sam}", arch="SamPromptEncoder")


def test_a_part_lacks_nothing_silently(sam: Path, tmp_path: Path) -> None:
    """Weights of other parts are left out, those of the part itself must all be there and fit."""
    from safetensors.torch import load_file, save_file

    weights = load_file(sam / "model.safetensors")
    weights["vision_encoder.layers.9.mlp.lin1.bias"] = weights.pop("vision_encoder.layers.0.mlp.lin1.bias")
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((sam / "config.json").read_text())
    with pytest.raises(ArchitectureError, match=r"1 missing \(.*layers\.0.*; 1 unexpected \(.*layers\.9"):
        load_model(f"hf:{tmp_path}", arch="SamVisionModel")


def test_layers_of_a_whole_sam_are_its_encoders(sam: Path, tmp_path: Path) -> None:
    subject = open_model(ModelSource(model=f"hf:{sam}"))
    net = make_supernet(subject, ElasticConfig(uniform=True), None, origin=origin_of(subject, None))
    assert [b.name for b in net.elastic.layers] == [f"vision_encoder.layers.{i}" for i in range(3)]
    subnet = Subnet(net.elastic.largest.levels, (0,))
    found = write_subnet(net, subnet, tmp_path / "small", read_settings(sam))
    assert found.stock, found.reason
    stock = transformers.SamModel.from_pretrained(tmp_path / "small")
    assert stock.config.vision_config.num_hidden_layers == 2
    assert stock.config.vision_config.global_attn_indexes == [0]


def test_from_an_encoder_to_a_segmenter_and_its_encoder(sam: Path, masks: str, tmp_path: Path) -> None:
    net, half = tmp_path / "net", tmp_path / "half"
    for args in (
        ("build", f"hf:{sam}", "--arch", "SamVisionModel", "--data", masks, "-o", net),
        ("train", net, "--data", masks, "--epochs", 8, "--lr", 0.01, "--batch-size", 8, "--random", 1),
        ("search", net, "--data", masks, "--params", 0.8, "--agent", "random", "--trials", 4),
    ):
        done = prune("supernet", *args)
        assert done.exit_code == 0, done.output
        if args[0] == "build":
            assert "a head for masks" in done.output and "the training teaches it" in done.output
    found = json.loads((net / "found.json").read_text())
    assert found["whole"]["mean_iou"] > 0.6, "a network that answers 'background' reaches 0.39"
    done = prune("supernet", "extract", net, "-o", half)
    assert done.exit_code == 0, done.output
    assert f"hf:{half / 'encoder'}" in done.stdout.replace("\n", "")
    done = prune("eval", half, "--data", masks, "--json")
    assert done.exit_code == 0, done.output

    program = load_program(half)
    alone = encoder_of(program)
    assert alone is not None and not any(n.startswith("mask_head") for n in alone.tensors)
    inputs = program.random_inputs(2)
    stock = transformers.SamVisionModel.from_pretrained(half / "encoder").eval()
    assert stock.config.num_hidden_layers < 3 or stock.config.mlp_dim < 64
    with torch.no_grad():
        wanted = run(alone, alone.tensors, inputs)
        torch.testing.assert_close(stock(*inputs).last_hidden_state, wanted, rtol=1e-4, atol=1e-5)
        assert run(program, program.tensors, inputs).shape == (2, 16, 16, 2)


def test_a_shape_that_no_configuration_says_stays_ours(sam: Path, masks: str, tmp_path: Path) -> None:
    loaded = for_masks(load(ModelSource(model=f"hf:{sam}", arch="SamVisionModel")), load_data(masks))
    subject = selected(loaded, program_of(loaded), Selection())
    net = make_supernet(subject, ElasticConfig(), None, origin=origin_of(subject, None))
    levels = list(net.elastic.largest.levels)
    first = next(i for i, c in enumerate(net.elastic.choices) if c.name.startswith("vision_encoder.layers.1"))
    levels[first] = 0
    found = write_subnet(net, Subnet(tuple(levels)), tmp_path / "odd", read_settings(sam))
    assert not found.stock and found.encoder is None and "its layers differ" in found.reason
    assert not (tmp_path / "odd" / "encoder").exists()
    assert load_program(tmp_path / "odd").output


def test_masks_for_what_is_no_encoder_are_refused(sam: Path, masks: str, tmp_path: Path) -> None:
    done = prune("supernet", "build", f"hf:{sam}", "--data", masks, "-o", tmp_path / "net")
    assert done.exit_code == 2, done.output
    assert "images with masks of 16x16" in done.stderr and "--arch SamVisionModel" in done.stderr
