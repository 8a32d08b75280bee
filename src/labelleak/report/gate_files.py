"""Write a gate's findings for machines and pull requests: JUnit XML and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from xml.etree import ElementTree

from labelleak.report.gate import Finding, group
from labelleak.report.markdown import table

# What XML 1.0 cannot hold, escaped or not.
_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(findings: Sequence[Finding], *, source: str) -> str:
    """Return findings as JUnit XML, one test case per rule and cell.

    >>> "failures=\\"1\\"" in junit([Finding("a", "b", False, "no")], source="r.jsonl")
    True
    """
    failures = sum(not finding.passed for finding in findings)
    counts = {"tests": str(len(findings)), "failures": str(failures), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": "labelleak gate", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _fit(source), **counts})
    for finding in findings:
        names = {"classname": _fit(f"labelleak.gate.{finding.rule}"), "name": _fit(finding.cell)}
        case = ElementTree.SubElement(suite, "testcase", {**names, "time": "0"})
        if finding.passed:
            ElementTree.SubElement(case, "system-out").text = _fit(finding.said)
        else:
            ElementTree.SubElement(case, "failure", {"message": _fit(finding.said)})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _fit(text: str) -> str:
    return _UNFIT.sub("\ufffd", text)


def markdown(findings: Sequence[Finding], *, source: str) -> str:
    """Return findings as GitHub-flavoured Markdown: failed ones first, those alike in one row."""
    failed = [finding for finding in findings if not finding.passed]
    passed = [finding for finding in findings if finding.passed]
    verdict = f"failed: {len(failed)} of {len(findings)} checks" if failed else "passed"
    lines = [f"## Label leakage gate {verdict}", "", f"Records: {_cell(source)}", ""]
    lines += _table(failed)
    if passed:
        lines += [f"<details><summary>{len(passed)} passed</summary>", "", *_table(passed)]
        lines += ["</details>", ""]
    lines.append(
        "A gate that passes is no proof of safety: it speaks of the attacks that were run."
    )
    return "\n".join(lines) + "\n"


def _table(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    rows = [[_cell(f.rule), _cell(f.cell), _cell(f.said)] for f in group(findings)]
    return [table(["rule", "cell", "found"], rows), ""]


def _cell(text: str) -> str:
    """Make text inert inside a table's cell."""
    flat = escape(" ".join(_fit(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~#@])", r"\\\1", flat)
