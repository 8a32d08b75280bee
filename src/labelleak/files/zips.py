"""Check a zip archive's directory before anything in it is unpacked: sizes, names, overlaps."""

from __future__ import annotations

import struct
import zipfile
from typing import BinaryIO

from labelleak.errors import BadInput, reason, shown
from labelleak.files.limits import HEADER_LIMIT, LONGEST_NAME, SLACK, first_repeat

_END = b"PK\x05\x06"
_END64 = b"PK\x06\x06"
_LOCATOR64 = b"PK\x06\x07"
_ENCRYPTED = 0x1


def check_archive(file: BinaryIO, size: int, where: str) -> zipfile.ZipFile:
    """Open an archive whose directory keeps what it promises.

    The directory itself must be small, since zipfile reads all of it at once, and stand where
    every reader finds it. No entry may be
    encrypted, stored by a costly method, listed twice, or larger than the file allows; together
    entries must not take up more than the file has, nor unpack to more than twice its size
    and 16 MiB.

    Args:
        file: the open file.
        size: its size in bytes.
        where: its name, for the sentence.

    Raises:
        BadInput: if the archive is broken or promises what it should not.
    """
    _check_directory(file, size, where)
    try:
        file.seek(0)
        archive = zipfile.ZipFile(file)
    except Exception as error:  # a forged directory makes zipfile raise almost anything
        raise BadInput(f"{where} is not a whole zip archive ({reason(error)})") from error
    entries = archive.infolist()
    if not entries:
        raise BadInput(f"{where} is a zip archive with nothing in it")
    twice = first_repeat(entry.filename for entry in entries)
    if twice is not None:
        raise BadInput(f"{where} holds {shown(twice)} twice")
    for entry in entries:
        _check_entry(entry, size, where)
    if sum(entry.compress_size for entry in entries) > size:
        raise BadInput(f"the entries of {where} overlap: together they exceed its {size} bytes")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > 2 * size + SLACK:
        raise BadInput(
            f"{where} would unpack to {unpacked} bytes, more than twice its {size}; "
            "save it uncompressed (numpy.savez, or safetensors)"
        )
    return archive


def _check_entry(entry: zipfile.ZipInfo, size: int, where: str) -> None:
    name = shown(entry.filename)
    if len(entry.filename) > LONGEST_NAME or not entry.filename.isprintable():
        raise BadInput(f"{where} holds an entry with an absurd name: {name}")
    if entry.filename != entry.orig_filename:
        raise BadInput(f"{where} holds an entry with two names, {name} and another")
    if entry.flag_bits & _ENCRYPTED:
        raise BadInput(f"{name} in {where} is encrypted; save it without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{name} in {where} is packed by a method that is not read; use numpy.savez")
    stored = entry.compress_type == zipfile.ZIP_STORED
    if entry.compress_size > size or (stored and entry.file_size != entry.compress_size):
        raise BadInput(f"{name} in {where} declares a size that the file does not have")


def _check_directory(file: BinaryIO, size: int, where: str) -> None:
    """Check that the directory is short, and stands where every reader would look for it.

    Python's zipfile takes it from right before the last records, PyTorch's reader from where those
    say. Where the two differ, or a comment follows, one file could be two: checked as one,
    loaded as the other.
    """
    end = size - 22
    file.seek(max(0, end - 20))
    tail = file.read(42)
    if tail[-22:-18] != _END or tail[-2:] != b"\0\0":
        raise BadInput(f"{where} is not a whole zip archive, or has a comment after its end")
    length, place = struct.unpack_from("<II", tail, len(tail) - 10)
    if tail[:4] == _LOCATOR64 and len(tail) == 42:
        (end,) = struct.unpack_from("<Q", tail, 8)
        file.seek(min(end, size))
        record = file.read(56)
        if end != size - 22 - 20 - 56 or record[:4] != _END64:
            raise BadInput(f"{where} is a zip archive with its last records out of place")
        length, place = struct.unpack_from("<QQ", record, 40)
    if length > HEADER_LIMIT:
        raise BadInput(f"{where} is a zip archive with too long a directory to be an update")
    if place + length != end:
        raise BadInput(f"{where} is a zip archive with its directory out of place")
