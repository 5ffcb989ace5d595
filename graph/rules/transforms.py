"""Rules of gates of halves, Fourier transforms, complex numbers and matrices of positions."""

from __future__ import annotations

import numpy as np

from graph.labels import Pass
from graph.program import Node
from graph.rules.registry import rule
from graph.rules.statements import carry, pin_dims, pin_operands, source_all


@rule("glu")
def glu(run: Pass, node: Node) -> None:
    """The first half times the sigmoid of the second half."""
    x = node.args[0]
    dim = int(node.arg(1, "dim", -1)) % len(run.size(x))
    found = run.field(x, dim)
    if found is not None:
        first, second = np.split(found.labels, 2, axis=dim)
        run.equate(first, second, node)
        run.put(node.name, dim, first)
    carry(run, node, x, dim)


@rule("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_fft2", "fft_fftn", "fft_rfft2", "fft_irfft2",
      "fft_rfftn", "fft_irfftn", "fft_ifft2", "fft_ifftn", "_fft_c2c", "_fft_r2c", "_fft_c2r")  # fmt: skip
def fourier(run: Pass, node: Node) -> None:
    """Transformed dimensions stay, the others pass."""
    x = node.args[0]
    source_all(run, node, x)
    rank = len(run.size(x))
    low = node.base.startswith("_")
    given = node.arg(1 if low else 2, "dim")
    if given is None:
        sizes = node.arg(1, "s")
        count = 2 if node.base.endswith("2") else len(sizes) if isinstance(sizes, (list, tuple)) else rank
        given = list(range(-count, 0)) if node.base.endswith(("n", "2")) else [-1]
    dims = [d % rank for d in ([given] if isinstance(given, int) else given)]
    pin_dims(run, node, x, "transformed", *(d for d in range(rank) if d not in dims))
    carry(run, node, x, *dims)


@rule("view_as_complex", "view_as_real")
def complex_view(run: Pass, node: Node) -> None:
    """Pairs of numbers as one complex number, and back."""
    x = node.args[0]
    if node.base == "view_as_complex":
        pin_dims(run, node, x, "pairs", *range(len(run.size(x)) - 1))
    for dim, found in list(run.fields.get(x.name, {}).items()):
        labels = found.labels
        if node.base == "view_as_real":
            run.put(node.name, dim, labels[..., None])
        elif dim < len(run.size(x)) - 1:
            vector = labels if labels.shape[-1] == 1 else np.take(labels, [0], axis=-1)
            run.equate(labels, vector, node)
            run.put(node.name, dim, vector[..., 0])


@rule("tril", "triu", "diagonal", "diag_embed", "rot90", "trace")
def diagonal(run: Pass, node: Node) -> None:
    """The last two dimensions name positions of each other; the others pass."""
    x = node.args[0]
    rank = len(run.size(x))
    if node.base not in ("tril", "triu"):
        return pin_operands(run, node, f"{node.op} names positions among them")
    pin_dims(run, node, x, "names positions", *range(rank - 2))
    carry(run, node, x, rank - 2, rank - 1)
