"""Attention between tokens, in all layouts of heads: (B, T, C) to (B, T, C')."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward.case import attend, heads, merge, parameter
from .part import Part, Recipe, made


def _mixed(q: Tensor, k: Tensor, v: Tensor, way: int) -> Tensor:
    """Attention in one of the ways in which it is written; all of (B, H, T, D)."""
    t, lanes = q.shape[2], q.shape[3]
    if way % 5 == 0:
        return attend(q, k, v)
    if way % 5 == 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if way % 5 == 2:
        weights: Tensor = (q @ k.transpose(-1, -2) / lanes**0.5).softmax(-1)
        return weights.matmul(v)
    if way % 5 == 3:
        later = torch.ones(t, t, dtype=torch.bool).triu(1)
        scores = torch.einsum("bhtd,bhsd->bhts", q, k).masked_fill(later, float("-inf"))
        return torch.einsum("bhts,bhsd->bhtd", scores.softmax(-1), v)
    product: Tensor = q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)
    return product


def _separate(c: int, t: int, width: int, way: int) -> Part:
    count, lanes = 1 + way % 3, 1 + width % 4

    def forward(m: Any, x: Tensor) -> Any:
        y = m.out(merge(_mixed(heads(m.q(x), count), heads(m.k(x), count), heads(m.v(x), count), way)))
        return x + y if way % 2 else y

    inner = count * lanes
    layers = {n: nn.Linear(c, inner) for n in "qkv"}
    outputs = c if way % 2 else width
    return made(forward, outputs, t, **layers, out=nn.Linear(inner, outputs))


def _fused(c: int, t: int, width: int, way: int) -> Part:
    count, lanes = 1 + way % 3, 1 + width % 4

    def forward(m: Any, x: Tensor) -> Any:
        b, qkv = x.shape[0], m.qkv(x)
        if way % 4 == 0:
            q, k, v = (heads(p, count) for p in qkv.chunk(3, -1))
        elif way % 4 == 1:
            q, k, v = qkv.reshape(b, t, 3, count, lanes).permute(2, 0, 3, 1, 4).unbind(0)
        elif way % 4 == 2:
            q, k, v = qkv.view(b, t, count, 3 * lanes).transpose(1, 2).chunk(3, -1)
        else:
            three = qkv.view(b, t, count, 3, lanes)
            q, k, v = (three[..., i, :].transpose(1, 2) for i in range(3))
        return x + m.out(merge(_mixed(q, k, v, way)))

    inner = count * lanes
    return made(forward, c, t, qkv=nn.Linear(c, 3 * inner), out=nn.Linear(inner, c))


def _queries(c: int, t: int, width: int, way: int) -> Part:
    """Grouped queries, or all queries on one head of keys and values."""
    shared, each, lanes = 1 + way % 2, 2 + way % 2, 1 + width % 4
    count = shared * each

    def forward(m: Any, x: Tensor) -> Any:
        b = x.shape[0]
        q, k, v = heads(m.q(x), count), heads(m.k(x), shared), heads(m.v(x), shared)
        if way % 3 == 0:
            k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
        elif way % 3 == 1:
            k, v = (
                y[:, :, None].expand(b, shared, each, t, lanes).reshape(b, count, t, lanes) for y in (k, v)
            )
        else:
            q = q.reshape(b, shared, each, t, lanes)
            y = (q @ k[:, :, None].transpose(-1, -2)).softmax(-1) @ v[:, :, None]
            return x + m.out(merge(y.reshape(b, count, t, lanes)))
        return x + m.out(merge(_mixed(q, k, v, way)))

    layers = {"q": nn.Linear(c, count * lanes), "k": nn.Linear(c, shared * lanes),
              "v": nn.Linear(c, shared * lanes)}  # fmt: skip
    return made(forward, c, t, **layers, out=nn.Linear(count * lanes, c))


def _rotary(c: int, t: int, width: int, way: int) -> Part:
    count, pairs = 1 + way % 2, 1 + width % 3

    def turn(x: Tensor) -> Tensor:
        angles = torch.arange(t)[:, None] / 10.0 ** torch.arange(pairs)
        cos, sin = angles.cos(), angles.sin()
        if way % 3 == 0:
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
        if way % 3 == 1:
            a, b = x[..., ::2], x[..., 1::2]
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def forward(m: Any, x: Tensor) -> Any:
        q, k, v = (heads(f(x), count) for f in (m.q, m.k, m.v))
        return x + m.out(merge(_mixed(turn(q), turn(k), v, way)))

    inner = count * 2 * pairs
    layers = {n: nn.Linear(c, inner) for n in "qkv"}
    return made(forward, c, t, **layers, out=nn.Linear(inner, c))


def _normed(c: int, t: int, width: int, way: int) -> Part:
    """Norms of the lanes, or a parameter per head, or a bias per head."""
    count, lanes = 2 + way % 2, 2 + width % 3

    def forward(m: Any, x: Tensor) -> Any:
        q, k, v = (heads(f(x), count) for f in (m.q, m.k, m.v))
        if way % 3 == 0:
            return x + m.out(merge(attend(m.n(q), m.n(k), v)))
        if way % 3 == 1:
            return x + m.out(merge(attend(q, k, v) * m.g[:, None, None]))
        distance = torch.arange(t)[None] - torch.arange(t)[:, None]
        bias = m.g.view(1, count, 1, 1) * distance
        return x + m.out(merge(F.scaled_dot_product_attention(q, k, v, attn_mask=bias)))

    inner = count * lanes
    layers: dict[str, Any] = {n: nn.Linear(c, inner) for n in "qkv"}
    return made(forward, c, t, **layers, out=nn.Linear(inner, c), n=nn.RMSNorm(lanes), g=parameter(count))


def _folded(c: int, t: int, width: int, way: int) -> Part:
    """Heads folded into the batch, or weights of rank three."""
    count, lanes = 1 + way % 3, 2 + width % 3

    def forward(m: Any, x: Tensor) -> Any:
        b = x.shape[0]
        if way % 2:
            q, k, v = (torch.einsum("btc,chd->bthd", x, w) for w in (m.wq, m.wk, m.wv))
            weights = torch.einsum("bthd,bshd->bhts", q, k).softmax(-1)
            return x + torch.einsum("bhts,bshd,hdc->btc", weights, v, m.wo)
        flat = x[:, None].expand(b, count, t, c).reshape(b * count, t, c)
        q, k, v = (torch.bmm(flat, w.permute(1, 0, 2).repeat(b, 1, 1)) for w in (m.wq, m.wk, m.wv))
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(b, count, t, lanes)
        return x + y.transpose(1, 2).reshape(b, t, count * lanes) @ m.wo.flatten(0, 1)

    shape = (c, count, lanes)
    return made(forward, c, t, wq=parameter(*shape), wk=parameter(*shape), wv=parameter(*shape),
                wo=parameter(count, lanes, c))  # fmt: skip


def _latents(c: int, t: int, width: int, way: int) -> Part:
    """Queries are a bare parameter: another number of tokens comes out."""
    count, lanes, outputs = 1 + way % 2, 1 + width % 3, 2 + way % 4

    def forward(m: Any, x: Tensor) -> Any:
        q = heads(m.w.expand(x.shape[0], -1, -1), count)
        return m.out(merge(attend(q, heads(m.k(x), count), heads(m.v(x), count))))

    inner = count * lanes
    return made(forward, width, outputs, w=parameter(1, outputs, inner), k=nn.Linear(c, inner),
                v=nn.Linear(c, inner), out=nn.Linear(inner, width))  # fmt: skip


ATTENTION_PARTS: Mapping[str, Recipe] = {
    "attention": _separate, "fused attention": _fused, "grouped queries": _queries, "rotary": _rotary,
    "normed attention": _normed, "folded attention": _folded, "latents": _latents,
}  # fmt: skip
