"""Write files whole or append whole lines to them, and let one process at a time do so."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from labelleak.errors import BadInput, shown_path
from labelleak.records.packing import PACKED, pack
from labelleak.records.reading import LONGEST_LINE

try:
    from fcntl import LOCK_EX, LOCK_UN, flock
except ImportError:  # a system that has no such call, on which `lock_of` knows another
    flock = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from filelock import BaseFileLock

# Bytes at a file's end that are looked at first; further pieces are as long as those before.
_PIECE = 2**12


def write_whole(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Write text (as UTF-8) or bytes beside the target and move into place.

    Args:
        path: the file.
        content: what is to stand in it.
        private: let nobody but the owner read it, as what holds the truth must be.

    Raises:
        BadInput: if the file cannot be written; an older one stays as it was.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
            os.chmod(name, 0o600 if private else 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:  # an interrupt must not leave the partial file either
            os.unlink(name)
            raise
    except OSError as error:
        raise BadInput(f"cannot write {shown_path(path)}: {error.strerror or error}") from error


def append_lines(path: Path, lines: str, *, durable: bool = True, private: bool = False) -> None:
    """Append whole lines of JSON to a file, all of them or none.

    What a killed writer left of a line is cut off first, so that nothing is glued to it; a last
    line that only lacks its newline gets it. A file whose name says that it is packed by gzip gets
    a member.

    Args:
        path: the file, made if it is not there.
        lines: the lines, each with its newline.
        durable: force them to the disk.
        private: let nobody but the owner read the file, from now on.

    Raises:
        BadInput: if the file cannot be written (folder missing or read-only, disk full), or is
            no regular file.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(path, flags, 0o600 if private else 0o666)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadInput(f"cannot write {shown_path(path)}: it is not a regular file")
            if private:  # whatever was made here before
                os.chmod(path, 0o600)
            packed = path.suffix == PACKED
            start = file.seek(0, os.SEEK_END) if packed else _end_of_lines(file)
            try:
                file.truncate(start)
                before = b"\n" if not packed and _lacks_newline(file, start) else b""
                file.seek(start)
                left = memoryview(pack(lines.encode()) if packed else before + lines.encode())
                while left:
                    left = left[file.write(left) or 0 :]
                if durable:
                    os.fsync(file.fileno())
            except BaseException:  # an interrupt must not leave half of them either
                file.truncate(start)
                raise
    except OSError as error:
        raise BadInput(f"cannot write {shown_path(path)}: {error.strerror or error}") from error


def _lacks_newline(file: BinaryIO, end: int) -> bool:
    if end == 0:
        return False
    file.seek(end - 1)
    return file.read(1) != b"\n"


def _end_of_lines(file: BinaryIO) -> int:
    """Return where the file's last whole line ends, its newline there or not."""
    end = place = file.seek(0, os.SEEK_END)
    tail = b""
    while place > 0 and b"\n" not in tail and end - place < LONGEST_LINE:
        size = min(place, max(_PIECE, len(tail)))
        place -= size
        file.seek(place)
        tail = file.read(size) + tail
    rest = tail.rpartition(b"\n")[2]
    try:
        if rest:
            json.loads(rest)
    except (ValueError, RecursionError):
        return end - len(rest)
    return end


def lock_of(path: Path) -> BaseFileLock:
    """Return the lock of a file, not yet taken; the system drops it when its process ends.

    Any thread may release it. Where it is taken as a context, it is waited for.

    Raises:
        BadInput: if a link or anything else but a file stands there; taking the lock empties it.
    """
    from filelock import FileLock

    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise BadInput(f"the lock {shown_path(path)} is no plain file; remove it")
    return FileLock(path, thread_local=False, poll_interval=0.005)


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is waited for; its folder is made if it is not there.

    It keeps out who holds it by `lock_of`, and is kept out by them. A lock file that is there is
    taken by the system's own call, which takes a tenth of the time; any other by `lock_of`.

    Raises:
        BadInput: as `lock_of`.
    """
    held = _taken(path)
    if held is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_of(path):
            yield
        return
    with held:
        try:
            yield
        finally:
            flock(held, LOCK_UN)  # a process forked meanwhile may have it open, too


def _taken(path: Path) -> BinaryIO | None:
    """Lock a plain file that is there; None where there is none, or no such call of the system."""
    if flock is None:
        return None
    try:
        # As a file, which is closed when it is lost: an interrupt may come at any time.
        held = open(path, "r+b", buffering=0, opener=_open_plain)  # noqa: SIM115
    except OSError:
        return None  # `lock_of` says what is wrong with it
    try:
        seen = os.fstat(held.fileno())
        if stat.S_ISREG(seen.st_mode):
            flock(held, LOCK_EX)
            if os.path.samestat(seen, os.lstat(path)):  # else it was removed meanwhile
                return held
    except OSError:
        pass
    except BaseException:
        held.close()
        raise
    held.close()
    return None


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _umask() -> int:
    """Read the mask that new files get; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
