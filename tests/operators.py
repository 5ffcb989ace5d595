"""Small networks around one operator each, with the groups that they have, worked out by hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from networks import Case, conv, head, pool, tokens
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


def chained(m: Any, x: Tensor) -> Tensor:
    """Two convolutions, 8 and 6 channels."""
    y: Tensor = m.h(pool(m.b(m.a(x))))
    return y


def steps(m: Any, x: Tensor) -> list[Tensor]:
    """The pixels of a convolution one by one: 16 of (B, 8)."""
    return list(tokens(m.a(x)).unbind(1))


def lstm_cell(m: Any, x: Tensor) -> Tensor:
    state = (x.new_zeros(x.shape[0], 6), x.new_zeros(x.shape[0], 6))
    for y in steps(m, x)[:3]:
        state = m.r(y, state)
    return m.h(state[0] + state[1])  # type: ignore[no-any-return]


def written(m: Any, x: Tensor) -> Tensor:
    """Four of eight channels written over."""
    y = m.a(x).clone()
    y[:, -6:-2] = m.b(x)
    return m.h(pool(y))  # type: ignore[no-any-return]


def cell(m: Any, x: Tensor) -> Tensor:
    state = x.new_zeros(x.shape[0], 6)
    for y in steps(m, x)[:3]:
        state = m.r(y, state)
    return m.h(state)  # type: ignore[no-any-return]


def router(m: Any, x: Tensor) -> Tensor:
    """Two of six experts for each pixel, by indexed weights."""
    y = tokens(m.a(x)).flatten(0, 1)
    shares, chosen = m.r(y).softmax(-1).topk(2, -1)
    made = torch.einsum("nei,ni->ne", m.w[chosen].flatten(1, 2), y).view(-1, 2, 5)
    return m.h((made * shares[..., None]).sum(1).view(x.shape[0], 16, 5).mean(1))  # type: ignore[no-any-return]


def switch(m: Any, x: Tensor) -> Tensor:
    """The best of six experts for each pixel, by a mask."""
    y = tokens(m.a(x))
    scores = m.r(y).softmax(-1)
    mask = F.one_hot(scores.argmax(-1), 6).to(y.dtype)
    made = torch.einsum("bti,eoi->bteo", y, m.w)
    return m.h(torch.einsum("bteo,bte->bto", made, mask * scores).mean(1))  # type: ignore[no-any-return]


def experts(**more: Any) -> dict[str, Any]:
    return {
        "a": conv(3, 8),
        "r": nn.Linear(8, 6),
        "w": nn.Parameter(torch.rand(6, 5, 8)),
        "h": head(5),
        **more,
    }


def pair(**more: Any) -> dict[str, Any]:
    return {"a": conv(3, 8), "b": conv(8, 6), "h": head(6), **more}


def one(**more: Any) -> dict[str, Any]:
    return {"a": conv(3, 8), "h": head(8), **more}


def recurrent(kind: type[nn.Module], width: int, **options: Any) -> dict[str, Any]:
    return {"a": conv(3, 8), "r": kind(8, 6, batch_first=True, **options), "h": head(width)}


def last_step(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.h(m.r(tokens(m.a(x)))[0][:, -1])
    return y


def old_weight_norm(layer: nn.Module) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


OPERATORS: dict[str, Case] = {
    # Weights that are computed
    "weight norm": Case(
        lambda: pair(b=weight_norm(conv(8, 6))), chained, {"a": 8, "b.parametrizations.weight.original1": 6}
    ),
    "weight norm, old": Case(lambda: pair(b=old_weight_norm(conv(8, 6))), chained, {"a": 8, "b.weight_v": 6}),
    "weight norm along the kernel": Case(
        lambda: {"a": nn.Conv1d(48, 8, 1), "b": weight_norm(nn.Conv1d(8, 6, 3), dim=2), "h": head(6)},
        lambda m, x: m.h(m.b(m.a(x.flatten(1)[:, :, None].expand(-1, -1, 5))).mean(2)),
        {"a": 8, "b.parametrizations.weight.original1": 6},
    ),
    "spectral norm": Case(
        lambda: pair(b=spectral_norm(conv(8, 6))), chained, {"a": 8, "b.parametrizations.weight.original": 6}
    ),
    "weight standardisation by batch norm": Case(
        pair,
        lambda m, x: m.h(
            pool(
                F.conv2d(
                    m.a(x),
                    F.batch_norm(
                        m.b.weight.reshape(1, 6, -1), None, None, training=True, momentum=0.0
                    ).reshape_as(m.b.weight),
                )
            )
        ),
        {"a": 8, "b": 6},
    ),
    # Recurrences; the zeros that a layer starts from are the same for all of its parts, so these share units
    "projected lstm": Case(
        lambda: recurrent(nn.LSTM, 8, proj_size=4, bidirectional=True, num_layers=2),
        last_step,
        {"a": 8, "r.weight_hr_l0": 4 + 6},
    ),
    "gru, both ways, two layers": Case(
        lambda: recurrent(nn.GRU, 12, bidirectional=True, num_layers=2),
        last_step,
        {"a": 8, "r.weight_hh_l0": 6},
    ),
    "lstm cell": Case(
        lambda: {"a": conv(3, 8), "r": nn.LSTMCell(8, 6), "h": head(6)}, lstm_cell, {"a": 8, "r.weight_ih": 6}
    ),
    "gru cell": Case(
        lambda: {"a": conv(3, 8), "r": nn.GRUCell(8, 6), "h": head(6)}, cell, {"a": 8, "r.weight_ih": 6}
    ),
    "rnn cell": Case(
        lambda: {"a": conv(3, 8), "r": nn.RNNCell(8, 6), "h": head(6)}, cell, {"a": 8, "r.weight_ih": 6}
    ),
    # Products
    "tensordot": Case(
        lambda: one(w=nn.Parameter(torch.rand(4, 8, 4, 5)), h=head(5)),
        lambda m, x: m.h(torch.tensordot(m.a(x), m.w, ([1, 3], [1, 2])).mean((1, 2))),
        {"a": 8, "w": 4 + 5},
    ),
    "outer product": Case(
        lambda: one(b=conv(3, 6), h=head(48)),
        lambda m, x: m.h(torch.einsum("bi,bj->bij", pool(m.a(x)), pool(m.b(x))).flatten(1)),
        {"a": 8, "b": 6},
    ),
    "added products": Case(
        lambda: one(w=nn.Parameter(torch.rand(8, 5)), t=nn.Parameter(torch.rand(5)), h=head(5)),
        lambda m, x: m.h(torch.addmm(m.t, pool(m.a(x)), m.w)),
        {"a": 8, "w": 5},
    ),
    "inner product": Case(
        lambda: one(w=nn.Parameter(torch.rand(5, 8)), h=head(5)),
        lambda m, x: m.h(torch.inner(pool(m.a(x)), m.w)),
        {"a": 8, "w": 5},
    ),
    "the square of a sum by einsum": Case(
        one,
        lambda m, x: m.h(pool(y := m.a(x)) * torch.einsum("bihw,bjhw->b", y, y)[:, None]),
        {"a": 8},
    ),
    "every pair of a value with itself": Case(
        lambda: {"a": conv(3, 8), "b": nn.Bilinear(8, 8, 5), "h": head(5)},
        lambda m, x: m.h(m.b(y := pool(m.a(x)), y)),
        {"a": 8, "b": 5},
    ),
    "a product added to its factor": Case(
        lambda: {"a": conv(3, 8), "w": nn.Parameter(torch.rand(8, 8)), "h": head(8)},
        lambda m, x: m.h(torch.addmm(y := pool(m.a(x)), y, m.w)),
        {"a": 8},
    ),
    "diagonal of an einsum": Case(
        lambda: one(b=conv(3, 8)),
        lambda m, x: m.h(torch.einsum("bii->bi", pool(m.a(x))[:, :, None] * pool(m.b(x))[:, None])),
        {"a": 8},
    ),
    "distances": Case(
        lambda: one(w=nn.Parameter(torch.rand(3, 8)), h=head(3)),
        lambda m, x: m.h(torch.cdist(pool(m.a(x)), m.w)),
        {"a": 8, "w": 3},
    ),
    "angles": Case(
        lambda: one(w=nn.Parameter(torch.rand(8)), h=head(1)),
        lambda m, x: m.h(F.cosine_similarity(pool(m.a(x)), m.w, dim=1)[:, None]),
        {"a": 8},
    ),
    "cross product": Case(
        lambda: one(b=conv(3, 8)),
        lambda m, x: m.h(torch.linalg.cross(m.a(x)[:, :, :3], m.b(x)[:, :, :3], dim=2).mean((2, 3))),
        {"a": 8},
    ),
    # Experts
    "experts by index": Case(experts, router, {"a": 8, "r": 6, "w": 5}),
    "experts by mask": Case(experts, switch, {"a": 8, "r": 6, "w": 5}),
    "positions that are compared": Case(
        experts,
        lambda m, x: (
            m.h(F.linear(y := tokens(m.a(x)), m.w[0]).mean(1))
            * (m.r(y).argmax(-1) == 2).to(x.dtype).mean(1, keepdim=True)
        ),
        {"a": 8, "w": 5},
        {"r.weight": "their positions are read by aten.eq"},
    ),
    # Statistics and order
    "logcumsumexp": Case(pair, lambda m, x: m.h(pool(m.b(m.a(x).logcumsumexp(1)))), {"a": 8, "b": 6}),
    "cumprod": Case(pair, lambda m, x: m.h(pool(m.b(m.a(x).cumprod(1)))), {"a": 8, "b": 6}),
    "cummax": Case(pair, lambda m, x: m.h(pool(m.b(m.a(x).cummax(1)[0]))), {"a": 8, "b": 6}),
    "largest of the channels": Case(
        one, lambda m, x: m.h(pool((y := m.a(x)) * y.max(1, keepdim=True)[0])), {"a": 8}
    ),
    "smallest of everything": Case(one, lambda m, x: m.h(pool(y := m.a(x)) + y.min()), {"a": 8}),
    "median of the pixels": Case(one, lambda m, x: m.h(m.a(x).flatten(2).median(2)[0]), {"a": 8}),
    "quantile of the pixels": Case(one, lambda m, x: m.h(m.a(x).flatten(2).quantile(0.5, dim=2)), {"a": 8}),
    "sorted pixels": Case(one, lambda m, x: m.h(m.a(x).flatten(2).sort(2)[0][..., :3].sum(2)), {"a": 8}),
    "sorted channels": Case(one, lambda m, x: m.h(pool(m.a(x)).sort(1)[0]), {}, {"a.weight": "sorted over"}),
    "the larger of two counts": Case(
        one,
        lambda m, x: (
            m.h(pool(m.a(x)))
            * torch.sym_max((x[:, 0] > 0).nonzero().shape[0], (x[:, 1] > 0).nonzero().shape[0])
        ),
        {"a": 8},
    ),
    "norm over the channels": Case(
        one,
        lambda m, x: m.h(pool((y := m.a(x)) / torch.linalg.vector_norm(y, dim=1, keepdim=True))),
        {"a": 8},
    ),
    "rolled over rows and channels": Case(
        one,
        lambda m, x: m.h(pool(torch.roll(m.a(x), 36))),
        {},
        {"a.weight": "carries channels into the next row"},
    ),
    "written in place": Case(lambda: one(b=conv(3, 4)), written, {"a": 8}),
    "norm by its general name": Case(
        one,
        lambda m, x: m.h(pool((y := m.a(x)) / torch.linalg.norm(y, dim=1, keepdim=True))),
        {"a": 8},
    ),
    "Frobenius norm of matrices": Case(
        one,
        lambda m, x: m.h(pool((y := m.a(x)) / torch.linalg.matrix_norm(y, dim=(1, 2), keepdim=True))),
        {"a": 8},
    ),
    "largest sum of a matrix' columns": Case(
        one,
        lambda m, x: m.h(pool((y := m.a(x)) / torch.linalg.norm(y, ord=1, dim=(1, 2), keepdim=True))),
        {},
        {"a.weight": "the norm of a matrix of order 1"},
    ),
    "smallest magnitude": Case(
        one,
        lambda m, x: m.h(
            pool((y := m.a(x)) * torch.linalg.vector_norm(y, ord=-float("inf"), dim=1, keepdim=True))
        ),
        {"a": 8},
    ),
    "variance and mean": Case(
        one,
        lambda m, x: m.h(pool(((y := m.a(x)) - (s := torch.var_mean(y, dim=1, keepdim=True))[1]) / s[0])),
        {"a": 8},
    ),
    # Windows
    "grouped transposed convolution": Case(
        lambda: pair(b=nn.ConvTranspose2d(8, 6, 3, groups=2)), chained, {"a": 8, "b": 6}, bundles=2
    ),
    "three dimensions": Case(
        lambda: {"a": nn.Conv3d(3, 8, 1), "b": nn.ConvTranspose3d(8, 6, 1), "h": head(6)},
        lambda m, x: m.h(m.b(m.a(x[:, :, None])).mean((2, 3, 4))),
        {"a": 8, "b": 6},
    ),
    "unpooled": Case(
        one,
        lambda m, x: m.h(pool(F.max_unpool2d(*F.max_pool2d(m.a(x), 2, return_indices=True), 2))),
        {"a": 8},
    ),
    "sampled at a grid": Case(
        lambda: one(g=nn.Linear(3, 6)),
        lambda m, x: m.h(
            pool(
                F.grid_sample(
                    m.a(x),
                    F.affine_grid(m.g(pool(x)).view(-1, 2, 3), [x.shape[0], 8, 5, 5], align_corners=False),
                    align_corners=False,
                )
            )
        ),
        {"a": 8},
    ),
    "resampled": Case(
        one,
        lambda m, x: m.h(
            sum(
                pool(F.interpolate(m.a(x), scale_factor=2, mode=mode))
                for mode in ("bilinear", "bicubic", "nearest", "nearest-exact", "area")
            )
        ),
        {"a": 8},
    ),
    "unfolded and folded": Case(
        one, lambda m, x: m.h(pool(F.fold(F.unfold(m.a(x), 2, stride=2).relu(), 4, 2, stride=2))), {"a": 8}
    ),
    "local response": Case(
        one, lambda m, x: m.h(pool(F.local_response_norm(m.a(x), 3))), {}, {"a.weight": "pooled over"}
    ),
    # Lookups
    "bags": Case(
        lambda: {"e": nn.EmbeddingBag(10, 8, mode="mean"), "h": head(8)},
        lambda m, x: m.h(m.e((x.flatten(1)[:, :6].sigmoid() * 9).long())),
        {"e": 8},
    ),
    "scattered": Case(
        one,
        lambda m, x: m.h(
            torch.zeros_like(y := m.a(x).flatten(2))
            .scatter_add(2, torch.arange(16).flip(0).expand(y.shape), y)
            .mean(2)
        ),
        {"a": 8},
    ),
    "one of the channels for each pixel": Case(
        one, lambda m, x: m.h(pool((y := m.a(x)) * y.gather(1, y.argmax(1, keepdim=True)))), {"a": 8}
    ),
    "gathered from the first channels": Case(
        one,
        lambda m, x: m.h(
            m.a(x).flatten(2).gather(2, torch.tensor([3, 1]).expand(len(x), 5, 2)).mean(2).repeat(1, 2)[:, :8]
        ),
        {},
        {"a.weight": "part of them named"},
    ),
    "scattered into the first channel": Case(
        one,
        lambda m, x: m.h(
            m.a(x).flatten(2).scatter(2, torch.tensor([3, 1]).expand(len(x), 1, 2), 0.5).mean(2)
        ),
        {},
        {"a.weight": "part of them named"},
    ),
    # Element by element
    "rare functions": Case(
        one,
        lambda m, x: m.h(
            pool(
                torch.lgamma(y := m.a(x).abs() + 1)
                + y.erfinv().nan_to_num(0.5, 0.5, 0.5)
                + torch.special.entr(y)
                + torch.digamma(y)
            )
        ),
        {"a": 8},
    ),
    "random numbers": Case(
        one,
        lambda m, x: m.h(pool((y := m.a(x)) + 0 * torch.rand_like(y))),
        {},
        {"a.weight": "drawn at random"},
    ),
}
