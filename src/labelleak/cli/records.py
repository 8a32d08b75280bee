"""`labelleak records`: write records for data frames, or as plain lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from labelleak.cli.options import RecordsFile, command
from labelleak.cli.results import Shown, print_json
from labelleak.errors import BadInput, unknown_name
from labelleak.records.options import Option, Options
from labelleak.records.packing import PACKED

FORMS = ("parquet", "csv", "jsonl")


@dataclass(frozen=True, kw_only=True)
class RecordsRun(Options):
    """What is written, and where."""

    to: Annotated[
        str | None,
        Option(f"One of: {', '.join(FORMS)}; by the ending of `out` if left out."),
    ] = None
    out: Annotated[
        Path | None, Option("File to write; of the same name beside the records if left out.")
    ] = None


@command
def records(records: RecordsFile, asked: RecordsRun, shown: Shown) -> None:
    """Write records for pandas, polars, R or a spreadsheet: a column for each key."""
    from labelleak.records.export import export
    from labelleak.records.journal import records_file

    records = records_file(records)
    form = asked.to or (asked.out.suffix.removeprefix(".") if asked.out else "")
    if not form:
        raise BadInput(f"say the form with `to`: one of {', '.join(FORMS)}")
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    plain = records.with_suffix("") if records.suffix == PACKED else records
    place = asked.out or plain.with_suffix(f".{form}")
    number = export(records, form, place)
    if shown.json:
        print_json({"file": str(place), "records": number})
    else:
        print(f"{form:8} {place} ({number:,} records)")


__all__ = ["records"]
