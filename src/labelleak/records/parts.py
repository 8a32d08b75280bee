"""Cut a whole file of records into the parts that its lines share, each kept once."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from labelleak.errors import BadInput
from labelleak.records.packing import MAGIC
from labelleak.records.reading import LARGEST_RECORDS, LONGEST_LINE, open_regular
from labelleak.records.repeating import CUTS, SHARE, START

_PIECE = 2**18
_START = START.encode()
_SEED, _ASR, _FLAGS, _END = (cut.encode() for cut in CUTS)
# So many texts a file may have before its lines must share them.
_AT_FIRST = 32


class Parts:
    """A file's lines: the texts that each kind of part has, and which of them each line holds.

    A line is its start, the number of its trial, and then a text of each of the four kinds.

    Attributes:
        trials: the texts of the numbers of trials.
        first: those from the seed to before the rates.
        rates: those of the rates.
        last: those from the flags on to what a trial has of its own again.
        ends: those of that, up to the end of a line.
    """

    def __init__(self) -> None:
        self.trials: dict[bytes, int] = {}
        self.first: dict[bytes, int] = {}
        self.rates: dict[bytes, int] = {}
        self.last: dict[bytes, int] = {}
        self.ends: dict[bytes, int] = {}
        self._own: tuple[list[int], ...] = ([], [], [])
        # Where a line has another first or last text than the one before.
        self._runs: tuple[list[tuple[int, int]], ...] = ([], [])

    def __len__(self) -> int:
        return len(self._own[0])

    def codes(self) -> list[np.ndarray]:
        """Return for each kind, in the order of the attributes, which text each line holds."""
        trials, rates, ends = (np.array(own, dtype=np.int64) for own in self._own)
        first, last = (_spread(runs, len(self)) for runs in self._runs)
        return [trials, first, rates, last, ends]

    def add(self, chunk: bytes, stop: int) -> bool:
        """Cut the lines before a place; return whether they are such lines and share enough."""
        before = len(self)
        lines = chunk.count(b"\n", 0, stop)
        if not self._cut(chunk, stop) or len(self) - before != lines:
            return False
        return max(len(self.first), len(self.last)) <= _AT_FIRST + len(self) // SHARE

    def _cut(self, chunk: bytes, stop: int) -> bool:
        """Cut lines where `repeating` cuts one; what the line before had is looked for first."""
        find, starts = chunk.find, chunk.startswith
        (add_trial, add_rates, add_end) = (own.append for own in self._own)
        number = len(self)
        trials, rates, ends = (held.setdefault for held in (self.trials, self.rates, self.ends))
        first = last = b"\n"
        place = first_size = last_size = 0
        while place < stop:
            seed = find(_SEED, place, place + 64)
            if seed < 0 or not starts(_START, place):
                return False
            trial = chunk[place + len(_START) : seed]
            if not starts(first, seed):
                first_size = find(_ASR, seed) - seed
                first = self._new(0, number, chunk[seed : seed + first_size]) + _ASR
            asr = seed + first_size
            flags = find(_FLAGS, asr)
            if first_size < 0 or flags < 0:
                return False
            if not starts(last, flags):
                last_size = find(_END, flags) - flags
                last = self._new(1, number, chunk[flags : flags + last_size]) + _END
            end = flags + last_size
            after = find(b"\n", end)
            if last_size < 0 or after < 0:
                return False
            add_trial(trials(trial, len(self.trials)))
            rate, own = chunk[asr:flags], chunk[end:after]
            add_rates(rates(rate, len(self.rates)))
            add_end(ends(own, len(self.ends)))
            place = after + 1
            number += 1
        return True

    def _new(self, kind: int, number: int, text: bytes) -> bytes:
        """Note that a line begins a run of a first or last text, and return the text."""
        held = (self.first, self.last)[kind]
        self._runs[kind].append((number, held.setdefault(text, len(held))))
        return text


def _spread(runs: list[tuple[int, int]], lines: int) -> np.ndarray:
    """Return the code of each line from where runs of lines of one code begin."""
    starts, codes = np.array(runs, dtype=np.int64).reshape(-1, 2).T
    return np.repeat(codes, np.diff(starts, append=lines))


def read_parts(path: Path) -> Parts | None:
    """Cut a file, packed by gzip or not; None where its lines share too little or are others.

    Whatever is odd about a file is left to the reader that reads line by line, and says so.
    """
    found = Parts()
    try:
        with open_regular(path) as file:
            for chunk, stop in _chunks(file):
                if not found.add(chunk, stop):
                    return None
    except (BadInput, OSError, EOFError, zlib.error):
        return None
    return found if len(found) else None


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Read pieces of a file of whole lines, with the place in each after its last newline.

    Raises:
        EOFError: where a file or one of its lines is larger than is read.
    """
    left = os.fstat(file.fileno()).st_size
    packed = file.read(2) == MAGIC
    file.seek(0)
    if left > LARGEST_RECORDS:
        raise EOFError
    source: BinaryIO | gzip.GzipFile = file
    if packed:
        source, left = gzip.GzipFile(fileobj=file), LARGEST_RECORDS
    rest = b""
    while piece := source.read(min(_PIECE, left)):
        left -= len(piece)
        chunk = rest + piece
        stop = chunk.rfind(b"\n") + 1
        rest = chunk[stop:]
        if len(rest) > LONGEST_LINE - 2 * _PIECE or (packed and not left):
            raise EOFError
        if stop:
            yield chunk, stop


__all__ = ["Parts", "read_parts"]
