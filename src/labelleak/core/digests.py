"""A digest of named tensors that is the same for a message, a file and another machine."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted

import numpy as np

from labelleak.core.lazy import Tensor, torch

_START = b"labelleak tensors 1\n"


def digest_tensors(named: Mapping[str, Tensor | np.ndarray]) -> str:
    """Return sha256 over sorted names, element types, shapes and little-endian bytes.

    For each tensor in the order of its name, a line of JSON (name, element type as PyTorch and
    numpy call it, shape) goes before its bytes in row-major order. It tells tensors apart, not
    files: the same tensors have one digest in any format.

    >>> digest_tensors({"w": np.zeros(2, "<f4")}) == digest_tensors({"w": torch.zeros(2)})
    True
    >>> digest_tensors({"w": np.zeros(2, ">f4")}) == digest_tensors({"w": torch.zeros(2)})
    True
    >>> digest_tensors({"w": torch.zeros(2, 1)}) == digest_tensors({"w": torch.zeros(2)})
    False
    """
    found = hashlib.sha256(_START)
    for name in sorted(named):
        kind, shape, content = _content(named[name])
        # As `json` writes a list of them, which takes it longer.
        found.update(f"[{quoted(name)}, {quoted(kind)}, {list(shape)}]\n".encode())
        found.update(content)
    return f"sha256:{found.hexdigest()}"


def _content(value: Tensor | np.ndarray) -> tuple[str, tuple[int, ...], memoryview]:
    """Return the element type, the shape and what holds the little-endian bytes, row by row."""
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        return value.dtype.name, value.shape, memoryview(array.tobytes())
    kind, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
    if sys.byteorder == "little" and value.dtype in (torch.float32, torch.float64):
        return kind, shape, np.ascontiguousarray(value.numpy(force=True)).data
    # Seen as bytes, since numpy knows no bfloat16.
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        flat = flat.reshape(-1, value.element_size()).flip(-1).reshape(-1)
    return kind, shape, flat.numpy().data


__all__ = ["digest_tensors"]
