"""Judge the records of evidence anew, and tell what it says that does not follow from them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput
from labelleak.records.record import read_records
from labelleak.records.repeats import count_once
from labelleak.report.evidence import Evidence, bind, make_evidence
from labelleak.report.gate import judge
from labelleak.report.gate_standing import BESIDE_RECORDS
from labelleak.report.page import Tables
from labelleak.report.policy import make_policy

# What only whoever filed it can say: for whom, when, and by which policy.
_TOLD = {"who", "when", "policy"}
# Rules on what lies beside the records, which need not be there any more.
_BESIDE = ("finished", BESIDE_RECORDS)


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
    rows = read_records(records)
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
        found = judge(rows, policy)
        once = count_once(rows)
        again = make_evidence(
            once, records, when=filed.when, policy=policy, checks=found, released=released
        )
    named = again.records.model_copy(update={"name": filed.records.name})
    first, last = ([one for one in filed.checks if one.rule == rule] for rule in _BESIDE)
    changed: dict[str, Any] = {"records": named, "checks": [*first, *again.checks, *last]}
    if again.passed is not None:
        changed["passed"] = again.passed and all(one.passed for one in (*first, *last))
    return again.model_copy(update=changed)


def _plain(evidence: Evidence) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(evidence.model_dump(mode="json")))
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
