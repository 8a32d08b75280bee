"""Read arrays from an .npz archive without unpickling and without trusting declared shapes."""

from __future__ import annotations

import math
import zipfile

import numpy as np
import torch
from torch import Tensor

from labelleak.errors import BadInput, reason, shown
from labelleak.files.limits import MOST_SIDES

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(archive: zipfile.ZipFile, size: int, where: str) -> dict[str, Tensor]:
    """Read every array of a checked archive.

    Args:
        archive: as `zip_directories.check_archive` gives it.
        size: the file's size in bytes.
        where: its name, for the sentence.

    Raises:
        BadInput: for entries that are no arrays, hold objects, text, complex or foreign numbers,
            declare more or less than they have, or are cut short.
    """
    tensors = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        what = f"{shown(name)} in {where}"
        if name == entry.filename:
            raise BadInput(f"{what} is no .npy array; save updates with numpy.savez")
        try:
            _check_header(archive, entry, what)
            with archive.open(entry) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
            tensors[name] = torch.from_numpy(array)
        except BadInput:
            raise
        except Exception as error:  # forged entries make zipfile and numpy raise almost anything
            raise BadInput(f"{what} cannot be read ({reason(error)})") from error
    return tensors


def _check_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str) -> None:
    with archive.open(entry) as stream:
        reader = _HEADERS.get(np.lib.format.read_magic(stream))
        if reader is None:
            raise BadInput(f"{what} is in an .npy format that is not read; save it anew")
        shape, _, dtype = reader(stream)
        held = entry.file_size - stream.tell()
    if dtype.hasobject:
        raise BadInput(f"{what} holds Python objects, which are never unpickled")
    if dtype.kind == "c":
        raise BadInput(f"{what} holds complex numbers, which no label-leaking head has")
    if dtype.kind not in "fiub" or dtype.itemsize > 8 or not dtype.isnative:
        raise BadInput(f"{what} holds {shown(dtype)}, which is not read; save it as float32")
    if len(shape) > MOST_SIDES or any(side < 0 for side in shape):
        raise BadInput(f"{what} declares the impossible shape {shown(shape)}")
    declared = math.prod(shape) * dtype.itemsize
    if declared != held:
        raise BadInput(
            f"{what} declares shape {shown(shape)} ({shown(declared)} bytes) but has {held} bytes"
        )
