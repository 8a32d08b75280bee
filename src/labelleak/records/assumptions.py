"""What attacks take for granted, by name; standard library only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, StrEnum


class Assumption(Enum):
    """What an attack may take for granted; a flag says that it does not hold."""

    BIAS = "the gradient of the head's bias is there"
    NON_NEGATIVE_INPUTS = "head inputs are not negative, so a label lowers its row sum"
    ONE_STEP = "the update is the gradient of one model, not a sum along its way"
    PLAIN_STEPS = "the client's optimiser adds up gradients (SGD)"
    UNCLIPPED = "the gradient is as long as the labels made it"
    KNOWN_SCALE = "the scale of the update is known (the learning rate, the loss's reduction)"
    HARD_LABELS = "each label is one class"
    EQUAL_CLASSES = "the loss weighs all classes alike"
    SAMPLES_APART = "a sample's head input does not depend on the others of its batch"
    FEW_SAMPLES = "there are not many more samples than classes"
    FEW_CLASSES = "there are at least as many samples as classes"
    ONE_SAMPLE = "there is one sample"
    LOW_RANK = "there are fewer samples than head inputs and classes"
    STABLE_SIMULATION = "training on one class alone stays finite"
    CLOSE_FIT = "a dummy batch comes near the gradient"
    SMOOTH_ACTIVATIONS = "activations have a useful second derivative"


# What is true of one SGD step of the plain cross-entropy, and of an update whose size is read.
ONE_GRADIENT = frozenset(
    {
        Assumption.ONE_STEP,
        Assumption.PLAIN_STEPS,
        Assumption.HARD_LABELS,
        Assumption.EQUAL_CLASSES,
    }
)
SIZES = frozenset({Assumption.UNCLIPPED, Assumption.KNOWN_SCALE})
# What attacks assume that read one gradient's sizes against what a model shows of data.
MEASURED = ONE_GRADIENT | SIZES | {Assumption.SAMPLES_APART}
# What attacks assume that follow the model along several local steps.
TRAJECTORY = SIZES | {
    Assumption.PLAIN_STEPS,
    Assumption.HARD_LABELS,
    Assumption.EQUAL_CLASSES,
    Assumption.SAMPLES_APART,
}


class Doubt(StrEnum):
    """Why a low figure is no evidence of safety where a flag is raised.

    Attributes:
        untold: nobody told what the figure rests on, and a default was taken; or it was told in two
            ways.
        unlike: the entries are unlike those of the loss that was told; noise and compression that
            nobody declared look the same.
        refuted: what was told of the loss, N or the scale cannot be so, unless a defense altered
            the update.
    """

    untold = "untold"
    unlike = "unlike"
    refuted = "refuted"


@dataclass(frozen=True)
class Meaning:
    """What a raised flag says.

    Attributes:
        says: what was found, in plain words.
        breaks: the assumption that does not hold; None for what every attack assumes that
            reads an update.
        advice: what to do.
        doubt: why a low figure is no evidence of safety then; None where it may be.
    """

    says: str
    breaks: Assumption | None
    advice: str
    doubt: Doubt | None = None

    def concerns(self, assumes: Collection[Assumption]) -> bool:
        """Return whether an attack that makes these assumptions is concerned."""
        return self.breaks is None or self.breaks in assumes
