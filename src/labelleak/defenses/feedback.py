"""Lossy compression, with or without error feedback."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.core.update import Memory, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import COMPRESSED


@dataclass(frozen=True)
class Compression(Part):
    """Base of defenses that give up part of an update, and may send it later.

    With error feedback (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019) the
    client adds what it held back in earlier rounds before it compresses, and keeps what is left:
    sent so far + residual = everything that was computed. What is withheld leaks later.
    """

    name = "compression"
    leaves_open = (COMPRESSED,)
    drops_zeros = True

    @property
    def has_feedback(self) -> bool:
        """Whether what is held back is kept for the next round."""
        return bool(getattr(self, "feedback", False))

    def value_bits(self, before: int) -> int:
        """What is left from earlier rounds makes floats of whatever there was."""
        return self.coded_bits(max(before, 32) if self.has_feedback else before)

    def coded_bits(self, before: int) -> int:
        """Return the bits that compression leaves of one value that took so many."""
        return before

    def largest_after(
        self, largest: float, classes: int, *, batch_size: int = 1, unit: float = 1.0
    ) -> float:
        """Return infinity with error feedback, which may send many rounds in one."""
        return inf if self.has_feedback else largest * self.largest_factor(classes)

    def largest_factor(self, classes: int) -> float:
        """Return by how much compression may lengthen so many entries, at most."""
        return 1.0

    def compress(self, tensors: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Compress parameters of R trials, each ``R x ...``."""
        raise NotImplementedError

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Compress, after adding the residual and before keeping the new one if asked to."""
        raw = update.floats
        if not self.has_feedback:
            return update.replaced({} if self.is_off else self.compress(raw, rng)), memory
        held = memory or Memory()
        # In float32 at least: sums of half-precision residuals would lose what is small.
        wanted = {
            name: t.to(torch.promote_types(t.dtype, torch.float32)) + held.residual.get(name, 0)
            for name, t in raw.items()
        }
        sent = update.replaced(wanted if self.is_off else self.compress(wanted, rng))
        residual = {name: t - sent.tensors[name] for name, t in wanted.items()}
        return sent, Memory(held.rounds + 1, residual)
