"""Append to files packed by gzip, unpack them as they grow, and find what a killed writer left."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import BinaryIO

PACKED = ".gz"
MAGIC = b"\x1f\x8b"
_PIECE = 2**16
# How zlib is told that members of gzip come.
_GZIP = 31


def pack(content: bytes) -> bytes:
    """Return bytes as one member of gzip, the same one at every time.

    >>> gzip.decompress(pack(b"a") + pack(b"b"))
    b'ab'
    """
    return gzip.compress(content, 6, mtime=0)


class Unpacker:
    """Unpacks members of gzip that come piece by piece.

    Attributes:
        whole: where the last whole member ended.
    """

    def __init__(self) -> None:
        self.whole = 0
        self._read = 0
        self._member = zlib.decompressobj(_GZIP)

    def feed(self, piece: bytes) -> bytes:
        """Return what a piece holds.

        Raises:
            zlib.error: if it is no gzip.
        """
        found = []
        while piece:
            found.append(self._member.decompress(piece))
            rest = self._member.unused_data
            self._read += len(piece) - len(rest)
            if self._member.eof:
                self.whole, self._member = self._read, zlib.decompressobj(_GZIP)
            piece = rest
        return b"".join(found)


def end_of_members(file: BinaryIO) -> int:
    """Return where the last whole member of a file ends; 0 if there is none, or it is no gzip."""
    unpacker = Unpacker()
    file.seek(0)
    try:
        while piece := file.read(_PIECE):
            unpacker.feed(piece)
    except (OSError, zlib.error):
        return 0
    return unpacker.whole


def cut_to_members(path: Path) -> None:
    """Cut off what a killed writer left of a member."""
    with path.open("r+b") as file:
        end = end_of_members(file)
        if end < os.fstat(file.fileno()).st_size:
            file.truncate(end)


__all__ = ["MAGIC", "PACKED", "Unpacker", "cut_to_members", "end_of_members", "pack"]
