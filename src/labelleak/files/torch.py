"""Read tensors from a file of torch.save, with its pickle looked through before it is loaded."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from labelleak.errors import BadInput, reason, shown
from labelleak.files.limits import HEADER_LIMIT, LONGEST_NAME, first_repeat
from labelleak.files.pickles import check_structure, names_called

# Names under which checkpoints keep the state dict, beside optimisers' states and other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
_KINDS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_TENSORS = frozenset(
    (
        "collections OrderedDict",
        "torch Size",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(f"torch {kind}Storage" for kind in _KINDS),
    )
)
# What torch itself would load, but no update holds; its word in the sentence.
_ODD = {
    "sparse": "sparse tensors; make them dense first (tensor.to_dense())",
    "qtensor": "quantised tensors; save what they stand for (tensor.dequantize())",
    "Complex": "complex tensors, which no label-leaking head has",
    "meta_tensor": "meta tensors, which have no data",
    "nested": "nested tensors; save plain ones",
    "rebuild_tensor_v3": "tensors of a type that is not read; save them as float32",
    "QInt": "quantised tensors; save what they stand for (tensor.dequantize())",
    "QUInt": "quantised tensors; save what they stand for (tensor.dequantize())",
}


def read_torch(
    path: str | os.PathLike[str], archive: zipfile.ZipFile, size: int, where: str
) -> dict[str, Tensor]:
    """Read a state dict, or a list of tensors, that torch.save wrote.

    The pickle inside is first disassembled, not run: only the names that plain dense tensors need
    may stand in it, a narrower list than that of ``weights_only=True``, which would still let
    ``bytearray(10**12)`` take the memory. Storages are mapped from the file, so that a
    declared size beyond it cannot be read.

    Args:
        path: the file, opened again by torch, which maps it.
        archive: as `zip_directories.check_archive` gives it.
        size: its size in bytes.
        where: its name, for the sentence.

    Raises:
        BadInput: naming the first thing in it that would have to be run, or what else is wrong.
    """
    _check_entries(archive, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's oddities; those are refused below
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises almost anything on a forged file
        raise BadInput(f"{where} cannot be read as a PyTorch file ({reason(error)})") from error
    return dict(_named(found, where))


def _check_entries(archive: zipfile.ZipFile, where: str) -> None:
    packed = [e for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise BadInput(f"{where} is packed, which torch.save never does; save it anew")
    # PyTorch's reader does not tell A from a, so neither may the check.
    names = [name.lower() for name in archive.namelist()]
    twice = first_repeat(names)
    if twice is not None:
        raise BadInput(f"{where} holds {shown(twice)} twice")
    if any(name.endswith("constants.pkl") for name in names):
        raise BadInput(f"{where} is a TorchScript program; save the model's state_dict() instead")
    pickles = [e for e in archive.infolist() if e.filename.lower().endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > HEADER_LIMIT:
        raise BadInput(f"{where} has no pickle of tensors alone, as torch.save writes it")
    try:
        content = archive.read(pickles[0])
        for name in names_called(content):
            _check_name(name, where)
        check_structure(content, where)
    except BadInput:
        raise
    except Exception as error:  # forged entries and opcodes raise almost anything
        raise BadInput(f"{where} is not a whole PyTorch file ({reason(error)})") from error


def _check_name(name: str, where: str) -> None:
    if name in _TENSORS:
        return
    for part, words in _ODD.items():
        if name.startswith("torch") and part in name:
            raise BadInput(f"{where} holds {words}")
    raise BadInput(
        f"{where} names {shown(name.replace(' ', '.'))}, which would have to be run to read it; "
        "save tensors alone (torch.save(model.state_dict(), ...))"
    )


def _named(found: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """Return name and tensor of a state dict, of one inside a checkpoint, or of a list."""
    if isinstance(found, Tensor):
        found = [found]
    if isinstance(found, dict):
        _check_attributes(found, where)
        inner = (found[key] for key in _WRAPPERS if isinstance(found.get(key), dict))
        found = next(inner, found)
        _check_attributes(found, where)
        # A gradient is None where nothing was learnt.
        found = {name: tensor for name, tensor in found.items() if tensor is not None}
    pairs = found.items() if isinstance(found, dict) else _numbered(found, where)
    for name, tensor in pairs:
        if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
            raise BadInput(f"{where} holds a tensor with an absurd name: {shown(name)}")
        if not isinstance(tensor, Tensor):
            raise BadInput(
                f"{shown(name)} in {where} is no tensor but {type(tensor).__name__}; "
                "save the state dict alone"
            )
        yield name, tensor.detach()


def _check_attributes(found: dict[Any, Any], where: str) -> None:
    """Refuse a state dict on which a file sets attributes; they could stand before its methods."""
    odd = [name for name in getattr(found, "__dict__", {}) if name != "_metadata"]
    if odd:
        raise BadInput(f"{where} sets {shown(odd[0])} on its state dict, which torch never does")


def _numbered(found: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(found, (list, tuple)):
        raise BadInput(f"{where} holds {type(found).__name__}, not tensors by name")
    return ((str(place), tensor) for place, tensor in enumerate(found) if tensor is not None)
