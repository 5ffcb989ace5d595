"""Awkward attention: every layout of heads, queries that share keys, positions, biases, windows."""

# ruff: noqa: D102 - the class says what its forward is about

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Awkward, attend, conv, heads, image, merge, net, parameter, tokens, words

C, H, D = 12, 4, 3  # width, heads, lanes of a head


def _h(inputs: int) -> nn.Linear:
    return nn.Linear(inputs, 4)


class Block(nn.Module):
    """A transformer block around ``mix``, which subclasses give; class scores from the mean token.

    Args:
        layers: of the attention, by name.
        width: of the residual stream.
    """

    def __init__(self, layers: dict[str, Any], width: int = C) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.h = _h(width)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def mix(self, x: Tensor) -> Tensor:
        """The attention."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.n1(x))
        x = x + self.down(F.gelu(self.up(self.n2(x))))
        result: Tensor = self.h(x.mean(1))
        return result


def _block(mix: Any, **layers: Any) -> Block:
    kind = type("Attention", (Block,), {"mix": mix})
    made: Block = kind(layers)
    return made


def _lin(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def _fused_chunk(m: Any, x: Tensor) -> Any:
    q, k, v = (heads(t, H) for t in m.qkv(x).chunk(3, -1))
    return m.out(merge(attend(q, k, v)))


def _fused_unbind(m: Any, x: Tensor) -> Any:
    b, t, _ = x.shape
    q, k, v = m.qkv(x).reshape(b, t, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
    weights = ((q * D**-0.5) @ k.transpose(-2, -1)).softmax(-1)
    return m.out((weights @ v).transpose(1, 2).reshape(b, t, H * D))


def _neox(m: Any, x: Tensor) -> Any:
    b, t, _ = x.shape
    q, k, v = m.qkv(x).view(b, t, H, 3 * D).transpose(1, 2).chunk(3, -1)
    return m.out(merge(attend(q, k, v)))


def _bloom(m: Any, x: Tensor) -> Any:
    b, t, _ = x.shape
    qkv = m.qkv(x).view(b, t, H, 3, D)
    q, k, v = (qkv[..., i, :].transpose(1, 2) for i in range(3))
    return m.out(merge(attend(q, k, v)))


def _conv1d_style(m: Any, x: Tensor) -> Any:
    qkv = torch.addmm(m.bias, x.reshape(-1, C), m.weight).view(*x.shape[:2], 3 * C)
    q, k, v = torch.split(qkv, C, 2)
    return m.out(merge(attend(heads(q, H), heads(k, H), heads(v, H))))


def _gqa_repeat(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    return m.out(merge(attend(q, k, v)))


def _gqa_expand(m: Any, x: Tensor) -> Any:
    b, t, _ = x.shape
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    k = k[:, :, None].expand(b, 2, 2, t, D).reshape(b, 4, t, D)
    v = v[:, :, None].expand(b, 2, 2, t, D).reshape(b, 4, t, D)
    return m.out(merge(attend(q, k, v)))


def _gqa_native(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    return m.out(merge(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)))


def _gqa_fused(m: Any, x: Tensor) -> Any:
    q, k, v = m.qkv(x).split([4 * D, 2 * D, 2 * D], -1)
    q, k, v = heads(q, 4), heads(k, 2), heads(v, 2)
    return m.out(merge(attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))))


def _mqa(m: Any, x: Tensor) -> Any:
    q = heads(m.q(x), H)
    k, v = m.kv(x).split(D, -1)
    return m.out(merge(attend(q, k[:, None].expand_as(q), v[:, None].expand_as(q))))


def _mqa_broadcast(m: Any, x: Tensor) -> Any:
    q = heads(m.q(x), H)
    k, v = m.kv(x).split(D, -1)
    weights = (torch.matmul(q, k[:, None].transpose(-1, -2)) / math.sqrt(D)).softmax(-1)
    return m.out(merge(torch.matmul(weights, v[:, None])))


def _rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def _angles(length: int, lanes: int) -> Tensor:
    rates = 1.0 / 100.0 ** (torch.arange(lanes).float() / lanes)
    return torch.arange(length).float()[:, None] * rates


def _rotary_half(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), 2), heads(m.k(x), 2), heads(m.v(x), 2)
    angles = _angles(x.shape[1], 3)
    cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    q, k = q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin
    return m.out(merge(attend(q, k, v)))


def _turn_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def _rotary_pairs(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), 2), heads(m.k(x), 2), heads(m.v(x), 2)
    angles = _angles(x.shape[1], 3)
    q, k = (_turn_pairs(y, angles.cos(), angles.sin()) for y in (q, k))
    return m.out(merge(attend(q, k, v)))


def _rotary_complex(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), 2), heads(m.k(x), 2), heads(m.v(x), 2)
    angles = _angles(x.shape[1], 3)
    turn = torch.polar(torch.ones_like(angles), angles)
    q, k = (
        torch.view_as_real(torch.view_as_complex(y.reshape(*y.shape[:-1], 3, 2)) * turn).flatten(-2)
        for y in (q, k)
    )
    return m.out(merge(attend(q, k, v)))


def _rotary_part(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), 2), heads(m.k(x), 2), heads(m.v(x), 2)
    angles = _angles(x.shape[1], 1)
    cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    q, k = (torch.cat([y[..., :2] * cos + _rotate_half(y[..., :2]) * sin, y[..., 2:]], -1) for y in (q, k))
    return m.out(merge(attend(q, k, v)))


def _alibi(m: Any, x: Tensor) -> Any:
    q, k, v = (heads(t, H) for t in m.qkv(x).chunk(3, -1))
    t = x.shape[1]
    distance = (torch.arange(t)[None] - torch.arange(t)[:, None]).float()
    bias = m.slopes.view(1, H, 1, 1) * distance
    return m.out(merge(F.scaled_dot_product_attention(q, k, v, attn_mask=bias)))


def _alibi_model() -> nn.Module:
    module = _block(_alibi, qkv=_lin(C, 3 * C), out=_lin(C, C))
    module.register_buffer("slopes", 2.0 ** -torch.arange(1.0, H + 1))
    return module


def _masked(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), H), heads(m.k(x), H), heads(m.v(x), H)
    t = x.shape[1]
    later = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)
    weights = (q @ k.transpose(-1, -2) / D**0.5).masked_fill(later, float("-inf")).softmax(-1)
    return m.out(merge(weights @ v))


def _where(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), H), heads(m.k(x), H), heads(m.v(x), H)
    t = x.shape[1]
    seen = torch.ones(t, t, dtype=torch.bool).tril().view(1, 1, t, t)
    scores = torch.where(seen, q @ k.transpose(-1, -2) / D**0.5, torch.full([], -1e4))
    return m.out(merge(scores.float().softmax(-1).type_as(scores) @ v))


def _einsum(m: Any, x: Tensor) -> Any:
    q = torch.einsum("btc,chd->bthd", x, m.wq)
    k = torch.einsum("btc,chd->bthd", x, m.wk)
    v = torch.einsum("btc,chd->bthd", x, m.wv)
    weights = torch.einsum("bthd,bshd->bhts", q, k).softmax(-1)
    return torch.einsum("bhts,bshd,hdc->btc", weights, v, m.wo)


def _baddbmm(m: Any, x: Tensor) -> Any:
    b, t, _ = x.shape
    q, k, v = (heads(f(x), H).reshape(b * H, t, D) for f in (m.q, m.k, m.v))
    scores = torch.baddbmm(m.bias.expand(b * H, t, t), q, k.transpose(1, 2), beta=1.0, alpha=D**-0.5)
    y = torch.bmm(scores.softmax(-1), v).view(b, H, t, D)
    return m.out(y.transpose(1, 2).reshape(b, t, C))


def _lanes(m: Any, x: Tensor) -> Any:
    q, k, v = (heads(t, H).transpose(-1, -2) for t in m.qkv(x).chunk(3, -1))  # (B, H, D, T)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    weights = (q @ k.transpose(-1, -2) * m.temperature).softmax(-1)
    y = (weights @ v).permute(0, 3, 1, 2)  # (B, T, H, D)
    return m.out(y.reshape(*x.shape[:2], C))


def _linear(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), H).softmax(-1), heads(m.k(x), H).softmax(-2), heads(m.v(x), H)
    return m.out(merge(q @ (k.transpose(-1, -2) @ v)))


def _bucket_bias(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), H), heads(m.k(x), H), heads(m.v(x), H)
    t = x.shape[1]
    places = torch.arange(t)
    buckets = (places[None] - places[:, None]).clamp(-3, 3) + 3
    bias = m.table(buckets).permute(2, 0, 1)[None]
    return m.out(merge(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)))


def _normed(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), H), heads(m.k(x), H), heads(m.v(x), H)
    return m.out(merge(attend(m.nq(q), m.nk(k), v)))


def _talking(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), H), heads(m.k(x), H), heads(m.v(x), H)
    scores = m.before((q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)).softmax(2)
    weights = m.after(scores).permute(0, 3, 1, 2)
    return m.out(merge(weights @ v))


def _gated_heads(m: Any, x: Tensor) -> Any:
    q, k, v = heads(m.q(x), H), heads(m.k(x), H), heads(m.v(x), H)
    return m.out(merge(attend(q, k, v) * m.gate.view(H, 1, 1)))


def _latent(m: Any, x: Tensor) -> Any:
    """DeepSeek's: keys and values from a narrow latent, a shared key part that says the position."""
    b, t, _ = x.shape
    q = heads(m.q(x), 2)  # (B, 2, T, 3 + 2)
    latent, place = m.down_kv(x).split([6, 2], -1)
    k, v = torch.split(heads(m.up_kv(m.n(latent)), 2), [3, 4], -1)
    k = torch.cat([k, place[:, None].expand(b, 2, t, 2)], -1)
    y = torch.matmul((q @ k.transpose(-1, -2)).softmax(-1), v)
    return m.out(merge(y))


def _pooled(m: Any, x: Tensor) -> Any:
    """MViT's: queries, keys and values are images that a depthwise convolution makes smaller."""
    b, t, _ = x.shape

    def shrink(y: Tensor, f: nn.Module) -> Tensor:
        y = heads(y, H).reshape(b * H, 2, 3, D).permute(0, 3, 1, 2)
        result: Tensor = f(y).flatten(2).transpose(1, 2).reshape(b, H, t, D)
        return result

    q, k, v = m.qkv(x).chunk(3, -1)
    return m.out(merge(attend(shrink(q, m.fq), shrink(k, m.fk), shrink(v, m.fv))))


def _pooled_model() -> nn.Module:
    filters = {name: conv(D, D, groups=D) for name in ("fq", "fk", "fv")}
    return _block(_pooled, qkv=_lin(C, 36), out=_lin(C, C), **filters)


def _spatial_reduction(m: Any, x: Tensor) -> Any:
    b, t, _ = x.shape
    small = m.shrink(x.transpose(1, 2).reshape(b, C, 2, 3)).flatten(2).transpose(1, 2)
    k, v = m.kv(m.n(small)).reshape(b, -1, 2, H, D).permute(2, 0, 3, 1, 4)
    return m.out(merge(attend(heads(m.q(x), H), k, v)))


def _torch_mha(m: Any, x: Tensor) -> Any:
    return m.mha(x, x, x, need_weights=False)[0]


def _torch_mha_weights(m: Any, x: Tensor) -> Any:
    y, weights = m.mha(x, x, x)
    return y * weights.amax(-1, keepdim=True)


class Swin(nn.Module):
    """Windows that are rolled, partitioned, and biased by a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n, self.qkv, self.out = (
            conv(3, C),
            nn.LayerNorm(C),
            nn.Linear(C, 3 * C),
            nn.Linear(C, C),
        )
        self.table, self.h = parameter(49, H), _h(C)
        self.places: Tensor
        y, x = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
        dy, dx = y.flatten()[:, None] - y.flatten(), x.flatten()[:, None] - x.flatten()
        self.register_buffer("places", (dy + 3) * 7 + dx + 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.n(x), (-2, -2), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, H, c // H).permute(2, 0, 3, 1, 4)
        bias = self.table[self.places.flatten()].view(16, 16, H).permute(2, 0, 1)
        y = ((q @ k.transpose(-2, -1)) * D**-0.5 + bias[None]).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(-1, 16, c))
        y = y.view(b, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(b, h, w, c)
        result: Tensor = self.h((x + torch.roll(y, (2, 2), (1, 2))).mean((1, 2)))
        return result


class Sam(nn.Module):
    """Heads folded into the batch, relative positions of rows and columns added by indexing with None."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n, self.qkv = conv(3, C), nn.LayerNorm(C), nn.Linear(C, 3 * C)
        self.out, self.h = nn.Linear(C, C), _h(C)
        self.rows, self.columns = parameter(4, 4, D), parameter(4, 4, D)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = self.n(x).view(b, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, H, D).permute(2, 0, 3, 1, 4).reshape(3, -1, 16, D).unbind(0)
        square = q.reshape(-1, 4, 4, D)
        rows = torch.einsum("bhwc,hkc->bhwk", square, self.rows)
        columns = torch.einsum("bhwc,wkc->bhwk", square, self.columns)
        scores = (q * D**-0.5 @ k.transpose(-2, -1)).view(-1, 4, 4, 4, 4)
        scores = scores + rows[:, :, :, :, None] + columns[:, :, :, None, :]
        y = scores.view(-1, 16, 16).softmax(-1) @ v
        y = self.out(y.view(-1, H, 16, D).transpose(1, 2).reshape(-1, 16, c))
        y = y.view(b, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(b, h, w, c)
        result: Tensor = self.h((x + y).mean((1, 2)))
        return result


class ViT(nn.Module):
    """Patches, a class token and positions as bare parameters, layer scale; the class token is read."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls, self.places = nn.Conv2d(3, C, 4, 4), parameter(1, 1, C), parameter(1, 5, C)
        self.qkv, self.out, self.n1, self.n2 = (
            nn.Linear(C, 3 * C),
            nn.Linear(C, C),
            nn.LayerNorm(C),
            nn.LayerNorm(C),
        )
        self.up, self.down = nn.Linear(C, 24), nn.Linear(24, C)
        self.g1, self.g2, self.h = parameter(C), parameter(C), _h(C)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.places
        q, k, v = self.qkv(self.n1(x)).reshape(x.shape[0], -1, 3, H, D).permute(2, 0, 3, 1, 4)
        x = x + self.g1 * self.out(merge(attend(q, k, v)))
        x = x + self.g2 * self.down(F.gelu(self.up(self.n2(x))))
        result: Tensor = self.h(x[:, 0])
        return result


class Cross(nn.Module):
    """Queries from one input, keys and values from another of another length."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(C, C) for _ in range(4))
        self.h = _h(C)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = heads(self.q(x), H), heads(self.k(y), H), heads(self.v(y), H)
        result: Tensor = self.h(self.out(merge(attend(q, k, v))).mean(1))
        return result


class Latents(nn.Module):
    """Perceiver: queries are a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.k, self.v = parameter(3, C), nn.Linear(C, C), nn.Linear(C, C)
        self.out, self.h = nn.Linear(C, 16), _h(16)

    def forward(self, x: Tensor) -> Tensor:
        q = heads(self.latents[None].expand(x.shape[0], -1, -1), H)
        y = merge(attend(q, heads(self.k(x), H), heads(self.v(x), H)))
        result: Tensor = self.h(F.gelu(self.out(y)).flatten(1, 2).view(-1, 3, 16).mean(1))
        return result


class Modulated(nn.Module):
    """DiT: scale, shift and gate of every norm come from one layer, cut in six (TP#300)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.up, self.down = (
            nn.Linear(C, 36),
            nn.Linear(C, C),
            nn.Linear(C, 24),
            nn.Linear(24, C),
        )
        self.n, self.time, self.stem = (
            nn.LayerNorm(C, elementwise_affine=False),
            nn.Linear(5, 72),
            nn.Linear(C, C),
        )
        self.h = nn.Linear(C, 6)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.stem(x)
        s1, b1, g1, s2, b2, g2 = self.time(F.silu(t)).chunk(6, 1)
        y = self.n(x) * (1 + s1[:, None]) + b1[:, None]
        q, k, v = (heads(p, H) for p in self.qkv(y).chunk(3, -1))
        x = x + g1[:, None] * self.out(merge(attend(q, k, v)))
        y = self.n(x) * (1 + s2[:, None]) + b2[:, None]
        x = x + g2[:, None] * self.down(F.gelu(self.up(y), approximate="tanh"))
        result: Tensor = self.h(x)
        return result


class Gpt(nn.Module):
    """Words and positions embedded, the head's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, C), nn.Embedding(8, C)
        self.qkv, self.out, self.n = nn.Linear(C, 3 * C), nn.Linear(C, C), nn.LayerNorm(C)
        self.up, self.down = nn.Linear(C, 24), nn.Linear(24, C)
        self.head = nn.Linear(C, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = (heads(p, H) for p in self.qkv(self.n(x)).chunk(3, -1))
        x = x + self.out(merge(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        result: Tensor = self.head(x + self.down(F.gelu(self.up(x))))
        return result


def _pair() -> tuple[Tensor, ...]:
    return (torch.randn(2, 5, C), torch.randn(2, 7, C))


def _timed() -> tuple[Tensor, ...]:
    return (torch.randn(2, 6, C), torch.randn(2, 5))


def _separate(mix: Any, kv: int = C, **layers: Any) -> nn.Module:
    return _block(mix, q=_lin(C, C), k=_lin(C, kv), v=_lin(C, kv), out=_lin(C, C), **layers)


def _encoder_layer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(C, H, 24, batch_first=True, norm_first=True)
    return net(lambda m, x: m.h(m.e(x).mean(1)), e=layer, h=_h(C))


_STREAM = "the model's input sets the width of the residual stream; heads, lanes and the MLP prune"

ENTRIES = [
    Awkward("fused-qkv-chunk", "one layer for q, k and v, in three chunks", lambda: _block(
        _fused_chunk, qkv=_lin(C, 36), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("fused-qkv-unbind", "reshape to (3, H, D), permute, unbind (TP#340)", lambda: _block(
        _fused_unbind, qkv=_lin(C, 36), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("fused-qkv-neox", "GPT-NeoX: q, k and v side by side within each head (TP#527)", lambda: _block(
        _neox, qkv=_lin(C, 36), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("fused-qkv-bloom", "BLOOM: view to (H, 3, D), indexed", lambda: _block(
        _bloom, qkv=_lin(C, 36), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("fused-qkv-addmm", "GPT-2: addmm with a weight that lies the other way, split", lambda: _block(
        _conv1d_style, weight=parameter(C, 36), bias=parameter(36), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("grouped-queries-repeat", "grouped queries by repeat_interleave (TP#461)", lambda: _separate(
        _gqa_repeat, 6), tokens, note=_STREAM),
    Awkward("grouped-queries-expand", "grouped queries by expand and reshape (TP#461)", lambda: _separate(
        _gqa_expand, 6), tokens, note=_STREAM),
    Awkward("grouped-queries-native", "grouped queries by the operator's own flag", lambda: _separate(
        _gqa_native, 6), tokens, note=_STREAM),
    Awkward("grouped-queries-fused", "one layer for four heads of q and two of k and v", lambda: _block(
        _gqa_fused, qkv=_lin(C, 24), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("multi-query", "one head of keys and values, expanded", lambda: _block(
        _mqa, q=_lin(C, C), kv=_lin(C, 6), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("multi-query-broadcast", "one head of keys and values, broadcast by matmul", lambda: _block(
        _mqa_broadcast, q=_lin(C, C), kv=_lin(C, 6), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("multihead-attention", "nn.MultiheadAttention", lambda: _block(
        _torch_mha, mha=nn.MultiheadAttention(C, H, batch_first=True)), tokens, note=_STREAM),
    Awkward("multihead-attention-weights", "nn.MultiheadAttention with its weights read", lambda: _block(
        _torch_mha_weights, mha=nn.MultiheadAttention(C, H, batch_first=True)), tokens, note=_STREAM),
    Awkward("encoder-layer", "nn.TransformerEncoderLayer", _encoder_layer, tokens, note=_STREAM),
    Awkward("cross-attention", "two inputs of different lengths", Cross, _pair),
    Awkward("latent-queries", "queries are a bare parameter", Latents, tokens),
    Awkward("rotary-half", "rotary positions, halves", lambda: _separate(_rotary_half), tokens, note=_STREAM),
    Awkward("rotary-pairs", "rotary positions, interleaved", lambda: _separate(_rotary_pairs), tokens,
            note=_STREAM),
    Awkward("rotary-complex", "rotary positions by complex numbers", lambda: _separate(
        _rotary_complex), tokens, note=_STREAM),
    Awkward("rotary-part", "rotary positions on a part of the lanes", lambda: _separate(
        _rotary_part), tokens, note=_STREAM),
    Awkward("alibi", "a slope per head in a buffer", _alibi_model, tokens, note=_STREAM),
    Awkward("masked-fill", "causal mask by masked_fill", lambda: _separate(_masked), tokens, note=_STREAM),
    Awkward("where", "causal mask by where, softmax in another type", lambda: _separate(_where), tokens,
            note=_STREAM),
    Awkward("einsum-attention", "weights of rank three, einsum throughout", lambda: _block(
        _einsum, wq=parameter(C, H, D), wk=parameter(C, H, D), wv=parameter(C, H, D), wo=parameter(H, D, C)),
        tokens, note=_STREAM),
    Awkward("baddbmm-attention", "heads folded into the batch, baddbmm with an empty bias", lambda: _separate(
        _baddbmm, bias=parameter(1, 1, 6)), tokens, note=_STREAM),
    Awkward("attention-over-lanes", "XCiT: lanes attend to lanes", lambda: _block(
        _lanes, qkv=_lin(C, 36), out=_lin(C, C), temperature=parameter(H, 1, 1)), tokens, note=_STREAM),
    Awkward("linear-attention", "softmax over lanes of q and tokens of k", lambda: _separate(_linear), tokens,
            note=_STREAM),
    Awkward("bucket-bias", "T5: a table of biases, one per head and bucket", lambda: _separate(
        _bucket_bias, table=nn.Embedding(7, H)), tokens, note=_STREAM),
    Awkward("normed-queries", "RMS norm of each head's lanes", lambda: _separate(
        _normed, nq=nn.RMSNorm(D), nk=nn.RMSNorm(D)), tokens, note=_STREAM),
    Awkward("talking-heads", "linear layers over heads, before and after the softmax", lambda: _separate(
        _talking, before=_lin(H, H), after=_lin(H, H)), tokens, note=_STREAM),
    Awkward("gated-heads", "a bare parameter per head", lambda: _separate(
        _gated_heads, gate=parameter(H)), tokens, note=_STREAM),
    Awkward("latent-attention", "keys and values from a narrow latent, a shared part", lambda: _block(
        _latent, q=_lin(C, 10), down_kv=_lin(C, 8), n=nn.RMSNorm(6), up_kv=_lin(6, 14), out=_lin(8, C)),
        tokens, note=_STREAM),
    Awkward("pooled-attention", "MViT: depthwise convolutions over heads folded into the batch (TP#287)",
        _pooled_model, tokens, note=_STREAM),
    Awkward("spatial-reduction", "PVT: keys and values from strided convolution", lambda: _block(
        _spatial_reduction, q=_lin(C, C), shrink=nn.Conv2d(C, C, (2, 1), (2, 1)), n=nn.LayerNorm(C),
        kv=_lin(C, 24), out=_lin(C, C)), tokens, note=_STREAM),
    Awkward("swin", "windows: roll, partition, relative positions (TP#258)", Swin, image),
    Awkward("sam", "heads folded into the batch, decomposed relative positions", Sam, image),
    Awkward("vit", "class token, positions and layer scale are bare parameters (TP#167, #298)", ViT, image),
    Awkward("modulated", "DiT: one layer in six chunks modulates the norms (TP#300)", Modulated, _timed),
    Awkward("tied-embeddings", "the head's weight is the embedding's", Gpt, words),
]  # fmt: skip
