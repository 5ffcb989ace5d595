"""Selection: what is excluded, what alone is pruned, and how much has to stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graph.capture import capture
from graph.errors import TargetError, UsageError
from graph.program import Program
from prune.budget import Budget
from prune.selection import Selection, parse_kinds, parse_limit, select
from prune.widths import WidthSpace


class Net(nn.Module):
    """Two hidden layers, an embedding that is a bare parameter, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(12, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 12, 1))
        self.up = nn.ConvTranspose2d(12, 16, 2, stride=2)
        self.scale = nn.Parameter(torch.rand(16, 1, 1))
        self.fc = nn.Linear(16, 10)
        self.classifier = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.block(x)
        x = self.up(x) * self.scale
        return self.classifier(self.fc(x.mean((2, 3))).relu())


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture(Net().eval(), [torch.randn(2, 3, 8, 8)])


def lowest(program: Program, **options: tuple[str, ...]) -> dict[str, int]:
    """The fewest units that each group may keep."""
    limits = tuple(parse_limit(t) for t in options.pop("limits", ()))
    axes, minimum = select(program, Selection(**options, limits=limits))
    space = WidthSpace(axes, minimum=minimum)
    widths = space.widths(torch.zeros(space.bundles, dtype=torch.int64).numpy())
    return {g.name: int(w) for g, w in zip(axes.groups, widths, strict=True)}


def test_everything_goes_where_nothing_is_said(program: Program) -> None:
    assert lowest(program) == {"stem": 1, "block.0": 1, "up": 1, "fc": 1}


@pytest.mark.parametrize(
    ("pattern", "free"),
    [
        ("block*", {"up", "fc"}),  # block.2 makes the stem's channels, too
        ("block.0", {"stem", "up", "fc"}),
        ("fc", {"stem", "block.0", "up"}),
        ("up", {"stem", "block.0", "fc"}),
        ("scale", {"stem", "block.0", "fc"}),  # a bare parameter
        ("classifier*", {"stem", "block.0", "up", "fc"}),  # its outputs stay in any case
    ],
)
def test_excluded_modules_keep_their_channels(program: Program, pattern: str, free: set[str]) -> None:
    widths = lowest(program, exclude=(pattern,))
    assert {name for name, width in widths.items() if width == 1} == free


@pytest.mark.parametrize(
    ("patterns", "free"),
    [
        (("block",), {"block.0"}),  # the stem's channels are not the block's own
        (("block.0", "fc"), {"block.0", "fc"}),
        (("stem",), {"stem"}),
        (("*",), {"stem", "block.0", "up", "fc"}),
    ],
)
def test_only_what_is_named_is_pruned(program: Program, patterns: tuple[str, ...], free: set[str]) -> None:
    widths = lowest(program, only=patterns)
    assert {name for name, width in widths.items() if width == 1} == free


class Block(nn.Module):
    """Attention of four heads of three lanes, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], x.shape[1], 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(self.up(x).relu())


@pytest.mark.parametrize(
    ("kinds", "free"), [("head", {"head"}), ("mlp,lane", {"lane", "mlp"}), ("lane , head", {"lane", "head"})]
)
def test_only_groups_of_the_kinds_that_are_named_are_pruned(kinds: str, free: set[str]) -> None:
    program = capture(Block().eval(), [torch.randn(2, 5, 12)])
    axes, minimum = select(program, Selection(kinds=parse_kinds(kinds)))
    space = WidthSpace(axes, minimum=minimum)
    least = space.widths(torch.zeros(space.bundles, dtype=torch.int64).numpy())
    assert {g.kind for g, n in zip(axes.groups, least, strict=True) if n < len(g.units)} == free


def test_a_kind_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="no kind 'heads'") as caught:
        parse_kinds("mlp,heads")
    assert caught.value.hint == "did you mean head?"
    with pytest.raises(UsageError) as caught:
        parse_kinds("zebra")
    assert caught.value.hint.startswith("one of channel, ") and "residual" in caught.value.hint


def test_limits_hold_in_the_layers_that_make_the_channels(program: Program) -> None:
    widths = lowest(program, limits=("block.0=0.5", "fc=7", "up=25%"))
    assert widths == {"stem": 1, "block.0": 10, "up": 4, "fc": 7}
    assert lowest(program, limits=("*=0.5",)) == {"stem": 6, "block.0": 10, "up": 8, "fc": 5}
    # The greater of two limits holds; more than there are means all; block.2 makes the stem's channels.
    assert lowest(program, limits=("fc=3", "f*=0.5"))["fc"] == 5
    assert lowest(program, limits=("fc=999",))["fc"] == 10
    assert lowest(program, limits=("block.2=9",))["stem"] == 9
    assert lowest(program, limits=("classifier=3",))["fc"] == 1


def test_options_go_together(program: Program) -> None:
    widths = lowest(program, only=("block", "fc"), exclude=("fc",), limits=("block.0=0.3",))
    assert {n: w for n, w in widths.items() if n == "block.0"} == {"block.0": 6}
    assert widths.get("fc", 10) == 10 and widths.get("stem", 12) == 12


def test_limits_out_of_reach_say_what_is_reachable(program: Program) -> None:
    axes, minimum = select(program, Selection(limits=(parse_limit("*=0.9"),)))
    space = WidthSpace(axes, minimum=minimum)
    with pytest.raises(TargetError, match="cannot be reached") as caught:
        Budget.of(space, macs=space.base_macs // 2).check_reachable()
    assert "lowest reachable" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        ({"exclude": ("blok",)}, "--exclude blok", "did you mean block"),
        ({"only": ("clasifier*",)}, "--only clasifier", "did you mean classifier"),
        ({"limits": (parse_limit("zzzzzz=0.5"),)}, "--limit zzzzzz", "prune inspect"),
    ],
)
def test_a_pattern_that_matches_nothing(program: Program, options: dict, says: str, hint: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        select(program, Selection(**options))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "share", "units"),
    [
        ("a.*=0.5", 0.5, None),
        ("a=50%", 0.5, None),
        ("a=64", None, 64),
        ("a=1.0", 1.0, None),
        ("b = 3", None, 3),
    ],
)
def test_limits_are_read(text: str, share: float | None, units: int | None) -> None:
    found = parse_limit(text)
    assert (found.share, found.units) == (share, units) and found.pattern in ("a", "a.*", "b")


@pytest.mark.parametrize("text", ["a", "=3", "a=", "a=x", "a=-1", "a=1.5", "a=nan", "a=200%", ""])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        parse_limit(text)
