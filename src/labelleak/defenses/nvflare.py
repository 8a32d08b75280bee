"""Filters of NVIDIA FLARE as its release 2.9 acts: largest percentile and sparse vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isinf, sqrt
from typing import ClassVar

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import COMPRESSED, KEPT, POOLED, Kind, Ladders
from labelleak.defenses.noise import Noisy
from labelleak.defenses.sparsify import in_rows, out_of_rows
from labelleak.defenses.text import above_zero, at_least_zero, finite, share

# Passes over the entries after which fewer are sent than asked for.
_PASSES = 100


def _flat(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """Lay each trial's parameters in one row."""
    return in_rows(tensors, torch.float64).cpu().numpy()


def _laid_back(rows: np.ndarray, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = out_of_rows(torch.from_numpy(rows), like)
    return {name: part.to(like[name].device) for name, part in parts.items()}


@dataclass(frozen=True)
class PercentilePrivacy(Part):
    """Zero entries below a percentile of all sizes, and cut the others off at a largest size.

    NVFlare's filter of this name, after Shokri & Shmatikov (CCS 2015), of whose privacy budget it
    has nothing. The percentile counts what is *not* sent: at 10 nine entries in ten leave.
    NVFlare divides weight changes by the steps first; after T steps give T times its gamma.

    Attributes:
        percentile: of the sizes of all entries, 0 to 100; what lies below it is zeroed.
        gamma: largest size that is sent, in the units of what is shared; inf for none.
    """

    percentile: float = 10.0
    gamma: float = 0.01

    name = "percentile"
    example = "percentile:50:0.1"
    scope = Scope.UPDATE
    kind = Kind.SPARSE
    drops_zeros = True
    leaves_open = (COMPRESSED,)
    ladders: ClassVar[Ladders] = {
        "percentile": tuple(f"percentile:{100 * (1 - float(s)):.6g}" for s in KEPT)
    }

    def __post_init__(self) -> None:
        share(self.percentile, "the percentile", most=100.0)
        above_zero(self.gamma, "gamma")

    @property
    def is_off(self) -> bool:
        """Whether nothing is zeroed or cut off."""
        return self.percentile == 0 and isinf(self.gamma)

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Zero and cut off; nothing is kept."""
        raw = update.floats
        if self.is_off or not raw:
            return update, memory
        rows = _flat(raw)
        cutoff = np.percentile(np.abs(rows), self.percentile, axis=1, keepdims=True)
        kept = np.clip(rows * (np.abs(rows) >= cutoff), -self.gamma, self.gamma)
        return update.replaced(_laid_back(kept, raw)), memory


@dataclass(frozen=True)
class SparseVector(Noisy):
    """Send noisy values of entries that pass a noisy threshold (NVFlare's SVTPrivacy).

    Sizes of entries, cut off at gamma, with noise Lap(2 c gamma / e_q) are compared with ``tau +
    Lap(gamma / e_t)``, again and again until c = ceil(KEEP n) of n entries pass; e_q + e_t =
    EPSILON, split as Lyu, Su & Li (VLDB 2017) do. From all that passed, c are drawn with
    replacement, and the drawn ones are sent, cut off at gamma, with noise Lap(2 gamma / NOISE).

    NVFlare asks without end where too little passes; here the asking ends after 100 passes, and
    fewer entries are sent. What NVFlare divides by the steps, `PercentilePrivacy` explains.

    Attributes:
        keep: share of all entries that is drawn, above 0.
        epsilon: what the selection is said to cost.
        noise: what each value that is sent is said to cost (NVFlare's ``noise_var``).
        gamma: largest size of an entry, in the units of what is shared.
        tau: threshold, before its noise.
    """

    keep: float = 0.1
    epsilon: float = 0.1
    noise: float = 0.1
    gamma: float = 1e-5
    tau: float = 1e-6

    name = "svt"
    example = "svt:0.3:1:2:0.5"
    scope = Scope.UPDATE
    kind = Kind.SPARSE
    drops_zeros = True
    leaves_open = (
        "NVFlare's figure for its epsilon leaves out that more entries may pass the threshold than "
        "its noise is measured for; the one here counts them.",
        POOLED,
    )
    ladders: ClassVar[Ladders] = {
        "svt": tuple(f"svt:0.1:0.1:{noise}:0.01" for noise in ("100", "10", "1", "0.1", "0.01"))
    }

    def __post_init__(self) -> None:
        share(self.keep, "the share that is drawn")
        finite(self.keep, "the share that is drawn")
        finite(self.epsilon, "epsilon")
        finite(self.noise, "the budget of a value")
        finite(self.gamma, "gamma")
        at_least_zero(self.tau, "tau")

    def drawn(self, entries: int) -> int:
        """Return c, the entries that are drawn of so many."""
        return int(np.ceil(entries * self.keep))

    def split(self, entries: int) -> tuple[float, float]:
        """Return what threshold and questions are said to cost, e_t and e_q."""
        ratio = (2.0 * self.drawn(entries)) ** (2 / 3)
        return self.epsilon / (1 + ratio), self.epsilon * ratio / (1 + ratio)

    def epsilon_of(self, entries: int) -> float:
        """Return the epsilon that is proved of one update of so many entries.

        Whatever was computed, an exchange of the update moves a size by at most gamma and a value
        by 2 gamma. The threshold then costs e_t, each entry that passes e_q / c, and each value
        that is sent NOISE. All n entries may pass, so the sum is ``e_t + e_q n / c + c NOISE``.
        """
        threshold, questions = self.split(entries)
        drawn = self.drawn(entries)
        return threshold + questions * entries / drawn + drawn * self.noise

    def claimed(self, entries: int) -> float:
        """Return what NVFlare says that one update costs, ``EPSILON + c NOISE``."""
        return self.epsilon + self.drawn(entries) * self.noise

    @property
    def root_mean_square(self) -> float:
        """Of the Laplace noise on a value that is sent."""
        return sqrt(2) * 2 * self.gamma / self.noise

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Select and send, each trial by itself; nothing is kept."""
        raw = update.floats
        if not raw:
            return update, memory
        base = int(rng.integers(2**63))
        rows = np.clip(_flat(raw), -self.gamma, self.gamma)
        sent = np.stack(
            [
                self._sent(row, np.random.default_rng([base, trial]))
                for trial, row in enumerate(rows)
            ]
        )
        return update.replaced(_laid_back(sent, raw)), memory

    def _sent(self, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        number = self.drawn(row.size)
        e_threshold, e_questions = self.split(row.size)
        threshold = self.tau + rng.laplace(scale=self.gamma / e_threshold)
        passed = np.zeros(row.size, dtype=bool)
        for _ in range(_PASSES):
            if passed.sum() >= number:
                break
            noise = rng.laplace(scale=2 * number * self.gamma / e_questions, size=row.size)
            passed |= np.abs(row) + noise >= threshold
        sent = np.zeros_like(row)
        if passed.any():
            # Drawn twice, an entry is written twice, and one value of it leaves.
            chosen = np.zeros_like(passed)
            chosen[rng.choice(np.flatnonzero(passed), number)] = True
            drawn = np.flatnonzero(chosen)
            sent[drawn] = row[drawn] + rng.laplace(
                scale=2 * self.gamma / self.noise, size=drawn.size
            )
        return sent
