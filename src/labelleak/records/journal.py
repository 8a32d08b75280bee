"""The folder of a run: records as they finish, and what is still to do after an interrupt."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelleak.errors import BadInput, few, shown_path
from labelleak.records.events import check_recorded
from labelleak.records.files import lock_of, write_whole
from labelleak.records.packing import PACKED, cut_to_members, pack
from labelleak.records.provenance import without_folders
from labelleak.records.reading import read_json
from labelleak.records.record import (
    TRUTH,
    Record,
    append_records,
    read_record_lines,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

RECORDS = "records.jsonl"
PACKED_RECORDS = RECORDS + PACKED
MARK = "run.json"
ESTIMATES = "estimates.jsonl"  # of updates whose labels nobody told
LOCK = "run.lock"
PART = "part"

Unit = tuple[int, int, int]
Lines = tuple[int, str]
LOG = logging.getLogger("labelleak")


@dataclass(frozen=True)
class Journal:
    """Records of one audit or grid in one folder, written unit by unit.

    A unit is one part of a grid (an audit is a single part, 0), one initialisation of it, and one
    training stage of that. Its records are appended first and the
    unit is marked done after, with how many lines it has and their digest. So whatever an
    interrupt cuts short is dropped and done again, and so is a unit whose lines were lost or
    altered since; a unit that stands there twice is kept once. Both are said in the log.

    Attributes:
        folder: where the files lie.
        asked: what identifies the run.
        done: units that are finished.
        found: what else was measured, by name, for those who ask again.
        held: number of lines and digest of each unit that is finished.
        lock: held open while this run may write, so that no other one does.
        planned: how many units the whole run has; 0 where that is not known beforehand.
        packed: whether the records are packed by gzip, a member for each unit.
    """

    folder: Path
    asked: Mapping[str, Any]
    done: set[Unit] = field(default_factory=set)
    found: dict[str, Any] = field(default_factory=dict)
    held: dict[Unit, Lines] = field(default_factory=dict)
    lock: BaseFileLock | None = None
    planned: int = 0
    packed: bool = False

    @property
    def records(self) -> Path:
        """The file of records."""
        return self.folder / (PACKED_RECORDS if self.packed else RECORDS)

    @classmethod
    def open(
        cls,
        folder: Path,
        asked: Mapping[str, Any],
        *,
        overwrite: bool = False,
        planned: int = 0,
        packed: bool = False,
    ) -> Journal:
        """Open a folder for a run, new or interrupted.

        Args:
            folder: made if it is not there.
            asked: what identifies the run; an interrupted one must have asked the same.
            overwrite: drop whatever run lies there.
            planned: how many units the whole run has, where that is known.
            packed: pack the records by gzip; an interrupted run goes on as it began.

        Raises:
            BadInput: if the folder cannot be written, or holds another run.
        """
        plain = without_folders(json.loads(json.dumps(asked)))
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
                (folder / PACKED_RECORDS).unlink(missing_ok=True)
            packed = records_in(folder, packed=packed).name == PACKED_RECORDS
            journal = cls(folder, plain, *_finished(folder, plain), lock, planned, packed)
            journal._drop_unsound()
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
        lines = append_records(self.records, records)
        self.done.add(unit)
        self.held[unit] = _lines(lines)
        self._mark()

    def keep(self, name: str, value: Any) -> None:
        """Keep what was measured beside the records, in JSON's terms."""
        self.found[name] = value
        self._mark()

    def amend(self, change: Callable[[Record], Record]) -> None:
        """Write every record anew, changed; the file is the old one or the new one, whole."""
        units: dict[Unit, list[str]] = defaultdict(list)
        lines: list[str] = []
        private = False
        for _, record in read_record_lines(self.records):
            row = change(record)
            lines.append(row.to_json())
            units[_unit(row)].append(lines[-1])
            private |= TRUTH in row.extra
        self._rewrite("".join(line + "\n" for line in lines), private=private)
        self.held.update((unit, _lines(units[unit])) for unit in self.held)
        self._mark()

    def _mark(self) -> None:
        held = [[*unit, *self.held[unit]] for unit in sorted(self.held)]
        state: dict[str, Any] = {"asked": self.asked, "done": sorted(self.done), "held": held}
        if self.planned:
            state["planned"] = self.planned
        if self.found:
            state |= {"found": self.found, "found_digest": _digest(self.found)}
        write_whole(self.folder / MARK, json.dumps(state, indent=1, sort_keys=True))

    def _drop_unsound(self) -> None:
        """Keep the lines of each finished unit once, if they are what was written."""
        if not self.records.exists():
            return
        units: dict[Unit, list[str]] = defaultdict(list)
        if self.packed:
            cut_to_members(self.records)
        private, read = False, 0
        for line, record in read_record_lines(self.records):
            units[_unit(record)].append(line.rstrip("\r\n"))
            private |= TRUTH in record.extra
            read += len(line.encode())
        for unit in sorted(self.done):
            lines, once = units[unit], list(dict.fromkeys(units[unit]))
            wanted = self.held.get(unit, _lines(lines))
            if _lines(lines) == wanted:
                continue
            if _lines(once) == wanted:
                self._say(unit, f"{len(lines) - len(once)} doubled records are dropped")
                units[unit] = once
            else:
                self._say(unit, f"{len(lines)} records, {wanted[0]} were written: run again")
                self.done.discard(unit)
                self.held.pop(unit, None)
        kept = [line for unit, lines in units.items() if unit in self.done for line in lines]
        text = "".join(line + "\n" for line in kept)
        if len(text.encode()) != (read if self.packed else self.records.stat().st_size):
            self._rewrite(text, private=private)

    def _rewrite(self, lines: str, *, private: bool) -> None:
        content = lines.encode()
        write_whole(self.records, pack(content) if self.packed else content, private=private)

    def _say(self, unit: Unit, what: str) -> None:
        part, initialisation, steps = unit
        where = f"part {part}, initialisation {initialisation}, {steps} training steps"
        LOG.warning("%s (%s): %s", shown_path(self.records), where, what)


def records_in(folder: Path, *, packed: bool = False) -> Path:
    """Return the file of records that lies in a folder, or where one would be begun."""
    there = [folder / name for name in (RECORDS, PACKED_RECORDS) if (folder / name).exists()]
    return there[0] if there else folder / (PACKED_RECORDS if packed else RECORDS)


def records_file(place: Path, *, waiting: bool = False) -> Path:
    """Return the file that a user means: of a folder its records, or else its estimates.

    Args:
        place: a file or a folder.
        waiting: whether the file may yet come.

    Raises:
        BadInput: if events say that there are no records since every audit failed.
    """
    found = place
    if place.is_dir():
        found, answers = records_in(place), place / ESTIMATES
        found = answers if answers.exists() and not found.exists() else found
    check_recorded(found, waiting=waiting)
    return found


def say_unfinished(records: Path) -> str:
    """Say in a sentence that the run that wrote a file of records has not finished; else "".

    The mark of the run lies beside its records. Records elsewhere are taken as they are.
    """
    mark = records.with_name(MARK)
    if records.name not in (RECORDS, PACKED_RECORDS) or not mark.is_file():
        return ""
    try:
        state = read_json(mark)
        done, planned = len(_state_of(state)[1]), int(state.get("planned", 0))
    except (BadInput, ValueError, KeyError, TypeError, AttributeError):
        return f"{MARK} beside the records is damaged, so nobody knows whether the run has finished"
    if done >= planned:
        return ""
    return (
        f"the run has not finished: {done} of {planned} models at their stages are done; give the "
        "command again to go on"
    )


def say_kept(records: Path) -> str:
    """Say in a sentence what is there of the run that writes a file of records."""
    mark = records.with_name(MARK)
    _, done, found, _ = _state_of(read_json(mark)) if mark.is_file() else ({}, (), {}, {})
    if done:
        return f"What was finished is kept in {shown_path(records)}"
    return f"What was measured is kept in {shown_path(mark)}" if found else "Nothing was finished"


def _lines(lines: Sequence[str]) -> Lines:
    return len(lines), _digest(lines)


def _digest(found: Any) -> str:
    return sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _refusal(folder: Path, error: OSError) -> str:
    return f"cannot write to the folder {folder}: {error.strerror or error}"


def _lock(folder: Path) -> BaseFileLock:
    """Hold the folder for this process; the lock goes with the process, however it ends."""
    from filelock import Timeout

    held = lock_of(folder / LOCK)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(f"another run is writing to {folder}; choose another `out`") from error
    return held


def _finished(
    folder: Path, asked: Mapping[str, Any]
) -> tuple[set[Unit], dict[str, Any], dict[Unit, Lines]]:
    """Read which units are done, what was kept and which lines; it must be the same run."""
    mark = folder / MARK
    if not mark.exists():
        if records_in(folder).exists():
            raise BadInput(
                f"{folder} already holds records of something else; "
                "choose another `out`, or add `overwrite`"
            )
        return set(), {}, {}
    try:
        earlier, done, found, held = _state_of(read_json(mark))
    except (BadInput, ValueError, KeyError, TypeError, AttributeError) as error:
        where = shown_path(mark)
        raise BadInput(f"{where} is damaged; choose another `out`, or add `overwrite`") from error
    if not done and not found:
        return set(), {}, {}  # nothing was finished, so nothing is lost
    if done and not records_in(folder).exists():
        raise BadInput(f"{folder} has lost its {RECORDS}; add `overwrite` to begin anew")
    changed = sorted(key for key in {*earlier, *asked} if earlier.get(key) != asked.get(key))
    if changed:
        raise BadInput(
            f"{shown_path(folder)} holds another run (it differs in: {few(changed)}); "
            "choose another `out`, or add `overwrite`"
        )
    return done, found, held


def _state_of(
    state: Any,
) -> tuple[dict[str, Any], set[Unit], dict[str, Any], dict[Unit, Lines]]:
    """Take the mark of a run apart; whatever is not as `Journal` writes it raises."""
    found = dict(state.get("found", {}))
    if found and state["found_digest"] != _digest(found):
        raise ValueError("what was kept was altered")
    done = {(int(p), int(i), int(s)) for p, i, s in state["done"]}
    held = {(int(p), int(i), int(s)): (int(n), str(d)) for p, i, s, n, d in state.get("held", [])}
    return dict(state["asked"]), done, found, {u: lines for u, lines in held.items() if u in done}


def _unit(record: Record) -> Unit:
    return int(record.extra.get(PART, 0)), record.initialisation, record.training_steps
