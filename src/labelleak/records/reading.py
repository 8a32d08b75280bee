"""Read text from outside: regular files only, sizes, nesting and numbers bounded; no torch."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import stat
import tomllib
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from labelleak.errors import BadInput, reason, shown, shown_path
from labelleak.records.packing import MAGIC, end_of_members

# What is read whole at most: text of any kind, and TOML, whose reader takes quadratic time.
LARGEST_TEXT = 64 * 2**20
LARGEST_TOML = 2**18
# What is read line by line at most: the file, and one line of it.
LARGEST_RECORDS = 2 * 2**30
LONGEST_LINE = 16 * 2**20
MOST_DEPTH = 32
MOST_LISTS = 2**17
MOST_DIGITS = 40
_MOST_DOTS = 400


def open_regular(path: str | os.PathLike[str], what: str = "") -> BinaryIO:
    """Open a regular file and nothing else: a pipe would wait, a device never end.

    Args:
        path: the file.
        what: words before its name in a refusal, such as ``"records from "``.

    Raises:
        BadInput: if it is something else, or cannot be opened.
    """
    where = shown_path(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise BadInput(f"{where} is not a regular file but {_kind(mode)}")
        # Should a pipe take its place in between, opening must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise BadInput(f"{where} is not a regular file")
        return os.fdopen(handle, "rb")
    except OSError as error:
        raise BadInput(f"cannot read {what}{where}: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"cannot read {what}{where}: {reason(error)}") from error


def _kind(mode: int) -> str:
    names = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in names if test(mode)), "something else")


def read_text(path: Path, what: str = "", *, largest: int = LARGEST_TEXT) -> str:
    """Read a whole file of UTF-8 text, with or without a byte order mark.

    Raises:
        BadInput: if it is no regular file, larger than allowed, or not UTF-8.
    """
    with open_regular(path, what) as file:
        try:
            # No more than its size: some files of the system give without end, or wait.
            content = file.read(_size(file, path, largest))
        except OSError as error:
            raise _unread(path, error) from error
    return decode(content, shown_path(path))


def _unread(path: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot read {shown_path(path)}: {error.strerror or error}")


def decode(content: bytes, where: str) -> str:
    """Decode UTF-8 text.

    Raises:
        BadInput: if it is something else.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{where} is not UTF-8 text") from error


def _size(file: BinaryIO, path: Path, largest: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > largest:
        raise BadInput(
            f"{shown_path(path)} has {size} bytes, more than the {largest} that are read"
        )
    return size


def read_lines(path: Path, what: str = "") -> Iterator[tuple[int, str]]:
    """Read the whole lines of a text file, packed by gzip or not, numbered from 1.

    Blank lines are passed over. So is what a killed writer leaves: a last line without its newline,
    or part of a last member. A packed file may unpack to as much as any other may hold.

    Raises:
        BadInput: as `read_text`, for a line that is too long, and for a damaged packed file.
    """
    with open_regular(path, what) as file:
        try:
            size = _size(file, path, LARGEST_RECORDS)
            packed = file.read(2) == MAGIC
            file.seek(0)
            if not packed:
                yield from _lines_of(file, size, path)
                return
        except OSError as error:
            raise _unread(path, error) from error
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield from _lines_of(unpacked, LARGEST_RECORDS, path)
                if unpacked.read(1):
                    most = f"more than the {LARGEST_RECORDS} bytes that are read"
                    raise BadInput(f"{shown_path(path)} unpacks to {most}")
        except (OSError, EOFError, zlib.error) as error:
            if end_of_members(file):
                return
            raise BadInput(f"{shown_path(path)} is cut short or no gzip file") from error


def _lines_of(file: BinaryIO | gzip.GzipFile, left: int, path: Path) -> Iterator[tuple[int, str]]:
    """Read the whole lines of up to so many bytes."""
    number = 0
    while left > 0:
        line = file.readline(min(left, LONGEST_LINE))
        left -= len(line)
        number += 1
        if not line.endswith(b"\n"):
            if len(line) == LONGEST_LINE:
                raise BadInput(f"{shown_path(path)}, line {number} is too long to be read")
            return
        if line.strip():
            try:
                # As "utf-8-sig" does, which takes longer than a whole line of records.
                text = line.removeprefix(BOM_UTF8).decode()
            except UnicodeDecodeError as error:
                where = f"{shown_path(path)}, line {number}"
                raise BadInput(f"{where} is not UTF-8 text") from error
            yield number, text


def parse_json(text: str) -> Any:
    """Parse JSON strictly: every key once, numbers finite and short, little nesting.

    Raises:
        BadInput: with a sentence that goes on after "the file ...".

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> parse_json("1e999")
    Traceback (most recent call last):
    labelleak.errors.BadInput: holds a number that is not finite
    """
    lists = text.count("[") + text.count("{")
    if lists > MOST_LISTS:
        raise BadInput("holds too many lists to be read")
    try:
        found = _PARSER.decode(text)
    except RecursionError as error:
        raise BadInput("is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise BadInput("is not JSON") from error
    if lists > MOST_DEPTH:
        _check_tree(found)
    if "\\ud" in text.lower():
        _check_text(found)
    return found


def _check_text(found: Any) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadInput("holds half a character, which no file can") from error


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise BadInput(f"holds a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadInput("holds a number that is not finite")
    return number


def _constant(text: str) -> Any:
    raise BadInput(f"holds {text}, which JSON does not have")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise BadInput(f"names {shown(twice)} twice")
    return found


_PARSER = json.JSONDecoder(
    parse_int=_whole, parse_float=_finite, parse_constant=_constant, object_pairs_hook=_once
)


def _check_tree(found: Any) -> None:
    """Refuse what is nested too deeply, and whole numbers that are too long."""
    level = [found]
    for _ in range(MOST_DEPTH + 1):
        if any(isinstance(one, int) and abs(one) >= 10**MOST_DIGITS for one in level):
            raise BadInput(f"holds a whole number of more than {MOST_DIGITS} digits")
        boxes = [one for one in level if isinstance(one, dict | list)]
        if not boxes:
            return
        level = [x for box in boxes for x in (box.values() if isinstance(box, dict) else box)]
    raise BadInput("is nested too deeply")


def read_json(path: Path, *, largest: int = LARGEST_TEXT) -> Any:
    """Read a JSON file.

    Raises:
        BadInput: if it cannot be read, or is not JSON.
    """
    text = read_text(path, largest=largest)
    try:
        return parse_json(text)
    except BadInput as error:
        raise BadInput(f"{shown_path(path)} {error}") from error


def read_toml(path: Path, what: str = "") -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        BadInput: if it cannot be read, or is not TOML.
    """
    where = shown_path(path)
    text = read_text(path, what, largest=LARGEST_TOML)
    # A key of many parts costs the square of their number.
    if any(line.count(".") > _MOST_DOTS for line in re.split(r"[\r\n]", text)):
        raise BadInput(f"{where} has a line with more than {_MOST_DOTS} dots; break it")
    try:
        found = tomllib.loads(text, parse_float=_toml_float)
    except RecursionError as error:
        raise BadInput(f"{where} is nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is not TOML: {reason(error).partition(': ')[2]}") from error
    except ValueError as error:  # a whole number of thousands of digits, a date that is none
        raise BadInput(f"{where} holds a value that is not read: {reason(error)}") from error
    try:
        _check_tree(found)
    except BadInput as error:
        raise BadInput(f"{where} {error}") from error
    return found


def _toml_float(text: str) -> float:
    # TOML can say infinity, which is a norm that clips nothing; only overflow is refused.
    return float(text) if text.lstrip("+-") in ("inf", "nan") else _finite(text)


__all__ = [
    "LARGEST_RECORDS",
    "LARGEST_TEXT",
    "LONGEST_LINE",
    "decode",
    "open_regular",
    "parse_json",
    "read_json",
    "read_lines",
    "read_text",
    "read_toml",
]
