"""Read a growing file of records piece by piece, each byte once."""

from __future__ import annotations

import os
from pathlib import Path

from labelleak.errors import BadInput, shown_path
from labelleak.records.reading import LARGEST_RECORDS, decode, open_regular
from labelleak.records.record import Record

_MARK = 512


class Follower:
    """Follows a records file that another process appends to.

    A missing file is an empty one; a last line without its newline waits for its rest; a file
    that was cut short or replaced is read from its start again. Whole lines that are no records
    are left out and counted.

    Attributes:
        records: what was read so far.
        unreadable: whole lines that are no records.
        bytes_read: how much was read in all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_read = 0
        self._forget()

    def _forget(self) -> None:
        self.records: list[Record] = []
        self.unreadable = 0
        self._place, self._inode, self._rest, self._start = 0, -1, b"", b""

    def read_new(self) -> bool:
        """Read what is new; tell whether the records changed.

        Raises:
            BadInput: if the file is there and cannot be read.
        """
        if not self.path.exists():
            gone = bool(self.records)
            self._forget()
            return gone
        with open_regular(self.path) as file:
            found = os.fstat(file.fileno())
            again = self._place > 0 and self._replaced(
                found.st_ino, found.st_size, file.read(len(self._start))
            )
            if again:
                self._forget()
            self._inode = found.st_ino
            if found.st_size > LARGEST_RECORDS:
                raise BadInput(f"{shown_path(self.path)} is too large to be read")
            file.seek(self._place)
            new = file.read(max(0, found.st_size - self._place))
        self.bytes_read += len(new)
        self._place += len(new)
        self._start = (self._start + new)[:_MARK] if len(self._start) < _MARK else self._start
        return self._take(new) or again

    def _replaced(self, inode: int, size: int, start: bytes) -> bool:
        return inode != self._inode or size < self._place or start != self._start

    def _take(self, new: bytes) -> bool:
        *lines, self._rest = (self._rest + new).split(b"\n")
        before = len(self.records)
        for line in filter(bytes.strip, lines):
            try:
                self.records.append(Record.from_json(decode(line, "a line")))
            except BadInput:
                self.unreadable += 1
        return len(self.records) > before
