"""Read tensors from a file that may be hostile: safetensors, npz, PyTorch's or Keras's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from labelleak.errors import BadInput, shown, shown_path
from labelleak.files.h5 import SIGNATURE, read_h5
from labelleak.files.limits import HEADER_LIMIT, LIMIT
from labelleak.files.npz import read_arrays
from labelleak.files.safetensors import opens_header, read_safetensors
from labelleak.files.shards import read_index
from labelleak.files.torch import read_torch
from labelleak.files.zips import check_archive
from labelleak.records.reading import open_regular

_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


@dataclass(frozen=True, eq=False)
class TensorFile:
    """The tensors of a file by name, and what stands beside them.

    Attributes:
        path: where they were read.
        tensors: floating-point and whole-number tensors on the CPU, all dense, as they came.
        metadata: text by name, as safetensors files carry it; empty for other formats.
        of_torch: whether PyTorch wrote it, so that its weights are outputs x inputs.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    of_torch: bool = False


def read_tensors(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> TensorFile:
    """Read the tensors of a safetensors, npz, PyTorch or HDF5 file, which may be hostile.

    An index of several safetensors files (``model.safetensors.index.json``) is read with all of
    them; ``max_bytes`` holds for them together.

    The format is told from the content, not from the name. Nothing is ever unpickled that
    could run code. What a file declares (shapes, sizes, names) is checked against what it holds
    before memory is taken for it, so that reading takes at most twice the file's size and
    64 MiB. safetensors and PyTorch files are mapped into memory, not copied: a file that
    another process shortens while it is mapped ends this one (SIGBUS), so read files that
    others may write to as a copy. One that is changed or replaced is otherwise refused.

    Args:
        path: a regular file.
        max_bytes: largest file that is read; unless said, any safetensors file, of which no more
            than is looked at takes memory, and 2 GiB of others.

    Raises:
        BadInput: in one sentence, for anything that is not such a file: not regular, too large,
            empty, cut short, forged, with sparse, quantised, complex or meta tensors, or with a
            pickle that names anything but tensors.

    >>> read_tensors("nowhere.safetensors")
    Traceback (most recent call last):
    labelleak.errors.BadInput: cannot read nowhere.safetensors: No such file or directory
    """
    where = shown_path(path)
    with open_regular(path) as file:
        found = _state(os.fstat(file.fileno()))
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise BadInput(f"{where} is empty")
        start = file.read(9)
        file.seek(0)
        most = max_bytes or (size if opens_header(start, size) else LIMIT)
        if size > most:
            raise BadInput(
                f"{where} has {size} bytes, more than the {most} that are read; "
                "save the head alone, or raise the cap (`max_bytes`)"
            )
        if start.startswith(b"{") and not opens_header(start, size):
            if size > HEADER_LIMIT:
                raise BadInput(f"{where} is too long to be an index of safetensors files")
            return _read_shards(Path(path), file.read(size), where, max_bytes)
        read = _read(path, file, start, size, where)
        _check_tensors(read.tensors, size, where)
        if _state(os.fstat(file.fileno())) != found or _state(os.stat(path)) != found:
            raise BadInput(f"{where} changed while it was read; read a copy that nobody writes to")
    return read


def _read(
    path: str | os.PathLike[str], file: BinaryIO, start: bytes, size: int, where: str
) -> TensorFile:
    """Read a file in the format that its first bytes tell."""
    if start.startswith(SIGNATURE):
        return TensorFile(Path(path), read_h5(file, size, where))
    if start.startswith(b"PK\x03\x04"):
        archive = check_archive(file, size, where)
        names = [name.lower() for name in archive.namelist()]
        if any(name.endswith("data.pkl") for name in names):
            tensors = read_torch(_same(file, path), archive, size, where)
            return TensorFile(Path(path), tensors, of_torch=True)
        if "model.weights.h5" in names:
            raise BadInput(
                f"{where} is a whole Keras model; save its weights alone "
                "(model.save_weights, ending in .weights.h5)"
            )
        return TensorFile(Path(path), read_arrays(archive, size, where))
    if start.startswith(b"\x80") and not opens_header(start, size):
        raise BadInput(
            f"{where} is a bare pickle (PyTorch's format before 1.6 is one too), which can run "
            "code and is never unpickled; save it anew with torch.save or as safetensors"
        )
    tensors, metadata = read_safetensors(_same(file, path), file, size, where)
    return TensorFile(Path(path), tensors, metadata)


def _read_shards(path: Path, text: bytes, where: str, max_bytes: int | None) -> TensorFile:
    """Read the files that an index names, and of each what it says stands there."""
    tensors: dict[str, Tensor] = {}
    left = max_bytes
    for shard, names in read_index(text, path.parent, where).items():
        with open_regular(shard) as file:
            if not opens_header(file.read(9), os.fstat(file.fileno()).st_size):
                raise BadInput(f"{shown_path(shard)} is no safetensors file, as {where} has it")
        read = read_tensors(shard, max_bytes=left)
        missing = next((name for name in names if name not in read.tensors), None)
        if missing is not None:
            raise BadInput(f"{shown(missing)} is not in {shown_path(shard)}, where {where} has it")
        tensors |= {name: read.tensors[name] for name in names}
        left = None if left is None else max(1, left - shard.stat().st_size)
    return TensorFile(path, tensors)


def _same(file: BinaryIO, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return a path that leads a library to this very file, not to what has taken its place."""
    own = f"/proc/self/fd/{file.fileno()}"
    return own if os.path.exists(own) else path


def _state(found: os.stat_result) -> tuple[int, ...]:
    """Tell one state of a file from another."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_tensors(tensors: Mapping[str, Tensor], size: int, where: str) -> None:
    """Refuse what no update holds; the views of one storage may not add up to a bomb either."""
    if not tensors:
        raise BadInput(f"{where} holds no tensors")
    declared = sum(t.numel() * t.element_size() for t in tensors.values())
    for name, tensor in tensors.items():
        _check_tensor(tensor, f"{shown(name)} in {where}")
    if declared > 2 * size + LIMIT // 128:
        raise BadInput(f"{where} declares {declared} bytes of tensors but has only {size} bytes")


def _check_tensor(tensor: Tensor, what: str) -> None:
    if tensor.layout is not torch.strided:
        raise BadInput(f"{what} is sparse; make it dense first (tensor.to_dense())")
    if tensor.device.type != "cpu":
        raise BadInput(f"{what} has no data (device {tensor.device.type}); save it from the CPU")
    if tensor.is_quantized:
        raise BadInput(f"{what} is quantised; save what it stands for (tensor.dequantize())")
    if tensor.dtype.is_floating_point and tensor.dtype not in _FLOATS:
        raise BadInput(f"{what} holds {tensor.dtype}, which is not read; save it as float32")
    if tensor.dtype.is_complex:
        raise BadInput(f"{what} holds complex numbers, which no label-leaking head has")
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        raise BadInput(
            f"{what} is a view of shape {tuple(tensor.shape)} over only {held} bytes; "
            "save it as it is meant (tensor.contiguous())"
        )


__all__ = ["TensorFile", "read_tensors"]
