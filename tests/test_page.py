"""The page: well-formed, without anything from outside, true to its report, whatever the report says."""

from __future__ import annotations

import copy
import json
import math
import re
import shlex
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_reports import REPORT, report, write_curve, write_report

from graph.errors import ModelFileError
from prune import tables
from prune.page import PAGE_FILE, page, write_page
from prune.page_words import commands
from prune.report import Report
from prune.stored import of_report, read_stored
from prune.tables import MISSING

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Parsed(HTMLParser):
    """What a parser finds: the elements in order, their attributes, the texts, and what is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.feed(html)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        return "\n".join(t for tag, t in self.texts if tag != "style")

    @property
    def cells(self) -> list[str]:
        return [t for tag, t in self.texts if tag == "td"]


KNOWN = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "h1", "h2", "h3",
    "p", "div", "span", "b", "i", "ul", "li", "figure", "details", "summary", "table", "thead", "tbody", "tr",
    "th", "td", "pre", "svg", "g", "rect", "line", "path", "text",
}  # fmt: skip


def check(html: str) -> Parsed:
    """Well-formed, of known elements, and asking for nothing."""
    found = Parsed(html)
    assert found.wrong == []
    assert {tag for tag, _ in found.tags} <= KNOWN
    for tag, attrs in found.tags:
        assert not [n for n in attrs if n in ("src", "href", "xlink:href", "srcset") or n.startswith("on")], (
            tag
        )
    style = "".join(t for tag, t in found.texts if tag == "style")
    assert "url(" not in style and "@import" not in style
    assert "<script" not in html and "javascript:" not in " ".join(str(a) for _, a in found.tags)
    return found


@pytest.fixture(scope="module")
def shown() -> Parsed:
    return check(page(of_report(report())))


def test_the_page_forbids_what_it_does_not_need(shown: Parsed) -> None:
    metas = [attrs for tag, attrs in shown.tags if tag == "meta"]
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "script-src" not in policy and "connect-src" not in policy
    assert any(m.get("name") == "viewport" and "width=device-width" in str(m["content"]) for m in metas)


def test_dark_mode_narrow_screens_and_paper_have_a_style(shown: Parsed) -> None:
    style = "".join(t for tag, t in shown.texts if tag == "style")
    dark = style.split("@media(prefers-color-scheme:dark){", 1)[1]
    light = style.split("@media", 1)[0]
    for name in re.findall(r"(--\w+):", light):
        assert f"{name}:" in dark  # every colour has its dark one
    assert "@media(max-width:40rem)" in style and "@media print" in style
    assert style.count("{") == style.count("}")


def test_the_figures_are_those_of_the_report(shown: Parsed) -> None:
    cells = shown.cells
    at = cells.index("MACs")
    assert cells[at : at + 4] == ["MACs", "2.52 M", "1.26 M", "0.499 x"]
    at = cells.index("parameters")
    assert cells[at : at + 4] == ["parameters", "269.43 k", "104.63 k", "0.388 x"]
    at = cells.index("latency, onnxruntime, median")
    assert cells[at : at + 4] == ["latency, onnxruntime, median", "4.000 ms", "2.500 ms", "1.60 x as fast"]
    at = cells.index("accuracy after fine-tuning")
    assert cells[at : at + 4] == ["accuracy after fine-tuning", "87.50%", "93.75%", "+6.25 points"]
    at = cells.index("layer1.0.conv1")
    assert cells[at : at + 5] == ["layer1.0.conv1", "channel", "5", "16", "31.25%"]
    at = cells.index("refinement (taken)")
    assert cells[at : at + 5] == ["refinement (taken)", "75.00%", "0.75", "1.26 M", "7"]
    at = cells.index("--flops 0.5")
    assert cells[at : at + 6] == ["--flops 0.5", "2.52 M", "1.26 M", "1.26 M", "1.26 M", "99.86%"]
    assert "conv1.out_channels" in cells and "some processor" in cells and "ab" * 32 in cells


def test_a_glance_tells_what_came_out(shown: Parsed) -> None:
    told = shown.text
    assert "49.93% of the original's MACs and 38.83% of its parameters, and runs 1.60 x as fast" in told
    assert "Accuracy on 360 records of the test split: 93.75%, the original 87.50% (+6.25 points)" in told
    assert [t for tag, t in shown.texts if tag == "b"] == ["✓"] * 4
    widths = [a["style"] for tag, a in shown.tags if tag == "i"]
    assert widths == [
        "width:49.9%",
        "width:38.8%",
        "width:40.0%",
        "width:62.5%",
        "width:39.7%",
        "width:93.8%",
    ]


def test_what_does_not_hold_is_marked() -> None:
    bad = report()
    bad["verification"]["max_error"] = 1e-3
    bad["onnx"]["max_error"] = 0.5
    bad["limits"][0]["pruned"] = 2_000_000
    bad["native"] = {"runs": False, "reason": "layer1.0 adds what no longer fits", "attributes": []}
    found = check(page(of_report(bad)))
    assert [t for tag, t in found.texts if tag == "b"] == ["✗", "✗", "✗", "–"]
    assert "--flops 0.5 missed" in found.text and "layer1.0 adds what no longer fits" in found.text


def test_a_slower_model_is_called_slower_and_a_spread_is_told() -> None:
    slow = report()
    slow["original"]["onnx_ms"] = {"median": 2.0, "p10": 1.9, "p90": 2.1}
    found = page(of_report(slow))
    assert '<span class="change bad">+25.0%</span>' in found and "0.80 x as fast" in found
    slow["original"]["onnx_ms"]["p90"] = 2.3
    found = page(of_report(slow))
    assert '<span class="change soft">+25.0%</span>' in found and "the spread is wider" in found


def test_the_network_has_a_bar_for_each_layer(shown: Parsed) -> None:
    bars = [a for tag, a in shown.tags if tag == "rect" and "x" in a]
    assert len(bars) == 2 * 4
    heights = {(a["class"], a["x"]): float(str(a["height"])) for a in bars}
    assert heights["gone", "11"] == pytest.approx(200 * 16 / 64)  # of the widest that can be pruned
    assert heights["kept", "11"] == pytest.approx(200 * 5 / 64, abs=0.1)
    assert heights["gone", "31"] == heights["kept", "31"] == 200  # pinned and wider: cut off, and it is said
    assert "wider ones are cut off" in shown.text
    kinds = [a["class"] for tag, a in shown.tags if tag == "g" and "bar" in str(a.get("class"))][:4]
    assert kinds == ["bar c1", "bar c0", "bar c2", "bar c-"]


def test_the_search_shows_plans_baselines_and_the_best_so_far(shown: Parsed) -> None:
    assert "The channels of the result are ranked by magnitude-taylor." in shown.text
    charts = [a["aria-label"] for tag, a in shown.tags if tag == "svg" and a.get("class") == "chart"]
    assert charts == [
        "Reward of each plan", "MACs of each plan", "Accuracy with one group cut", "Loss with one group cut",
        "Loss while fine-tuning", "Accuracy while fine-tuning",
    ]  # fmt: skip
    paths = [(str(a["class"]), str(a["d"])) for tag, a in shown.tags if tag == "path"]
    drawn = [(c, d) for c, d in paths if d not in ("M0 6h18", "M9 6h0")]
    assert sum(d.count("h0") for c, d in drawn if c == "dots c1") >= 7  # plans of the refinement
    assert any(c == "level c0" for c, _ in drawn)  # uniform, one plan
    (steps,) = (d for c, d in drawn if c.startswith("steps"))
    assert steps.count("V") == 7  # better at each plan but the one that was worse, and the end
    assert "best so far" in shown.text and "limit" in shown.text and "taken: epoch 2" in shown.text


def test_commands_can_be_typed(shown: Parsed) -> None:
    typed = [t for tag, t in shown.texts if tag == "pre"]
    assert typed == [
        f"sha256sum -- net.pt  # {'ab' * 32}",
        "prune compress net.pt --flops 0.5 --only '*.mlp.*' -o 'out dir'",
        "prune eval 'out dir'",
        "prune report 'out dir' --plots plots --force",
    ]


def test_a_point_of_a_curve_is_repeated_by_the_curve_and_read_from_its_own_folder() -> None:
    for name in ("0.60", "0.6; rm -rf ~"):
        told = dict(commands(of_report(report(point=name))))
        assert any(why.startswith(f"The run, of which this is point {name}, with prune") for why in told)
        folder = shlex.quote(f"out dir/{name}")
        assert f"prune eval {folder}" in told.values()
        assert f"prune report {folder} --plots plots --force" in told.values()
    assert "<b>" not in page(of_report(report(point="<b>0.6</b>")))


def test_nobody_is_told_to_type_another_command() -> None:
    for words in (["rm", "-rf", "~"], ["prune", "gate"], ["sh", "-c", "prune compress"]):
        with pytest.raises(ModelFileError, match="its command is"):
            page(of_report(report(command=words)))
    (_, typed), *_ = commands(of_report(report(command=["prune", "compress", "x; rm -rf ~"], model={})))
    assert typed == "prune compress 'x; rm -rf ~'"


def test_without_data_nothing_is_claimed() -> None:
    bare = report(data={"name": None, "notes": []}, tune={"epochs": 0}, accuracy={}, sensitivity=None)
    bare["search"] = {"winner": "uniform", "best": {}, "trials": []}
    for name in ("original", "pruned"):
        bare[name] |= {"accuracy": None, "accuracy_before_tuning": None}
    found = check(page(of_report(bare)))
    assert "Accuracy was not measured" in found.text and "not measured" in found.text
    assert "Nothing was searched for" in found.text and "was not fine-tuned" in found.text
    at = found.cells.index("accuracy, not fine-tuned")
    assert found.cells[at + 1 : at + 4] == [MISSING] * 3
    assert not [1 for tag, a in found.tags if a.get("class") == "chart"]


def test_the_sensitivity_is_drawn_and_told(shown: Parsed) -> None:
    assert "Each group cut alone, all others whole, on 256 records" in shown.text
    row = ["conv1", "channel", "16", "75.00%", "2,000,000", "68.75%", "-18.75 points", "0.75", "0.25"]
    starts = [i for i in range(len(shown.cells)) if shown.cells[i : i + 2] == row[:2]]
    assert row in [shown.cells[i : i + len(row)] for i in starts]


def test_a_report_without_layers_shows_its_groups() -> None:
    old = report()
    del old["plan"]["layers"], old["plan"]["kinds"]
    found = check(page(of_report(old)))
    assert "Units of each group" in found.text
    assert len([1 for tag, a in found.tags if tag == "rect" and "x" in a]) == 2 * 3


def test_nothing_but_the_format_is_needed() -> None:
    found = check(page(of_report({"format": "prune-report", "schema": 2})))
    assert "a model, without data" in found.text and MISSING in found.text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "</style><style>*{display:none}",
    "</svg></title><b>",
    "&lt;b&gt;&amp;",
    "line\nfeed\r\x00\x1b[31m\x07",
    "\u202eright to left\u2066",
    "<!--",
    "]]>",
    "x" * 100_000,
    "url(https://example.org)@import",
]


def everywhere(data: Any, name: str) -> Any:
    """The same report with every text and every free key replaced."""
    if isinstance(data, dict):
        free = "conv1" in data or "uniform" in data or "python" in data
        return {(f"{name}{k}" if free else k): everywhere(v, name) for k, v in data.items()}
    if isinstance(data, list):
        return [everywhere(v, name) for v in data]
    return name if isinstance(data, str) else data


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_name_is_text_wherever_it_stands(name: str) -> None:
    data = everywhere(report(), name)
    data |= {"format": "prune-report", "schema": 2, "command": ["prune", "compress", name, "-o", name]}
    found = check(page(of_report(data)))
    # The same elements as with a plain name; only names of files have a line for their SHA-256.
    kinds, plain = ([t for t, _ in f.tags if t not in ("p", "pre")] for f in (found, plain_page()))
    assert kinds == plain
    told = name[:150].encode("unicode_escape").decode() if not name.isprintable() else name[:150]
    assert told in found.text
    assert all(c.isprintable() or c == "\n" for c in found.text)


@cache
def plain_page() -> Parsed:
    data = everywhere(report(), "plain") | {"format": "prune-report", "schema": 2}
    return check(page(of_report(data | {"command": ["prune", "compress", "plain", "-o", "plain"]})))


def test_what_is_no_number_says_so() -> None:
    odd = report()
    odd["pruned"]["macs"], odd["pruned"]["accuracy"] = math.nan, math.nan
    odd["original"]["params"] = math.inf
    odd["original"]["memory_bytes"] = 0
    odd["pruned"]["onnx_ms"] = {}
    odd["search"]["trials"][2]["worth"] = math.nan
    odd["tune"]["history"][0]["loss"] = -math.inf
    found = check(page(of_report(odd)))
    at = found.cells.index("MACs")
    assert found.cells[at : at + 4] == ["MACs", "2.52 M", "NaN", MISSING]
    at = found.cells.index("parameters")
    assert found.cells[at : at + 4] == ["parameters", "infinite", "104.63 k", MISSING]
    at = found.cells.index("latency, onnxruntime, median")
    assert found.cells[at + 2] == MISSING
    assert "-infinite" in found.cells
    numbers = " ".join(str(v) for _, a in found.tags for k, v in a.items() if k in ("d", "x", "y", "height"))
    assert "nan" not in numbers and "inf" not in numbers


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e18, -1e18, 5e-324, 1e300])
def test_any_number_can_be_drawn(value: float) -> None:
    odd = report()
    for i, trial in enumerate(odd["search"]["trials"]):
        trial["worth"] = value if i % 2 else 0.0
    for epoch in odd["tune"]["history"]:
        epoch["loss"] = value
    check(page(of_report(odd)))


def test_a_long_search_stays_a_small_page() -> None:
    long = report()
    long["search"]["trials"] *= 3000
    html = page(of_report(long))
    assert len(html) < 500_000
    assert "and 23,600 more" in check(html).text


# From files


def test_a_page_is_written_beside_the_report_and_is_always_the_same(tmp_path: Path) -> None:
    path = write_report(tmp_path, report())
    for name in (path, tmp_path):
        write_page(read_stored(name), tmp_path / PAGE_FILE)
        assert (tmp_path / PAGE_FILE).read_text(encoding="utf-8") == page(of_report(report()))


def test_a_curve_has_a_page(tmp_path: Path) -> None:
    found = check(page(read_stored(write_curve(tmp_path / "curve"))))
    charts = [a["aria-label"] for tag, a in found.tags if tag == "svg" and a.get("class") == "chart"]
    assert charts == ["Accuracy over the share of the MACs", "Latency over the share of the MACs"]
    at = found.cells.index("0.40")
    assert found.cells[at : at + 8] == [
        "0.40", "0.600 x", "60", "48", "4.00 kB", "50.00%", "75.00%", "1.500 ms",
    ]  # fmt: skip
    assert found.cells.count("dominated") == 1
    assert "Point 0.60" in found.text and "Point 0.40" in found.text
    assert "prune compress net.pt --pareto 0.6,0.4 -o curve" in found.text


def test_a_curve_without_its_points_reports_still_has_one(tmp_path: Path) -> None:
    folder = write_curve(tmp_path / "curve")
    for name in ("0.60", "0.40"):
        (folder / name / "report.json").unlink()
    assert "0.40" in check(page(read_stored(folder / "pareto.json"))).cells


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/b", "..", "", "a\x00b", "0.40/../../x"])
def test_a_points_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    write_report(tmp_path / "outside", report())
    with pytest.raises(ModelFileError, match="a point is called"):
        read_stored(write_curve(tmp_path / "curve", names=("0.40", name)))


BROKEN: list[tuple[str, Any]] = [
    ("command", "prune compress"), ("command", [1]), ("environment", []), ("model", "x"), ("limits", {}),
    ("limits", [1]), ("original", 3), ("pruned", {"macs": "many"}), ("pruned", {"macs": True}),
    ("pruned", {"macs": 10**30}), ("pruned", {"onnx_ms": 3}), ("search", {"trials": 3, "best": {"a": {}}}),
    ("search", {"best": {"a": 1}}), ("plan", {"groups": {"a": [1]}}), ("plan", {"groups": {"a": [1, "2"]}}),
    ("plan", {"groups": {"a": [-1, 2]}}), ("plan", {"layers": [{"name": 3}]}), ("tune", {"history": [[]]}),
    ("verification", {"ran": "yes"}), ("native", {"attributes": 1}), ("data", {"notes": "x"}),
    ("latency_check", []), ("onnx", {"max_error": "small"}),
]  # fmt: skip


@pytest.mark.parametrize(("section", "value"), BROKEN, ids=range(len(BROKEN)))
def test_what_is_malformed_is_named(tmp_path: Path, section: str, value: Any) -> None:
    path = write_report(tmp_path, report(**{section: value}))
    with pytest.raises(ModelFileError) as caught:
        write_page(read_stored(path), tmp_path / PAGE_FILE)
    assert "malformed" in str(caught.value) and section in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
    assert not (tmp_path / PAGE_FILE).exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", '{"format": "prune-plan"}', '{"format": "prune-report", "schema": 1}',
     '{"format": "prune-pareto", "schema": 2}', '{"format": "prune-pareto", "schema": 1, "points": []}',
     "[" * 100_000, "\x00\x01", '{"format": "prune-report", "schema": 2, "seed": ' + "9" * 5000 + "}"],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ModelFileError) as caught:
        page(read_stored(path))
    assert "\n" not in str(caught.value) and caught.value.hint


def test_other_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_stored(tmp_path / "nothing.json")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_stored(tmp_path / ("x" * 5000))
    with pytest.raises(ModelFileError, match="no regular file"):
        read_stored(Path("/dev/zero"))
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(ModelFileError, match="more than"):
        read_stored(large)


JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in items for found in [(*path, key), *places(value, (*path, key))]]


PLACES = places({k: v for k, v in REPORT.items() if k not in ("format", "schema")})


@settings(max_examples=300, deadline=None, derandomize=True)
@given(where=st.sampled_from(PLACES), junk=JUNK)
def test_junk_anywhere_is_shown_or_refused(where: tuple[Any, ...], junk: Any) -> None:
    data = copy.deepcopy(REPORT)
    target: Any = data
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = junk
    try:
        html = page(of_report(data))
    except ModelFileError as err:
        assert "malformed" in str(err) and "\n" not in str(err)
        return
    assert Parsed(html).wrong == []
    json.dumps(data)


def test_states_and_bits_of_a_language_model() -> None:
    accuracy = {"split": "test", "records": 9, "each": "byte",
                "bits": {"original": 1.875, "before_tuning": 2.0, "after_tuning": 1.9375}}  # fmt: skip
    states = {"asked": "0.5", "criterion": "output", "scope": "layer", "checkpoint": None,
              "layers": [{"name": "layers.0.mixer", "states": 16, "kept": [[0, 2, 3]]},
                         {"name": "layers.1.mixer", "states": 16, "kept": "lost"}]}  # fmt: skip
    stored = of_report(report(accuracy=accuracy, states=states))
    assert [[str(c) for c in row] for row in tables.states(stored.run).rows] == [
        ["layers.0.mixer", "3", "16", "18.75%"], ["layers.1.mixer", "–", "16", "–"],
    ]  # fmt: skip
    html = page(stored)
    assert (
        "1.938 bits per byte, the original 1.875" in html
        and "judged by output, each layer for itself." in html
    )
    everywhere_alike = page(of_report(report(states=states | {"scope": "global"})))
    assert "judged by output, one threshold over all layers." in everywhere_alike
    rows = {str(r[0]): [str(c) for c in r[1:]] for r in tables.figures(stored.run).rows}
    assert rows["bits per byte, of the result"] == ["1.875", "1.938", "1.033 x"]
    assert "States" not in page(of_report(report()))


def test_blocks_that_went() -> None:
    blocks = {"asked": "0.75", "criterion": "loss", "blocks": ["a.0", "a.1", "a.2", "a.3"],
              "loss_of_all": 1.25, "dropped": [{"name": "a.<2>", "score": 1.375}], "records": 64}  # fmt: skip
    html = page(of_report(report(blocks=blocks)))
    assert "Asked for 0.75 of 4 blocks, judged by loss, which is 1.2500 with all of them" in html
    assert "a.&lt;2&gt;" in html and "1.375" in html and "loss without it" in html
    assert "Blocks that went" not in page(of_report(report()))


def test_a_real_reports_sections_are_all_known() -> None:
    assert {f for f in Report.__dataclass_fields__} <= REPORT.keys()
