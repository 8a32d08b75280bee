"""What a capture measured of an update, beside the client's training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from labelleak.core.training import LARGEST_COUNT, LARGEST_NUMBER
from labelleak.errors import BadInput, shown

# A measured scale this near to 1 is 1.
_ONE = 1e-3
# Files come from anybody; no honest capture has more to say, or longer.
MOST_NOTES, LONGEST_TEXT = 100, 1000


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured at the head; None where it was not.

    Attributes:
        num_samples: labels in all, where their number varies over the steps.
        loss: kind of loss.
        loss_scale: that loss over the mean loss: 1 for a mean, N for a sum.
        gradient_scale: the gradient that moved the weights over that of the mean loss.
        weighted: whether rows weigh differently in the loss.
        decays_bias: False where the weight decay spares the head's bias.
        optimiser: class of an optimiser whose arithmetic is not known.
        doubtful: whether the capture saw what it could not explain.
        notes: what else it has to say.

    Raises:
        BadInput: for a value that cannot be.
    """

    num_samples: int | None = None
    loss: str | None = None
    loss_scale: float | None = None
    gradient_scale: float | None = None
    weighted: bool | None = None
    decays_bias: bool | None = None
    optimiser: str | None = None
    doubtful: bool | None = None
    notes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in self.known.items():
            if not _fits(name, value):
                raise BadInput(f"{name} cannot be {shown(value)}")

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Measured:
        """Take from a file's metadata what is there."""
        known = {f.name: told[f.name] for f in fields(cls) if f.name in told}
        # A training's own optimiser stands under the same name.
        known["optimiser"] = told.get("unknown_optimiser")
        if isinstance(known.get("notes"), list):
            known["notes"] = tuple(known["notes"])
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return what is known, under the names that `of` takes."""
        known = self.known
        if self.optimiser is not None:
            known["unknown_optimiser"] = known.pop("optimiser")
        return known

    @property
    def holds_scale(self) -> bool:
        """Whether a plain mean loss was seen, unscaled and unweighted, and nothing is in doubt.

        >>> Measured(loss_scale=1.0).holds_scale, Measured(loss_scale=32.0).holds_scale
        (True, False)
        """
        scales = (self.loss_scale, 1.0 if self.gradient_scale is None else self.gradient_scale)
        plain = all(scale is not None and abs(scale - 1) < _ONE for scale in scales)
        return plain and not (self.doubtful or self.weighted or self.optimiser)

    @property
    def known(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def _fits(name: str, value: Any) -> bool:
    if name in ("weighted", "decays_bias", "doubtful"):
        return isinstance(value, bool)
    if name in ("loss", "optimiser"):
        return isinstance(value, str) and len(value) <= LONGEST_TEXT
    if name == "notes":
        few = isinstance(value, tuple) and len(value) <= MOST_NOTES
        return few and all(isinstance(note, str) and len(note) <= LONGEST_TEXT for note in value)
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "num_samples":
        return isinstance(value, int) and plain and 1 <= value <= LARGEST_COUNT
    return plain and 0 < abs(value) <= LARGEST_NUMBER


__all__ = ["Measured"]
