"""One rule per family of operators: how the labels of its operands and of its result belong together.

A rule is a function of a ``Pass`` and a node. It says which labels are equal, which are summed over, which
must stay, and what labels the result carries. An operator without a rule pins whatever enters it and is
reported by name; nothing unknown is treated as element-wise.
"""

from graph.rules import (  # noqa: F401 - a module registers its rules when it is loaded
    attention,
    contractions,
    convolutions,
    distances,
    lookups,
    moves,
    norms,
    pointwise,
    recurrences,
    reductions,
    transforms,
    windows,
)
from graph.rules.moves import enter
from graph.rules.registry import CONTRACTIONS, apply, known_operators

__all__ = ["CONTRACTIONS", "apply", "enter", "known_operators"]
