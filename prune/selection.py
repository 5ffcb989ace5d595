"""Selection: which layers a user wants pruned, and how much of them has to stay.

Patterns are those of a shell and speak of modules: ``layer1.*``, ``*.mlp.*``; the name of a module stands for
all that is in it. A bare parameter goes by its own name.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import get_args

import numpy as np

from graph.axes import infer
from graph.channels import Axes
from graph.errors import UsageError
from graph.groups import Group, Kind
from graph.program import Program
from graph.suggest import suggestion

Texts = str | Sequence[str] | None


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
        kinds: of the groups that alone may be pruned; all when empty.
    """

    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    kinds: tuple[Kind, ...] = ()


def remaining(selection: Selection, program: Program) -> Selection:
    """A selection for what is left of a model: patterns of modules that went are dropped.

    Where all that ``only`` names went, nothing is left to prune.
    """

    def there(pattern: str) -> bool:
        return any(_matches(name, pattern) for name in program.tensors)

    only = tuple(filter(there, selection.only))
    return replace(
        selection,
        exclude=("*",) if selection.only and not only else tuple(filter(there, selection.exclude)),
        only=only,
        limits=tuple(limit for limit in selection.limits if there(limit.pattern)),
    )


def parse_selection(
    exclude: Texts = None, only: Texts = None, limit: Texts = None, kinds: Texts = None
) -> Selection:
    """Read what may be pruned from the flags of these names.

    Raises:
        UsageError: a malformed limit, or no such kind.
    """
    words = ",".join(_several(kinds))
    return Selection(
        _several(exclude),
        _several(only),
        tuple(parse_limit(text) for text in _several(limit)),
        parse_kinds(words) if words else (),
    )


def _several(texts: Texts) -> tuple[str, ...]:
    if texts is None:
        return ()
    return (texts,) if isinstance(texts, str) else tuple(texts)


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Read ``head,mlp``.

    Raises:
        UsageError: there is no such kind.
    """
    words = [word.strip() for word in text.split(",")]
    known: tuple[Kind, ...] = get_args(Kind)
    if words == [""]:
        raise UsageError("--kinds names no kind", hint=f"such as --kinds head,mlp; known: {', '.join(known)}")
    for word in words:
        if word not in known:
            raise UsageError(f"--kinds {text}: no kind {word!r}", hint=suggestion(word, known))
    return tuple(kind for kind in known if kind in words)


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
    excluded: dict[str, str] = {}
    for pattern in selection.exclude:
        excluded |= dict.fromkeys(matching(names, pattern, "--exclude"), f"excluded by {pattern}")
    only = {n for pattern in selection.only for n in matching(names, pattern, "--only")}
    limited = {limit: frozenset(matching(names, limit.pattern, "--limit")) for limit in selection.limits}

    def reason(group: Group, makers: set[str]) -> str | None:
        """Why a group is to stay whole, if it is."""
        found = next((why for name, why in excluded.items() if name in makers), None)
        if found is None and selection.only and not _made_first_by(group, only):
            return "not named by --only"
        if found is None and selection.kinds and group.kind not in selection.kinds:
            return f"of kind {group.kind}, not named by --kinds"
        return found

    axes = infer(program)
    if excluded or only or selection.kinds:
        # Told to inference, so that what stays is no decision at all. A tensor that makes channels of
        # both kinds cannot be told: the least number of units sees to these.
        why = {g.name: reason(g, makers) for g, makers in _makers(axes)}
        free = {name for g in axes.groups if why[g.name] is None for name, dim in g.tensors if dim == 0}
        pinned = {
            name: told
            for g, makers in _makers(axes, dim=0)
            if (told := why[g.name]) is not None
            for name in makers - free
        }
        axes = _with_kinds(infer(program, exclude=pinned), axes) if pinned else axes

    minimum: dict[str, int] = {}
    for group, makers in _makers(axes):
        least = [limit.least(len(group.units)) for limit, found in limited.items() if makers & found]
        if reason(group, makers) is not None:
            least.append(len(group.units))
        if least:
            minimum[group.name] = max(least)
    return axes, minimum


def _with_kinds(axes: Axes, whole: Axes) -> Axes:
    """Groups with the kinds that they have where nothing is pinned: a kind is read off what is beside it."""
    kinds = {place: g.kind for g in whole.groups for place in _places(whole, g)}
    groups = (
        replace(g, kind=next((kinds[p] for p in _places(axes, g) if p in kinds), g.kind)) for g in axes.groups
    )
    return replace(axes, groups=tuple(groups))


def _places(axes: Axes, group: Group) -> Iterator[tuple[str, int, int]]:
    """Where the units of a group stand in its tensors: name, dimension and position."""
    for name, dim in group.tensors:
        labels = axes.weights[name][dim].labels
        if labels.size == labels.shape[dim]:
            for position in np.flatnonzero(np.isin(labels.ravel(), group.units)):
                yield name, dim, int(position)


def _makers(axes: Axes, dim: int | None = None) -> Iterator[tuple[Group, set[str]]]:
    """Each group with the tensors that make its channels, or scale them, rather than consume them."""
    consumed = {(s.weight, s.weight_dim) for s in axes.sites}
    for group in axes.groups:
        made = ((n, d) for n, d in group.tensors if (n, d) not in consumed)
        yield group, {n for n, d in made if dim in (None, d)}


def matching(names: Iterable[str], pattern: str, option: str) -> list[str]:
    """The tensors that a pattern names: by their module, a module around it, or themselves.

    Raises:
        UsageError: there is none.
    """
    names = list(names)
    found = [n for n in names if _matches(n, pattern)]
    if not found:
        known = list(dict.fromkeys(p for n in names for p in _paths(n)))
        near = get_close_matches(pattern.strip("*."), known, 3, 0.5)
        raise UsageError(
            f"{option} {pattern}: no module of the model matches",
            hint=f"did you mean {', '.join(near)}?" if near else "`prune inspect` lists them",
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for path in _paths(name))


def _paths(name: str) -> list[str]:
    """The names under which a tensor is known: its own and those of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _made_first_by(group: Group, wanted: set[str]) -> bool:
    """Whether the layer that a group is named after is among the tensors."""
    layer = group.name.rpartition("#")[0] or group.name
    return any(name == layer or name.rpartition(".")[0] == layer for name in wanted)
