"""Sending few entries: top-k, random-k, pruning, and Deep Gradient Compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar
from zlib import crc32

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import COMPRESSED, HELD_BACK, KEPT, Kind, Ladders
from labelleak.defenses.feedback import Compression
from labelleak.defenses.text import at_least_zero, share
from labelleak.errors import BadInput


def largest(values: Tensor, keep: float) -> Tensor:
    """Mark the share of entries of each row that is largest in size; at least one, exactly k."""
    number = _number(keep, values.shape[1])
    picks = values.detach().abs().float().topk(number, dim=1, sorted=False).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, picks, True)


def in_rows(tensors: Mapping[str, Tensor], kind: torch.dtype) -> Tensor:
    """Lay the parameters of each trial side by side, R x n."""
    parts = [tensor.detach().flatten(1).to(kind) for tensor in tensors.values()]
    return torch.cat(parts, dim=1)


def out_of_rows(rows: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Part rows of all entries (R x n) into tensors of the shapes that `in_rows` was given."""
    sizes = [tensor[0].numel() for tensor in like.values()]
    parts = zip(like.items(), torch.split(rows, sizes, dim=1), strict=True)
    return {name: part.reshape(tensor.shape) for (name, tensor), part in parts}


def _masked(tensors: dict[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
    """Zero what a mask over all entries together (R x n) does not keep."""
    parts = out_of_rows(kept, tensors)
    return {name: tensor * parts[name] for name, tensor in tensors.items()}


class _Sparse(Compression):
    kind = Kind.SPARSE
    scope = Scope.LAYER


@dataclass(frozen=True)
class TopK(_Sparse):
    """Share only the entries that are largest in size, over all parameters together.

    Attributes:
        keep: share of entries that is sent, above 0; 1 sends all.
        feedback: keep what is not sent for the next round (error feedback).

    >>> update = SharedTensors({"weight": torch.tensor([[[3.0, -4.0, 1.0, 0.5]]])}, "")
    >>> sent, _ = TopK(0.5).apply(update, np.random.default_rng(0))
    >>> sent.tensors["weight"].tolist()
    [[[3.0, -4.0, 0.0, 0.0]]]
    """

    keep: float
    feedback: bool = False

    name = "topk"
    example = "topk:0.2"
    ladders: ClassVar[Ladders] = {
        "topk": tuple(f"topk:{s}" for s in KEPT),
        "topk_feedback": tuple(f"topk:{s}:feedback" for s in KEPT),
    }
    scope = Scope.UPDATE

    def __post_init__(self) -> None:
        _check_keep(self.keep)

    @property
    def is_off(self) -> bool:
        """Whether everything is sent."""
        return self.keep == 1

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Zero all but the largest entries of each trial."""
        if not tensors:  # all of it was withheld
            return {}
        return _masked(tensors, largest(in_rows(tensors, torch.float32), self.keep))


@dataclass(frozen=True)
class Pruning(_Sparse):
    """Zero the given share of each tensor's entries, those smallest in size.

    Attributes:
        share: share of each tensor that is zeroed, below 1; at least one entry stays.
        feedback: keep what is not sent for the next round (error feedback).
    """

    share: float
    feedback: bool = False

    name = "prune"
    example = "prune:0.8"
    ladders: ClassVar[Ladders] = {"prune": tuple(f"prune:{1 - float(s):.6g}" for s in KEPT)}

    def __post_init__(self) -> None:
        share(self.share, "the pruned share")
        if self.share == 1:
            raise BadInput("pruning everything shares nothing; give a share below 1")

    @property
    def is_off(self) -> bool:
        """Whether nothing is pruned."""
        return self.share == 0

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Zero the smallest entries of each tensor of each trial."""
        keep = 1 - self.share
        return {name: t * largest(t.flatten(1), keep).view_as(t) for name, t in tensors.items()}


@dataclass(frozen=True)
class ThresholdPruning(_Sparse):
    """Zero every entry that is smaller in size than a threshold.

    Attributes:
        threshold: in the units of what is shared; 0 sends all.
        feedback: keep what is not sent for the next round (error feedback).
    """

    threshold: float
    feedback: bool = False

    name = "threshold"
    example = "threshold:0.5"
    scope = Scope.ENTRY

    def __post_init__(self) -> None:
        at_least_zero(self.threshold, "the threshold")

    @property
    def is_off(self) -> bool:
        """Whether everything is sent."""
        return self.threshold == 0

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Zero small entries."""
        return {name: t * (t.abs() >= self.threshold) for name, t in tensors.items()}


@dataclass(frozen=True)
class RandomK(_Sparse):
    """Share a random choice of each tensor's entries, anew for each update.

    Attributes:
        keep: share of each tensor that is sent, above 0; 1 sends all.
        rescale: divide what is sent by the share, so that its expectation is the update.
        feedback: keep what is not sent for the next round (error feedback).
    """

    keep: float
    rescale: bool = False
    feedback: bool = False

    name = "randomk"
    example = "randomk:0.2:rescale"
    ladders: ClassVar[Ladders] = {"randomk": tuple(f"randomk:{s}" for s in KEPT)}

    def __post_init__(self) -> None:
        _check_keep(self.keep)
        if self.rescale and self.feedback:
            raise BadInput(
                "randomk cannot rescale with feedback: what is sent twice over would be taken "
                "back later; drop one of the two"
            )

    @property
    def is_off(self) -> bool:
        """Whether everything is sent."""
        return self.keep == 1

    def largest_factor(self, classes: int) -> float:
        """What is sent stands for what is not, if rescaled."""
        return classes / _number(self.keep, classes) if self.rescale else 1.0

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Zero a random choice of entries of each tensor of each trial."""
        base = int(rng.integers(2**63))
        sent = {}
        for name, tensor in tensors.items():
            flat = tensor.flatten(1)
            own = np.random.default_rng([base, crc32(name.encode())])
            keys = torch.from_numpy(own.random(tuple(flat.shape), dtype=np.float32))
            kept = largest(keys, self.keep).to(tensor.device).view_as(tensor)
            number = _number(self.keep, flat.shape[1])
            sent[name] = tensor * kept * (flat.shape[1] / number if self.rescale else 1.0)
        return sent


@dataclass(frozen=True)
class DeepGradientCompression(Part):
    """Top-k of each tensor with momentum correction, factor masking and warm-up.

    Lin et al., ICLR 2018: the client keeps a momentum ``u = m u + g`` and a sum
    ``v = v + u``, sends the largest entries of v, and clears both where it sent. The share that
    is sent shrinks from round to round of the warm-up as ``keep^((t + 1) / (warm_up + 1))``.
    (Clipping of the local gradient, their fourth part, is `Clipping` before it in a chain.)

    Attributes:
        keep: share of each tensor that is sent after the warm-up.
        momentum: m, in [0, 1); the server then applies none of its own.
        warm_up: rounds before the full strength is reached.
    """

    keep: float
    momentum: float = 0.9
    warm_up: int = 0

    name = "dgc"
    example = "dgc:0.1:0.9:4"
    kind = Kind.SPARSE
    leaves_open = (
        COMPRESSED,
        HELD_BACK,
    )
    ladders: ClassVar[Ladders] = {"dgc": tuple(f"dgc:{s}" for s in KEPT)}
    drops_zeros = True
    scope = Scope.LAYER

    def __post_init__(self) -> None:
        _check_keep(self.keep)
        if not 0 <= self.momentum < 1:
            raise BadInput(f"the momentum must lie in [0, 1), not {self.momentum:g}")
        at_least_zero(self.warm_up, "the warm-up")

    @property
    def is_off(self) -> bool:
        """Whether it sends all: momentum that is sent is cleared, so none is ever corrected."""
        return self.keep == 1

    def value_bits(self, before: int) -> int:
        """Sums of momentum are floats of whatever there was."""
        return before if self.is_off else max(before, 32)

    def largest_after(
        self, largest: float, classes: int, *, batch_size: int = 1, unit: float = 1.0
    ) -> float:
        """Return infinity: many rounds may come in one, times their momentum."""
        return inf

    def share_in(self, rounds: int) -> float:
        """Return the share of entries that is sent after so many rounds."""
        progress = min(1.0, (rounds + 1) / (self.warm_up + 1))
        return float(self.keep**progress)

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Send the largest entries of the accumulated momentum; keep the rest of both."""
        held = memory or Memory()
        keep = self.share_in(held.rounds)
        sent, residual, momentum = {}, {}, {}
        for name, raw in update.floats.items():
            # In float32 at least, as `Compression` does.
            gradient = raw.to(torch.promote_types(raw.dtype, torch.float32))
            u, v = gradient, gradient
            if held.residual:
                u = self.momentum * held.momentum[name] + gradient
                v = held.residual[name] + u
            kept = largest(v.flatten(1), keep).view_as(v)
            sent[name], residual[name], momentum[name] = v * kept, v * ~kept, u * ~kept
        return update.replaced(sent), Memory(held.rounds + 1, residual, momentum)


def _number(keep: float, entries: int) -> int:
    return max(1, round(keep * entries))


def _check_keep(keep: float) -> None:
    if not 0 < keep <= 1:
        raise BadInput(f"the share that is kept must lie above 0 and up to 1 (off), not {keep:g}")
