"""The files that the auditors of a federation write: records, estimates and events."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput, shown_path
from labelleak.records.events import EVENTS
from labelleak.records.files import alone_at, append_lines
from labelleak.records.journal import ESTIMATES, MARK, RECORDS
from labelleak.records.record import TRUTH, Record, to_lines

LOG = logging.getLogger("labelleak.flower")
# Flower shows what its own loggers say, so a line a round goes to a child of them.
ROUNDS = logging.getLogger("flwr.labelleak")
# Records of updates that were averaged over clients before the server saw them.
AGGREGATES = "aggregates.jsonl"


def check_home(folder: Path | None) -> None:
    """Refuse a folder that holds an audit, whose records would stand among those of clients.

    Raises:
        BadInput: if it does.
    """
    if folder is not None and (folder / MARK).exists():
        raise BadInput(
            f"{shown_path(folder)} holds a run of `labelleak audit`; give the Auditor a folder of "
            "its own"
        )


def write_records(folder: Path, records: Iterable[Record], name: str = RECORDS) -> None:
    """Append records; clients in other processes may be appending to the same file.

    Raises:
        BadInput: if the file cannot be written.
    """
    # Not forced to the disk: that alone can take as long as a tenth of a client's training, and
    # only a crash of the machine would lose the last lines.
    rows = list(records)
    private = any(TRUTH in row.extra for row in rows)
    _append(folder, name, to_lines(rows), private=private)


def write_rows(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append flat rows as JSON lines.

    Raises:
        BadInput: if the file cannot be written.
    """
    _append(folder, name, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _append(folder: Path, name: str, text: str, *, private: bool = False) -> None:
    with _alone(folder):
        append_lines(folder / name, text, durable=False, private=private)


def note(folder: Path | None, event: str, **what: Any) -> None:
    """Note what went wrong, in the log and among the events; never raises on a full disk."""
    LOG.warning("%s: %s", event, what)
    if folder is not None:
        try:
            write_rows(folder, EVENTS, [{"event": event, **what}])
        except BadInput:
            LOG.exception("the event could not be written")


def note_once(folder: Path | None, event: str, **what: Any) -> None:
    """Note an event that holds for the whole run, unless a client has noted it here before."""
    try:
        if folder is not None and f'"event": "{event}"' in (folder / EVENTS).read_text("utf-8"):
            return
    except OSError:  # no file yet; if it cannot be read, it cannot be written, and `note` says so
        LOG.debug("no events to read yet")
    note(folder, event, **what)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock."""
    try:
        with alone_at(folder / ".lock"):
            yield
    except OSError as error:
        raise BadInput(f"cannot write into {folder}: {error.strerror or error}") from error


__all__ = [
    "AGGREGATES",
    "ESTIMATES",
    "EVENTS",
    "LOG",
    "RECORDS",
    "ROUNDS",
    "check_home",
    "note",
    "note_once",
    "write_records",
    "write_rows",
]
