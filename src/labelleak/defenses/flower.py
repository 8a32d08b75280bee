"""Defenses of Flower as its release 1.41 acts: local DP and clipping that adapts."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import ClassVar

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.clipping import NormBound, scale_to
from labelleak.defenses.facts import POOLED, Kind, Ladders, decades
from labelleak.defenses.noise import Noisy, add_noise, gaussian
from labelleak.defenses.text import at_least_zero, finite, share
from labelleak.errors import BadInput

_RUNAWAY = (
    "Flower's bound shrinks when more updates are clipped than wanted and grows when fewer are, so "
    "it runs off to nothing or without end."
)


@dataclass(frozen=True)
class LocalDP(Noisy):
    """Clip the whole update, then add noise of ``S sqrt(2 ln(1.25 / delta)) / epsilon``.

    Flower's LocalDpMod. Its epsilon only sets the noise: the formula is proved up to 1, for one
    round, and for a sensitivity S that is the clipping norm. `account` computes what holds.
    Flower counts and changes integer counters and running statistics too; here they pass.

    Attributes:
        norm: largest L2 norm of the update.
        sensitivity: S; Flower lets it differ from the norm.
        epsilon: as it is written there.
        delta: in (0, 1).

    >>> LocalDP(1.0, 1.0, 5.0).label, round(LocalDP(1.0, 1.0, 5.0).sigma, 3)
    ('local_dp:1:1:5', 0.969)
    """

    norm: float
    sensitivity: float
    epsilon: float
    delta: float = 1e-5

    name = "local_dp"
    example = "local_dp:0.5:0.5:5"
    scope = Scope.UPDATE
    leaves_open = (POOLED,)
    ladders: ClassVar[Ladders] = {
        "local_dp": tuple(f"local_dp:0.5:0.5:{epsilon}" for epsilon in decades(-1, 3)[::-1])
    }

    def __post_init__(self) -> None:
        finite(self.norm, "the clipping norm")
        finite(self.epsilon, "epsilon")
        at_least_zero(self.sensitivity, "the sensitivity")
        if not 0 < self.delta < 1:
            raise BadInput(f"delta must lie between 0 and 1, not {self.delta:g}")

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return self.sensitivity * sqrt(2 * log(1.25 / self.delta)) / self.epsilon

    @property
    def root_mean_square(self) -> float:
        """Sigma."""
        return self.sigma

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Clip and add noise; nothing is kept."""
        clipped = update.replaced(scale_to(update.floats, self.norm))
        return add_noise(clipped, rng, gaussian(self.sigma)), memory


@dataclass(frozen=True)
class AdaptiveClipping(NormBound):
    """Clip the whole update to a bound that changes from round to round.

    Flower's adaptiveclipping_mod with its strategy. After each round the bound is multiplied by
    ``exp(-rate (clipped - quantile))``, where Andrew et al. (NeurIPS 2021) count what was *not*
    clipped; so Flower's runs away. The share that was clipped is that of all clients there; here
    all are taken to do as this one does. That an update was clipped is sent beside it in the
    clear; the server's noise is no concern of that server.

    Attributes:
        norm: bound of the first round; inf for none.
        quantile: share of updates that is to be clipped.
        rate: how fast the bound changes.
    """

    norm: float = 0.1
    quantile: float = 0.5
    rate: float = 0.2

    name = "adaptive_clip"
    example = "adaptive_clip:0.5"
    scope = Scope.UPDATE
    leaves_open: ClassVar[tuple[str, ...]] = (_RUNAWAY,)

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self.quantile, "the quantile")
        at_least_zero(self.rate, "the rate")

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Clip to the bound of this round, and keep that of the next."""
        if self.is_off:
            return update, memory
        held = memory or Memory()
        start = torch.full((update.trials,), self.norm, dtype=torch.float64)
        bound = held.residual.get("bound", start)
        clipped = update.norms() > bound
        factor = torch.where(clipped, self._factor(1.0), self._factor(0.0))
        sent = update.replaced(scale_to(update.floats, bound))
        return sent, Memory(held.rounds + 1, {"bound": bound * factor})

    def _factor(self, clipped: float) -> Tensor:
        return torch.tensor(exp(-self.rate * (clipped - self.quantile)), dtype=torch.float64)


@dataclass(frozen=True)
class ServerClipping(AdaptiveClipping):
    """Clip each update at the server, to a bound that changes; the server has seen it before.

    Flower's DifferentialPrivacyServerSideAdaptiveClipping, whose noise is `ServerNoise`. Its
    bound changes as that of `AdaptiveClipping`. To the server the update is as it was.
    """

    name = "server_clip"
    example = "server_clip:0.5"
    scope = Scope.ENTRY
    kind = Kind.SERVER
    leaves_open = (
        "The server clips after it has received the update, so nothing is hidden from that server.",
        _RUNAWAY,
    )

    def on_update(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Clip what was received, as the server does before it takes the mean."""
        return super().apply(update, rng, memory)

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Change nothing: what the server does to an update does not hide it from that server."""
        return update, memory
