"""Awkward sequence networks: norms by hand, recurrences, state spaces, experts, mixers, functional code."""

# ruff: noqa: D102 - the class says what its forward is about

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Awkward, Example, image, net, parameter, tokens, words

C = 12


def _h(inputs: int) -> nn.Linear:
    return nn.Linear(inputs, 4)


class Mamba(nn.Module):
    """The reference block (Gu and Dao 2023, arXiv:2312.00752), its scan a loop over time."""

    def __init__(self, width: int = 8, inner: int = 16, state: int = 4, rank: int = 2) -> None:
        super().__init__()
        self.state, self.rank, self.inner = state, rank, inner
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).repeat(inner, 1).log())
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        x, z = self.in_proj(x).chunk(2, -1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., :length]).transpose(1, 2)
        step, b, c = torch.split(self.x_proj(x), [self.rank, self.state, self.state], -1)
        step = F.softplus(self.dt_proj(step))
        a = -torch.exp(self.A_log.float())
        decay = torch.exp(step[..., None] * a)  # (B, T, I, N)
        drive = step[..., None] * b[:, :, None] * x[..., None]
        h = torch.zeros(x.shape[0], self.inner, self.state)
        outputs = []
        for t in range(length):
            h = decay[:, t] * h + drive[:, t]
            outputs.append((h * c[:, t, None]).sum(-1))
        y = torch.stack(outputs, 1) + self.D * x
        result: Tensor = self.out_proj(y * F.silu(z))
        return result


class Mamba2(nn.Module):
    """Heads with one decay each, groups of states, a gated norm; the scan as one masked product."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj = nn.Linear(8, 12 + 12 + 4 + 4 + 3)
        self.conv1d = nn.Conv1d(20, 20, 3, padding=2, groups=20)
        self.dt_bias, self.A_log, self.D = parameter(3), parameter(3), parameter(3)
        self.norm, self.out_proj = nn.RMSNorm(12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        z, mixed, step = torch.split(self.in_proj(x), [12, 20, 3], -1)
        mixed = F.silu(self.conv1d(mixed.transpose(1, 2))[..., :length].transpose(1, 2))
        u, b, c = torch.split(mixed, [12, 4, 4], -1)
        step = F.softplus(step + self.dt_bias)  # (B, T, H)
        total = (step * -self.A_log.exp()).cumsum(1)
        gap = total[:, :, None] - total[:, None]  # (B, T, S, H)
        seen = torch.ones(length, length, dtype=torch.bool).tril()[..., None]
        weights = torch.where(seen, gap.exp(), 0.0) * torch.einsum("btn,bsn->bts", c, b)[..., None]
        u = u.view(batch, length, 3, 4)
        y = torch.einsum("btsh,bsh,bshp->bthp", weights, step, u) + self.D[:, None] * u
        result: Tensor = self.out_proj(self.norm(y.reshape(batch, length, 12) * F.silu(z)))
        return result


class Wrapped(nn.Module):
    """A block in a residual stream of its own width."""

    def __init__(self, block: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm, self.block, self.h = nn.Linear(C, width), nn.RMSNorm(width), block, _h(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        result: Tensor = self.h((x + self.block(self.norm(x))).mean(1))
        return result


class Recurrent(nn.Module):
    """A recurrent layer between linear ones; its last output is read."""

    def __init__(self, layer: nn.Module, outputs: int) -> None:
        super().__init__()
        self.stem, self.layer, self.h = nn.Linear(C, 10), layer, _h(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(self.stem(x))
        result: Tensor = self.h(y[:, -1])
        return result


class Final(Recurrent):
    """Reads the final state in place of the outputs."""

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.layer(self.stem(x))
        result: Tensor = self.h(torch.cat([h[-2], h[-1]], 1))
        return result


class Cells(nn.Module):
    """An LSTM cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.h = nn.LSTMCell(C, 10), _h(10)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], 10)
        for t in range(6):
            h, c = self.cell(x[:, t], (h, c))
        result: Tensor = self.h(h)
        return result


class Rwkv(nn.Module):
    """Token shift by padding, learned mixtures, squared ReLU, receptance."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix_k, self.mix_r = nn.Linear(C, 10), parameter(1, 1, 10), parameter(1, 1, 10)
        self.key, self.receptance, self.value = nn.Linear(10, 16), nn.Linear(10, 10), nn.Linear(16, 10)
        self.h = _h(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        before = F.pad(x, (0, 0, 1, -1))
        k = self.key(x * self.mix_k + before * (1 - self.mix_k))
        r = self.receptance(x * self.mix_r + before * (1 - self.mix_r)).sigmoid()
        result: Tensor = self.h((x + r * self.value(F.relu(k) ** 2)).mean(1))
        return result


class Stacked(nn.Module):
    """Experts as stacked parameters, every token through all of them, weighed by a softmax router."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.up, self.down = nn.Linear(C, 4), parameter(4, C, 16), parameter(4, 16, C)
        self.h = _h(C)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        flat = x.reshape(1, b * t, c).expand(4, -1, -1)
        y = torch.bmm(F.gelu(torch.bmm(flat, self.up)), self.down).view(4, b, t, c)
        weights = self.router(x).softmax(-1)
        y = torch.einsum("ebtc,bte->btc", y, weights)
        result: Tensor = self.h((x + y).mean(1))
        return result


class Looped(nn.Module):
    """Experts as layers, chosen by top-k; each weighs all tokens by its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.h = nn.Linear(C, 4, bias=False), _h(C)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(C, 16), nn.SiLU(), nn.Linear(16, C)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).softmax(-1)
        weights, chosen = scores.topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            share = (weights * (chosen == index)).sum(-1, keepdim=True)
            y = y + share * expert(x)
        result: Tensor = self.h((x + y).mean(1))
        return result


class Mixer(nn.Module):
    """Tokens and channels take turns in being transposed and mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n1, self.n2, self.h = nn.Linear(C, 10), nn.LayerNorm(10), nn.LayerNorm(10), _h(10)
        self.t1, self.t2, self.c1, self.c2 = (
            nn.Linear(6, 8),
            nn.Linear(8, 6),
            nn.Linear(10, 20),
            nn.Linear(20, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.t2(F.gelu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.c2(F.gelu(self.c1(self.n2(x))))
        result: Tensor = self.h(x.mean(1))
        return result


class Coupling(nn.Module):
    """RealNVP: one half of the input scales and shifts the other; both are joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = nn.Linear(6, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        scale, shift = self.g(self.f(a).tanh()).chunk(2, -1)
        return torch.cat([a, b * scale.exp() + shift], -1)


class Adapted(nn.Module):
    """LoRA: the weight is a sum of a matrix and a product of two thin ones."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.a, self.b, self.h = parameter(16, C), parameter(3, C), parameter(16, 3), _h(16)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.linear(x, self.w + 0.5 * self.b @ self.a))
        result: Tensor = self.h(y.mean(1))
        return result


class Hyper(nn.Module):
    """A layer whose weight another layer makes, for each record."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.make, self.h = nn.Linear(C, 8), nn.Linear(C, 8 * 10), _h(10)

    def forward(self, x: Tensor) -> Tensor:
        w = self.make(x.mean(1)).view(-1, 10, 8)
        y = torch.matmul(self.stem(x).relu(), w.transpose(1, 2))
        result: Tensor = self.h(y.relu().mean(1))
        return result


class Factors(nn.Module):
    """Factorisation machine: tables of words, pairwise products, joined vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first = nn.Embedding(20, 8), nn.Embedding(20, 1)
        self.a, self.h = nn.Linear(48, 16), nn.Linear(16, 1)

    def forward(self, ids: Tensor) -> Tensor:
        e = self.table(ids)  # (B, 6, 8)
        pairs = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(1, keepdim=True)
        deep = self.h(F.relu(self.a(e.flatten(1))))
        result: Tensor = self.first(ids).sum(1) + pairs + deep
        return result


class Several(nn.Module):
    """A dict and a tuple as output; one of the features is an output itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.h = nn.Linear(C, 16), nn.Linear(16, 10), nn.Linear(16, 5), _h(10)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = F.relu(self.a(x))
        z = F.relu(self.b(y))
        return {"scores": self.h(z.mean(1)), "features": (self.c(y), z.sum((1, 2)))}


class Inputs(nn.Module):
    """Numbers, words and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table, self.b, self.h = nn.Linear(C, 10), nn.Embedding(20, 10), nn.Linear(20, 16), _h(16)

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.table(ids)], -1) * mask[..., None]
        y = F.relu(self.b(y)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        result: Tensor = self.h(y)
        return result


def _mixed_inputs() -> Example:
    return (
        torch.randn(2, 6, C),
        torch.randint(0, 20, (2, 6)),
        torch.tensor([[1.0] * 6, [1.0] * 3 + [0.0] * 3]),
    )


def _two_vectors() -> Example:
    return (torch.randn(2, 8), torch.randn(2, 6))


class Bilinear(nn.Module):
    """nn.Bilinear between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.h = nn.Linear(8, 10), nn.Linear(6, 8), nn.Bilinear(10, 8, 12), _h(12)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.h(self.c(self.a(x).relu(), self.b(y).relu()).relu())
        return result


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x)


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def _norm_var(x: Tensor, weight: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, unbiased=True) + 1e-5) * weight


def _norm_numbers(x: Tensor, weight: Tensor) -> Tensor:
    mean = x.sum(-1, keepdim=True) / 16
    return (x - mean) * torch.rsqrt((x * x).sum(-1, keepdim=True) / 16 - mean * mean + 1e-3) * weight


def _swiglu(m: Any, x: Tensor) -> Any:
    return m.h(m.down(F.silu(m.gate(x)) * m.up(x)).mean(1))


def _geglu(m: Any, x: Tensor) -> Any:
    a, b = m.up(x).chunk(2, -1)
    return m.h(m.down(F.gelu(a) * b).mean(1))


def _spatial_gating(m: Any, x: Tensor) -> Any:
    u, v = F.gelu(m.up(x)).chunk(2, -1)
    v = m.mix(m.n(v).transpose(1, 2)).transpose(1, 2)
    return m.h(m.down(u * v).mean(1))


def _fnet(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    y = m.n(y + torch.fft.fft(torch.fft.fft(y, dim=-1), dim=-2).real)
    return m.h(m.c(F.gelu(m.b(y))).mean(1))


def _long_filter(m: Any, x: Tensor) -> Any:
    y = m.a(x).transpose(1, 2)
    spectrum = torch.fft.rfft(y, n=12) * torch.fft.rfft(m.filter, n=12)
    y = torch.fft.irfft(spectrum, n=12)[..., :6] + m.skip[:, None] * y
    return m.h(m.b(y.transpose(1, 2)).mean(1))


def _causal(m: Any, x: Tensor) -> Any:
    y = m.a(x.transpose(1, 2))[..., :-2].relu()
    return m.h(m.b(y)[..., :-4].relu().mean(2))


def _functional(m: Any, x: Tensor) -> Any:
    y = torch.addmm(m.b1, x.flatten(0, 1), m.w1).relu()
    y = torch.addmm(m.b2, y, m.w2.t(), beta=0.5).view(x.shape[0], 6, 10)
    return torch.baddbmm(m.b3, y, m.w3.expand(x.shape[0], -1, -1))


def _einsum_linear(m: Any, x: Tensor) -> Any:
    y = torch.einsum("...c,oc->...o", x, m.w1).relu()
    return m.h(torch.einsum("bto,op->bp", y, m.w2))


def _tensordot(m: Any, x: Tensor) -> Any:
    return m.h(torch.tensordot(x, m.w, dims=([2], [0])).relu().flatten(2).mean(1))


def _split_last(m: Any, x: Tensor) -> Any:
    a, b, c = m.a(x).split([6, 6, 8], -1)
    return m.h(torch.cat([a * b, c.tanh()], -1).mean(1))


def _running_mean(m: Any, x: Tensor) -> Any:
    y = m.a(x).relu().cumsum(1) / torch.arange(1, 7).view(1, 6, 1)
    return m.h(m.b(y)[:, -1])


def _sorted(m: Any, x: Tensor) -> Any:
    y = m.a(x).sort(1).values  # each channel by itself over tokens
    return m.h(m.b(y).amax(1))


def _distances(m: Any, x: Tensor) -> Any:
    y = m.a(x).relu()
    return m.h((-torch.cdist(y, m.centres.expand(y.shape[0], -1, -1))).softmax(-1).mean(1))


def _codebook(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    gaps = (y[:, :, None] - m.codes).pow(2).sum(-1)  # (B, T, K)
    return m.h(m.b(m.codes[gaps.argmin(-1)]).mean(1))


def _products(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.h((y[..., :, None] * y[..., None, :]).flatten(2).mean(1))


def _kept_heads(m: Any, x: Tensor) -> Any:
    y = m.a(x).unflatten(-1, (4, 5))
    y = y / (y.norm(dim=-1, keepdim=True) + 1e-6)
    return m.h((m.b(y.flatten(-2)) + m.a(x)).mean(1))


def _recurrent(layer: Any, outputs: int) -> nn.Module:
    return Recurrent(layer, outputs)


ENTRIES = [
    Awkward("split-last", "split of the last dimension of a 3-D tensor", lambda: net(
        _split_last, a=nn.Linear(C, 20), h=_h(14)), tokens),
    Awkward("rms-norm", "nn.RMSNorm", lambda: net(
        lambda m, x: m.h(m.n(m.a(x)).mean(1)), a=nn.Linear(C, 16), n=nn.RMSNorm(16), h=_h(16)), tokens),
    Awkward("rms-norm-by-hand", "mean of squares, rsqrt, change of type", lambda: net(
        lambda m, x: m.h(_rms(m.a(x), m.w).mean(1)), a=nn.Linear(C, 16), w=parameter(16), h=_h(16)), tokens),
    Awkward("layer-norm", "nn.LayerNorm", lambda: net(
        lambda m, x: m.h(m.n(m.a(x)).mean(1)), a=nn.Linear(C, 16), n=nn.LayerNorm(16), h=_h(16)), tokens),
    Awkward("layer-norm-by-hand", "mean, squares, mean, square root", lambda: net(
        lambda m, x: m.h(_norm(m.a(x), m.w, m.b).mean(1)), a=nn.Linear(C, 16), w=parameter(16),
        b=parameter(16), h=_h(16)), tokens),
    Awkward("layer-norm-by-std", "unbiased deviation", lambda: net(
        lambda m, x: m.h(_norm_var(m.a(x), m.w).mean(1)), a=nn.Linear(C, 16), w=parameter(16), h=_h(16)),
        tokens),
    Awkward("layer-norm-by-numbers", "sums divided by the width as a number", lambda: net(
        lambda m, x: m.h(_norm_numbers(m.a(x), m.w).mean(1)), a=nn.Linear(C, 16), w=parameter(16), h=_h(16)),
        tokens, note="the number of channels is written out; removed ones count as zeros"),
    Awkward("lstm", "nn.LSTM (TP#44, #276, #404)", lambda: _recurrent(
        nn.LSTM(10, 12, batch_first=True), 12), tokens),
    Awkward("lstm-two-layers-both-ways", "two layers, both directions, joined", lambda: _recurrent(
        nn.LSTM(10, 6, num_layers=2, bidirectional=True, batch_first=True), 12), tokens),
    Awkward("lstm-final-state", "the final states of both directions are read", lambda: Final(
        nn.LSTM(10, 6, bidirectional=True, batch_first=True), 12), tokens),
    Awkward("lstm-projected", "outputs narrower than the state", lambda: _recurrent(
        nn.LSTM(10, 12, proj_size=6, batch_first=True), 6), tokens),
    Awkward("lstm-cell", "an LSTM cell in a loop", Cells, tokens),
    Awkward("gru", "nn.GRU (TP#44)", lambda: _recurrent(nn.GRU(10, 12, batch_first=True), 12), tokens),
    Awkward("rnn", "nn.RNN", lambda: _recurrent(nn.RNN(10, 12, batch_first=True), 12), tokens),
    Awkward("mamba", "the reference Mamba block: convolution, split, scan over a state", lambda: Wrapped(
        Mamba()), tokens),
    Awkward("mamba-2", "heads with one decay, groups of states, gated norm", lambda: Wrapped(
        Mamba2()), tokens),
    Awkward("rwkv", "token shift, mixtures, receptance", Rwkv, tokens),
    Awkward("experts-stacked", "experts as stacked parameters, bmm, softmax router", Stacked, tokens),
    Awkward("experts-looped", "a loop over experts, top-k masks", Looped, tokens),
    Awkward("glu", "nn.GLU over the last dimension", lambda: net(
        lambda m, x: m.h(m.b(F.glu(m.a(x), -1)).relu().mean(1)), a=nn.Linear(C, 32), b=nn.Linear(16, 10),
        h=_h(10)), tokens),
    Awkward("swiglu", "gate and value by two layers", lambda: net(
        _swiglu, gate=nn.Linear(C, 16), up=nn.Linear(C, 16), down=nn.Linear(16, 8), h=_h(8)), tokens),
    Awkward("geglu", "gate and value by one layer, chunked", lambda: net(
        _geglu, up=nn.Linear(C, 32), down=nn.Linear(16, 8), h=_h(8)), tokens),
    Awkward("spatial-gating", "gMLP: one half is mixed over tokens and gates the other", lambda: net(
        _spatial_gating, up=nn.Linear(C, 24), n=nn.LayerNorm(12), mix=nn.Conv1d(12, 12, 1),
        down=nn.Linear(12, 10), h=_h(10)), tokens),
    Awkward("mixer", "MLP-Mixer: tokens and channels transposed in turn", Mixer, tokens),
    Awkward("fourier", "FNet: Fourier transform over channels and tokens", lambda: net(
        _fnet, a=nn.Linear(C, 8), n=nn.LayerNorm(8), b=nn.Linear(8, 32), c=nn.Linear(32, 8), h=_h(8)), tokens,
        note="the transformed channels are neighbours and must stay"),
    Awkward("long-filter", "a filter per channel, applied by Fourier transform over time", lambda: net(
        _long_filter, a=nn.Linear(C, 10), filter=parameter(10, 6), skip=parameter(10), b=nn.Linear(10, 8),
        h=_h(8)), tokens),
    Awkward("causal-convolution", "padded convolutions whose ends are cut off", lambda: net(
        _causal, a=nn.Conv1d(C, 10, 3, padding=2), b=nn.Conv1d(10, 12, 3, padding=4, dilation=2), h=_h(12)),
        tokens),
    Awkward("addmm-baddbmm", "functional layers of bare parameters", lambda: net(
        _functional, w1=parameter(C, 16), b1=parameter(16), w2=parameter(10, 16), b2=parameter(10),
        w3=parameter(1, 10, 4), b3=parameter(1, 1, 4)), tokens),
    Awkward("einsum-linear", "linear layers by einsum, with an ellipsis and a summed dimension", lambda: net(
        _einsum_linear, w1=parameter(16, C), w2=parameter(16, 10), h=_h(10)), tokens),
    Awkward("tensordot", "a weight of rank three, flattened", lambda: net(
        _tensordot, w=parameter(C, 4, 5), h=_h(20)), tokens),
    Awkward("bilinear", "nn.Bilinear of two layers", Bilinear, _two_vectors),
    Awkward("running-mean", "cumulative sum over tokens", lambda: net(
        _running_mean, a=nn.Linear(C, 16), b=nn.Linear(16, 10), h=_h(10)), tokens),
    Awkward("sorted-tokens", "each channel sorted over the tokens", lambda: net(
        _sorted, a=nn.Linear(C, 16), b=nn.Linear(16, 10), h=_h(10)), tokens),
    Awkward("distances", "cdist to learned centres", lambda: net(
        _distances, a=nn.Linear(C, 10), centres=parameter(1, 8, 10), h=_h(8)), tokens),
    Awkward("codebook", "nearest entries of a table, looked up", lambda: net(
        _codebook, a=nn.Linear(C, 8), codes=parameter(6, 8), b=nn.Linear(8, 16), h=_h(16)), tokens,
        note="the choice of an entry may change when channels go; masked and pruned agree on it"),
    Awkward("outer-product", "a vector times itself, flattened", lambda: net(
        _products, a=nn.Linear(C, 6), h=_h(36)), tokens),
    Awkward("unflattened", "unflatten to groups, a norm of each, flatten", lambda: net(
        _kept_heads, a=nn.Linear(C, 20), b=nn.Linear(20, 20), h=_h(20)), tokens),
    Awkward("coupling", "one half of the input changes the other", Coupling, tokens),
    Awkward("low-rank-update", "LoRA: the weight is a sum with a product", Adapted, tokens),
    Awkward("made-weights", "one layer makes another's weights", Hyper, tokens),
    Awkward("factorisation", "embeddings, pairwise products, joined vectors", Factors, words),
    Awkward("outputs", "a dict with a tuple", Several, tokens),
    Awkward("inputs", "numbers, integers and a mask", Inputs, _mixed_inputs),
    Awkward("image-to-tokens", "flatten to tokens and back to an image", lambda: net(
        lambda m, x: m.b(m.f(m.a(x).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8))),
        a=nn.Conv2d(3, 12, 1), f=nn.Linear(12, 10), b=nn.Conv2d(10, 3, 1)), image),
]  # fmt: skip
