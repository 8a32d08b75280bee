"""Defenses that the server applies, as the server itself sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import Kind
from labelleak.defenses.noise import add_noise, gaussian
from labelleak.defenses.text import at_least_zero


@dataclass(frozen=True)
class ServerNoise(Part):
    """Noise that the server adds to the mean of the clients' updates (central client-level DP).

    It protects clients from whoever receives the new global model. The server adds it after it
    has received each update, so to that server the update is as it was: `apply` changes nothing.

    Attributes:
        sigma: standard deviation of the noise on the mean, in the units of what is shared.
    """

    sigma: float

    name = "server_noise"
    example = "server_noise:0.1"
    kind = Kind.SERVER
    leaves_open = (
        (
            "The server adds it after it has received the update, so nothing is hidden from that "
            "server."
        ),
    )
    scope = Scope.ENTRY

    def __post_init__(self) -> None:
        at_least_zero(self.sigma, "sigma")

    @property
    def is_off(self) -> bool:
        """Whether sigma is 0."""
        return self.sigma == 0

    def on_mean(self, mean: SharedTensors, rng: np.random.Generator) -> SharedTensors:
        """Add the noise to the mean of the clients' updates, as the server does."""
        return mean if self.is_off else add_noise(mean, rng, gaussian(self.sigma))

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Return the update as the server receives it: unchanged."""
        return update, memory
