"""Rules of operators that work element by element."""

from __future__ import annotations

from torch import Tensor

from graph.labels import Pass
from graph.program import Node, Ref
from graph.rules.reductions import largest
from graph.rules.registry import rule
from graph.rules.statements import carry, meet, pin_operands


@rule("sym_size", "floordiv", "mod", "item", "_local_scalar_dense")
def number(run: Pass, node: Node) -> None:
    """A size as a number: carries no labels."""


@rule(
    "relu", "relu6", "hardtanh", "sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid",
    "leaky_relu", "elu", "selu", "celu", "mish", "softplus", "log_sigmoid",
    "hardshrink", "softshrink", "clamp", "clamp_min", "clamp_max", "clip", "neg", "negative",
    "abs", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "square",
    "pow", "sin", "cos", "tan", "erf", "erfc", "sign", "round", "floor", "ceil", "trunc", "frac", "dropout",
    "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "clone", "contiguous", "detach", 
    "alias", "to", "_to_copy", "type_as", "add", "sub", "subtract", "mul", "multiply", "div", "divide",
    "true_divide", "floor_divide", "remainder", "fmod", "rsub", "maximum", "minimum", "max", "min", "fmax",
    "fmin", "where", "masked_fill", "addcmul", "addcdiv", "lerp", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and", "bitwise_or",
    "bitwise_xor", "__and__", "__or__", "__xor__", "__rshift__", "__lshift__", "prelu", "zeros_like",
    "ones_like", "full_like", "empty_like", "isnan", "isinf", "isfinite", "nan_to_num", "threshold", "atan",
    "atan2", "asin", "acos", "sinh", "cosh", "sinc", "sgn", "real", "imag", "conj", "_conj", "angle",
    "complex", "polar", "copy", "lift_fresh_copy", "bool", "float", "xlogy", "logaddexp", "hypot",
    "special_expit", "expand_as", "fill", "zero", "rrelu",
    "bitwise_left_shift", "bitwise_right_shift", "conj_physical", "_conj_physical", "copysign", "deg2rad",
    "digamma", "erfinv", "gcd", "heaviside", "i0", "igamma", "igammac", "isneginf", "isposinf", "lcm",
    "ldexp", "lgamma", "logaddexp2", "mvlgamma", "nextafter", "polygamma", "positive", "rad2deg", "signbit",
    "acosh", "asinh", "atanh", "special_bessel_j0", "special_bessel_j1", "special_entr", "special_erfcx",
    "special_i0e", "special_i1", "special_i1e", "special_log_ndtr", "special_ndtri", "special_xlog1py",
    "special_zeta", "absolute", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh",
    "fix", "float_power", "greater", "greater_equal", "less", "less_equal", "not_equal", "isclose",
    "isreal", "logit", "resolve_conj", "resolve_neg", "lift", "lift_fresh", "special_digamma",
    "special_erf", "special_erfc", "special_erfinv", "special_exp2", "special_expm1", "special_gammaln",
    "special_log1p", "special_logit", "special_ndtr", "special_psi", "special_round", "special_sinc",
    "special_xlogy", "special_polygamma", "special_i0", "special_gammainc", "special_gammaincc",
    "special_multigammaln",
)  # fmt: skip
def elementwise(run: Pass, node: Node) -> None:
    """Broadcasting: where two operands are both longer than 1, index i of one is index i of the other."""
    operands = run.operands(node)
    if not operands:  # numbers: sizes, and what is computed from them
        return
    if node.base in ("max", "min") and not node.op.endswith(".other"):
        return largest(run, node)
    if not isinstance(run.full[node.name], Tensor):
        return pin_operands(run, node, f"becomes positions in {node.op}")
    rank = len(run.full[node.name].shape)
    if node.base == "prelu":
        return _prelu(run, node, operands)
    if node.base in ("to", "type_as"):
        operands = operands[:1]  # the second one names a type alone
    if node.base in ("copy", "fill"):
        operands = operands[1:] + operands[:1]
    for dim in range(rank):
        present = [(r, dim - rank + len(run.size(r))) for r in operands]
        present = [(r, d) for r, d in present if d >= 0 and run.size(r)[d] > 1]
        meet(run, node, dim, rank, present)


def _prelu(run: Pass, node: Node, operands: list[Ref]) -> None:
    x, weight = operands
    carry(run, node, x, 1)
    labels = run.along(x, 1, node) if len(run.size(x)) > 1 else None
    if labels is not None:
        run.bind(weight, 0, labels, node)
        run.put(node.name, 1, labels)
