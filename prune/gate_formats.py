"""How the gate's verdict is written: JSON, Markdown, JUnit's XML, and annotations of GitHub's workflows.

Names in a report are whatever its author wrote; each format has its own escape for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from graph.errors import OutputError
from prune.escaping import code, markdown, plain, workflow_message, workflow_property
from prune.gate import Judged, Status, worst

FORMATS = ("table", "json", "markdown", "junit", "github")
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
_MARKS: dict[Status, str] = {"pass": "✅ kept", "broken": "❌ broken", "unjudged": "⚠️ not judged"}


def verdict(judged: Sequence[Judged]) -> Status:
    """The verdict on all files."""
    return worst([j.status for j in judged])


def as_json(judged: Sequence[Judged]) -> str:
    """JSON with every check of every file."""
    data: dict[str, Any] = {
        "format": "prune-gate",
        "schema": 1,
        "result": verdict(judged),
        "files": [
            {
                "file": j.path,
                "kind": j.kind,
                "result": j.status,
                "checks": [
                    {
                        "budget": c.budget,
                        "result": c.status,
                        "limit": c.bound,
                        "value": c.found,
                        "told": c.told,
                    }
                    for c in j.checks
                ],
            }
            for j in judged
        ],
    }
    return json.dumps(data, indent=2)


def as_markdown(judged: Sequence[Judged]) -> str:
    """A table for each file."""
    lines = []
    for found in judged:
        lines += [f"### {code(found.path)}: {_MARKS[found.status]}", ""]
        lines += ["| budget | limit | found | |", "|---|---|---|---|"]
        for c in found.checks:
            value = c.value or c.told
            cells = (c.budget, c.limit, value, _MARKS[c.status])
            lines.append("| " + " | ".join(markdown(cell) for cell in cells[:3]) + f" | {cells[3]} |")
        lines.append("")
    return "\n".join(lines)


def as_junit(judged: Sequence[Judged]) -> str:
    """XML as JUnit writes it: a suite for each file, a case for each budget; unjudged ones are errors."""
    root = ElementTree.Element("testsuites", name="prune gate")
    for found in judged:
        name = plain(found.path)
        counts = {
            "tests": len(found.checks),
            "failures": sum(c.status == "broken" for c in found.checks),
            "errors": sum(c.status == "unjudged" for c in found.checks),
        }
        attributes = {"name": name, **{key: str(count) for key, count in counts.items()}}
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        for c in found.checks:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=plain(c.budget))
            if c.status != "pass":
                tag = "failure" if c.status == "broken" else "error"
                ElementTree.SubElement(case, tag, message=plain(c.told))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode()


def as_github(judged: Sequence[Judged]) -> str:
    """Annotations: an error for each budget that is broken or cannot be judged, a notice for a pass."""
    lines = []
    for found in judged:
        where = f"file={workflow_property(found.path)}"
        if found.status == "pass":
            told = "kept: " + ", ".join(c.budget for c in found.checks)
            lines.append(f"::notice {where},title=prune gate::{workflow_message(told)}")
        for c in found.checks:
            if c.status != "pass":
                title = workflow_property(f"{c.budget} {'broken' if c.status == 'broken' else 'not judged'}")
                lines.append(f"::error {where},title={title}::{workflow_message(c.told)}")
    return "\n".join(lines)


def written(judged: Sequence[Judged], form: str) -> str:
    """The verdict in one of ``FORMATS`` but the table, which is drawn elsewhere."""
    forms = {"json": as_json, "markdown": as_markdown, "junit": as_junit, "github": as_github}
    return forms[form](judged)


def append_summary(judged: Sequence[Judged]) -> None:
    """Add the table to the summary of the workflow's step, where there is one.

    Raises:
        OutputError: the file cannot be written.
    """
    path = os.environ.get(SUMMARY_VARIABLE)
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(as_markdown(judged) + "\n")
    except OSError as err:
        raise OutputError(
            f"{SUMMARY_VARIABLE}: {plain(path)} cannot be written: {err.strerror}", hint="unset the variable"
        ) from err
