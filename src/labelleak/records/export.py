"""Write records as tables with a column for each key: parquet, CSV; or as plain lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput, from_extra, shown_path
from labelleak.records.files import write_whole
from labelleak.records.record import TRUTH, to_lines
from labelleak.records.whole import read_frame


def export(records: Path, form: str, place: Path) -> int:
    """Write a file of records in another form, whole or not at all.

    Lists and objects become JSON in CSV, and in parquet where they are no lists of texts; so do
    the values of a key that holds both numbers and texts.

    Args:
        records: the file, packed by gzip or not.
        form: ``parquet``, ``csv`` or ``jsonl``.
        place: the file to write.

    Returns:
        How many records were written.

    Raises:
        BadInput: if the records cannot be read or the file not written, if both are one file, or
            parquet is asked for and pyarrow is not installed.
    """
    if place.exists() and records.exists() and place.samefile(records):
        raise BadInput(f"{shown_path(place)} holds the records themselves; choose another `out`")
    frame = read_frame(records)
    if not frame:
        raise BadInput(f"{shown_path(records)} holds no records")
    made: str | bytes
    if form == "jsonl":
        made = to_lines(frame)
    else:
        columns = frame.columns()
        made = _parquet(columns) if form == "parquet" else _csv(columns)
    write_whole(place, made, private=bool(frame.distinct(TRUTH)))
    return len(frame)


def _csv(columns: dict[str, list[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    plain = [[_as_text(value) for value in column] for column in columns.values()]
    writer.writerows(zip(*plain, strict=True))
    return file.getvalue()


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    with from_extra("parquet needs pyarrow; install labelleak[frames]"):
        import pyarrow
        from pyarrow import parquet
    table = pyarrow.table({name: _of_one_kind(column) for name, column in columns.items()})
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def _of_one_kind(column: Sequence[Any]) -> Sequence[Any]:
    """Return values that a typed column takes."""
    kinds = {type(value) for value in column if value is not None}
    if kinds <= {int, float}:
        made = float if float in kinds else int
        return [None if value is None else made(value) for value in column]
    if kinds == {tuple} or kinds == {list}:
        if all(isinstance(item, str) for value in column for item in value or ()):
            return column
    elif kinds in ({str}, {bool}):
        return column
    return [None if value is None else _as_text(value) for value in column]


def _as_text(value: Any) -> Any:
    """Return a value for a cell: lists and objects as JSON, nothing for None."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


__all__ = ["export"]
