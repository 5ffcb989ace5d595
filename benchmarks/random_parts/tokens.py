"""Parts between sequences of tokens: (B, T, C) to (B, T', C')."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward.case import parameter
from .attention import ATTENTION_PARTS
from .part import Part, Recipe, divisor, made


def _linear(c: int, t: int, width: int, way: int) -> Part:
    return made(lambda m, x: m.a(x), width, t, a=nn.Linear(c, width, bias=way % 2 > 0))


def _mlp(c: int, t: int, width: int, way: int) -> Part:
    return made(
        lambda m, x: x + m.d(F.gelu(m.u(x))), c, t, u=nn.Linear(c, 2 * width), d=nn.Linear(2 * width, c)
    )


def _glu(c: int, t: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        if way % 3 == 0:
            return m.d(F.glu(m.u(x), -1))
        a, b = m.u(x).chunk(2, -1)
        y = m.d(F.silu(a) * b)
        return x + y if way % 3 == 1 else y

    outputs = c if way % 3 == 1 else width
    return made(forward, outputs, t, u=nn.Linear(c, 2 * width), d=nn.Linear(width, outputs))


def _norm(c: int, t: int, width: int, way: int) -> Part:
    norms = (
        lambda: nn.LayerNorm(c),
        lambda: nn.RMSNorm(c),
        lambda: nn.LayerNorm(c, elementwise_affine=False),
        lambda: nn.RMSNorm(c, eps=1e-4),
    )
    return made(lambda m, x: m.n(x), c, t, n=norms[way % len(norms)]())


def _by_hand(c: int, t: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        if way % 4 == 0:
            return m.w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        if way % 4 == 1:
            mean = x.mean(-1, keepdim=True)
            return (x - mean) / ((x - mean) ** 2).mean(-1, keepdim=True).add(1e-5).sqrt() * m.w
        if way % 4 == 2:
            return x / (x.norm(dim=-1, keepdim=True) + 0.1) * m.w
        return F.normalize(x, dim=-1) * m.w

    return made(forward, c, t, w=parameter(c))


def _time(c: int, t: int, width: int, way: int) -> Part:
    if way % 2:
        layer = nn.Conv1d(c, c, 3, padding=2, groups=c)
        return made(lambda m, x: m.a(x.transpose(1, 2))[..., :t].transpose(1, 2), c, t, a=layer)
    layer = nn.Conv1d(c, width, 3, padding=1)
    return made(lambda m, x: m.a(x.transpose(1, 2)).transpose(1, 2), width, t, a=layer)


def _cumsum(c: int, t: int, width: int, way: int) -> Part:
    if way % 3 == 2:
        return made(lambda m, x: m.a(x).cumsum(-1), width, t, a=nn.Linear(c, width))
    return made(lambda m, x: x.cumsum(1) / torch.arange(1, t + 1).view(t, 1), c, t)


def _gate(c: int, t: int, width: int, way: int) -> Part:
    if way % 2:
        return made(lambda m, x: m.a(x).sigmoid() * x, c, t, a=nn.Linear(c, 1))
    return made(
        lambda m, x: m.a(x) * m.b(x).sigmoid(), width, t, a=nn.Linear(c, width), b=nn.Linear(c, width)
    )


def _join(c: int, t: int, width: int, way: int) -> Part:
    if way % 3 == 0:
        return made(lambda m, x: torch.cat([x, m.a(x)], -1), c + width, t, a=nn.Linear(c, width))
    if way % 3 == 1:
        layers = {"a": nn.Linear(c, width), "b": nn.Linear(c, width)}
        return made(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), width, 2 * t, **layers)
    layers = {"a": nn.Linear(c, width), "b": nn.Linear(c, width)}
    return made(lambda m, x: torch.stack([m.a(x), m.b(x)], -1).flatten(-2), 2 * width, t, **layers)


def _split(c: int, t: int, width: int, way: int) -> Part:
    cut = 1 + width % (c - 1)

    def forward(m: Any, x: Tensor) -> Any:
        a, b = torch.split(x, [cut, c - cut], -1)
        return torch.cat([m.a(a).tanh(), b], -1) if way % 2 else torch.cat([b, a], -1)

    return made(forward, width + c - cut if way % 2 else c, t, a=nn.Linear(cut, width))


def _pairs(c: int, t: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        if way % 3 == 0:
            return y[..., ::2] * y[..., 1::2]
        if way % 3 == 1:
            return y[..., :width] - y[..., width:]
        return y.unflatten(-1, (width, 2)).amax(-1)

    return made(forward, width, t, a=nn.Linear(c, 2 * width))


def _grouped(c: int, t: int, width: int, way: int) -> Part:
    """Reshaped to groups of lanes, changed there, and back."""
    count = 2 + way % 2

    def forward(m: Any, x: Tensor) -> Any:
        b = x.shape[0]
        y = m.a(x).view(b, t, count, width)
        if way % 4 == 0:
            y = F.normalize(y, dim=-1)
        elif way % 4 == 1:
            y = y * m.w[:, None]
        elif way % 4 == 2:
            y = y.transpose(2, 3)
        else:
            y = y - y.mean(2, keepdim=True)
        return y.reshape(b, t, count * width)

    return made(forward, count * width, t, a=nn.Linear(c, count * width), w=parameter(count))


def _blocks(c: int, t: int, width: int, way: int) -> Part:
    """A linear layer for each group of channels."""
    count = divisor(c, 3)
    inner = c // count

    def forward(m: Any, x: Tensor) -> Any:
        y = torch.unflatten(x, -1, (count, inner))
        return torch.einsum("btgi,gio->btgo", y, m.w).flatten(-2)

    return made(forward, count * width, t, w=parameter(count, inner, width))


def _product(c: int, t: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        if way % 4 == 0:
            return torch.matmul(x, m.w)
        if way % 4 == 1:
            return torch.einsum("btc,cd->btd", x, m.w)
        if way % 4 == 2:
            return torch.addmm(m.b, x.reshape(-1, c), m.w).view(-1, t, width)
        return torch.baddbmm(m.b, x, m.w.expand(x.shape[0], c, width))

    return made(forward, width, t, w=parameter(c, width), b=parameter(width))


def _scale(c: int, t: int, width: int, way: int) -> Part:
    shapes = ((c,), (1, 1, c), (t, c), (1, t, 1), ())
    return made(lambda m, x: x * m.w + m.v, c, t, w=parameter(*shapes[way % 5]), v=parameter(c))


def _shift(c: int, t: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        before = F.pad(x, (0, 0, 1, -1)) if way % 2 else x.roll(1, 1)
        return x * m.w + before * (1 - m.w)

    return made(forward, c, t, w=parameter(c))


def _order(c: int, t: int, width: int, way: int) -> Part:
    changes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.flip(1),
        lambda x: x.flip(-1),
        lambda x: x.roll(1 + way % (c - 1), -1),
    )
    change = changes[way % len(changes)]
    return made(lambda m, x: change(x), c, t)


def _token(c: int, t: int, width: int, way: int) -> Part:
    if t > 12:
        return made(lambda m, x: x[:, 1:], c, t - 1)
    return made(
        lambda m, x: torch.cat([m.w.expand(x.shape[0], -1, -1), x], 1), c, t + 1, w=parameter(1, 1, c)
    )


def _mixing(c: int, t: int, width: int, way: int) -> Part:
    if way % 2:
        layers = {"a": nn.Linear(t, width), "b": nn.Linear(width, t)}
        return made(lambda m, x: x + m.b(m.a(x.transpose(1, 2)).relu()).transpose(1, 2), c, t, **layers)
    return made(lambda m, x: torch.einsum("ts,bsc->btc", m.w, x), c, t, w=parameter(t, t))


def _context(c: int, t: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        y = x.mean(1, keepdim=True) if way % 2 else x.amax(1, keepdim=True)
        return x + m.b(m.a(y).relu()) if way % 3 else x * m.b(m.a(y).relu()).sigmoid()

    return made(forward, c, t, a=nn.Linear(c, width), b=nn.Linear(width, c))


def _softmax(c: int, t: int, width: int, way: int) -> Part:
    return made(lambda m, x: x * m.a(x).softmax((1, 2)[way % 2]), c, t, a=nn.Linear(c, c))


def _experts(c: int, t: int, width: int, way: int) -> Part:
    def forward(m: Any, x: Tensor) -> Any:
        weights = m.r(x).softmax(-1)
        if way % 2:
            y = torch.einsum("btc,ecd->bted", x, m.w).relu()
            return torch.einsum("bted,bte->btd", y, weights)
        chosen = weights.topk(2, -1).indices
        y = x.new_zeros(*x.shape[:2], width)
        for index in range(3):
            share = (weights[..., index] * (chosen == index).any(-1))[..., None]
            y = y + share * (x @ m.w[index])
        return y

    return made(forward, width, t, r=nn.Linear(c, 3), w=parameter(3, c, width))


def _scan(c: int, t: int, width: int, way: int) -> Part:
    """A state per channel, decayed by the input, in a loop; too long a sequence gets a sum instead."""
    if t > 12:
        return _cumsum(c, t, width, way)
    state = 2 + way % 2

    def forward(m: Any, x: Tensor) -> Any:
        u = m.a(x)
        step, b = F.softplus(m.d(u)), m.b(u)
        h = torch.zeros(x.shape[0], width, state)
        outputs = []
        for i in range(t):
            h = torch.exp(-step[:, i, :, None] * m.decay.exp()) * h + (u[:, i, :, None] * b[:, i, None])
            outputs.append(h.sum(-1) + m.skip * u[:, i])
        return torch.stack(outputs, 1)

    layers = {"a": nn.Linear(c, width), "d": nn.Linear(width, width), "b": nn.Linear(width, state),
              "decay": parameter(width, state), "skip": parameter(width)}  # fmt: skip
    return made(forward, width, t, **layers)


def _recurrent(c: int, t: int, width: int, way: int) -> Part:
    both = way % 4 == 3
    kind = nn.GRU if way % 2 else nn.LSTM
    layer = kind(c, width, batch_first=True, bidirectional=both)
    return made(lambda m, x: m.a(x)[0], width * (2 if both else 1), t, a=layer)


TOKEN_PARTS: Mapping[str, Recipe] = {
    "linear": _linear, "mlp": _mlp, "glu": _glu, "norm": _norm, "norm by hand": _by_hand, "time": _time,
    "cumsum": _cumsum, "gate": _gate, "join": _join, "split": _split, "pairs": _pairs, "grouped": _grouped,
    "blocks": _blocks, "product": _product, "scale": _scale, "shift": _shift, "order": _order,
    "token": _token, "mixing": _mixing, "context": _context, "softmax": _softmax, "experts": _experts,
    "scan": _scan, "recurrent": _recurrent, **ATTENTION_PARTS,
}  # fmt: skip
