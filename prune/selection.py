"""Selection: which layers a user wants pruned, and how much of them has to stay.

Patterns are those of a shell and speak of modules: ``layer1.*``, ``*.mlp.*``; the name of a module stands for
all that is in it. A bare parameter goes by its own name.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from graph.axes import infer
from graph.channels import Axes
from graph.errors import UsageError
from graph.groups import Group
from graph.program import Program


@dataclass(frozen=True)
class Limit:
    """The least that a layer keeps.

    Attributes:
        pattern: of modules.
        share: of the channels, 0 to 1; None where a number is given.
        units: the number of channels; None where a share is given.
        text: as the user gave it.
    """

    pattern: str
    share: float | None
    units: int | None
    text: str

    def least(self, units: int) -> int:
        """How many of a group's units stay."""
        if self.units is not None:
            return min(self.units, units)
        return math.ceil((self.share or 0.0) * units - 1e-9)


@dataclass(frozen=True)
class Selection:
    """What a user wants pruned.

    Attributes:
        exclude: patterns of modules whose channels stay.
        only: patterns of modules that alone may lose channels; all when empty.
        limits: the least that layers keep.
    """

    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()


def parse_limit(text: str) -> Limit:
    """Read ``layer1.*=0.5`` (a share), ``layer1.*=50%`` or ``fc=64`` (a number of channels).

    Raises:
        UsageError: malformed.
    """
    pattern, equals, value = (part.strip() for part in text.rpartition("="))
    wrong = UsageError(
        f"--limit {text}: not a limit",
        hint="PATTERN=SHARE or PATTERN=NUMBER, such as --limit 'layer1.*=0.5' or --limit fc=64",
    )
    if not equals or not pattern:
        raise wrong
    try:
        if value.isascii() and value.isdigit():
            return Limit(pattern, None, int(value), text)
        share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        raise wrong from None
    if not 0 <= share <= 1:
        raise UsageError(
            f"--limit {text}: a share lies between 0 and 1", hint="a whole number counts channels: fc=64"
        )
    return Limit(pattern, share, None, text)


def select(program: Program, selection: Selection) -> tuple[Axes, Mapping[str, int]]:
    """Find the groups of a program, as far as the user wants them pruned.

    Returns:
        The groups, and for some of them by name the least number of units that they keep.

    Raises:
        UsageError: a pattern matches nothing; near names are told.
    """
    names = tuple(program.tensors)
    pinned: dict[str, str] = {}
    for pattern in selection.exclude:
        pinned |= dict.fromkeys(matching(names, pattern, "--exclude"), f"excluded by {pattern}")
    kept = frozenset(pinned)
    wanted = {n for pattern in selection.only for n in matching(names, pattern, "--only")}
    limited = {limit: frozenset(matching(names, limit.pattern, "--limit")) for limit in selection.limits}

    axes = infer(program, exclude=pinned)
    if selection.only:
        others = [g for g in axes.groups if not _made_first_by(g, wanted)]
        mine = [g for g in axes.groups if _made_first_by(g, wanted)]
        # What has channels of both kinds cannot be pinned as a whole; the least number of units sees to it.
        allowed = {name for g in mine for name, dim in g.tensors if dim == 0}
        reason = "not named by --only"
        more = {n: reason for g in others for n, dim in g.tensors if dim == 0 and n not in allowed}
        if more:
            axes = infer(program, exclude=more | pinned)

    minimum: dict[str, int] = {}
    consumed = {(s.weight, s.weight_dim) for s in axes.sites}
    for group in axes.groups:
        makers = {name for name, dim in group.tensors if (name, dim) not in consumed}
        least = [limit.least(len(group.units)) for limit, found in limited.items() if makers & found]
        if makers & kept or (selection.only and not _made_first_by(group, wanted)):
            least.append(len(group.units))
        if least:
            minimum[group.name] = max(least)
    return axes, minimum


def matching(names: Iterable[str], pattern: str, option: str) -> list[str]:
    """The tensors that a pattern names: by their module, a module around it, or themselves.

    Raises:
        UsageError: there is none.
    """
    names = list(names)
    found = [n for n in names if any(fnmatch.fnmatchcase(p, pattern) for p in _paths(n))]
    if not found:
        known = list(dict.fromkeys(p for n in names for p in _paths(n)))
        near = get_close_matches(pattern.strip("*."), known, 3, 0.5)
        raise UsageError(
            f"{option} {pattern}: no module of the model matches",
            hint=f"did you mean {', '.join(near)}?" if near else "`prune inspect` lists them",
        )
    return found


def _paths(name: str) -> list[str]:
    """The names under which a tensor is known: its own and those of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _made_first_by(group: Group, wanted: set[str]) -> bool:
    """Whether the layer that a group is named after is among the tensors."""
    layer = group.name.rpartition("#")[0] or group.name
    return any(name == layer or name.rpartition(".")[0] == layer for name in wanted)
