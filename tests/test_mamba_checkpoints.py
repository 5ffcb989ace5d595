"""Mamba checkpoints: both layouts in and out, the numbers of transformers, and clear words for bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mambas import VOCAB, ids, model, theirs
from safetensors.torch import load_file, save_file
from torch import Tensor

from graph.errors import (
    ArchitectureError,
    ModelFileError,
    OutputError,
    PruneError,
    UntrustedCodeError,
    UsageError,
)
from models_zoo.mamba_config import Version
from models_zoo.mamba_lm import MambaLM
from prune.load import ModelSource, load
from prune.mamba import is_mamba, load_mamba, save_mamba

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.*fast path")

VERSIONS: tuple[Version, ...] = (1, 2)
CASES: dict[str, tuple[Version, dict[str, Any]]] = {
    "mamba": (1, {}),
    "mamba, untied, biased": (
        1, {"tie_word_embeddings": False, "use_bias": True, "use_conv_bias": False, "time_step_rank": 3},
    ),
    "mamba2": (2, {}),
    "mamba2, one group, tied": (
        2, {"n_groups": 1, "tie_word_embeddings": True, "chunk_size": 7, "layer_norm_epsilon": 1e-3},
    ),
    "mamba2, limited steps": (2, {"time_step_limit": (0.05, 0.4)}),
}  # fmt: skip


def close(wanted: Tensor, got: Tensor) -> None:
    """To 1e-5 of logits of order one."""
    assert wanted.shape == got.shape
    assert float((wanted - got).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_the_same(case: str, tmp_path: Path) -> None:
    """The whole sequence; steps with a cache where its own steps know the limits of the time step."""
    version, changes = CASES[case]
    other = theirs(version, **changes)
    other.save_pretrained(tmp_path)
    lm, files = load_mamba(tmp_path)
    assert lm.sizes.version == version and [f.name for f in files] == ["model.safetensors"]
    tokens = ids(2, 45)
    with torch.no_grad():
        wanted = other(tokens, use_cache=False).logits
        close(wanted, lm(tokens))
        if "time_step_limit" in changes:
            return
        step = other(tokens[:, :30], use_cache=True)
        logits, cache = lm.extend(tokens[:, :30])
        close(step.logits, logits)
        for t in range(30, 36):
            step = other(tokens[:, t : t + 1], cache_params=step.cache_params, use_cache=True)
            logits, cache = lm.extend(tokens[:, t : t + 1], cache)
            close(step.logits, logits)
            close(wanted[:, t : t + 1], logits)


@pytest.mark.parametrize("version", VERSIONS)
def test_transformers_loads_what_we_write(version: Version, tmp_path: Path) -> None:
    """With another number of states than the original, as after pruning."""
    lm = model(version, d_state=3)
    save_mamba(tmp_path / "out", lm)
    kind = transformers.MambaForCausalLM if version == 1 else transformers.Mamba2ForCausalLM
    other, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert other.config.state_size == 3 and not any(told[k] for k in ("missing_keys", "unexpected_keys"))
    with torch.no_grad():
        close(other(ids(2, 20)).logits, lm(ids(2, 20)))


@pytest.mark.parametrize("layout", ["transformers", "mamba_ssm"])
@pytest.mark.parametrize("version", VERSIONS)
def test_both_layouts_come_back(version: Version, layout: Any, tmp_path: Path) -> None:
    lm = model(version, tie_embeddings=layout == "mamba_ssm", d_conv=3, vocab_size=41)
    save_mamba(tmp_path / "out", lm, layout=layout)
    again, _ = load_mamba(tmp_path / "out")
    assert again.sizes == lm.sizes and not again.training
    assert all(
        torch.equal(a, b) for a, b in zip(lm.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert (again.lm_head.weight is again.backbone.embedding.weight) == lm.sizes.tie_embeddings
    with pytest.raises(OutputError):
        save_mamba(tmp_path / "out", lm, layout=layout)
    save_mamba(tmp_path / "out", lm, layout=layout, force=True)


def test_the_reference_layout_as_published(tmp_path: Path) -> None:
    """The configuration of state-spaces/mamba-130m but for its sizes: padding and defaults are implied."""
    lm = model(1, d_state=16, vocab_size=40)
    state = lm.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    settings = {
        "d_model": 16, "n_layer": 2, "vocab_size": 37, "ssm_cfg": {}, "rms_norm": True,
        "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    again, files = load_mamba(tmp_path)
    assert again.sizes == lm.sizes and files == (tmp_path / "pytorch_model.bin",)
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "model.safetensors")
    assert load_mamba(tmp_path)[1] == (tmp_path / "model.safetensors",)


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_of_their_own_need_the_reference_layout(version: Version, tmp_path: Path) -> None:
    lm = model(version, d_state=(2, 4))
    with pytest.raises(UsageError, match="one state_size for all layers"):
        save_mamba(tmp_path / "hf", lm)
    assert not (tmp_path / "hf").exists()
    save_mamba(tmp_path / "ref", lm, layout="mamba_ssm")
    again, _ = load_mamba(tmp_path / "ref")
    assert again.sizes.states == (2, 4)
    with pytest.raises(UsageError, match="norms add 1e-05"):
        save_mamba(tmp_path / "eps", model(version, norm_eps=1e-3), layout="mamba_ssm")


def test_shards_and_infinity_as_python_writes_it(tmp_path: Path) -> None:
    other = theirs(2)
    other.save_pretrained(tmp_path, max_shard_size="8KB")
    changed(tmp_path, time_step_limit=[0.0, float("inf")])
    assert "Infinity" in (tmp_path / "config.json").read_text()
    lm, files = load_mamba(tmp_path)
    assert len(files) > 1
    with torch.no_grad():
        close(other(ids(1, 9)).logits, lm(ids(1, 9)))


def test_the_command_line_takes_it_for_ours(tmp_path: Path) -> None:
    theirs(1).save_pretrained(tmp_path)
    found = load(ModelSource(model=f"hf:{tmp_path}"))
    assert isinstance(found.module, MambaLM) and found.arch == "mamba1"
    assert found.inputs.told() == "input_ids 2x256 int64" and found.inputs.items[0].high == VOCAB
    assert is_mamba(tmp_path) and not is_mamba(tmp_path / "none")
    stock = load(ModelSource(model=f"hf:{tmp_path}", arch="MambaForCausalLM"))
    assert stock.arch == "transformers:MambaForCausalLM"


# What is refused


def changed(folder: Path, **settings: Any) -> None:
    """Other settings; None takes one away."""
    path = folder / "config.json"
    found = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def reweighted(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


Spoil = Callable[[Path], Any]
HF: dict[str, tuple[Spoil, type[PruneError], str]] = {
    "no configuration": (lambda p: (p / "config.json").unlink(), ModelFileError, "holds no config.json"),
    "another model": (lambda p: changed(p, model_type="bert"), ArchitectureError, "no Mamba: .* 'bert'"),
    "a bare backbone": (
        lambda p: changed(p, architectures=["MambaModel"]), ArchitectureError, "is a MambaModel",
    ),
    "code": (lambda p: changed(p, auto_map={"a": "b.c"}), UntrustedCodeError, "auto_map"),
    "states": (lambda p: changed(p, state_size=6), ArchitectureError, "says 6 states, layer 0 .* has 5"),
    "no states": (lambda p: changed(p, state_size=0), ArchitectureError, "0 states"),
    "text for a number": (lambda p: changed(p, hidden_size="16"), ArchitectureError, "d_model .* not '16'"),
    "no width": (lambda p: changed(p, hidden_size=None), ArchitectureError, "lacks hidden_size"),
    "activation": (lambda p: changed(p, hidden_act="relu"), ArchitectureError, "hidden_act is 'relu'"),
    "bias": (lambda p: changed(p, use_bias="no"), ArchitectureError, "bias is 'no'"),
    "eps": (lambda p: changed(p, layer_norm_epsilon=-1.0), ArchitectureError, "norms add -1.0"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), ModelFileError, "holds no weights"),
    "missing": (
        lambda p: reweighted(p, lambda s: s.pop("backbone.norm_f.weight")), ArchitectureError,
        "1 missing .*backbone.norm_f.weight",
    ),
    "unexpected": (
        lambda p: reweighted(p, lambda s: s.update(extra=torch.ones(1))), ArchitectureError,
        "1 unexpected .*extra",
    ),
    "two heads": (
        lambda p: reweighted(p, lambda s: s.update({"lm_head.weight": torch.ones(VOCAB, 16)})),
        ArchitectureError, "has two different ones",
    ),
    "width": (lambda p: changed(p, expand=3), ArchitectureError, "of another shape"),
    "not a number": (
        lambda p: reweighted(p, lambda s: s["backbone.norm_f.weight"].fill_(torch.nan)), ModelFileError,
        "NaN",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mamba")
    theirs(1).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", HF)
def test_a_bad_directory_is_one_clear_line(good: Path, tmp_path: Path, case: str) -> None:
    for path in good.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil, kind, says = HF[case]
    spoil(tmp_path)
    with pytest.raises(kind, match=says) as caught:
        load_mamba(tmp_path)
    assert "\n" not in str(caught.value) and caught.value.hint


def inner(**settings: Any) -> Spoil:
    return lambda p: changed(p, ssm_cfg={"layer": "Mamba2", "d_state": 5, "headdim": 8} | settings)


REFERENCE: dict[str, tuple[Spoil, type[PruneError], str]] = {
    "unknown": (inner(d_stat=4), ArchitectureError, "unknown setting 'd_stat'"),
    "layer": (inner(layer="Mamba3"), ArchitectureError, "no Mamba-1 and no Mamba-2"),
    "norm": (inner(rmsnorm=False), ArchitectureError, "rmsnorm is False"),
    "heads": (inner(headdim=5), ArchitectureError, "do not part into heads"),
    "states": (inner(d_state=[5, 6]), ArchitectureError, "says 6 states, layer 1 .* has 5"),
    "limits": (inner(dt_limit=[1]), ArchitectureError, "limits of the time step"),
    "layer norm": (lambda p: changed(p, rms_norm=False), ArchitectureError, "rms_norm is False"),
    "attention": (lambda p: changed(p, attn_layer_idx=[1]), ArchitectureError, "attn_layer_idx"),
    "vocabulary": (lambda p: changed(p, vocab_size="many"), ArchitectureError, "vocab_size is 'many'"),
    "weights": (lambda p: (p / "pytorch_model.bin").unlink(), ModelFileError, "no weights"),
    "code": (
        lambda p: torch.save({"a": torch.nn.Linear(1, 1)}, p / "pytorch_model.bin"),
        UntrustedCodeError, "Linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFERENCE)
def test_a_bad_reference_directory_is_one_clear_line(tmp_path: Path, case: str) -> None:
    save_mamba(tmp_path / "m", model(2, ngroups=1), layout="mamba_ssm")
    spoil, kind, says = REFERENCE[case]
    spoil(tmp_path / "m")
    with pytest.raises(kind, match=says) as caught:
        load_mamba(tmp_path / "m")
    assert "\n" not in str(caught.value) and caught.value.hint
