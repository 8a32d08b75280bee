"""Cut a whole file of records into the parts that its lines share, each kept once."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np

from labelleak.errors import BadInput
from labelleak.records.packing import MAGIC
from labelleak.records.reading import LARGEST_RECORDS, LONGEST_LINE, open_regular
from labelleak.records.repeating import CUTS, SHARE, START

_PIECE = 2**18
# So many texts a file may have before its lines must share them.
_AT_FIRST = 32
_START = START.encode()
_NEXT = b"\n" + _START
_SEED, _ASR, _FLAGS, _END = (cut.encode() for cut in CUTS)
_SECONDS = b', "seconds": '


class Parts:
    """A file's lines: the texts that each kind of part has, and which of them each line holds.

    A line is its start, the number of its trial, and then a text of each of the other kinds.

    Attributes:
        trials: the texts of the numbers of trials.
        first: those from the seed to before the rates.
        rates: those of the rates.
        seconds: those of the time that an answer took, which trials that ran together share.
        last: those from the flags on to what a trial has of its own again.
        ends: those of that, up to the end of a line.
    """

    def __init__(self) -> None:
        self.trials, self.first, self.rates, self.seconds, self.last, self.ends = (
            _numbered() for _ in range(6)
        )
        self._own: tuple[list[int], ...] = ([], [], [])
        # Where a line has another first text, time or last text than the one before.
        self._runs: tuple[list[tuple[int, int]], ...] = ([], [], [])

    def __len__(self) -> int:
        return len(self._own[0])

    def codes(self) -> list[np.ndarray]:
        """Return for each kind, in the order of the attributes, which text each line holds."""
        trials, rates, ends = (np.array(own, dtype=np.int64) for own in self._own)
        first, seconds, last = (_spread(runs, len(self)) for runs in self._runs)
        return [trials, first, rates, seconds, last, ends]

    def add(self, text: bytes) -> bool:
        """Cut whole lines; return whether they are such lines and share enough."""
        before = len(self)
        if not self._cut(text) or len(self) - before != text.count(b"\n"):
            return False
        return max(len(self.first), len(self.last)) <= _AT_FIRST + len(self) // SHARE

    def _cut(self, text: bytes) -> bool:
        """Cut lines where `repeating` cuts one; what the line before had is looked for first."""
        find, starts = text.find, text.startswith
        (add_trial, add_rates, add_end) = (own.append for own in self._own)
        trials, rates, ends = self.trials, self.rates, self.ends
        first = shared = b"\n"
        first_size = shared_size = 0
        number, place = len(self), len(_START)
        if not starts(_START):
            return False
        while place < len(text):
            seed = find(_SEED, place, place + 64)
            if not starts(first, seed):
                first_size = find(_ASR, seed) - seed
                if seed < 0 or first_size < 0:
                    return False
                first = self._note(0, number, text[seed : seed + first_size]) + _ASR
            asr = seed + first_size
            seconds = find(_SECONDS, asr)
            if not starts(shared, seconds):
                flags = find(_FLAGS, seconds)
                end = find(_END, flags)
                if seconds < 0 or flags < 0 or end < 0:
                    return False
                shared = self._note(1, number, text[seconds:flags])
                shared += self._note(2, number, text[flags:end]) + _END
                shared_size = end - seconds
            end = seconds + shared_size
            after = find(_NEXT, end)  # a line ends where the next begins
            if after < 0:
                after = len(text) - 1
            if seed < 0 or seconds < 0 or end > after:
                return False
            add_trial(trials[text[place:seed]])
            add_rates(rates[text[asr:seconds]])
            add_end(ends[text[end:after]])
            place = after + len(_NEXT)
            number += 1
        return True

    def _note(self, kind: int, number: int, text: bytes) -> bytes:
        """Note that a line begins a run of a text that lines share, and return the text."""
        held = (self.first, self.seconds, self.last)[kind]
        self._runs[kind].append((number, held[text]))
        return text


def _numbered() -> dict[bytes, int]:
    """Return a table that gives each new text the next number."""
    return defaultdict(count().__next__)


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
            if not all(map(found.add, _pieces(file))):
                return None
    except (BadInput, OSError, EOFError, zlib.error):
        return None
    return found if len(found) else None


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Read a file some whole lines at a time; a last line without its newline is left out.

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
    while piece := source.read(min(_PIECE, left)):
        rest = source.readline(min(left - len(piece), LONGEST_LINE))
        left -= len(piece) + len(rest)
        if len(rest) > LONGEST_LINE - 2 * _PIECE or (packed and not left):
            raise EOFError
        text = piece + rest
        if not text.endswith(b"\n"):
            text = text[: text.rfind(b"\n") + 1]
        if text:
            yield text


__all__ = ["Parts", "read_parts"]
