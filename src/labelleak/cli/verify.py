"""`labelleak verify`: whether evidence speaks of these very records and this very update."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from labelleak.cli.options import command
from labelleak.cli.results import Shown, print_json
from labelleak.cli.terminal import say
from labelleak.errors import BadInput, few, shown_path
from labelleak.records.options import Option, Options

NOT_IN_RECORDS = (
    "the records hold no digest of an update: that they are of this file is said by whoever filed "
    "the evidence"
)
ANEW = "verdict and checks, made anew from the records"
UNCHECKED = (
    "The records were not checked: {why}. So what follows is what the file says, and nothing here "
    "verifies it"
)
REFUTED = (
    "The evidence says of {keys} what these records do not bear out: it was edited, or another "
    "release of labelleak judged them"
)


@dataclass(frozen=True, kw_only=True)
class VerifyRun(Options):
    """What else is compared."""

    records: Annotated[
        Path | None,
        Option("Records to compare, or their folder; those beside the evidence if left out."),
    ] = None


@command
def verify(
    evidence: Annotated[Path, typer.Argument(help="An evidence.json file.")],
    update: Annotated[
        Path | None, typer.Argument(help="The update or model that was released, as a file.")
    ] = None,
    *,
    asked: VerifyRun,
    shown: Shown,
) -> None:
    """Compare evidence with records and an update: status 0 if it is of these, 1 if not.

    With the records at hand the verdict and the checks are made anew, and compared, too. It shows
    integrity, not authorship: sign evidence with tools of your own.
    """
    from labelleak.report.evidence import LIMITS, digest_file
    from labelleak.report.evidence_check import differing
    from labelleak.report.evidence_form import read_evidence

    filed = read_evidence(evidence)
    found: dict[str, bool] = {}
    records = _find_records(evidence, filed.records.name, asked.records)
    edited: list[str] | None = None
    why = f"{shown_path(records)} is not there; give --records"
    if asked.records is not None or records.exists():
        same = digest_file(records) == filed.records.digest
        found[f"records {shown_path(records)}"] = same
        why = f"{shown_path(records)} is not the file that was judged"
        if same:
            edited = differing(filed, records)
            found[ANEW] = not edited
    if update is not None:
        if filed.released is None:
            raise BadInput(
                f"{shown_path(evidence)} names no update; `labelleak gate` writes one with "
                "--released FILE --evidence FILE"
            )
        found[f"update {shown_path(update)}"] = digest_of(update) == filed.released.digest
    if not found:
        raise BadInput("nothing to compare: give an update, or --records")
    if shown.json:
        print_json(
            {"verified": all(found.values()), "compared": found, "judged_anew": edited is not None}
            | {"differs": edited or []}
        )
    else:
        for name, same in found.items():
            say(f"{'the same' if same else 'ANOTHER'}: {name}")
        if update is not None and filed.released is not None and not filed.released.in_records:
            say(NOT_IN_RECORDS)
        if edited:
            say(f"{REFUTED.format(keys=few(edited))}. {LIMITS}")
        else:
            said = f"gate: {_say_gate(filed.passed)}; {few([filed.verdict['word']])}; {LIMITS}"
            say(f"{UNCHECKED.format(why=why)}:\n{said}" if edited is None else said)
    if not all(found.values()):
        raise typer.Exit(1)


def _find_records(evidence: Path, name: str, given: Path | None) -> Path:
    """Return the file of records that was given, by itself or its folder, or the one beside."""
    from labelleak.records.journal import records_file

    place = given or evidence.with_name(Path(name).name)
    return records_file(place) if place.is_dir() else place


def _say_gate(passed: bool | None) -> str:
    return "no policy was asked" if passed is None else "PASSED" if passed else "FAILED"


def digest_of(path: Path) -> str:
    """Return the digest of the tensors in a file.

    Raises:
        BadInput: if it cannot be read.
    """
    from labelleak.core.digests import digest_tensors
    from labelleak.files.tensors import read_tensors

    return digest_tensors(read_tensors(path).tensors)


__all__ = ["digest_of", "verify"]
