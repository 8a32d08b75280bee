"""What a defended update costs to send."""

from __future__ import annotations

from labelleak.core.knowledge import Defense
from labelleak.core.lazy import Tensor, torch
from labelleak.core.update import SharedTensors
from labelleak.defenses.composition import as_part

INDEX_BITS = 32
SCALE_BYTES = 4


def wire_bytes(defense: Defense, sent: SharedTensors) -> float:
    """Count the bytes of a shared update, mean over its trials.

    All values of a tensor are sent, unless a part of the chain makes zeros; then it is sent in the
    cheapest of three ways: all its values; a bitmap of the non-zero entries and their values; or a
    32-bit index and a value for each of these. A value takes what the chain's last quantiser
    leaves (32 bits for float32), and a tensor of quantised values 4 bytes more for its scale.
    Bitmaps and indices are not compressed further. Integer buffers are sent as they are.

    Args:
        defense: what made it.
        sent: what `Defense.apply` gave.

    >>> import numpy as np
    >>> from labelleak.defenses import TopK
    >>> update = SharedTensors({"weight": torch.rand(1, 10, 100)}, "")
    >>> sent, _ = TopK(0.01).apply(update, np.random.default_rng(0))
    >>> wire_bytes(TopK(1.0), update), wire_bytes(TopK(0.01), sent)
    (4000.0, 80.0)
    """
    floats, part = sent.floats, as_part(defense)
    sparse = any(one.drops_zeros and not one.is_off for one in part.parts)
    total = 0.0
    for name, tensor in sent.tensors.items():
        raw = 8 * tensor.element_size()
        total += (
            _tensor_bytes(tensor, min(raw, part.value_bits(raw)), raw, sparse)
            if name in floats
            else tensor[0].numel() * raw / 8
        )
    return total


def _tensor_bytes(tensor: Tensor, bits: int, raw: int, sparse: bool) -> float:
    entries = tensor[0].numel()
    if not sparse:
        return entries * bits / 8 + (SCALE_BYTES if bits < min(16, raw) else 0)
    filled = tensor.detach().flatten(1).count_nonzero(dim=1).double()
    few = (filled * (INDEX_BITS + bits)).minimum(entries + filled * bits)
    # One bit tells two values apart, so beside zeros it cannot stand for every entry.
    possible = (filled == entries) | (bits > 1)
    cheapest = torch.where(possible, few.clamp_max(entries * bits), few)
    return float(cheapest.mean()) / 8 + (SCALE_BYTES if bits < min(16, raw) else 0)


__all__ = ["wire_bytes"]
