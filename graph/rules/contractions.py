"""Rules of sums of products: linear layers, matrix products, einsum."""

from __future__ import annotations

import numpy as np

from graph.groups import Site
from graph.labels import Labels, Pass
from graph.program import Node, Ref
from graph.rules.registry import rule
from graph.rules.statements import add_term, flat

Term = tuple[Ref, str]


def contraction(run: Pass, node: Node, terms: list[Term], out: str) -> None:
    """A sum of products, in the letters of ``einsum``.

    A letter in several terms is the same channel in each; one that is missing in ``out`` is summed over.

    Args:
        run: the pass.
        node: the operator.
        terms: each operand with a letter for each of its dimensions.
        out: a letter for each dimension of the result.
    """
    for letter in dict.fromkeys("".join(letters for _, letters in terms)):
        holders = [(ref, letters) for ref, letters in terms if letter in letters]
        holders = [(ref, letters) for ref, letters in holders if run.size(ref)[letters.index(letter)] > 1]
        labelled = [h for h in holders if run.field(h[0], h[1].index(letter)) is not None]
        if not labelled and holders and all(run.is_tensor(ref) for ref, _ in holders):
            run.along(holders[0][0], holders[0][1].index(letter), node)
            labelled = holders[:1]
        if not labelled:
            continue
        ref, letters = labelled[0]
        found = run.field(ref, letters.index(letter))
        if found is None:
            continue
        for other, theirs in holders:
            if other is not ref:
                sizes = dict(zip(theirs, run.size(other), strict=True))
                labels = _aligned(run, node, found.labels, letters, theirs, sizes)
                run.bind(other, theirs.index(letter), labels, node)
        if letter in out:
            sizes = dict(zip(out, run.full[node.name].shape, strict=True))
            run.put(node.name, out.index(letter), _aligned(run, node, found.labels, letters, out, sizes))
        else:
            _consume(run, node, letter, terms, labelled, holders)


def _aligned(
    run: Pass, node: Node, labels: Labels, letters: str, target: str, sizes: dict[str, int]
) -> Labels:
    """Labels over the dimensions of one operand as labels over those of another one."""
    for axis, letter in enumerate(letters):
        if labels.shape[axis] > 1 and sizes.get(letter, 1) == 1:
            first = np.take(labels, [0], axis=axis)
            run.equate(labels, first, node)
            labels = first
    kept = [letter for letter in target if letter in letters]
    labels = labels.transpose([letters.index(k) for k in kept] + [
        i for i, letter in enumerate(letters) if letter not in target])  # fmt: skip
    labels = labels.reshape(labels.shape[: len(kept)])
    return labels.reshape([labels.shape[kept.index(k)] if k in kept else 1 for k in target])


def _consume(
    run: Pass, node: Node, letter: str, terms: list[Term], labelled: list[Term], holders: list[Term]
) -> None:
    """A sum over a letter: the mask lies on an activation where there is one."""
    ref, letters = next(((r, t) for r, t in labelled if r.name not in run.static), labelled[0])
    alike = [t for r, t in terms if r == ref]  # a value may be several factors, or be added first
    position = [p for p, a in flat(node) if a == ref][-len(alike) :][alike.index(letters)]
    weight = next(((r, t.index(letter)) for r, t in holders if run.is_tensor(r) and r != ref), None)
    name = str(run.by_name[weight[0].name].args[0]) if weight else None
    dim = letters.index(letter)
    run.consume(Site(node.name, position, ref.name, dim, 0.0, name, weight[1] if weight else 0))


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@rule("linear")
def linear(run: Pass, node: Node) -> None:
    """out[..., o] = sum over i of weight[o, i] * x[..., i] + bias[o]."""
    x, weight, bias = node.args[0], node.args[1], node.arg(2, "bias")
    batch = _LETTERS[: len(run.size(x)) - 1]
    outs = "O" if len(run.size(weight)) == 2 else ""
    contraction(run, node, [(x, batch + "I"), (weight, outs + "I")], batch + outs)
    if isinstance(bias, Ref):
        add_term(run, node, bias)


@rule("mm", "mv", "dot", "vdot", "bmm", "matmul")
def product(run: Pass, node: Node) -> None:
    """Matrix products, batched or not."""
    terms, out = _product_terms(run, node.args[0], node.args[1])
    contraction(run, node, terms, out)


def _product_terms(run: Pass, left: Ref, right: Ref) -> tuple[list[Term], str]:
    a, b = len(run.size(left)), len(run.size(right))
    batch = max(a, b, 2) - 2
    letters = _LETTERS[:batch]
    first = letters[batch - max(0, a - 2) :] + ("MK" if a > 1 else "K")
    second = letters[batch - max(0, b - 2) :] + ("KN" if b > 1 else "K")
    out = letters + ("M" if a > 1 else "") + ("N" if b > 1 else "")
    return [(left, first), (right, second)], out


@rule("outer", "ger")
def outer(run: Pass, node: Node) -> None:
    """All pairs."""
    contraction(run, node, [(node.args[0], "M"), (node.args[1], "N")], "MN")


@rule("addr")
def added_outer(run: Pass, node: Node) -> None:
    """Term + all pairs."""
    contraction(run, node, [(node.args[1], "M"), (node.args[2], "N")], "MN")
    add_term(run, node, node.args[0])


@rule("addbmm")
def added_sum_of_products(run: Pass, node: Node) -> None:
    """Term + the sum of a batch of products."""
    contraction(run, node, [(node.args[1], "BMK"), (node.args[2], "BKN")], "MN")
    add_term(run, node, node.args[0])


@rule("inner")
def inner(run: Pass, node: Node) -> None:
    """Sums over the last dimensions of both."""
    left, right = node.args
    first = _LETTERS[: len(run.size(left)) - 1]
    second = _LETTERS.upper()[: len(run.size(right)) - 1]
    contraction(run, node, [(left, first + "Z"), (right, second + "Z")], first + second)


@rule("tensordot")
def tensordot(run: Pass, node: Node) -> None:
    """Sums over the dimensions that are named for each operand."""
    left, right, *dims = node.args
    ranks = len(run.size(left)), len(run.size(right))
    first, second = list(_LETTERS[: ranks[0]]), list(_LETTERS.upper()[: ranks[1]])
    for own, other in zip(*dims, strict=True):
        second[other % ranks[1]] = first[own % ranks[0]]
    out = [c for c in first if c not in second] + [c for c in second if c not in first]
    contraction(run, node, [(left, "".join(first)), (right, "".join(second))], "".join(out))


@rule("addmm", "addmv", "baddbmm")
def added_product(run: Pass, node: Node) -> None:
    """Term + left @ right."""
    terms, out = _product_terms(run, node.args[1], node.args[2])
    contraction(run, node, terms, out)
    add_term(run, node, node.args[0])


@rule("einsum")
def einsum(run: Pass, node: Node) -> None:
    """Sums of products as their equation says."""
    equation, operands = str(node.args[0]).replace(" ", ""), list(node.args[1])
    left, _, out = equation.partition("->")
    letters = left.split(",")
    if "->" not in equation:
        every = "".join(letters).replace(".", "")
        out = ("..." if "..." in left else "") + "".join(sorted(c for c in set(every) if every.count(c) == 1))
    ranks = [len(run.size(o)) - len(t.replace("...", "")) for o, t in zip(operands, letters, strict=True)]
    free = [c for c in _LETTERS + _LETTERS.upper() if c not in equation]
    most = max((r for r, t in zip(ranks, letters, strict=True) if "..." in t), default=0)
    dots = "".join(free[:most])
    letters = [t.replace("...", dots[most - r :]) for t, r in zip(letters, ranks, strict=True)]
    out = out.replace("...", dots)
    for index, (ref, term) in enumerate(zip(operands, letters, strict=True)):
        letters[index] = _without_repeats(run, node, ref, term, free)
    contraction(run, node, list(zip(operands, letters, strict=True)), out)


def _without_repeats(run: Pass, node: Node, ref: Ref, term: str, free: list[str]) -> str:
    """A diagonal: both dimensions are the same channels, and all but the pairs of one with itself goes."""
    result = ""
    for dim, letter in enumerate(term):
        if letter in result:
            first = run.along(ref, result.index(letter), node)
            if first is not None:
                run.bind(ref, dim, first, node)
            elif (found := run.field(ref, dim)) is not None:
                run.pin(found.labels, f"diagonal of fixed channels in {node.op}", node)
            letter = free.pop()
        result += letter
    return result


@rule("bilinear")
def bilinear(run: Pass, node: Node) -> None:
    """out[..., o] = sum over i, j of weight[o, i, j] * x[..., i] * y[..., j] + bias[o]."""
    batch = _LETTERS[: len(run.size(node.args[0])) - 1]
    x, y, weight = node.args[:3]
    contraction(run, node, [(x, batch + "I"), (y, batch + "J"), (weight, "OIJ")], batch + "O")
    if isinstance(node.arg(3, "bias"), Ref):
        add_term(run, node, node.arg(3, "bias"))
