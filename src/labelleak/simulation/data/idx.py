"""Reads MNIST's and EMNIST's own files (idx, gzipped or not) from a folder."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labelleak.errors import BadInput, few, shown
from labelleak.simulation.data.parts import Parts, check_size, parts_from_arrays

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
TESTS = ("test", "t10k")
# EMNIST's splits by name; its images lie transposed.
_TRANSPOSED = "emnist"


def idx_prefixes(place: Path) -> list[str]:
    """Return what stands before ``train-images-idx3-ubyte`` in a folder's files, or of one split.

    Args:
        place: a folder, or a folder and the name of a split in it, as in ``FOLDER/emnist-byclass``.
    """
    # os.path tells of a name that no path can have, too, that it is no folder.
    folder, start = (place, "") if os.path.isdir(place) else (place.parent, place.name)
    if not os.path.isdir(folder):
        return []
    names = {file.name.removesuffix(".gz") for file in folder.iterdir()}
    found = {n.removesuffix(f"train-{IMAGES}") for n in names if n.endswith(f"train-{IMAGES}")}
    return sorted(one for one in found if not start or one.rstrip("-") == start)


def read_idx(place: Path, prefixes: Sequence[str]) -> Parts:
    """Read the training and test files of one split.

    EMNIST's images are turned upright, and its classes are named by ``PREFIXmapping.txt``, if it is
    there.

    Args:
        place: a folder, or a folder and the name of a split in it.
        prefixes: what `idx_prefixes` found.

    Raises:
        BadInput: if there are several splits, a file is missing or broken, or it is too large.
    """
    if len(prefixes) > 1:
        names = [one.rstrip("-") for one in prefixes]
        raise BadInput(f"{place} holds {few(names)}; give one, as in {place}/{shown(names[0])}")
    folder, prefix = (place if place.is_dir() else place.parent), prefixes[0]
    test = next((t for t in TESTS if _there(folder / f"{prefix}{t}-{IMAGES}")), TESTS[0])
    pairs = []
    for part in ("train", test):
        images = _read_array(folder / f"{prefix}{part}-{IMAGES}", 3)
        if prefix.startswith(_TRANSPOSED):
            images = images.transpose(0, 2, 1)
        pairs.append((images, _read_array(folder / f"{prefix}{part}-{LABELS}", 1)))
    names_of = _read_mapping(folder / f"{prefix}mapping.txt")
    return parts_from_arrays(pairs[0], pairs[1], names_of, str(place))


def _there(path: Path) -> Path | None:
    zipped = path.with_name(path.name + ".gz")
    return next((one for one in (path, zipped) if one.is_file()), None)


def _read_array(path: Path, dimensions: int) -> np.ndarray:
    """Read one idx file: 0, 0, 8 for bytes, the dimensions, their sizes, and the bytes."""
    file = _there(path)
    if file is None:
        raise BadInput(f"there is no file {path}")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            head = stream.read(4 + 4 * dimensions)
            if head[:4] != bytes((0, 0, 8, dimensions)) or len(head) < 4 + 4 * dimensions:
                raise BadInput(f"{file} is no idx file of {dimensions} dimensions of bytes")
            shape = tuple(int(side) for side in np.frombuffer(head[4:], ">u4"))
            size = int(np.prod(shape, dtype=object))
            check_size(size, str(file))
            content = stream.read(size + 1)
    except (OSError, EOFError) as error:
        raise BadInput(f"{file} cannot be read ({type(error).__name__})") from error
    if len(content) != size:
        raise BadInput(f"{file} does not hold the {size} numbers that it declares")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_mapping(path: Path) -> list[str] | None:
    """Read EMNIST's mapping of classes to characters, a class and a code a line."""
    if not path.is_file():
        return None
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
        codes = {int(row[0]): int(row[1]) for row in rows if row}
        return [chr(codes[label]) for label in range(len(codes))]
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise BadInput(f"{path} must have a class and a character's code on each line") from error


__all__ = ["idx_prefixes", "read_idx"]
