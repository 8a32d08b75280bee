"""Judge the records of evidence anew, and tell what it says that does not follow from them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput
from labelleak.records.repeats import count_once
from labelleak.records.whole import read_frame
from labelleak.report.evidence import Evidence, bind, make_evidence, to_text
from labelleak.report.gate import judge
from labelleak.report.gate_standing import AUDITED, FINISHED, judge_beside
from labelleak.report.page import Tables
from labelleak.report.policy import make_policy

# What only whoever filed it can say: for whom, when, and by which policy.
_TOLD = {"who", "when", "policy"}
# Rules on what lies beside the records; what was filed of it need not be there any more.
_BESIDE = (FINISHED, AUDITED)


def differing(filed: Evidence, records: Path) -> list[str]:
    """Name the keys of evidence that the records do not bear out; none if all follow from them.

    Args:
        filed: the evidence.
        records: the very file that it is of.

    Raises:
        BadInput: if the records cannot be read or judged.
    """
    again = _judge_again(filed, records)
    mine, theirs = (_plain(one) for one in (filed, again))
    return sorted(key for key in mine if key not in _TOLD and not _alike(mine[key], theirs[key]))


def _judge_again(filed: Evidence, records: Path) -> Evidence:
    rows = read_frame(records)
    released = filed.released
    if released is not None:
        try:
            released = bind(rows, released.name, released.digest)
        except BadInput:
            released = None  # it is none of theirs
    if filed.policy is None:
        tables = Tables.of(rows)
        again = make_evidence(
            tables.records, records, when=filed.when, verdict=tables.verdict, released=released
        )
    else:
        policy = make_policy(filed.policy, "the policy of the evidence")
        first, last = judge_beside(records)
        found = [*first, *judge(rows, policy), *last]
        once = count_once(rows)
        again = make_evidence(
            once, records, when=filed.when, policy=policy, checks=found, released=released
        )
    named = replace(again.records, name=filed.records.name)
    checks = [one for one in again.checks if one.rule not in _BESIDE]
    for rule, place in ((FINISHED, 0), (AUDITED, len(checks) + 1)):
        of_rule = [[c for c in one.checks if c.rule == rule] for one in (filed, again)]
        checks[place:place] = of_rule[0] or of_rule[1]
    changed: dict[str, Any] = {"records": named, "checks": checks}
    if again.passed is not None:
        changed["passed"] = all(one.passed for one in checks)
    return replace(again, **changed)


def _plain(evidence: Evidence) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(to_text(evidence))
    return found


def _alike(one: Any, other: Any) -> bool:
    """Compare JSON values; figures may differ by what another machine rounds otherwise."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


__all__ = ["differing"]
