"""The zoo's networks: their published costs, shapes, weights and exportability."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graph.errors import ArchitectureError
from models_zoo import mobilenet, registry, resnet_cifar, shufflenet

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT.parent / "shared" / "data" / "weights"

# Multiply-adds of convolutions and linear layers, and parameters, held to the last digit; the figures
# that the authors published, rounded, are in the registry.
EXACT = {
    "resnet20": (40_551_040, 269_722),
    "resnet32": (68_862_592, 464_154),
    "resnet44": (97_174_144, 658_586),
    "resnet56": (125_485_696, 853_018),
    "resnet110": (252_887_680, 1_727_962),
    "vgg11": (152_769_536, 9_231_114),
    "vgg16": (313_201_664, 14_728_266),
    "mobilenet_v1": (568_740_352, 4_231_976),
    "mobilenet_v2": (300_774_272, 3_504_872),
    "shufflenet_v1": (137_460_672, 1_865_728),
    "shufflenet_v2": (144_907_992, 2_278_604),
    "resnet18": (1_814_073_344, 11_689_512),
    "resnet50": (4_089_184_256, 25_557_032),
}

# What each network needs for 8x8 images of one channel.
SMALL = {
    name: {"num_classes": 10, "in_channels": 1} | ({"small_input": True} if "net_v" in name else {})
    for name in registry.ZOO
    if name not in ("resnet18", "resnet50")
}


@functools.cache
def count(name: str, shape: tuple[int, ...], **args: object) -> tuple[int, int]:
    """Multiply-adds for one image of (C, H, W), and parameters; nothing is computed."""
    with torch.device("meta"):
        model = registry.build(name, **args).eval()
        x = torch.empty(1, *shape)
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2, sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", registry.names())
def test_costs_are_the_published_ones(name: str) -> None:
    """Ours are exact; the registry's published ones agree within 1 %."""
    entry = registry.ZOO[name]
    macs, params = count(name, entry.input_shape)
    assert (macs, params) == EXACT[name]
    assert macs == pytest.approx(entry.macs, rel=0.01)
    assert params == pytest.approx(entry.params, rel=0.01)


def test_toy_costs_are_those_derived_by_hand() -> None:
    """ResNet-20 of width 1 on one 8x8 grey image, layer by layer."""
    # stem 1*1*9*64; stage 1: 6 convs; stage 2: 1->2 then 5 of 2->2 at 16 pixels; stage 3 at 4 pixels.
    macs = 9 * 64 + 6 * 9 * 64 + (2 + 5 * 4) * 9 * 16 + (8 + 5 * 16) * 9 * 4 + 4 * 10
    convs = 9 + 6 * 9 + (2 + 5 * 4) * 9 + (8 + 5 * 16) * 9
    norms = 2 * (1 + 6 * 1 + 6 * 2 + 6 * 4)
    assert count("resnet20", (1, 8, 8), width=1, in_channels=1) == (macs, convs + norms + 4 * 10 + 10)


@pytest.mark.parametrize("name", registry.names())
def test_classifies_its_own_input_shape(name: str) -> None:
    """The default network on one image of its default shape."""
    entry = registry.ZOO[name]
    with torch.inference_mode():
        logits = registry.build(name).eval()(torch.randn(1, *entry.input_shape))
    assert logits.shape == (1, 10 if entry.input_shape[1] == 32 else 1000)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_trains_on_small_images(name: str) -> None:
    """8x8 grey images give finite logits and a gradient for every parameter."""
    model = registry.build(name, **SMALL[name]).train()
    logits = model(torch.randn(4, 1, 8, 8))
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_shapes_of_other_small_images(name: str) -> None:
    """Sizes that do not halve evenly work as well."""
    with torch.device("meta"):
        model = registry.build(name, **SMALL[name])
        for size in (28, 33):
            assert model(torch.empty(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", registry.names())
def test_exports_with_a_dynamic_batch(name: str) -> None:
    """Exported at batch 2, run at batch 3: same logits; no batch size is baked in."""
    model = registry.build(name, **SMALL.get(name, {"num_classes": 10, "in_channels": 1})).eval()
    batch = {"x": {0: torch.export.Dim("batch")}}
    size = 8 if name in SMALL else 32
    program = torch.export.export(model, (torch.randn(2, 1, size, size),), dynamic_shapes=batch, strict=False)
    x = torch.randn(3, 1, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet44", "resnet56"])
def test_published_weights_load_strictly(name: str) -> None:
    """akamaster's weights fit name by name and shape by shape."""
    path = WEIGHTS / f"{name}-cifar10.safetensors"
    if not path.exists():
        pytest.skip(f"no published weights at {path}")
    safetensors = pytest.importorskip("safetensors.torch")
    registry.build(name).load_state_dict(safetensors.load_file(path), strict=True)


def test_option_a_shortcut_subsamples_and_pads() -> None:
    """With a dead residual branch, a block is relu of every second pixel between zero channels."""
    block = resnet_cifar.BasicBlock(2, 5, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 2, 5, 5)
    out = block(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3, 4]].any()


def test_channel_shuffle_interleaves() -> None:
    """The paper's figure 1, with three groups of two."""
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert shufflenet.channel_shuffle(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"])
def test_small_input_shrinks_8_fold_with_the_same_weights(name: str) -> None:
    """`small_input` changes strides only, and 32 pixels end as 4x4, not as one."""
    small, large = registry.build(name, small_input=True), registry.build(name)
    large.load_state_dict(small.state_dict(), strict=True)
    ends: list[torch.Size] = []
    for model in (small.eval(), large.eval()):
        last = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        last.register_forward_hook(lambda _module, _inputs, out: ends.append(out.shape[2:]))
        model(torch.randn(1, 3, 32, 32))
    assert ends == [(4, 4), (1, 1)]


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"])
@pytest.mark.parametrize("width_mult", [0.1, 1.4])
def test_widths_scale(name: str, width_mult: float) -> None:
    """Any width makes a network that runs, and narrower ones are cheaper."""
    macs, _ = count(name, (3, 32, 32), width_mult=width_mult, small_input=True)
    full, _ = count(name, (3, 32, 32), small_input=True)
    assert (macs < full) == (width_mult < 1)


def test_a_vgg_of_a_quarter_of_the_width_has_a_sixteenth_of_the_macs() -> None:
    """But for the first convolution and the classifier, which have one quarter."""
    macs, _ = count("vgg16", (3, 32, 32), width=16)
    ends = 3 * 9 * 64 * 32 * 32 + 512 * 10
    assert macs == (EXACT["vgg16"][0] - ends) // 16 + ends // 4


def test_mobilenet_widths_are_the_published_ones() -> None:
    """0.75 MobileNet-v1 has 325 M multiply-adds, MobileNet-v2 1.4 has 585 M (tables in the papers)."""
    assert count("mobilenet_v1", (3, 224, 224), width_mult=0.75)[0] == pytest.approx(325e6, rel=0.01)
    assert count("mobilenet_v2", (3, 224, 224), width_mult=1.4)[0] == pytest.approx(585e6, rel=0.01)
    assert isinstance(registry.build("mobilenet_v2", width_mult=0.25), mobilenet.MobileNetV2)


@pytest.mark.parametrize("spelling", ["mobilenetv2", "MobileNet-V2", "MOBILENET_V2"])
def test_names_are_found_in_any_spelling(spelling: str) -> None:
    """Case, hyphens and underscores do not matter."""
    assert registry.find(spelling) is registry.ZOO["mobilenet_v2"]


def test_unknown_names_are_answered_with_known_ones() -> None:
    """The hint has the nearest name first, then all."""
    with pytest.raises(ArchitectureError, match="unknown architecture 'resnet57'") as caught:
        registry.build("resnet57")
    assert re.match("did you mean .*resnet56", caught.value.hint)
    assert all(name in caught.value.hint for name in registry.names())
    with pytest.raises(ArchitectureError) as caught:
        registry.find("")
    assert caught.value.hint.startswith("known: resnet20, ")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet20", {"num_class": 10}, "resnet20 takes no argument 'num_class'"),
        ("vgg16", {"width_mult": 0.5}, "vgg16 takes no argument 'width_mult'"),
        ("resnet20", {"num_classes": 0}, "num_classes=0 is not a positive whole number"),
        ("resnet20", {"num_classes": True}, "num_classes=True is not a positive whole number"),
        ("resnet20", {"in_channels": "3"}, "in_channels='3' is not a positive whole number"),
        ("mobilenet_v1", {"width_mult": -1}, "width_mult=-1 is not a positive number"),
        ("mobilenet_v1", {"width_mult": float("nan")}, "width_mult=nan is not a positive number"),
        ("mobilenet_v1", {"small_input": 1}, "small_input=1 is not True or False"),
        ("shufflenet_v1", {"width_mult": 0.05}, "width_mult=0.05 leaves stage 2 no wider than the stem"),
    ],
)
def test_bad_arguments_are_named(name: str, args: dict[str, object], message: str) -> None:
    """An error says which argument of which network, and the hint says what would do."""
    with pytest.raises(ArchitectureError, match=re.escape(message)) as caught:
        registry.build(name, **args)
    assert caught.value.hint


def test_duplicate_names_are_refused() -> None:
    """Two spellings of one name cannot both be in the zoo."""
    entry = registry.ZOO["resnet20"]
    with pytest.raises(ValueError, match="'resnet20' already"):
        registry._by_name((entry, entry))


def test_the_package_alone_does_not_import_torch() -> None:
    """`import models_zoo` is instant; the networks come with the registry."""
    code = "import sys, models_zoo; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
