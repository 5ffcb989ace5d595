"""Awkward image networks: channels that are reshaped, shuffled, split, joined, and weighed."""

# ruff: noqa: D102 - the class says what its forward is about

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Awkward, conv, image, net, parameter, pool


def _h(inputs: int) -> nn.Linear:
    return nn.Linear(inputs, 4)


def _shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def _frozen() -> nn.Module:
    module = net(lambda m, x: m.h(pool(m.b(m.a(x).relu()))), a=conv(3, 8), b=conv(8, 12), h=_h(12))
    return module.requires_grad_(False)


class _Bottle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = conv(width, width, bias=False), conv(width, width)
        self.n = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.b(F.silu(self.n(self.a(x))))
        return y


class C2f(nn.Module):
    """YOLOv8's block: one half of the channels goes through a chain, and every link of it is joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cv1, self.cv2 = conv(3, 8), conv(8, 16, 1), conv(32, 12, 1)
        self.m = nn.ModuleList([_Bottle(8), _Bottle(8)])
        self.h = _h(12)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(self.stem(x)).chunk(2, 1))
        y.extend(block(y[-1]) for block in self.m)
        result: Tensor = self.h(pool(self.cv2(torch.cat(y, 1))))
        return result


class Dense(nn.Module):
    """DenseNet: each layer reads all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 6 * i), nn.ReLU(), conv(8 + 6 * i, 6)) for i in range(3)
        )
        self.h = _h(26)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        result: Tensor = self.h(pool(torch.cat(features, 1)))
        return result


class UNet(nn.Module):
    """Skips are joined with interpolated and with transposed-convolved features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 12), conv(12, 16)
        self.up = nn.ConvTranspose2d(16, 12, 2, 2)
        self.d, self.e, self.out = conv(24, 12), conv(20, 8), conv(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        c = F.relu(self.c(F.max_pool2d(b, 2)))
        d = F.relu(self.d(torch.cat([self.up(c), b], 1)))
        d = F.interpolate(d, scale_factor=2.0, mode="bilinear", align_corners=False)
        result: Tensor = self.out(F.relu(self.e(torch.cat([d, a], 1))))
        return result


class Standardised(nn.Conv2d):
    """Its weight is standardised over each filter before it is used."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=1)


class Slimmable(nn.Module):
    """Uses the first filters of a wider weight only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = conv(3, 16), conv(16, 16), _h(12)
        self.a_bias, self.b_bias = parameter(16), parameter(16)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.a.weight[:10], self.a_bias[:10], padding=1).relu()
        z = F.conv2d(y, self.b.weight[:12, :10], self.b_bias[:12], padding=1)
        result: Tensor = self.h(pool(z))
        return result


class Coordinate(nn.Module):
    """Coordinate attention: rows and columns are joined along the image and split again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.s, self.u, self.v, self.h = (
            conv(3, 12),
            conv(12, 4, 1),
            conv(4, 12, 1),
            conv(4, 12, 1),
            _h(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        _, _, h, w = x.shape
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        y = F.hardswish(self.s(torch.cat([rows, columns], 2)))
        rows, columns = torch.split(y, [h, w], 2)
        x = x * self.u(rows).sigmoid() * self.v(columns.permute(0, 1, 3, 2)).sigmoid()
        result: Tensor = self.h(pool(x))
        return result


class ConvNeXt(nn.Module):
    """Depthwise convolution, layer norm of permuted channels, layer scale as a bare parameter, drop path."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dw, self.n = conv(3, 12), conv(12, 12, 7, groups=12), nn.LayerNorm(12)
        self.up, self.down, self.gamma, self.h = nn.Linear(12, 24), nn.Linear(24, 12), parameter(12), _h(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.n(self.dw(x).permute(0, 2, 3, 1))
        y = (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        if self.training:
            y = y * torch.empty(len(y), 1, 1, 1).bernoulli_(0.9)
        result: Tensor = self.h(pool(x + y))
        return result


class Selective(nn.Module):
    """SKNet: branches are stacked and weighed by a softmax over branches for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.f = conv(3, 8), conv(3, 8, 5), nn.Linear(8, 6)
        self.g, self.h = nn.Linear(6, 16), _h(8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([self.a(x), self.b(x)], 1)  # (B, 2, C, H, W)
        weights = self.g(F.relu(self.f(y.sum(1).mean((2, 3))))).view(-1, 2, 8).softmax(1)
        result: Tensor = self.h(pool((y * weights[..., None, None]).sum(1)))
        return result


class NonLocal(nn.Module):
    """Attention between all pixels by matrix products of flattened feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.q, self.k, self.v = conv(3, 12), conv(12, 8, 1), conv(12, 8, 1), conv(12, 8, 1)
        self.out, self.h = conv(8, 12, 1), _h(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, _, h, w = x.shape
        q, k, v = (f(x).view(b, 8, -1) for f in (self.q, self.k, self.v))
        y = torch.bmm(v, torch.bmm(q.transpose(1, 2), k).softmax(-1).transpose(1, 2))
        result: Tensor = self.h(pool(x + self.out(y.view(b, 8, h, w))))
        return result


class Mixture(nn.Module):
    """CondConv: one kernel per record, a weighted sum of stacked kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.route, self.h = conv(3, 8), nn.Linear(8, 3), _h(12)
        self.kernels = parameter(3, 12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        w = self.route(pool(x)).sigmoid()
        y = torch.einsum("be,eoi,bihw->bohw", w, self.kernels, x)
        result: Tensor = self.h(pool(y))
        return result


def _buffers() -> nn.Module:
    module = net(
        lambda m, x: m.h(pool(m.b((m.a(x) - m.mean) / m.std))), a=conv(3, 12), b=conv(12, 8), h=_h(8)
    )
    module.register_buffer("mean", torch.randn(1, 12, 1, 1))
    module.register_buffer("std", torch.rand(12, 1, 1) + 0.5)
    return module


def _indices(order: Any) -> nn.Module:
    module = net(
        lambda m, x: m.h(pool(m.b(m.a(x).index_select(1, m.order)))), a=conv(3, 12), b=conv(12, 8), h=_h(8)
    )
    module.register_buffer("order", order)
    return module


def _gathered() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        order = m.order.view(1, -1, 1, 1).expand(y.shape[0], -1, 8, 8)
        return m.h(pool(m.b(y.gather(1, order))))

    module = net(forward, a=conv(3, 12), b=conv(12, 8), h=_h(8))
    module.register_buffer("order", torch.randperm(12))
    return module


def _bilinear_pool(m: Any, x: Tensor) -> Any:
    y = m.a(x).flatten(2)
    return m.h((y @ y.transpose(1, 2)).flatten(1))


def _swish_gate(m: Any, x: Tensor) -> Any:
    a, b = m.dw(m.a(x)).chunk(2, 1)
    return m.h(pool(m.b(F.gelu(a) * b)))


def _focus(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    parts = [y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]]
    return m.h(pool(m.b(torch.cat(parts, 1))))


def _ghost(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.h(pool(m.b(torch.cat([y, m.dw(y)], 1)[:, :14])))


def _spatial(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    gate = m.g(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)).sigmoid()
    return m.h(pool(m.b(y * gate)))


def _fold(m: Any, x: Tensor) -> Any:
    y = F.unfold(m.a(x), 2, stride=2) * m.scale
    return m.h(pool(m.b(F.fold(y, (8, 8), 2, stride=2))))


def _maxout(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.h(pool(m.b(y.view(y.shape[0], 8, 2, 8, 8).amax(2))))


def _tied(m: Any, x: Tensor) -> Any:
    y = F.relu(F.conv2d(x, m.weight, padding=1))
    return F.conv_transpose2d(y, m.weight, padding=1)


def _efficient(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    gate = m.k(pool(y)[:, None]).sigmoid()  # a convolution along the channels
    return m.h(pool(m.b(y * gate.transpose(1, 2)[..., None])))


def _volume() -> tuple[Tensor, ...]:
    return (torch.randn(2, 2, 4, 6, 6),)


def _wave() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 24),)


def _vector() -> tuple[Tensor, ...]:
    return (torch.randn(2, 10),)


def _decode(m: Any, x: Tensor) -> Any:
    return m.u(F.relu(m.t(m.f(x).view(-1, 12, 4, 4))))


def _grouped_functional(m: Any, x: Tensor) -> Any:
    return m.h(pool(F.conv2d(m.a(x).relu(), m.weight, groups=4)))


def _shortcut(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.h(pool(F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + m.b(F.relu(y))))


def _patches(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    b, c, h, w = y.shape
    y = y.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(b, h * w // 4, 4 * c)
    return m.h(m.r(m.n(y)).mean(1))


def _wavenet(m: Any, x: Tensor) -> Any:
    y = m.stem(x)
    for layer in (m.a, m.b):
        z = layer(F.pad(y, (2, 0)))
        value, gate = z.split(10, 1)
        y = y + m.mix(value.tanh() * gate.sigmoid())
    return m.h(y.mean(2))


_NAMED = "positions are named by numbers: these channels go only if the numbers change"

ENTRIES = [
    Awkward("hard-coded-view", "view whose sizes are numbers (TP#125)", lambda: net(
        lambda m, x: m.h(F.relu(m.a(x)).view(-1, 16 * 8 * 8)), a=conv(3, 16), h=_h(1024)), image),
    Awkward("hard-coded-view-between", "two views of constants with an activation between them", lambda: net(
        lambda m, x: m.h(pool(m.b(m.a(x).view(-1, 12, 64).relu().view(-1, 12, 8, 8)))),
        a=conv(3, 12), b=conv(12, 8), h=_h(8)), image),
    Awkward("linear-to-image", "linear layer, view to channels, transposed convolution (TP#125)", lambda: net(
        _decode, f=nn.Linear(10, 12 * 16), t=nn.ConvTranspose2d(12, 8, 4, 2, 1),
        u=nn.ConvTranspose2d(8, 3, 4, 2, 1)), _vector),
    Awkward("channel-shuffle", "view, transpose, view (TP#14, #45)", lambda: net(
        lambda m, x: m.h(pool(m.b(_shuffle(m.a(x), 3)))), a=conv(3, 12), b=conv(12, 12, groups=3), h=_h(12)),
        image),
    Awkward("channel-shuffle-module", "nn.ChannelShuffle", lambda: net(
        lambda m, x: m.h(pool(m.b(m.s(m.a(x))))), a=conv(3, 12), s=nn.ChannelShuffle(3), b=conv(12, 8),
        h=_h(8)), image),
    Awkward("channels-last-flatten", "permute to channels last, then flatten", lambda: net(
        lambda m, x: m.h(m.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 12), h=_h(768)), image),
    Awkward("flip", "flip of the channels", lambda: net(
        lambda m, x: m.h(pool(m.b(m.a(x).flip(1)))), a=conv(3, 12), b=conv(12, 12), h=_h(12)), image),
    Awkward("roll", "roll of the channels", lambda: net(
        lambda m, x: m.h(pool(m.b(m.a(x).roll(5, 1)))), a=conv(3, 12), b=conv(12, 12), h=_h(12)), image),
    Awkward("gate-of-one-channel", "multiplied by [B, 1, H, W]", lambda: net(
        lambda m, x: m.h(pool(m.b((y := m.a(x)) * m.g(y).sigmoid()))), a=conv(3, 12), g=conv(12, 1),
        b=conv(12, 8), h=_h(8)), image),
    Awkward("frozen", "requires_grad is off everywhere", _frozen, image),
    Awkward("pixel-shuffle", "channels become pixels (TP#98, #420)", lambda: net(
        lambda m, x: m.c(F.pixel_shuffle(m.b(m.a(x)), 2)), a=conv(3, 12), b=conv(12, 16), c=conv(4, 3)),
        image),
    Awkward("pixel-unshuffle", "pixels become channels", lambda: net(
        lambda m, x: m.h(pool(m.b(F.pixel_unshuffle(m.a(x), 2)))), a=conv(3, 8), b=conv(32, 12), h=_h(12)),
        image),
    Awkward("index-select", "channels in the order of a buffer", lambda: _indices(torch.randperm(12)), image),
    Awkward("index-select-some", "some channels, one of them twice", lambda: _indices(
        torch.tensor([3, 1, 1, 9, 0, 11, 5, 7, 2, 4, 6, 8])), image),
    Awkward("gather", "channels gathered by an expanded index", _gathered, image),
    Awkward("functional-grouped", "grouped convolution of a bare parameter", lambda: net(
        _grouped_functional, a=conv(3, 16), weight=parameter(24, 4, 3, 3), h=_h(24)), image),
    Awkward("grouped", "grouped convolutions with different groups in a row", lambda: net(
        lambda m, x: m.h(pool(m.c(m.b(m.a(x))))), a=conv(3, 12), b=conv(12, 12, groups=3),
        c=conv(12, 16, groups=4), h=_h(16)), image),
    Awkward("depthwise-multiplier", "depthwise convolution with three filters per channel", lambda: net(
        lambda m, x: m.h(pool(m.b(m.d(m.a(x)).relu()))), a=conv(3, 8), d=conv(8, 24, groups=8), b=conv(24, 8),
        h=_h(8)), image),
    Awkward("transposed", "transposed convolution (TP#99)", lambda: net(
        lambda m, x: m.b(m.t(m.a(x))), a=conv(3, 12), t=nn.ConvTranspose2d(12, 12, 4, 2, 1), b=conv(12, 3)),
        image),
    Awkward("transposed-grouped", "grouped transposed convolution", lambda: net(
        lambda m, x: m.b(m.t(m.a(x))), a=conv(3, 12), t=nn.ConvTranspose2d(12, 16, 4, 2, 1, groups=4),
        b=conv(16, 3)), image),
    Awkward("one-filter", "a convolution of one filter at the end (TP#126, #179)", lambda: net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()), a=conv(3, 12), b=conv(12, 12), c=conv(12, 1)), image),
    Awkward("joined-with-itself", "concatenation of a tensor with itself (TP#146)", lambda: net(
        lambda m, x: m.h(pool(m.b(torch.cat([y := m.a(x), y], 1)))), a=conv(3, 12), b=conv(24, 12), h=_h(12)),
        image),
    Awkward("c2f", "YOLOv8's C2f: chunk, and a growing list joined (TP#147, #393, #415)", C2f, image),
    Awkward("dense", "DenseNet: every layer reads the concatenation of all before", Dense, image),
    Awkward("squeeze-excite", "squeeze and excitation", lambda: net(
        lambda m, x: m.h(pool(m.b((y := m.a(x)) * m.k(m.f(pool(y)).relu()).sigmoid()[:, :, None, None]))),
        a=conv(3, 12), f=nn.Linear(12, 4), k=nn.Linear(4, 12), b=conv(12, 8), h=_h(8)), image),
    Awkward("unet", "U-Net: skips, interpolation, transposed convolution", UNet, image),
    Awkward("padded-shortcut", "ResNet's option A: zeros padded to the channels", lambda: net(
        _shortcut, a=conv(3, 8), b=conv(8, 16, stride=2), h=_h(16)), image),
    Awkward("group-norm", "GroupNorm: its groups stay equally large (TP#268)", lambda: net(
        lambda m, x: m.h(pool(m.b(m.n(m.a(x)).relu()))), a=conv(3, 16), n=nn.GroupNorm(4, 16), b=conv(16, 8),
        h=_h(8)), image),
    Awkward("group-norm-one", "GroupNorm of one group over the whole image", lambda: net(
        lambda m, x: m.h(pool(m.b(m.n(m.a(x)).relu()))), a=conv(3, 12), n=nn.GroupNorm(1, 12), b=conv(12, 8),
        h=_h(8)), image),
    Awkward("instance-norm", "InstanceNorm with weights", lambda: net(
        lambda m, x: m.h(pool(m.b(m.n(m.a(x)).relu()))), a=conv(3, 12), n=nn.InstanceNorm2d(12, affine=True),
        b=conv(12, 8), h=_h(8)), image),
    Awkward("local-response-norm", "a window that slides over the channels", lambda: net(
        lambda m, x: m.h(pool(m.c(m.b(F.local_response_norm(m.a(x), 3))))), a=conv(3, 8), b=conv(8, 16),
        c=conv(16, 12), h=_h(12)), image, True, "the first channels are neighbours and must stay"),
    Awkward("conv1d", "one dimension", lambda: net(
        lambda m, x: m.h(m.b(m.a(x).relu()).amax(2)), a=nn.Conv1d(3, 12, 5, 2), b=nn.Conv1d(12, 16, 3),
        h=_h(16)), _wave),
    Awkward("conv3d", "three dimensions", lambda: net(
        lambda m, x: m.h(m.b(m.n(m.a(x)).relu()).mean((2, 3, 4))), a=nn.Conv3d(2, 8, 3), n=nn.BatchNorm3d(8),
        b=nn.Conv3d(8, 12, 2), h=_h(12)), _volume),
    Awkward("wavenet", "causal padding, value and gate split from one convolution, residual", lambda: net(
        _wavenet, stem=nn.Conv1d(3, 12, 1), a=nn.Conv1d(12, 20, 3), b=nn.Conv1d(12, 20, 3),
        mix=nn.Conv1d(10, 12, 1), h=_h(12)), _wave),
    Awkward("unfold-fold", "im2col, a bare parameter, col2im", lambda: net(
        _fold, a=conv(3, 12), scale=parameter(16), b=conv(12, 12), h=_h(12)), image),
    Awkward("softmax-over-channels", "softmax over channels", lambda: net(
        lambda m, x: m.h(pool(m.b(m.a(x).softmax(1)))), a=conv(3, 12), b=conv(12, 12), h=_h(12)), image),
    Awkward("cumsum-over-channels", "each channel sums those before it", lambda: net(
        lambda m, x: m.h(pool(m.b(m.a(x).cumsum(1)))), a=conv(3, 12), b=conv(12, 12), h=_h(12)), image),
    Awkward("coordinate-attention", "rows and columns joined and split (TP#503)", Coordinate, image),
    Awkward("gated-depthwise", "Restormer: depthwise convolution, chunk, gate (TP#393)", lambda: net(
        _swish_gate, a=conv(3, 24, 1), dw=conv(24, 24, groups=24), b=conv(12, 8, 1), h=_h(8)), image),
    Awkward("convnext", "depthwise, permute, layer norm, layer scale, drop path", ConvNeXt, image),
    Awkward("buffers", "features normalised by buffers of their width", _buffers, image),
    Awkward("weight-slice", "a slice of a wider weight is used", Slimmable, image),
    Awkward("weight-standardised", "weight standardised in forward", lambda: net(
        lambda m, x: m.h(pool(m.b(m.a(x).relu()))), a=Standardised(3, 12, 3), b=Standardised(12, 12, 3),
        h=_h(12)), image),
    Awkward("weight-norm", "weight norm by parametrisation", lambda: net(
        lambda m, x: m.h(pool(m.b(m.a(x).relu()))), a=nn.utils.parametrizations.weight_norm(conv(3, 12)),
        b=nn.utils.parametrizations.weight_norm(conv(12, 12)), h=_h(12)), image),
    Awkward("spectral-norm", "spectral norm: the weight over its product with two buffers", lambda: net(
        lambda m, x: m.h(pool(m.b(m.a(x).relu()))), a=nn.utils.parametrizations.spectral_norm(conv(3, 12)),
        b=nn.utils.parametrizations.spectral_norm(conv(12, 12)), h=_h(12)), image),
    Awkward("weight-twice", "one layer used twice", lambda: net(
        lambda m, x: m.h(pool(m.s(m.s(m.a(x)).relu()))), a=conv(3, 12), s=conv(12, 12), h=_h(12)), image),
    Awkward("tied-autoencoder", "one weight for a convolution and a transposed one", lambda: net(
        _tied, weight=parameter(16, 3, 3, 3)), image),
    Awkward("mean-and-max-of-channels", "CBAM: statistics over the channels", lambda: net(
        _spatial, a=conv(3, 12), g=conv(2, 1, 7), b=conv(12, 12), h=_h(12)), image),
    Awkward("convolved-over-channels", "ECA: a convolution slides over the channels", lambda: net(
        _efficient, a=conv(3, 8), k=nn.Conv1d(1, 1, 3, padding=1), b=conv(8, 24), h=_h(24)), image, True,
        "the channels under the window are neighbours and must stay"),
    Awkward("maxout", "maximum over pairs of channels", lambda: net(
        _maxout, a=conv(3, 16), b=conv(8, 12), h=_h(12)), image),
    Awkward("focus", "four strided slices of the image joined as channels", lambda: net(
        _focus, a=conv(3, 8), b=conv(32, 12), h=_h(12)), image),
    Awkward("ghost", "cheap features joined, then cut at a number", lambda: net(
        _ghost, a=conv(3, 8), dw=conv(8, 8, groups=8), b=conv(14, 12), h=_h(12)), image),
    Awkward("every-other-channel", "channels sliced with a step", lambda: net(
        lambda m, x: m.h(pool(m.b((y := m.a(x))[:, ::2] * y[:, 1::2]))), a=conv(3, 16), b=conv(8, 12),
        h=_h(12)), image),
    Awkward("selective-kernel", "softmax over stacked branches", Selective, image),
    Awkward("scalar-gates", "branches weighed by learned scalars and constants", lambda: net(
        lambda m, x: m.h(pool(m.c(m.g[0] * m.a(x) + (1 - m.g[1].sigmoid()) * m.b(x) * 0.5 + 1))),
        a=conv(3, 12), b=conv(3, 12), g=parameter(2), c=conv(12, 8), h=_h(8)), image),
    Awkward("non-local", "attention between pixels by bmm of hard-coded views", NonLocal, image),
    Awkward("conditional-kernels", "kernels mixed by a router, einsum of three", Mixture, image),
    Awkward("bilinear-pooling", "outer product of the channels with themselves, flattened", lambda: net(
        _bilinear_pool, a=conv(3, 8), h=_h(64)), image),
    Awkward("unit-length", "features divided by their norm over channels", lambda: net(
        lambda m, x: m.h(pool(m.b(F.normalize(m.a(x), dim=1)))), a=conv(3, 12), b=conv(12, 12), h=_h(12)),
        image),
    Awkward("patch-merging", "2 x 2 pixels become channels, norm, linear (TP#258)", lambda: net(
        _patches, a=conv(3, 8), n=nn.LayerNorm(32), r=nn.Linear(32, 16), h=_h(16)), image),
    Awkward("prelu-and-dropout", "a slope per channel; dropout of channels", lambda: net(
        lambda m, x: m.h(pool(m.b(m.d(m.r(m.a(x)))))), a=conv(3, 12), r=nn.PReLU(12), d=nn.Dropout2d(0.3),
        b=conv(12, 8), h=_h(8)), image),
]  # fmt: skip
