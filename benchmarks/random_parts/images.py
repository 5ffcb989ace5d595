"""Parts between image features: (B, C, S, S) to (B, C', S', S')."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward.case import attend, conv, parameter
from .part import Part, Recipe, divisor, made


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel i of each group beside channel i of the others."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def _conv(c: int, s: int, width: int, way: int) -> Part:
    return made(lambda m, x: m.a(x), width, s, a=conv(c, width, 1 + 2 * (way % 2), bias=way % 3 > 0))


def _residual(c: int, s: int, width: int, way: int) -> Part:
    return made(lambda m, x: x + m.b(F.relu(m.a(x))), c, s, a=conv(c, width, 1), b=conv(width, c, 1))


def _branches(c: int, s: int, width: int, way: int) -> Part:
    layers = {"a": conv(c, width), "b": conv(c, width, 1)}
    return made(lambda m, x: torch.cat([m.a(x), x, m.b(x)], 1), 2 * width + c, s, **layers)


def _sum(c: int, s: int, width: int, way: int) -> Part:
    return made(lambda m, x: m.a(x) + m.b(x), width, s, a=conv(c, width), b=conv(c, width, 1))


def _stack(c: int, s: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        return torch.stack([m.a(x), m.b(x)], 1 + way % 2).flatten(1, 2)

    return made(forward, 2 * width, s, a=conv(c, width), b=conv(c, width, 1))


def _depthwise(c: int, s: int, width: int, way: int) -> Part:
    outputs = c * (1 + way % 3)
    return made(lambda m, x: m.a(x), outputs, s, a=conv(c, outputs, groups=c))


def _grouped(c: int, s: int, width: int, way: int) -> Part:
    groups = 2 + way % 2
    layers = {"a": conv(c, groups * width, 1), "b": conv(groups * width, 2 * groups * width, groups=groups)}
    return made(lambda m, x: shuffle(m.b(m.a(x)), groups), 2 * groups * width, s, **layers)


def _grouped_twice(c: int, s: int, width: int, way: int) -> Part:
    inner = 6 * (1 + width % 3)
    layers = {"a": conv(c, inner, 1), "b": conv(inner, inner, groups=2), "c": conv(inner, inner, groups=3)}
    return made(lambda m, x: m.c(shuffle(m.b(m.a(x)), 2) if way % 2 else m.b(m.a(x))), inner, s, **layers)


def _shuffle(c: int, s: int, width: int, way: int) -> Part:
    groups = 2 + way % 2
    return made(lambda m, x: shuffle(m.a(x), groups), groups * width, s, a=conv(c, groups * width, 1))


def _chunk(c: int, s: int, width: int, way: int) -> Part:
    count = 2 + way % 2

    def forward(m: Any, x: Tensor) -> Any:
        parts = m.a(x).chunk(count, 1)
        return parts[0] * parts[1].sigmoid() if count == 2 else parts[2] - parts[0] * parts[1]

    return made(forward, width, s, a=conv(c, count * width, 1))


def _split(c: int, s: int, width: int, way: int) -> Part:
    cut = 1 + width % (c - 1)

    def forward(m: Any, x: Tensor) -> Any:
        left, right = torch.split(x, [cut, c - cut], 1)
        return torch.cat([right, m.a(left)], 1)

    return made(forward, width + c - cut, s, a=conv(cut, width))


def _excite(c: int, s: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        if way % 2:
            return x * m.b(F.relu(m.a(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        gate = m.d(F.relu(m.c(x.mean((2, 3))))).sigmoid()
        return x * gate.view(-1, c, 1, 1)

    layers: dict[str, nn.Module] = (
        {"a": conv(c, width, 1), "b": conv(width, c, 1)}
        if way % 2
        else {"c": nn.Linear(c, width), "d": nn.Linear(width, c)}
    )
    return made(forward, c, s, **layers)


def _pool(c: int, s: int, width: int, way: int) -> Part:
    if s <= 2:
        return made(lambda m, x: x, c, s)
    return made(lambda m, x: F.max_pool2d(x, 2) if way % 2 else F.avg_pool2d(x, 3, 2, 1), c, s // 2)


def _shared(c: int, s: int, width: int, way: int) -> Part:
    return made(lambda m, x: m.a(F.relu(m.a(x))), c, s, a=conv(c, c))


def _padded(c: int, s: int, width: int, way: int) -> Part:
    step = 1 + s // 8
    before = width // 2

    def forward(m: Any, x: Tensor) -> Any:
        return F.pad(x[:, :, ::step, ::step], (0, 0, 0, 0, before, width - before)) + m.a(x)

    return made(forward, c + width, s // step, a=conv(c, c + width, stride=step))


def _gate(c: int, s: int, width: int, way: int) -> Part:
    return made(lambda m, x: x * m.a(x).sigmoid(), c, s, a=conv(c, 1, 1))


def _statistics(c: int, s: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        return x * m.a(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()

    return made(forward, c, s, a=conv(2, 1))


def _scale(c: int, s: int, width: int, way: int) -> Part:
    return made(
        lambda m, x: x * m.factor + m.shift, c, s, factor=parameter(c, 1, 1), shift=parameter(1, c, 1, 1)
    )


def _dense(c: int, s: int, width: int, way: int) -> Part:
    return made(lambda m, x: torch.cat([x, m.a(x)], 1), width + c, s, a=conv(c, width))


def _twice(c: int, s: int, width: int, way: int) -> Part:
    return made(lambda m, x: m.a(torch.cat([x, x], 1)), width, s, a=conv(2 * c, width, 1))


def _rotate(c: int, s: int, width: int, way: int) -> Part:
    cut = 1 + way % (c - 1)
    return made(lambda m, x: torch.cat([x[:, cut:], x[:, :cut]], 1), c, s)


def _order(c: int, s: int, width: int, way: int) -> Part:
    changes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.flip(1),
        lambda x: x.flip(2),
        lambda x: x.roll(1 + way % (c - 1), 1),
        lambda x: x.roll(1, (2,)),
        lambda x: x.transpose(2, 3),
    )
    change = changes[way % len(changes)]
    return made(lambda m, x: change(x), c, s)


def _linear(c: int, s: int, width: int, way: int) -> Part:
    return made(lambda m, x: m.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), width, s, a=nn.Linear(c, width))


def _last(c: int, s: int, width: int, way: int) -> Part:
    """ConvNeXt's block."""

    def forward(m: Any, x: Tensor) -> Any:
        y = m.n(m.a(x).permute(0, 2, 3, 1))
        return x + (m.g * m.d(F.gelu(m.u(y)))).permute(0, 3, 1, 2)

    layers = {"a": conv(c, c, groups=c), "n": nn.LayerNorm(c), "u": nn.Linear(c, 2 * width),
              "d": nn.Linear(2 * width, c), "g": parameter(c)}  # fmt: skip
    return made(forward, c, s, **layers)


def _norm(c: int, s: int, width: int, way: int) -> Part:
    norms = (
        lambda: nn.BatchNorm2d(c),
        lambda: nn.GroupNorm(divisor(c, width), c),
        lambda: nn.InstanceNorm2d(c, affine=True) if s > 1 else nn.Identity(),
        lambda: nn.GroupNorm(1, c),
        lambda: nn.BatchNorm2d(c, affine=False),
    )
    return made(lambda m, x: m.n(x), c, s, n=norms[way % len(norms)]())


def _by_hand(c: int, s: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        mean = x.mean(1, keepdim=True)
        y = (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        return y * m.w[:, None, None] if way % 2 else m.w.view(1, c, 1, 1) * y

    return made(forward, c, s, w=parameter(c))


def _transposed(c: int, s: int, width: int, way: int) -> Part:
    if s > 8:
        return _conv(c, s, width, way)
    return made(lambda m, x: m.a(x), width, 2 * s, a=nn.ConvTranspose2d(c, width, 2, 2))


def _resize(c: int, s: int, width: int, way: int) -> Part:
    mode, options = (("nearest", {}), ("bilinear", {"align_corners": False}))[way % 2]
    size = s * 2 if s <= 4 else s // 2
    return made(lambda m, x: F.interpolate(x, size=(size, size), mode=mode, **options), c, size)


def _unshuffle(c: int, s: int, width: int, way: int) -> Part:
    if s % 2 == 0 and way % 2:
        return made(lambda m, x: m.a(F.pixel_unshuffle(x, 2)), width, s // 2, a=conv(4 * c, width, 1))
    return made(lambda m, x: F.pixel_shuffle(m.a(x), 2), width, 2 * s, a=conv(c, 4 * width, 1))


def _views(c: int, s: int, width: int, way: int) -> Part:
    """Views of numbers and a product with a bare parameter."""

    def forward(m: Any, x: Tensor) -> Any:
        flat = x.reshape(-1, c, s * s)
        y = torch.einsum("bcn,oc->bon", flat, m.w) if way % 2 else torch.matmul(m.w, flat)
        return y.view(-1, width, s, s)

    return made(forward, width, s, w=parameter(width, c))


def _attention(c: int, s: int, width: int, way: int) -> Part:
    """Between pixels, heads of three lanes, queries, keys and values by one convolution."""
    count = 1 + way % 3

    def forward(m: Any, x: Tensor) -> Any:
        b = x.shape[0]
        if way % 2:
            q, k, v = m.qkv(x).reshape(b, 3, count, 3, s * s).transpose(3, 4).unbind(1)
        else:
            q, k, v = (t.view(b, count, 3, s * s).transpose(2, 3) for t in m.qkv(x).chunk(3, 1))
        return x + m.out(attend(q, k, v).transpose(2, 3).reshape(b, count * 3, s, s))

    return made(forward, c, s, qkv=conv(c, 9 * count, 1), out=conv(3 * count, c, 1))


def _maxout(c: int, s: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x).view(-1, width, 2, s, s) if way % 2 else m.a(x).view(-1, 2, width, s, s).transpose(1, 2)
        return y.amax(2)

    return made(forward, width, s, a=conv(c, 2 * width, 1))


def _cut(c: int, s: int, width: int, way: int) -> Part:
    keep = max(1, c - way % c)
    return made(lambda m, x: m.a(torch.cat([x, m.d(x)], 1)[:, : c + keep]), width, s,
                d=conv(c, c, groups=c), a=conv(c + keep, width, 1))  # fmt: skip


def _standardised(c: int, s: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        w = m.w - m.w.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / (w.std((1, 2, 3), keepdim=True) + 0.1), padding=1)

    return made(forward, width, s, w=parameter(width, c, 3, 3))


def _buffer(c: int, s: int, width: int, way: int) -> Part:
    part = made(lambda m, x: (x - m.mean) / m.std, c, s)
    part.module.register_buffer("mean", torch.randn(1, c, 1, 1))
    part.module.register_buffer("std", torch.rand(c, 1, 1) + 0.5)
    return part


def _selective(c: int, s: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        y = torch.stack([m.a(x), m.b(x)], 1)
        weights = m.g(y.sum(1).mean((2, 3))).view(-1, 2, width).softmax(1)
        return (y * weights[..., None, None]).sum(1)

    return made(forward, width, s, a=conv(c, width), b=conv(c, width, 1), g=nn.Linear(width, 2 * width))


def _c2f(c: int, s: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        y = list(m.a(x).chunk(2, 1))
        y.append(y[-1] + m.b(F.silu(y[-1])))
        y.append(m.c(y[-1]))
        return m.d(torch.cat(y, 1))

    layers = {"a": conv(c, 2 * width, 1), "b": conv(width, width), "c": conv(width, width),
              "d": conv(4 * width, width, 1)}  # fmt: skip
    return made(forward, width, s, **layers)


IMAGE_PARTS: Mapping[str, Recipe] = {
    "conv": _conv, "residual": _residual, "branches": _branches, "sum": _sum, "stack": _stack,
    "depthwise": _depthwise, "grouped": _grouped, "grouped twice": _grouped_twice, "shuffle": _shuffle,
    "chunk": _chunk, "split": _split, "excite": _excite, "pool": _pool, "shared": _shared, "padded": _padded,
    "gate": _gate, "statistics": _statistics, "scale": _scale, "dense": _dense, "twice": _twice,
    "rotate": _rotate, "order": _order, "linear": _linear, "channels last": _last, "norm": _norm,
    "norm by hand": _by_hand, "transposed": _transposed, "resize": _resize, "unshuffle": _unshuffle,
    "views": _views, "pixel attention": _attention, "maxout": _maxout, "cut": _cut,
    "standardised": _standardised, "buffer": _buffer, "selective": _selective, "c2f": _c2f,
}  # fmt: skip
