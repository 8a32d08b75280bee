"""Reads data sets from .npz files without unpickling and without trusting declared sizes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from labelleak.errors import BadInput, few
from labelleak.simulation.data.parts import Parts, check_size, parts_from_arrays, present_file

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
NAMES, WRITERS = "class_names", "writers"
# No data set is packed so tightly: numbers for each byte of a file, unless they are few.
MOST_PACKED = 200
_SMALL = 2**24
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: str | Path) -> Parts:
    """Read x_train, y_train, x_test, y_test, class_names and writers from an .npz file.

    The last two may be missing; ``writers`` says whose each row of x_train is, as text or numbers.
    The array headers are read first and the file is refused if the arrays that they declare
    would take more than 4 GiB as float32, or are packed as tightly as no data are.

    Args:
        path: the file; ``numpy.savez`` and ``numpy.savez_compressed`` write it.

    Raises:
        BadInput: if it is missing, broken, too large or not such a data set.

    >>> read_npz("nowhere.npz")
    Traceback (most recent call last):
    labelleak.errors.BadInput: there is no file nowhere.npz
    """
    file = present_file(path)
    arrays = read_arrays(file, REQUIRED, (NAMES, WRITERS))
    parts = parts_from_arrays(
        (arrays["x_train"], arrays["y_train"]),
        (arrays["x_test"], arrays["y_test"]),
        _read_names(arrays.get(NAMES), NAMES, file),
        str(file),
    )
    writers = _read_names(arrays.get(WRITERS), WRITERS, file)
    if writers is None:
        return parts
    if len(writers) != len(parts.y_train):
        raise BadInput(f"{file} names {len(writers)} writers for {len(parts.y_train)} rows")
    return replace(parts, writers=np.array(writers))


def read_arrays(file: Path, needed: Sequence[str], more: Sequence[str]) -> dict[str, np.ndarray]:
    """Read arrays of an .npz file by name, their headers first.

    Args:
        file: the file.
        needed: arrays that must be there.
        more: arrays that may be.

    Raises:
        BadInput: if it is broken, too large, or lacks one.
    """
    try:
        _check_headers(file, needed, more)
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in (*needed, *more) if key in archive}
    except BadInput:
        raise
    except Exception as error:
        # A cut, forged or encrypted archive makes zipfile and numpy raise almost anything.
        raise BadInput(f"{file} cannot be read as .npz ({type(error).__name__})") from error


def _check_headers(file: Path, needed: Sequence[str], more: Sequence[str]) -> None:
    with zipfile.ZipFile(file) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        missing = [key for key in needed if key not in held]
        if missing:
            raise BadInput(f"{file} lacks {', '.join(missing)}; it holds {few(held) or 'nothing'}")
        wanted = [key for key in (*needed, *more) if key in held]
        elements = sum(_declared_elements(archive, key, file) for key in wanted)
        check_size(elements, str(file))
        if elements > max(_SMALL, MOST_PACKED * file.stat().st_size):
            raise BadInput(
                f"{file} would unpack to more than {MOST_PACKED} numbers for each of its bytes; "
                "save it uncompressed (numpy.savez)"
            )


def _declared_elements(archive: zipfile.ZipFile, key: str, file: Path) -> int:
    """Count the elements that an array declares, in units of float32 if they are wider."""
    with archive.open(f"{key}.npy") as stream:
        reader = _HEADER_READERS.get(np.lib.format.read_magic(stream))
        if reader is None:
            raise BadInput(f"{key} in {file} is in a format that is not read; save it anew")
        shape, _, dtype = reader(stream)
    if dtype.hasobject:
        raise BadInput(f"{key} in {file} holds Python objects, which are never unpickled")
    if any(side < 0 for side in shape):
        raise BadInput(f"{key} in {file} declares the impossible shape {shape}")
    return math.prod(shape) * max(1, dtype.itemsize // 4)


def _read_names(names: np.ndarray | None, key: str, file: Path) -> list[str] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "Uiu":
        raise BadInput(f"{key} in {file} must be one row of text, not {names.dtype} {names.shape}")
    return [str(name) for name in names]
