"""Honest files, of which hostile ones are made: small, and made once."""

from __future__ import annotations

import io
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from graph.capture import capture
from graph.program import Program
from models_zoo import registry
from prune.load import save_model
from prune.manifest import write_manifest
from prune.report import REPORT_FILE
from tests.reports import HALF, figures, report


class Small(nn.Module):
    """A network that is captured in a blink."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 8, 8) to (N, 3)."""
        return self.linear(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


@cache
def program() -> Program:
    """The network as a program."""
    torch.manual_seed(0)
    return capture(Small().eval(), [torch.zeros(2, 1, 8, 8)])


@cache
def network() -> nn.Module:
    """A ResNet-20 of a quarter of the width, for images of CIFAR."""
    torch.manual_seed(0)
    return registry.build("resnet20", width=4).eval()


def state() -> dict[str, Tensor]:
    """Its weights."""
    return network().state_dict()


@cache
def zoo_file(suffix: str = ".pt") -> bytes:
    """What `prune zoo train` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix}"
        facts = {"arch": "resnet20", "arch_args": {"width": 4}, "input_shape": (3, 32, 32), "data": None}
        save_model(path, network(), metrics={}, **facts)
        return path.read_bytes()


def torch_file(content: object, *, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def write_run(folder: Path, *, manifest: bool = True) -> Path:
    """The folder of a run: graph, weights, plan, report, ONNX."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.json").write_text(json.dumps(program().to_json(), indent=2) + "\n")
    (folder / "model.safetensors").write_bytes(save(dict(program().tensors)))
    plan = {"format": "prune-plan", "version": 1, "method": "uniform", "macs": 5, "base_macs": 9}
    (folder / "plan.json").write_text(json.dumps(plan | {"groups": {"conv": {"width": 4, "kept": [0, 1]}}}))
    (folder / REPORT_FILE).write_text(json.dumps(report(figures(), figures(**HALF))))
    (folder / "model.onnx").write_bytes(onnx_model().SerializeToString())
    if manifest:
        write_manifest(folder)
    return folder


def onnx_model() -> onnx.ModelProto:
    """A product with a weight and a bias."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(64, 10)), "b": rng.normal(size=10)}
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


HF_CONFIG = {
    "model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": 16, "hidden_size": 8,
    "state_size": 4, "num_hidden_layers": 1, "expand": 2, "conv_kernel": 4, "time_step_rank": 2,
    "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5,
}  # fmt: skip
BERT_CONFIG = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 32,
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 16, "type_vocab_size": 2, "num_labels": 3,
}  # fmt: skip


@cache
def bert_weights() -> bytes:
    """The weights of a tiny BERT."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig.from_dict(BERT_CONFIG)
    model = transformers.BertForSequenceClassification(config)
    return save({k: v.contiguous() for k, v in model.state_dict().items()}, {"format": "pt"})


def write_bert(folder: Path, **changes: object) -> Path:
    """A checkpoint of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(BERT_CONFIG | changes))
    (folder / "model.safetensors").write_bytes(bert_weights())
    return folder


@cache
def mamba_weights() -> bytes:
    """The weights of a tiny Mamba."""
    import transformers

    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(transformers.MambaConfig.from_dict(HF_CONFIG))
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    return save(state, {"format": "pt"})


def write_mamba(folder: Path, **changes: object) -> Path:
    """A checkpoint of a Mamba in the layout of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(HF_CONFIG | changes))
    (folder / "model.safetensors").write_bytes(mamba_weights())
    return folder


def write_images(folder: Path, count: int = 6) -> Path:
    """Two classes of images."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder
