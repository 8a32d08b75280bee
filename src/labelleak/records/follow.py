"""Read a growing file of records piece by piece, each byte once."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from labelleak.errors import BadInput, shown_path
from labelleak.records.packing import MAGIC, Unpacker
from labelleak.records.reading import LARGEST_RECORDS, decode, open_regular
from labelleak.records.record import Record
from labelleak.records.unscored import Unscored

_MARK = 512
_PIECE = 2**16


class Follower:
    """Follows a records file that another process appends to.

    A missing file is an empty one; one that is packed by gzip is unpacked. A last line without
    its newline waits for its rest; a file that was cut short or replaced is read from its start
    again. Whole lines that are no records are left out and counted.

    Attributes:
        records: what was read so far.
        unscored: answers without a score that were read so far.
        unreadable: whole lines that are no records.
        bytes_read: how much was read in all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_read = 0
        self._forget()

    def _forget(self) -> None:
        self.records: list[Record] = []
        self.unscored: list[Unscored] = []
        self.unreadable = 0
        self._place, self._inode, self._rest, self._start = 0, -1, b"", b""
        self._unpacker, self._unpacked = Unpacker(), 0

    @property
    def _known(self) -> int:
        return len(self.records) + len(self.unscored)

    def read_new(self) -> bool:
        """Read what is new; tell whether the records changed.

        Raises:
            BadInput: if the file is there and cannot be read.
        """
        if not self.path.exists():
            gone = self._known > 0
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
            if found.st_size < len(MAGIC):  # nobody knows yet whether it is packed
                return again
            file.seek(self._place)
            before = self._known
            left = found.st_size - self._place
            while piece := file.read(min(left, _PIECE)):
                left -= len(piece)
                self._take(piece)
        return self._known > before or again

    def _replaced(self, inode: int, size: int, start: bytes) -> bool:
        return inode != self._inode or size < self._place or start != self._start

    def _take(self, new: bytes) -> None:
        self.bytes_read += len(new)
        self._place += len(new)
        if len(self._start) < _MARK:
            self._start = (self._start + new)[:_MARK]
        if self._start[:2] == MAGIC:
            try:
                new = self._unpacker.feed(new)
            except zlib.error as error:
                raise BadInput(f"{shown_path(self.path)} is no gzip file") from error
            self._unpacked += len(new)
            if self._unpacked > LARGEST_RECORDS:
                raise BadInput(f"{shown_path(self.path)} unpacks to too much to be read")
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in filter(bytes.strip, lines):
            try:
                self._read(decode(line, "a line"))
            except BadInput:
                self.unreadable += 1

    def _read(self, line: str) -> None:
        try:
            self.records.append(Record.from_json(line))
        except BadInput:
            self.unscored.append(Unscored.from_json(line))
