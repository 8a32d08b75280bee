"""The folder of a run: records as they finish, and what is still to do after an interrupt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelleak.errors import BadInput
from labelleak.records.files import lock_of, write_whole
from labelleak.records.record import Record, append_records, read_records

if TYPE_CHECKING:
    from filelock import BaseFileLock

RECORDS = "records.jsonl"
MARK = "run.json"
LOCK = "run.lock"
PART = "part"

Unit = tuple[int, int, int]


@dataclass(frozen=True)
class Journal:
    """Records of one audit or grid in one folder, written unit by unit.

    A unit is one part of a grid (an audit is a single part, 0), one initialisation of it, and one
    training stage of that. Its records are appended first and the
    unit is marked done after, so whatever an interrupt cuts short is dropped and done again.

    Attributes:
        folder: where the files lie.
        asked: what identifies the run.
        done: units that are finished.
        found: what else was measured, by name, for those who ask again.
        lock: held open while this run may write, so that no other one does.
    """

    folder: Path
    asked: Mapping[str, Any]
    done: set[Unit] = field(default_factory=set)
    found: dict[str, Any] = field(default_factory=dict)
    lock: BaseFileLock | None = None

    @property
    def records(self) -> Path:
        """The file of records."""
        return self.folder / RECORDS

    @classmethod
    def open(cls, folder: Path, asked: Mapping[str, Any], *, overwrite: bool = False) -> Journal:
        """Open a folder for a run, new or interrupted.

        Args:
            folder: made if it is not there.
            asked: what identifies the run; an interrupted one must have asked the same.
            overwrite: drop whatever run lies there.

        Raises:
            BadInput: if the folder cannot be written, or holds another run.
        """
        plain = json.loads(json.dumps(asked))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "Permission denied")
            lock = _lock(folder)
        except OSError as error:
            raise BadInput(_refusal(folder, error)) from error
        try:
            if overwrite:
                (folder / MARK).unlink(missing_ok=True)
                (folder / RECORDS).unlink(missing_ok=True)
            journal = cls(folder, plain, *_finished(folder, plain), lock)
            journal._drop_unfinished()
            journal._mark()
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise BadInput(_refusal(folder, error)) from error
            raise
        return journal

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        """Let another run write."""
        if self.lock is not None:
            self.lock.release()

    def write(self, unit: Unit, records: Iterable[Record]) -> None:
        """Append the records of a unit and mark it done.

        Raises:
            BadInput: if they cannot be written; the records of earlier units stay valid.
        """
        append_records(self.records, records)
        self.done.add(unit)
        self._mark()

    def keep(self, name: str, value: Any) -> None:
        """Keep what was measured beside the records, in JSON's terms."""
        self.found[name] = value
        self._mark()

    def amend(self, change: Callable[[Record], Record]) -> None:
        """Write every record anew, changed; the file is the old one or the new one, whole."""
        rows = read_records(self.records)
        write_whole(self.records, "".join(change(row).to_json() + "\n" for row in rows))

    def _mark(self) -> None:
        state: dict[str, Any] = {"asked": self.asked, "done": sorted(self.done)}
        if self.found:
            state["found"] = self.found
        write_whole(self.folder / MARK, json.dumps(state, indent=1, sort_keys=True))

    def _drop_unfinished(self) -> None:
        if not self.records.exists():
            return
        whole = [r for r in read_records(self.records) if _unit(r) in self.done]
        text = "".join(record.to_json() + "\n" for record in whole)
        if len(text.encode()) != self.records.stat().st_size:
            write_whole(self.records, text)


def _refusal(folder: Path, error: OSError) -> str:
    return f"cannot write to the folder {folder}: {error.strerror or error}"


def _lock(folder: Path) -> BaseFileLock:
    """Hold the folder for this process; the lock goes with the process, however it ends."""
    from filelock import Timeout

    held = lock_of(folder / LOCK)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(f"another run is writing to {folder}; choose another --out") from error
    return held


def _finished(folder: Path, asked: Mapping[str, Any]) -> tuple[set[Unit], dict[str, Any]]:
    """Read which units are done and what was kept, after checking that it is the same run."""
    mark = folder / MARK
    if not mark.exists():
        if (folder / RECORDS).exists():
            raise BadInput(
                f"{folder} already holds records of something else; "
                "choose another --out, or add --overwrite"
            )
        return set(), {}
    try:
        state = json.loads(mark.read_text(encoding="utf-8"))
        earlier, done = state["asked"], {(int(p), int(i), int(s)) for p, i, s in state["done"]}
        found = dict(state.get("found", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{mark} is damaged; choose another --out, or add --overwrite") from error
    if not done and not found:
        return set(), {}  # nothing was finished, so nothing is lost
    if done and not (folder / RECORDS).exists():
        raise BadInput(f"{folder} has lost its {RECORDS}; add --overwrite to begin anew")
    changed = sorted(key for key in {*earlier, *asked} if earlier.get(key) != asked.get(key))
    if changed:
        raise BadInput(
            f"{folder} holds another run (it differs in: {', '.join(changed)}); "
            "choose another --out, or add --overwrite"
        )
    return done, found


def _unit(record: Record) -> Unit:
    return int(record.extra.get(PART, 0)), record.initialisation, record.training_steps
