"""Read tensors from a safetensors file, its header checked before any data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from safetensors import safe_open
from torch import Tensor

from labelleak.errors import BadInput, reason, shown
from labelleak.files.limits import (
    HEADER_LIMIT,
    LONGEST_NAME,
    MOST_SIDES,
    first_repeat,
)

_READ = frozenset(
    ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
)
_METADATA = "__metadata__"


def opens_header(start: bytes, size: int) -> bool:
    """Return whether a file's first nine bytes open a safetensors header that fits in its size.

    The first byte alone tells nothing: it is the header's length modulo 256, so one good file in
    32 begins as a pickle does.

    >>> opens_header((128).to_bytes(8, "little") + b"{", 500)
    True
    >>> opens_header(b"\\x80\\x02\\x8a\\nl\\xfc\\x9cF\\xf9", 500)
    False
    """
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def read_safetensors(
    path: str | os.PathLike[str], file: BinaryIO, size: int, where: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors, mapped into memory and not copied, and the header's metadata.

    Args:
        path: the file, opened again by the library that maps it.
        file: the same, open.
        size: its size in bytes.
        where: its name, for the sentence.

    Raises:
        BadInput: if it is no whole safetensors file, or its header is huge, repeats a name, or
            declares a type that is not read.
    """
    header = _read_header(file, size, where)
    for name, entry in header.items():
        if name != _METADATA:
            _check_entry(name, entry, where)
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            names = [name for name in header if name != _METADATA]
            return {name: handle.get_tensor(name) for name in names}, dict(metadata)
    except Exception as error:  # whatever the library objects to, the file is at fault
        raise BadInput(f"{where} is not a whole safetensors file ({reason(error)})") from error


def _read_header(file: BinaryIO, size: int, where: str) -> Mapping[str, Any]:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > size - 8:
        raise BadInput(f"{where} is no whole safetensors, npz or PyTorch file")
    if length > HEADER_LIMIT:
        raise BadInput(
            f"{where} has a header of {length} bytes, more than the {HEADER_LIMIT} that are read"
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_repeats)
    except BadInput as error:
        raise BadInput(f"the header of {where} {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is no safetensors, npz or PyTorch file") from error
    if not isinstance(header, dict):
        raise BadInput(f"the header of {where} is no JSON object, so it is no safetensors file")
    return header


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = first_repeat(name for name, _ in pairs)
    if twice is not None:
        raise BadInput(f"names {shown(twice)} twice")
    return dict(pairs)


def _check_entry(name: str, entry: Any, where: str) -> None:
    what = f"{shown(name)} in {where}"
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise BadInput(f"{where} holds a tensor with an absurd name: {shown(name)}")
    if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
        raise BadInput(f"{what} is not described as safetensors describes a tensor")
    dtype, shape = entry.get("dtype"), entry["shape"]
    if not isinstance(dtype, str):
        raise BadInput(f"{what} is not described as safetensors describes a tensor")
    if dtype.startswith("C"):
        raise BadInput(f"{what} holds complex numbers, which no label-leaking head has")
    if dtype not in _READ:
        raise BadInput(f"{what} holds {shown(dtype)}, which is not read; save it as float32")
    if len(shape) > MOST_SIDES or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise BadInput(f"{what} declares an impossible shape")
