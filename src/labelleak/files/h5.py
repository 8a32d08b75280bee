"""Read the weights that Keras saves as HDF5, with everything in them checked before it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from labelleak.errors import BadInput, from_extra, reason, shown
from labelleak.files.limits import LONGEST_NAME, MOST_SIDES

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEEPEST, _MOST = 32, 2**15
# Where Keras keeps layers, which says nothing of them, and what is no weight of the model.
_FOLDERS = ("layers/", "_layer_checkpoint_dependencies/", "model_weights/")
_OPTIMISERS = ("optimizer", "optimizer_weights")


def read_h5(file: BinaryIO, size: int, where: str) -> dict[str, Tensor]:
    """Read every array of a file of ``model.save_weights``, but for the optimiser's.

    A layer's kernel and bias, which Keras 3 calls ``vars/0`` and ``vars/1``, get these names.
    Only arrays that stand whole and uncompressed in the file itself are read: no link leads
    elsewhere, and no array is larger than the file.

    Args:
        file: the open file.
        size: its size in bytes.
        where: its name, for the sentence.

    Raises:
        MissingExtra: if h5py is not installed.
        BadInput: if the file is broken, or holds anything else.
    """
    with from_extra(f"{where} is an HDF5 file; install labelleak[keras]"):
        import h5py
    file.seek(0)
    try:
        with h5py.File(file, "r") as opened:
            found = dict(_walk(h5py, opened, where))
            for name, array in found.items():
                _check(h5py, array, size, f"{shown(name)} in {where}")
            if sum(int(array.nbytes) for array in found.values()) > size:
                raise BadInput(f"the arrays of {where} overlap: together they exceed {size} bytes")
            arrays = {
                name: torch.from_numpy(np.asarray(array[()])) for name, array in found.items()
            }
    except BadInput:
        raise
    except Exception as error:  # a forged file makes HDF5 raise almost anything
        raise BadInput(f"{where} is not a whole HDF5 file ({reason(error)})") from error
    return dict(zip(_names(arrays), arrays.values(), strict=True))


def _walk(h5py: Any, opened: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every array by its path, each group once."""
    seen: set[int] = set()
    waiting = [("", opened)]
    while waiting:
        path, group = waiting.pop()
        for name in group:
            full = f"{path}{name}"
            what = f"{shown(full)} in {where}"
            if len(full) > LONGEST_NAME or not full.isprintable() or full.count("/") > _DEEPEST:
                raise BadInput(f"{where} holds an array with an absurd name: {shown(full)}")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BadInput(f"{what} is a link to elsewhere, which is not followed")
            if not path and name in _OPTIMISERS:
                continue
            found = group[name]
            place = int(h5py.h5o.get_info(found.id).addr)
            if place in seen or len(seen) > _MOST:
                raise BadInput(f"{what} stands at two places, or is one of far too many")
            seen.add(place)
            if isinstance(found, h5py.Group):
                waiting.append((f"{full}/", found))
            elif isinstance(found, h5py.Dataset):
                yield full, found


def _check(h5py: Any, array: Any, size: int, what: str) -> None:
    """Refuse an array that is not simply there: chunked, packed, virtual, elsewhere, or larger."""
    made = array.id.get_create_plist()
    plain = made.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
    if not plain or made.get_nfilters() or made.get_external_count():
        raise BadInput(f"{what} is packed, or kept elsewhere; save it anew with save_weights")
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        raise BadInput(f"{what} holds {shown(array.dtype)}, which is not read; save it as float32")
    held = int(array.id.get_storage_size())
    if array.shape is None or len(array.shape) > MOST_SIDES or int(array.nbytes) != held:
        raise BadInput(f"{what} declares shape {shown(array.shape)} but has {held} bytes")
    if (array.id.get_offset() or 0) + held > size:
        raise BadInput(f"{what} ends behind the end of the file")


def _names(arrays: Mapping[str, Tensor]) -> list[str]:
    """Call a layer's variables kernel and bias, where they are no more than these."""
    layers: dict[str, list[Tensor]] = {}
    for path, array in arrays.items():
        layers.setdefault(path.rpartition("/")[0], []).append(array)
    named = []
    for path in arrays:
        layer, _, number = path.rpartition("/")
        kernel, *rest = layers[layer]
        dense = kernel.dim() > 1 and (not rest or (len(rest) == 1 and rest[0].dim() == 1))
        if layer.endswith("vars") and dense and number in ("0", "1"):
            path = f"{layer.removesuffix('vars')}{'bias' if number == '1' else 'kernel'}"
        prefix = next((p for p in _FOLDERS if path.startswith(p)), "")
        named.append(path.removeprefix(prefix))
    return named


__all__ = ["SIGNATURE", "read_h5"]
