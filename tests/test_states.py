"""States of Mambas: how they are judged, which go, what is left, and who loads it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from collected import Collected, no_search, quick_clocks
from mambas import ids
from mambas import model as any_model
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import cli
from front.commands import terminal
from graph.axes import infer
from graph.capture import capture
from graph.channels import Axes
from graph.errors import ArchitectureError
from models_zoo.mamba1 import Mamba1Mixer
from models_zoo.mamba_config import Version
from models_zoo.mamba_lm import MambaLM
from models_zoo.mamba_trace import Mixer, traces
from prune.architectures import tokens_input
from prune.compensation import compensate
from prune.config import CompressConfig
from prune.importance import magnitude
from prune.inputs import InputRequest
from prune.load import LoadedModel, ModelSource, load
from prune.mamba import load_mamba, save_mamba
from prune.pipeline import compress
from prune.plan import make_plan
from prune.pruned import load_plan, load_program, load_pruned
from prune.smaller_mamba import smaller_mamba
from prune.state_scores import StateCriterion, eliminated, state_scores
from prune.states import StateChoice, StateConfig, choose_states, kept_states, own_layers, state_starts
from prune.surgery import cut, prune_program
from prune.tune_config import TuneConfig
from prune.verify import verify
from prune.widths import WidthSpace

VERSIONS: tuple[Version, ...] = (1, 2)


def model(version: Version, **changes: Any) -> MambaLM:
    """A small one whose time step has a rank above one, so that nothing in it is a single channel."""
    return any_model(version, **({"dt_rank": 3} if version == 1 else {}) | changes)


# How states are judged


def batches(count: int = 2, length: int = 21) -> list[tuple[Tensor, Tensor]]:
    return [(ids(2, length, seed), ids(2, length, seed + 9)) for seed in range(count)]


def rolled_out(mixer: Mixer, x_BLM: Tensor) -> dict[str, Tensor]:
    """All that a mixer computes, one step and one head at a time, as the papers write it; G groups of D."""
    with torch.no_grad():
        if isinstance(mixer, Mamba1Mixer):
            u, z = mixer.expand(x_BLM)
            u, _ = mixer.convolve(u, None)
            dt, into, read = mixer.select(u)
            groups, A = 1, -torch.exp(mixer.A_log)
            into, read = into[:, :, None], read[:, :, None]
        else:
            z, xBC, dt = mixer.expand(x_BLM)
            xBC, _ = mixer.convolve(xBC, None)
            x, into, read = mixer.select(xBC)
            u, dt = x.flatten(-2), dt.repeat_interleave(mixer.headdim, -1)
            groups = mixer.ngroups
            A = -torch.exp(mixer.A_log).repeat_interleave(mixer.headdim)[:, None].expand(-1, mixer.d_state)
        B, L, channels = u.shape
        group_of = torch.arange(channels) // (channels // groups)
        h = torch.zeros(B, channels, A.shape[1])
        states, decays = [], []
        for t in range(L):
            decay = torch.exp(dt[:, t, :, None] * A)
            h = decay * h + (dt[:, t] * u[:, t])[..., None] * into[:, t, group_of]
            states.append(h)
            decays.append(decay)
        y = (torch.stack(states, 1) * read[:, :, group_of]).sum(-1) + u * (
            mixer.D if isinstance(mixer, Mamba1Mixer) else mixer.D.repeat_interleave(mixer.headdim)
        )
        w = (mixer.gate(y, z) / y).abs() * mixer.out_proj.weight.norm(dim=0)
        parts = {"h": torch.stack(states, 1), "decay": torch.stack(decays, 1), "w": w, "y": y}
        return parts | {"into": into[:, :, group_of], "read": read[:, :, group_of]}  # (B, L, C, N)


def by_hand(criterion: str, mixer: Mixer, seen: list[dict[str, Tensor]]) -> Tensor:
    """The scores (G, N) by the table of ``prune.state_scores``, all steps at once."""
    h, decay, into, read, w = (
        torch.cat([s[k] for s in seen]).double() for k in ("h", "decay", "into", "read", "w")
    )
    groups = 1 if isinstance(mixer, Mamba1Mixer) else mixer.ngroups
    w = w[..., None]
    if criterion == "delta":
        each = (decay - 1).abs() * (1 if isinstance(mixer, Mamba1Mixer) else into.abs())
    elif criterion == "contribution":
        each = (read * h).abs()
    elif criterion == "moment":
        each = h**2
    elif criterion == "output":
        each = (w * read * h) ** 2
    else:
        assert criterion == "observability"
        each = ((h**2).sum((0, 1)) * ((w * read) ** 2).sum((0, 1)))[None, None]
    return each.sum((0, 1)).unflatten(0, (groups, -1)).sum(1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("criterion", ["delta", "contribution", "moment", "output", "observability"])
def test_criteria_are_their_formulas(version: Version, criterion: StateCriterion) -> None:
    lm, text = model(version), batches()
    found = state_scores(lm, criterion, text)
    streams = [lm.backbone.embedding(x).detach() for x, _ in text]
    for layer, scores in zip(lm.backbone.layers, found, strict=True):
        seen = [rolled_out(layer.mixer, layer.norm(x)) for x in streams]
        wanted = by_hand(criterion, layer.mixer, seen).numpy()
        np.testing.assert_allclose(scores, wanted, rtol=1e-4)
        assert scores.shape == ((1, 5) if version == 1 else (2, 5)) and scores.std() > 0
        with torch.no_grad():
            streams = [layer(x)[0] for x in streams]


@pytest.mark.parametrize("version", VERSIONS)
def test_taylor_is_the_slope_of_the_loss_along_each_read(version: Version) -> None:
    """Against a difference: C of one state, of one layer and one token, is scaled by 1 + e."""
    lm, text = model(version).double(), batches(1, 4)
    (x, after), layer, e = text[0], 1, 1e-5
    mixer: Any = lm.backbone.layers[layer].mixer
    plain, total = mixer.select, np.zeros((1 if version == 1 else 2, 5))
    for place in np.ndindex(2, 4, *total.shape):
        losses = []
        for factor in (1 + e, 1 - e):

            def select(u: Tensor, factor: float = factor, place: Any = place) -> Any:
                dt, into, read = plain(u)
                read = read.clone()
                read[place if version == 2 else (*place[:2], place[3])] *= factor
                return dt, into, read

            mixer.select = select
            with torch.no_grad():
                losses.append(F.cross_entropy(lm(x).flatten(0, 1), after.flatten(), reduction="sum").item())
        total[place[2:]] += ((losses[0] - losses[1]) / (2 * e)) ** 2
    mixer.select = plain
    np.testing.assert_allclose(state_scores(lm, "taylor", text)[layer], total, rtol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_trace_is_the_model(version: Version) -> None:
    lm, x = model(version), ids(2, 33)
    passes = list(traces(lm, x))
    torch.testing.assert_close(lm.lm_head(lm.backbone.norm_f(passes[-1][2])), lm(x))
    mixer, found, _ = passes[0]
    for group in range(len(found.A)):
        spans, steps = [], []
        for now, _, h in found.blocks(group):
            spans.append(now)
            steps.append(h.clone())
        assert sum(s.stop - s.start for s in spans) == 33
    whole = rolled_out(mixer, lm.backbone.layers[0].norm(lm.backbone.embedding(x)))
    last = whole["h"].unflatten(2, (len(found.A), -1))[:, :, -1].permute(1, 0, 3, 2)  # of the last group
    torch.testing.assert_close(torch.cat(steps), last)


def test_elimination_takes_the_state_that_is_missed_least() -> None:
    """Two states that cancel go together although each of them is large; by brute force over all pairs."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 40))
    rows[3] = -rows[1] + 0.01 * rows[3]
    rows[1:4:2] *= 0.9
    gram = rows @ rows.T
    scores = eliminated(gram)
    order = np.argsort(scores)
    gone: list[int] = []
    for state in order:
        errors = {s: np.square(rows[[*gone, s]].sum(0)).sum() for s in range(5) if s not in gone}
        assert errors[int(state)] == pytest.approx(min(errors.values()))
        gone.append(int(state))
    assert abs(int(np.flatnonzero(order == 1)[0]) - int(np.flatnonzero(order == 3)[0])) == 1
    assert len(set(scores.tolist())) == 5


@pytest.mark.parametrize("version", VERSIONS)
def test_without_text_weights_or_chance_decide(version: Version) -> None:
    lm = model(version)
    for n, scores in enumerate(state_scores(lm, "magnitude")):
        mixer: Any = lm.backbone.layers[n].mixer
        for g, i in np.ndindex(scores.shape):
            if version == 1:
                rows = [mixer.x_proj.weight[mixer.dt_rank + k * 5 + i] for k in (0, 1)]
                wanted = rows[0].norm() * rows[1].norm()
            else:
                places = [mixer.d_inner + k * 10 + g * 5 + i for k in (0, 1)]
                wanted = torch.tensor(1.0)
                for p in places:
                    row = mixer.in_proj.weight[mixer.d_inner + p]
                    wanted = wanted * row.norm() * mixer.conv1d.weight[p].norm()
            assert scores[g, i] == pytest.approx(float(wanted.detach()), rel=1e-5)
    one, same, other = (state_scores(lm, "random", seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


# Which states go, and what is left


@functools.cache
def axes_of(version: Version, length: int = 24) -> tuple[MambaLM, Axes]:
    lm = model(version)
    return lm, infer(capture(lm, [ids(2, length)]))


def loaded(lm: MambaLM) -> LoadedModel:
    return LoadedModel(lm, "mamba", {}, tokens_input(lm), None, {}, "mine", "", 0)


def sliced(lm: MambaLM, kept: list[NDArray[np.int64]]) -> dict[str, Tensor]:
    """The weights without some states, (G, K) of each layer stay: by the layout of the papers' code."""
    state, sizes = lm.state_dict(), lm.sizes
    for layer, places in enumerate(kept):
        name, N, D = f"backbone.layers.{layer}.mixer.", sizes.states[layer], sizes.d_inner
        stay = torch.from_numpy(places)
        if sizes.version == 1:
            head = torch.arange(sizes.dt_rank or 0)
            rows = torch.cat([head, len(head) + stay[0], len(head) + N + stay[0]])
            state[name + "A_log"] = state[name + "A_log"][:, stay[0]]
            state[name + "x_proj.weight"] = state[name + "x_proj.weight"][rows]
        else:
            flat = (torch.arange(sizes.ngroups)[:, None] * N + stay).flatten()
            both = torch.cat([torch.arange(D), D + flat, D + sizes.ngroups * N + flat])
            end = D + D + 2 * sizes.ngroups * N
            rows = torch.cat([torch.arange(D), D + both, torch.arange(end, end + sizes.n_heads)])
            state[name + "in_proj.weight"] = state[name + "in_proj.weight"][rows]
            for part in ("conv1d.weight", "conv1d.bias"):
                state[name + part] = state[name + part][both]
    return state


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("length", [24, 12])  # Mamba-2: two chunks, and one
def test_pruned_and_masked_are_equal_in_float64(version: Version, length: int) -> None:
    lm, axes = axes_of(version, length)
    layers = own_layers(axes, lm)
    random = np.random.default_rng(version)
    keep = np.ones(axes.classes, dtype=bool)
    kept = []
    for layer, count in zip(layers, (2, 4), strict=True):
        kept.append(np.sort(np.stack([random.permutation(5)[:count] for _ in layer.units]), 1))
        keep[layer.units] = False
        keep[np.take_along_axis(layer.units, kept[-1], 1)] = True
    program = cut(axes, keep)
    assert verify(axes, keep, program).max_error <= 1e-9
    smaller = smaller_mamba(lm.sizes, program.tensors)
    assert smaller.sizes.states == (2, 4) and smaller.sizes.d_inner == lm.sizes.d_inner
    wanted = sliced(lm, kept)
    assert all(torch.equal(t, wanted[k]) for k, t in smaller.state_dict().items())
    # The removed states did something, and the smaller model does what the masked one does.
    masked = model(version)
    for layer, states in enumerate(kept):
        mixer, plain = masked.backbone.layers[layer].mixer, masked.backbone.layers[layer].mixer.select

        def select(u: Tensor, plain: Any = plain, states: Any = states) -> Any:
            dt, into, read = plain(u)
            stay = torch.zeros(states.shape[0], 5).scatter_(1, torch.from_numpy(states), 1.0)
            return dt, into, read * (stay[0] if version == 1 else stay)

        mixer.select = select  # type: ignore[method-assign]
    x = ids(2, 40)
    with torch.no_grad():
        torch.testing.assert_close(smaller(x), masked(x), rtol=1e-4, atol=1e-4)
        assert float((smaller(x) - lm(x)).abs().max()) > 1e-2
        logits, cache = smaller.extend(x[:, :30])
        for t in range(30, 40):
            torch.testing.assert_close(logits[:, -1], smaller(x[:, :t])[:, -1], rtol=1e-4, atol=1e-4)
            logits, cache = smaller.extend(x[:, t : t + 1], cache)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_best_states_stay(version: Version, scope: Any, tmp_path: Path) -> None:
    lm, axes = axes_of(version)
    before = np.random.default_rng(0).random(axes.classes)
    choice = choose_states(
        StateConfig(text="0.6", criterion="random", scope=scope), axes, loaded(lm), None, before, seed=3
    )
    judged = state_scores(lm, "random", seed=3)
    assert sum(choice.kept) == 6 and (scope == "global" or choice.kept == (3, 3)) and min(choice.kept) >= 1
    space = WidthSpace(axes, fixed=choice.fixed(axes), round_to=2)
    plan = make_plan(space, space.widest, choice.scores, "states")
    keep = plan.keep_mask(axes)
    others = {u for g in axes.groups for u in g.units} - {
        int(u) for layer in choice.layers for u in layer.units.ravel()
    }
    assert keep[list(others)].all(), "nothing but states goes"
    for layer, scores, count in zip(choice.layers, judged, choice.kept, strict=True):
        for row, worth in zip(layer.units, scores, strict=True):
            assert set(np.flatnonzero(keep[row])) == set(np.argsort(-worth)[:count])
    assert verify(axes, keep, prune_program(axes, plan)).max_error <= 1e-9
    assert np.array_equal(choice.scores[list(others)], before[list(others)])


def test_a_global_threshold_follows_the_layers() -> None:
    """A layer whose states are equally good keeps more of them than one with a single good state."""
    lm, axes = axes_of(1)
    with torch.no_grad():
        lm = model(1)
        weights: Any = lm.backbone.layers[0].mixer.x_proj.weight
        weights[lm.sizes.dt_rank or 0 :] *= torch.tensor([1.0, 1e-3, 1e-3, 1e-3, 1e-3] * 2)[:, None]
    found = choose_states(
        StateConfig(text="3", criterion="magnitude", scope="global"),
        axes,
        loaded(lm),
        None,
        np.ones(axes.classes),
    )
    assert found.kept == (1, 5)


# Compensation


@pytest.mark.parametrize("version", [1, 2])
def test_a_search_begins_from_plans_that_take_states_first(version: Version) -> None:
    lm, axes = axes_of(version)
    layers = own_layers(axes, lm)
    choice = StateChoice(StateConfig(), "output", layers, (), magnitude(axes), 0)
    space = WidthSpace(axes)
    starts = state_starts(space)
    assert set(starts) == {"states-half", "states-quarter"}
    keep = make_plan(space, space.levels(starts["states-half"]), choice.scores, "states").keep_mask(axes)
    states = np.concatenate([layer.units.ravel() for layer in layers])
    others = np.setdiff1d([u for g in axes.groups for u in g.units], states)
    assert keep[others].all() and [k.shape[1] for k in kept_states(layers, keep)] == [
        layer.units.shape[1] // 2 for layer in layers
    ]


def test_what_remains_takes_over_exactly_what_it_can() -> None:
    """A state with the rate and the input of another is read through it: nothing is lost."""
    lm = model(1)
    mixer: Any = lm.backbone.layers[1].mixer
    rank = mixer.dt_rank
    with torch.no_grad():
        mixer.A_log[:, 3] = mixer.A_log[:, 1]
        mixer.x_proj.weight[rank + 3] = -0.5 * mixer.x_proj.weight[rank + 1]
    kept = [np.arange(5)[None], np.array([[0, 1, 2, 4]])]
    small = MambaLM(replace(lm.sizes, d_state=(5, 4)))
    small.load_state_dict(sliced(lm, kept))
    x = ids(2, 50, seed=77)
    with torch.no_grad():
        wanted = lm(x)
        assert float((small(x) - wanted).abs().max()) > 1e-2
        compensate(lm, small.eval(), kept, batches(6, 60))
        assert float((small(x) - wanted).abs().max()) < 2e-3 * float(wanted.abs().max())
    old, new = mixer.x_proj.weight[rank + 5 + 1], small.backbone.layers[1].mixer.x_proj.weight[rank + 4 + 1]
    torch.testing.assert_close(new, old - 0.5 * mixer.x_proj.weight[rank + 5 + 3], rtol=1e-2, atol=1e-2)


# From end to end


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick_clocks():
        yield


def text_file(folder: Path) -> str:
    """A text of few words, which a model of bytes learns a little of at once."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 122, 3))) for _ in range(20)]
    (folder / "a.txt").write_text("".join(words[i] for i in rng.integers(0, 20, 4000)))
    return f"text:{folder / 'a.txt'}"


class Heard(Collected):
    def epoch(self, result: Any) -> None:
        self.stages.append("an epoch")

    def step(self, done: int, total: int) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["transformers", "mamba_ssm"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_pruned_directory_loads_where_it_came_from(version: Version, layout: Any, tmp_path: Path) -> None:
    """`--states 0.6` on a checkpoint: pruned, compensated, tuned, and written in the layout it came in."""
    lm = model(version, tie_embeddings=version == 1, vocab_size=256)
    save_mamba(tmp_path / "lm", lm, layout=layout)
    (tmp_path / "lm" / "generation_config.json").write_text("{}")
    source = ModelSource(model=f"hf:{tmp_path / 'lm'}", request=InputRequest(shape=(1, 24)))
    spec = text_file(tmp_path)
    tune = TuneConfig(epochs=1, lr=1e-3, batch_size=64, optimizer="adamw")
    heard = Heard()
    report = compress(
        CompressConfig(
            source=source,
            demands=(),
            output=tmp_path / "out",
            data=spec,
            states=StateConfig(text="0.6", criterion="elimination"),
            tune_text=tune,
            tune=TuneConfig(epochs=9),
        ),
        no_search,
        heard,
    )
    assert "an epoch" in heard.stages and "compensating" in heard.stages
    assert report.verification["max_error"] <= 1e-9 and report.states is not None
    assert [[len(row) for row in e["kept"]] for e in report.states["layers"]] == [
        [3] * (1 if version == 1 else 2)
    ] * 2
    assert report.states["checkpoint"] == {"layout": layout, "reason": ""}
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["states"]["criterion"] == "elimination"
    command = " ".join(written["command"])
    assert "--states 0.6 --state-criterion elimination" in command and "--epochs 1" in command
    bits = report.accuracy["bits"]
    assert report.accuracy["each"] == "byte" and bits["after_tuning"] <= bits["before_tuning"] + 0.02
    assert any("bits per byte after fine-tuning" in row[0] for row in report.rows())
    folder = tmp_path / "out" / "checkpoint"
    assert (folder / "generation_config.json").is_file()
    again, _ = load_mamba(folder)
    assert again.sizes.d_state == 3 and again.sizes.d_inner == 32
    x = ids(2, 24)
    with torch.no_grad():
        wanted = load_pruned(tmp_path / "out")(x)
        torch.testing.assert_close(again(x), wanted, rtol=1e-4, atol=1e-4)
        if layout == "transformers":
            transformers = pytest.importorskip("transformers")
            kind = transformers.MambaForCausalLM if version == 1 else transformers.Mamba2ForCausalLM
            other, told = kind.from_pretrained(folder, output_loading_info=True)
            assert not any(told[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
            assert other.config.state_size == 3
            torch.testing.assert_close(other.eval()(x, use_cache=False).logits, wanted, rtol=1e-4, atol=1e-4)
            step = other(x[:, :-1], use_cache=True)
            last = other(x[:, -1:], cache_params=step.cache_params, use_cache=True).logits
            torch.testing.assert_close(last[:, 0], wanted[:, -1], rtol=1e-4, atol=1e-4)
    assert load(ModelSource(model=f"hf:{folder}")).arch == f"mamba{version}"


@pytest.mark.slow
def test_other_numbers_in_each_layer_load_with_our_module(tmp_path: Path) -> None:
    lm = model(1)
    with torch.no_grad():
        weights: Any = lm.backbone.layers[0].mixer.x_proj.weight
        weights[lm.sizes.dt_rank or 0 :] *= torch.tensor([1.0, 1e-3, 1e-3, 1e-3, 1e-3] * 2)[:, None]
    save_mamba(tmp_path / "lm", lm)
    code, told = run(
        "compress",
        f"hf:{tmp_path / 'lm'}",
        "--states",
        "50%",
        "--state-scope",
        "global",
        "-o",
        tmp_path / "o",
        "--data",
        "none",
        "--input-shape",
        "1x16",
    )
    assert code == 0, told
    assert "states kept in each layer: 1 of 5, 3 of 5, by magnitude" in told
    assert "mamba_ssm; its layers have different numbers of states" in told
    again, _ = load_mamba(tmp_path / "o" / "checkpoint")
    assert again.sizes.states == (1, 3)
    assert {
        len(load_plan(tmp_path / "o").kept[g]) for g in load_plan(tmp_path / "o").kept if "x_proj#" in g
    } == {1, 3}


@pytest.mark.slow
def test_channels_and_states_go_together_and_tune_on_text(tmp_path: Path) -> None:
    """`--flops 0.8` without a word on states: the search walks over channels, states and all, and tunes."""
    save_mamba(tmp_path / "lm", model(1, vocab_size=256))
    code, told = run(
        "compress",
        f"hf:{tmp_path / 'lm'}",
        "--flops",
        "0.8",
        "--data",
        text_file(tmp_path),
        "-o",
        tmp_path / "o",
        "--input-shape",
        "1x24",
        "--episodes",
        "4",
        "--images",
        "32",
        "--workers",
        "1",
    )
    assert code == 0, told
    assert "judging the states" in told and "by elimination" in told
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["ratios"]["macs"] <= 0.8 and report["verification"]["max_error"] <= 1e-9
    assert report["tune"]["epochs"] == 1 and report["tune"]["lr"] == 1e-3
    assert report["native"]["runs"], report["native"]["reason"]
    assert set(report["search"]["best"]) >= {"uniform", "global-magnitude", "states-half", "states-quarter"}
    assert report["states"]["criterion"] == "elimination" and report["states"]["tokens"]
    assert report["accuracy"]["bits"]["after_tuning"] < report["accuracy"]["bits"]["before_tuning"]
    states = report["states"]["layers"]
    assert all(1 <= len(e["kept"][0]) <= 5 for e in states)
    tensors = load_program(tmp_path / "o").tensors
    for e, layer in zip(states, range(2), strict=True):
        assert tensors[f"backbone.layers.{layer}.mixer.A_log"].shape[1] == len(e["kept"][0])


@pytest.mark.slow
def test_states_and_flops_together(tmp_path: Path) -> None:
    save_mamba(tmp_path / "lm", model(2, ngroups=1))
    code, told = run(
        "compress",
        f"hf:{tmp_path / 'lm'}",
        "--flops",
        "0.7",
        "--states",
        "3",
        "--data",
        "none",
        "-o",
        tmp_path / "o",
        "--input-shape",
        "1x16",
    )
    assert code == 0, told
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert 0.6 < report["ratios"]["macs"] <= 0.7
    assert [len(e["kept"][0]) for e in report["states"]["layers"]] == [3, 3]


# Bad input


def run(*args: object) -> tuple[int, str]:
    terminal.console.width = terminal.stderr.width = 300
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--states", "0.1"), "--states 0.1 leaves none of 5 states"),
        (("--states", "5"), "there are only 5 states"),
        (("--states", "0"), "not a share or a number of states"),
        (("--states", "1.5"), "not a share or a number of states"),
        (("--states", "many"), "not a share or a number of states"),
        (("--states", "nan"), "not a share or a number of states"),
        (("--states", "0.5", "--state-criterion", "luck"), "--state-criterion luck: unknown"),
        (("--states", "0.5", "--state-criterion", "eliminate"), "did you mean elimination?"),
        (("--states", "0.5", "--state-scope", "all"), "--state-scope all: unknown"),
        (("--flops", "0.5", "--state-scope", "global"), "--state-scope says how --states are spread"),
        (("--states", "0.5", "--state-criterion", "delta", "--data", "none"), "delta needs text"),
        (("--states", "0.5", "--exclude", "backbone.layers.0.mixer.x_proj"), "have to stay"),
        ((), "give a target"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    save_mamba(tmp_path / "lm", model(1))
    code, told = run(
        "compress", f"hf:{tmp_path / 'lm'}", *args, "-o", tmp_path / "out", "--input-shape", "1x12"
    )
    assert code == 2 and "error:" in told and "hint:" in told and says in told
    assert not (tmp_path / "out").exists()


def test_models_that_have_no_states(tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    save_mamba(folder, model(1))
    (folder / "config.json").unlink()
    code, told = run("compress", f"hf:{folder}", "--states", "0.5", "-o", tmp_path / "out")
    assert code == 2 and "config.json" in told
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef net():\n    return torch.nn.Sequential("
        "torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(str(tmp_path))
        code, told = run(
            "compress", "mine:net", "--input-shape", "8", "--states", "0.5", "-o", tmp_path / "out"
        )
    assert code == 2 and "has no states that could go" in told


@pytest.mark.slow
def test_the_class_of_transformers_is_judged_by_its_weights_alone(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_mamba(tmp_path / "lm", model(1))
    common = [
        "compress",
        f"hf:{tmp_path / 'lm'}",
        "--arch",
        "MambaForCausalLM",
        "--states",
        "3",
        "--input-shape",
        "1x12",
        "-o",
        tmp_path / "out",
    ]
    code, told = run(*common, "--state-criterion", "output")
    assert code == 2 and "looks into our own Mamba classes" in told and "without --arch" in told
    code, told = run(*common)
    assert code == 0 and "3 of 5, by magnitude" in told, told


def test_sizes_that_no_configuration_has() -> None:
    lm = model(1)
    state = lm.state_dict()
    state["backbone.layers.0.mixer.D"] = state["backbone.layers.0.mixer.D"][:-1]
    with pytest.raises(ArchitectureError, match="no Mamba-1 has these sizes: backbone.layers.0.mixer.D"):
        smaller_mamba(lm.sizes, state)
