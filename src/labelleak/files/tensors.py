"""Read an update's tensors from a file that may be hostile: safetensors, npz or PyTorch's own."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from labelleak.errors import BadInput, shown
from labelleak.files.limits import LIMIT, reason, shown_path
from labelleak.files.npz import read_arrays
from labelleak.files.safetensors import opens_header, read_safetensors
from labelleak.files.torch import read_torch
from labelleak.files.zips import check_archive

_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
# Names of attention masks, which hold minus infinity.
_BUFFER = re.compile(r"(^|[._])(mask|bias_mask|causal_mask|tril|triu)$")


@dataclass(frozen=True, eq=False)
class TensorFile:
    """The tensors of a file by name, and what stands beside them.

    Attributes:
        path: where they were read.
        tensors: floating-point and whole-number tensors on the CPU, all dense and finite.
        metadata: text by name, as safetensors files carry it; empty for other formats.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_tensors(path: str | os.PathLike[str], *, max_bytes: int = LIMIT) -> TensorFile:
    """Read the tensors of a safetensors, npz or PyTorch file, which may be hostile.

    The format is told from the content, not from the name. Nothing is ever unpickled that
    could run code. What a file declares (shapes, sizes, names) is checked against what it holds
    before memory is taken for it, so that reading takes at most twice the file's size and
    64 MiB. safetensors and PyTorch files are mapped into memory, not copied: a file that
    another process shortens while it is mapped ends this one (SIGBUS), so read files that
    others may write to as a copy. One that is changed or replaced is otherwise refused.

    Args:
        path: a regular file.
        max_bytes: largest file that is read; 2 GiB unless said.

    Raises:
        BadInput: in one sentence, for anything that is not such a file: not regular, too large,
            empty, cut short, forged, with sparse, quantised, complex or meta tensors, with NaN
            or infinite numbers, or with a pickle that names anything but tensors.

    >>> read_tensors("nowhere.safetensors")
    Traceback (most recent call last):
    labelleak.errors.BadInput: cannot read nowhere.safetensors: No such file or directory
    """
    where = shown_path(path)
    with open_regular(path, where) as file:
        found = _state(os.fstat(file.fileno()))
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise BadInput(f"{where} is empty")
        if size > max_bytes:
            raise BadInput(
                f"{where} has {size} bytes, more than the {max_bytes} that are read; "
                "save the head alone, or raise the cap (--max-bytes)"
            )
        metadata: Mapping[str, str] = {}
        start = file.read(9)
        file.seek(0)
        if start.startswith(b"PK\x03\x04"):
            archive = check_archive(file, size, where)
            if any(name.lower().endswith("data.pkl") for name in archive.namelist()):
                tensors = read_torch(_same(file, path), archive, size, where)
            else:
                tensors = read_arrays(archive, size, where)
        elif start.startswith(b"\x80") and not opens_header(start, size):
            raise BadInput(
                f"{where} is a bare pickle (PyTorch's format before 1.6 is one too), which can run "
                "code and is never unpickled; save it anew with torch.save or as safetensors"
            )
        else:
            tensors, metadata = read_safetensors(_same(file, path), file, size, where)
        _check_tensors(tensors, size, where)
        if _state(os.fstat(file.fileno())) != found or _state(os.stat(path)) != found:
            raise BadInput(f"{where} changed while it was read; read a copy that nobody writes to")
    return TensorFile(Path(path), tensors, metadata)


def open_regular(path: str | os.PathLike[str], where: str) -> BinaryIO:
    """Open a regular file and nothing else: a pipe would wait, a device never end."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BadInput(f"{where} is not a regular file but {_kind(os.stat(path).st_mode)}")
        # Should a pipe take its place in between, opening must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise BadInput(f"{where} is not a regular file")
        return os.fdopen(handle, "rb")
    except OSError as error:
        raise BadInput(f"cannot read {where}: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"cannot read {where}: {reason(error)}") from error


def _same(file: BinaryIO, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return a path that leads a library to this very file, not to what has taken its place."""
    own = f"/proc/self/fd/{file.fileno()}"
    return own if os.path.exists(own) else path


def _state(found: os.stat_result) -> tuple[int, ...]:
    """Tell one state of a file from another."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _kind(mode: int) -> str:
    names = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in names if test(mode)), "something else")


def _check_tensors(tensors: Mapping[str, Tensor], size: int, where: str) -> None:
    """Refuse what no update holds; the views of one storage may not add up to a bomb either."""
    if not tensors:
        raise BadInput(f"{where} holds no tensors")
    declared = sum(t.numel() * t.element_size() for t in tensors.values())
    for name, tensor in tensors.items():
        _check_tensor(tensor, f"{shown(name)} in {where}")
    if declared > 2 * size + LIMIT // 128:
        raise BadInput(f"{where} declares {declared} bytes of tensors but has only {size} bytes")
    for name, tensor in tensors.items():
        if tensor.dtype in _FLOATS and not _is_usable(name, tensor):
            raise BadInput(f"{shown(name)} in {where} holds NaN or infinite numbers")


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


def _is_usable(name: str, tensor: Tensor) -> bool:
    """Look for NaN and infinities; both survive into the extremes, so nothing is copied.

    A buffer may hold infinities, as an attention mask does; what is called weight or bias, or has
    no name but a number, may not.
    """
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor.detach())
    if _BUFFER.search(name):
        return not bool(torch.isnan(low))
    return bool(torch.isfinite(low) and torch.isfinite(high))


__all__ = ["TensorFile", "open_regular", "read_tensors"]
