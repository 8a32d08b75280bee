"""Write files so that a reader sees the old one or the new one, and one process at a time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from labelleak.errors import BadInput

if TYPE_CHECKING:
    from filelock import BaseFileLock


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes beside the target and move into place.

    Raises:
        BadInput: if the file cannot be written; an older one stays as it was.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:  # an interrupt must not leave the partial file either
            os.unlink(name)
            raise
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from error


def lock_of(path: Path) -> BaseFileLock:
    """Return the lock of a file, not yet taken; the system drops it when its process ends.

    Any thread may release it. Where it is taken as a context, it is waited for.
    """
    from filelock import FileLock

    return FileLock(path, thread_local=False, poll_interval=0.005)


def _umask() -> int:
    """Read the mask that new files get; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
