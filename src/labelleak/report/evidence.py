"""Evidence that can be filed: what was audited, what was found and by what it was judged.

It shows integrity, not authorship: whoever has it can tell that records and update are the ones
that were judged, and not who judged them. Sign the file with tools of your own.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from labelleak.errors import BadInput, shown_value
from labelleak.records.cells import Cell
from labelleak.records.frame import RecordFrame
from labelleak.records.intervals import LEVEL
from labelleak.records.reading import open_regular
from labelleak.records.record import Record
from labelleak.report import scope, wording
from labelleak.report.about import NOBODY, About
from labelleak.report.actions import LEFT
from labelleak.report.gate import Finding
from labelleak.report.policy import Policy
from labelleak.report.verdict import ENOUGH_TRIALS, GRADES, Verdict, reach_verdict

FORMAT: Literal["labelleak evidence 1"] = "labelleak evidence 1"
_PIECE = 2**20
# Our threat models in the words of NIST AI 100-2: what the attacker knows and can do.
NIST = {
    "update": "privacy attack at training time; the attacker controls the aggregation server and "
    "reads updates, without use of the model (gray-box)",
    "model": "privacy attack at training time; the attacker controls the aggregation server and "
    "holds the model (white-box)",
    "auxiliary": "privacy attack at training time; the attacker controls the aggregation server, "
    "holds the model (white-box) and has data of the same kind",
}
NIST_CLASS = "property inference of a batch's label counts; data reconstruction of a single label"
# The questions of SATRE on the egress of models, and where this file answers them.
SATRE = {
    "3.3.06": "policy: `policy`, and `scale` where there is none",
    "3.3.07": "controls: `checks`, and `attacks` with those that were left out",
    "3.3.08": "statistical basis: `verdict` and `cases`, with intervals and numbers of updates",
    "3.3.09": "record: this file, the digest of the records and that of what was released",
}
LIMITS = (
    "This file shows integrity, not authorship. A low figure says that the attacks named here "
    "failed, and is no proof of safety."
)


@dataclass(frozen=True, kw_only=True)
class Who:
    """For whom the audit was made."""

    title: str | None
    system: str | None
    contact: str | None


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of records, by name and sha256 of its bytes."""

    name: str
    digest: str
    records: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was released: a name, the digest of its tensors, and whether records hold that."""

    name: str
    digest: str
    in_records: bool = False


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """The attacks that were run, and why others were not."""

    run: list[dict[str, Any]]
    left_out: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One rule of a policy in one cell."""

    rule: str
    cell: str
    passed: bool
    said: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a gate or an officer files of one audit; `docs/evidence.md` says what each is."""

    format: Literal["labelleak evidence 1"]
    who: Who
    when: str
    software: dict[str, list[str]]
    commands: list[str]
    scope: dict[str, list[str | int | float]]
    attacks: Attacks
    verdict: dict[str, Any]
    scale: list[dict[str, Any]]
    cases: list[dict[str, Any]]
    policy: dict[str, Any] | None
    checks: list[Check]
    passed: bool | None
    records: File
    released: Subject | None
    nist_ai_100_2: dict[str, str]
    satre: dict[str, str]
    limits: str


def make_evidence(
    rows: Sequence[Record],
    records: Path,
    *,
    when: str,
    about: About = NOBODY,
    verdict: Verdict | None = None,
    policy: Policy | None = None,
    checks: Sequence[Finding] = (),
    released: Subject | None = None,
) -> Evidence:
    """Gather evidence of records.

    Args:
        rows: the records, each trial once.
        records: the file they were read from.
        when: the day of the records.
        about: title, system and contact.
        verdict: the page's; made here if None.
        policy: what a gate judged by.
        checks: what it found.
        released: what is to be released, with its digest.

    Raises:
        BadInput: if the file cannot be read.
    """
    frame = RecordFrame.of(rows)
    judged = verdict or reach_verdict(frame)
    held = sorted(set(frame.distinct("threat_model")) & NIST.keys())
    return Evidence(
        format=FORMAT,
        who=Who(title=about.title, system=about.system, contact=about.contact),
        when=when,
        software={key: sorted(frame.distinct(key)) for key in ("labelleak", "torch")},
        commands=scope.commands(frame),
        scope=_scope(frame),
        attacks=Attacks(
            run=[run._asdict() for run in scope.attacks(frame)],
            left_out=scope.not_applicable(frame),
        ),
        verdict=judged.to_json(),
        scale=[
            *({"upper_end_to": one.most, "word": one.word} for one in GRADES),
            {"level": LEVEL, "least_updates": ENOUGH_TRIALS},
        ],
        cases=[_case(cell) for cell in judged.cells],
        policy=None if policy is None else asdict(policy),
        checks=[Check(**vars(one)) for one in checks],
        passed=all(one.passed for one in checks) if policy is not None else None,
        records=File(name=records.name, digest=digest_file(records), records=len(rows)),
        released=released,
        nist_ai_100_2={"class": NIST_CLASS, **{name: NIST[name] for name in held}},
        satre=dict(SATRE),
        limits=LIMITS,
    )


def bind(rows: Iterable[Record], name: str, digest: str) -> Subject:
    """Name what is released, and hold its digest against those that clients' mods recorded.

    Records of an audit hold no digest of an update, so nothing but the name ties them to a file.

    Raises:
        BadInput: if the records hold digests, and this one did not leave its client.
    """
    left: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if "update_digest" in row.extra:
            left[str(row.extra["update_digest"])].add(str(row.extra.get("action")))
    fate = left.get(digest, set())
    if left and not fate & {*LEFT}:
        withheld = f"it was {min(fate)}, and did not leave" if fate else "none is of this file"
        raise BadInput(
            f"these records judge {wording.count(len(left), 'update')} by digest, and "
            f"{withheld}: {shown_value(name)}"
        )
    return Subject(name=name, digest=digest, in_records=bool(fate))


def to_text(evidence: Evidence) -> str:
    """Return evidence as JSON, the same bytes for the same evidence."""
    return json.dumps(asdict(evidence), indent=1, allow_nan=False) + "\n"


def digest_file(path: Path) -> str:
    """Return sha256 over the bytes of a file.

    Raises:
        BadInput: if it cannot be read.
    """
    found = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return f"sha256:{found.hexdigest()}"


def _scope(rows: RecordFrame) -> dict[str, list[Any]]:
    keys = ("data", "model", "num_classes", "batch_size", "scheme", "training_steps")
    found = {key: sorted(rows.distinct(key)) for key in (*keys, "local_steps", "defense", "seed")}
    for key in ("data_fingerprint", "model_fingerprint"):
        found[key] = sorted({str(value) for value in rows.distinct(key) if value})
    return found


def _case(cell: Cell) -> dict[str, Any]:
    ends = None if cell.advantage is None else vars(cell.advantage).copy()
    return {
        "threat_model": cell.threat_model,
        "attacks": wording.name_attacker(cell),
        "data": cell.data,
        "model": cell.model,
        "training_steps": cell.training_steps,
        "scheme": cell.scheme,
        "batch_size": cell.batch_size,
        "local_steps": cell.local_steps,
        "defense": cell.defense,
        "advantage": ends,
        "asr": cell.asr.mean,
        "asr_free": cell.free,
        "updates": cell.trials,
        "models": cell.initialisations,
    }


__all__ = [
    "FORMAT",
    "Evidence",
    "Subject",
    "bind",
    "digest_file",
    "make_evidence",
    "to_text",
]
