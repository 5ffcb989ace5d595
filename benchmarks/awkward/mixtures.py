"""Awkward networks of several kinds of layers: conditioning, codebooks, splines, loops, captions."""

# ruff: noqa: D102 - the class says what its forward is about

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Awkward, Example, conv, heads, image, merge, parameter, pool, tokens

__all__ = ["ENTRIES"]


class InvertedResidual(nn.Module):
    """MobileNetV3's block, its squeeze and excitation written with functions and bare weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.expand, self.depthwise = nn.Conv2d(8, 24, 1), conv(24, 24, groups=24)
        self.norm, self.project = nn.BatchNorm2d(24), nn.Conv2d(24, 8, 1)
        self.squeeze, self.excite = parameter(6, 24), parameter(24, 6)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.hardswish(self.norm(self.depthwise(F.relu6(self.expand(x)))))
        gate = F.adaptive_avg_pool2d(y, 1).flatten(1)
        gate = F.linear(F.relu(F.linear(gate, self.squeeze)), self.excite)
        y = y * (F.relu6(gate + 3) / 6)[:, :, None, None]
        result: Tensor = self.head(pool(x + self.project(y)))
        return result


class Film(nn.Module):
    """Features scaled and shifted by what another input says (arXiv:1709.07871)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 12), conv(12, 10)
        self.norm = nn.BatchNorm2d(12, affine=False)
        self.words = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 24))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        scale, shift = self.words(said).view(-1, 2, 12, 1, 1).unbind(1)
        x = F.relu((1 + scale) * self.norm(self.first(x)) + shift)
        result: Tensor = self.head(self.second(x).amax((-1, -2)))
        return result


class Highway(nn.Module):
    """Highway layers (arXiv:1505.00387): a gate between what comes in and its transform."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(12, 10)
        self.plain = nn.ModuleList(nn.Linear(10, 10) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(10, 10) for _ in range(2))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for plain, gate in zip(self.plain, self.gates, strict=True):
            open_ = torch.sigmoid(gate(x))
            x = torch.lerp(x, F.relu(plain(x)), open_)
        result: Tensor = self.head(x.mean(1))
        return result


class Axial(nn.Module):
    """Attention along the rows, then along the columns, of heads folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 12)
        self.rows, self.columns = nn.Linear(12, 36), nn.Linear(12, 36)
        self.norm, self.out = nn.LayerNorm(12), nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def _along(self, x: Tensor, layer: nn.Linear) -> Tensor:
        b, s, t, c = x.shape
        qkv = layer(x).reshape(b * s, t, 3, 3, c // 3).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        y = ((q @ k.transpose(-2, -1)) * (c // 3) ** -0.5).softmax(-1) @ v
        return y.transpose(1, 2).reshape(b, s, t, c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + self._along(self.norm(x), self.rows)
        x = x + self.out(self._along(x.transpose(1, 2), self.columns).transpose(1, 2))
        result: Tensor = self.head(x.mean((1, 2)))
        return result


class MixtureOfSoftmaxes(nn.Module):
    """Several softmaxes over the words, mixed by a prior (arXiv:1711.03953)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 16)
        self.prior, self.latent = nn.Linear(16, 3), nn.Linear(16, 3 * 10)
        self.decoder = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        prior = self.prior(h).softmax(-1).unsqueeze(-1)
        latent = torch.tanh(self.latent(h)).view(*h.shape[:-1], 3, 10)
        mixed = (self.decoder(latent).softmax(-1) * prior).sum(-2)
        return torch.log(mixed + 1e-8)


class Captioner(nn.Module):
    """A convolutional encoder whose features start the state of an LSTM over words."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8, stride=2), conv(8, 10)
        self.start = nn.Linear(10, 2 * 9)
        self.words = nn.Embedding(20, 11)
        self.lstm = nn.LSTM(11, 9, batch_first=True)
        self.head = nn.Linear(9, 20)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        seen = pool(F.relu(self.second(F.relu(self.first(x)))))
        h, c = self.start(seen).unsqueeze(0).chunk(2, -1)
        y, _ = self.lstm(self.words(said), (h.contiguous(), c.contiguous()))
        result: Tensor = self.head(y)
        return result


class PointNet(nn.Module):
    """Shared layers, a maximum over points joined back to each point, a learned transform by bmm."""

    def __init__(self) -> None:
        super().__init__()
        self.bend = nn.Linear(3, 9)
        self.local, self.deep = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 14, 1)
        self.norm = nn.BatchNorm1d(14)
        self.joint, self.head = nn.Conv1d(22, 10, 1), nn.Conv1d(10, 4, 1)

    def forward(self, points: Tensor) -> Tensor:
        turn = self.bend(points.mean(-1)).view(-1, 3, 3) + torch.eye(3)
        local = F.relu(self.local(torch.bmm(turn, points)))
        whole = self.norm(self.deep(local)).max(2, keepdim=True)[0]
        both = torch.cat([local, whole.repeat(1, 1, points.shape[-1])], 1)
        result: Tensor = self.head(F.relu(self.joint(both)))
        return result


class RelativeAttention(nn.Module):
    """Shaw's relative positions (arXiv:1803.02155): tables of vectors for pairs, by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 12)
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.keys, self.values = nn.Embedding(5, 4), nn.Embedding(5, 4)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        steps = torch.arange(x.shape[1])
        near = (steps[None] - steps[:, None]).clamp(-2, 2) + 2
        q, k, v = (heads(layer(x), 3) for layer in (self.q, self.k, self.v))
        scores = torch.einsum("bhid,bhjd->bhij", q, k)
        scores = (scores + torch.einsum("bhid,ijd->bhij", q, self.keys(near))) / 2.0
        w = scores.softmax(-1)
        y = torch.einsum("bhij,bhjd->bhid", w, v) + torch.einsum("bhij,ijd->bhid", w, self.values(near))
        result: Tensor = self.head(self.out(merge(y)).mean(1))
        return result


class Codebook(nn.Module):
    """VQ-VAE (arXiv:1711.00937): the nearest vector of a codebook, its gradient passed straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.narrow = conv(3, 10), nn.Conv2d(10, 6, 1)
        self.codes = nn.Embedding(8, 6)
        self.wide, self.decoder = conv(6, 10), conv(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.narrow(F.relu(self.encoder(x))).permute(0, 2, 3, 1)
        flat = z.reshape(-1, 6)
        nearest = torch.cdist(flat, self.codes.weight).argmin(1)
        quantised = self.codes(nearest).view(z.shape)
        z = z + (quantised - z).detach()
        result: Tensor = self.decoder(F.relu(self.wide(z.permute(0, 3, 1, 2))))
        return result


class Transposed(nn.Module):
    """An autoencoder whose decoder is the encoder's weights transposed, by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = parameter(16, 12), parameter(10, 16)
        self.shift, self.bias = parameter(16), nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(F.linear(x, self.first))
        z = F.linear(h, self.second)
        h = torch.sigmoid(F.linear(z, self.second.t()) + self.shift)
        return F.linear(h, self.first.t(), self.bias)


class Temporal(nn.Module):
    """Depthwise-separable convolutions over time, causal by padding both sides and cutting the end off."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv1d(12, 10, 1)
        self.depthwise = nn.ModuleList(nn.Conv1d(c, c, 3, padding=2 * d, dilation=d, groups=c)
                                       for c, d in ((10, 1), (14, 2)))  # fmt: skip
        self.pointwise = nn.ModuleList((nn.Conv1d(10, 14, 1), nn.Conv1d(14, 10, 1)))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = start = self.start(x.transpose(1, 2))
        for d, (deep, point) in enumerate(zip(self.depthwise, self.pointwise, strict=True), 1):
            x = F.gelu(point(deep(x)[:, :, : -2 * d]))
        result: Tensor = self.head((start + x)[:, :, -1])
        return result


class Spline(nn.Module):
    """Kolmogorov and Arnold (arXiv:2404.19756): each edge has a function of its own, a sum of bumps."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base, self.curves = parameter(outputs, inputs), parameter(outputs, inputs, 5)
        self.register_buffer("grid", torch.linspace(-1, 1, 5))
        self.scale = parameter(outputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-(((x.unsqueeze(-1) - self.grid) * 2) ** 2))  # (B, T, I, 5)
        curves = (self.curves * self.scale.unsqueeze(-1)).view(self.curves.shape[0], -1)
        return F.linear(F.silu(x), self.base) + F.linear(bumps.flatten(-2), curves)


class Recurrence(nn.Module):
    """A gated unit by hand, unrolled over time, its candidate read from what the reset lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.state = nn.Linear(12, 27), nn.Linear(9, 18)
        self.fresh = nn.Linear(9, 9, bias=False)
        self.start = nn.Parameter(torch.randn(1, 9))
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.start.expand(x.shape[0], -1)
        for step in x.unbind(1):
            a, b, c = self.inputs(step).split(9, -1)
            gate = torch.sigmoid(torch.cat([a, b], -1) + self.state(h))
            update, reset = gate[:, :9], gate[:, 9:]
            h = (1 - update) * torch.tanh(c + self.fresh(reset * h)) + update * h
        result: Tensor = self.head(h)
        return result


def _spoken() -> Example:
    return torch.randn(2, 3, 8, 8), torch.randn(2, 5)


def _described() -> Example:
    return torch.randn(2, 3, 8, 8), torch.randint(0, 20, (2, 6))


def _points() -> Example:
    return (torch.randn(2, 3, 7),)


ENTRIES = [
    Awkward("functional-squeeze-excite", "an inverted residual, its gate from bare weights", InvertedResidual,
            image),
    Awkward("film", "scale and shift from one view of another input", Film, _spoken),
    Awkward("highway", "lerp between the input and its transform", Highway, tokens),
    Awkward("axial-attention", "rows, then columns, folded into the batch", Axial, image),
    Awkward("mixture-of-softmaxes", "softmaxes over the words of several latent vectors", MixtureOfSoftmaxes,
            tokens),
    Awkward("captioner", "a picture starts the state of an LSTM", Captioner, _described),
    Awkward("pointnet", "a maximum over points, repeated and joined to each", PointNet, _points),
    Awkward("relative-vectors", "tables of vectors for pairs of positions", RelativeAttention, tokens),
    Awkward("image-codebook", "the nearest vector of each pixel, straight through", Codebook, image),
    Awkward("transposed-weights", "decoder weights are the encoder's, transposed", Transposed, tokens),
    Awkward("temporal", "causal depthwise convolutions, cut to length", Temporal, tokens),
    Awkward("spline", "functions on edges: a weight of rank three, viewed flat", lambda: nn.Sequential(
        Spline(12, 10), Spline(10, 4)), tokens),
    Awkward("gated-loop", "a gated unit by hand over time", Recurrence, tokens),
]  # fmt: skip
