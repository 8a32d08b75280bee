"""Short fingerprints that tell whether two sets of tensors are the same to the last bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from labelleak.core.lazy import Tensor, torch

LENGTH = 16


def fingerprint_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hash names, element types, shapes and bytes; 16 hexadecimal digits of sha256.

    >>> fingerprint_tensors([("x", torch.zeros(2))]) == fingerprint_tensors([("x", torch.zeros(2))])
    True
    >>> fingerprint_tensors([("x", torch.zeros(2))]) == fingerprint_tensors([("x", torch.ones(2))])
    False
    """
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # Seen as bytes, since numpy knows no bfloat16.
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()[:LENGTH]
