"""Reads data sets from .npz files without unpickling and without trusting declared sizes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from labelleak.errors import BadInput, few
from labelleak.simulation.data.parts import (
    Parts,
    check_rows,
    check_size,
    part_rows,
    parts_from_arrays,
    present_file,
)

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
# All rows in one array, as scikit-learn names them; a fifth of them is kept for testing.
PAIRS = (("X", "y"), ("x", "y"))
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
    ``X`` and ``y`` in place of the first four are parted: a fifth of each class is for testing.
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
    pair = _pair_in(file)
    arrays = read_arrays(file, pair or REQUIRED, (NAMES, WRITERS))
    writers = _read_names(arrays.get(WRITERS), WRITERS, file)
    rows = int(np.prod(arrays[pair[1] if pair else "y_train"].shape[:1]))
    if writers is not None and len(writers) != rows:
        raise BadInput(f"{file} names {len(writers)} writers for {rows} rows")
    if pair:
        check_rows(arrays[pair[0]], pair[0], arrays[pair[1]], pair[1], str(file))
        picks = part_rows(arrays[pair[1]])
        train, test = ((arrays[pair[0]][part], arrays[pair[1]][part]) for part in picks)
        writers = None if writers is None else [writers[row] for row in picks[0]]
    else:
        train, test = ((arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test"))
    names = _read_names(arrays.get(NAMES), NAMES, file)
    parts = parts_from_arrays(train, test, names, str(file))
    return parts if writers is None else replace(parts, writers=np.array(writers))


def _pair_in(file: Path) -> tuple[str, str] | None:
    """Name the arrays of a file that holds all rows in one pair, else None."""
    try:
        with zipfile.ZipFile(file) as archive:
            held = {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception:  # noqa: BLE001
        return None  # the reader says what is wrong with it
    found = [pair for pair in PAIRS if held.issuperset(pair)]
    return found[0] if found and not held & set(REQUIRED) else None


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
