"""Whose updates were audited, and what the attacks got out of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from labelleak.core.answers import Answer
from labelleak.core.battery import UNFED
from labelleak.core.counts import Floats, Ints
from labelleak.core.head import HeadFinding
from labelleak.core.head_sums import locked
from labelleak.core.limits import Limits
from labelleak.core.observation import Observation
from labelleak.core.priors import UniformPrior, free_guess
from labelleak.core.score import Truth
from labelleak.core.task import Task
from labelleak.core.uneven import share_named, suits_badly
from labelleak.errors import BadInput
from labelleak.flower.labels import NO_IMAGES, Images
from labelleak.records.flags import Doubt
from labelleak.records.states import State, doubts

if TYPE_CHECKING:
    from labelleak.flower.trainings import Trained

UNCERTAIN = "uncertain"
NAMED = HeadFinding("", "named")


@dataclass(frozen=True)
class Sender:
    """Whose update it is, and how it was made, as far as is known where it is audited.

    Attributes:
        round: the server's round.
        client: the client's name.
        num_samples: labels behind the update in all.
        local_steps: optimiser steps behind it; None takes the auditor's.
        labels: the labels themselves, where the truth is at hand.
        clients: how many clients' updates were averaged into this one.
        lr: its learning rate in this round; None takes the auditor's.
        partition: the partition that the client claims, short and printable.
        flags: what is known of it that concerns every attack, by the flags' names.
        images: how the labels are spread over images, if they are labels of maps.
        run: Flower's number of the run; None where it is not known.
    """

    round: int
    client: str
    num_samples: int | None = None
    local_steps: int | None = None
    labels: tuple[int, ...] | None = None
    clients: int = 1
    lr: float | None = None
    partition: str | None = None
    flags: tuple[str, ...] = ()
    images: Images = NO_IMAGES
    run: int | None = None

    @property
    def known_as(self) -> str:
        """What truth and control are asked for: the partition claimed, else the client."""
        return self.client if self.partition is None else self.partition


@dataclass(frozen=True, eq=False)
class Finding:
    """What the attacks got out of one update, or of several that were audited in one call.

    Attributes:
        senders: whose updates they were, one a trial.
        observation: the updates as the attacks saw them.
        answers: what the attacks answered, scored where the truth is known.
        truth: what was really there, or None.
        not_applicable: attacks that could not answer, and why.
        head: the layer that was attacked, and how it was found.
        limits: how the updates stand to what is possible.
        trained: how the clients trained, and in which form the replies were read.
        task: what the labels are.
    """

    senders: tuple[Sender, ...]
    observation: Observation
    answers: tuple[Answer, ...] = ()
    truth: Truth | None = None
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    head: HeadFinding = NAMED
    limits: Limits | None = None
    trained: Trained | None = None
    task: Task = Task.classes

    @property
    def impossible(self) -> bool:
        """Whether an update's scale or sign is impossible, so that no figure can be believed."""
        return self.limits is not None and bool((self.limits.scale | self.limits.sign).any())

    @property
    def refuted(self) -> tuple[str, ...]:
        """Flags of what cannot be as it was told, where no declared defense explains them."""
        raised = {one.name for a in self.answers for one in a.flags if one.raised.any()}
        defended = self.observation.largest is not None
        return tuple(doubts(sorted(raised), [Doubt.refuted], defended=defended))

    @property
    def unfed(self) -> dict[str, str]:
        """Attacks that the model or own data failed, with the reason."""
        return {n: why for n, why in self.not_applicable.items() if why.startswith(UNFED)}

    def raises(self, name: str) -> bool:
        """Return whether an answer comes with a flag."""
        return any(one.name == name and one.raised.any() for a in self.answers for one in a.flags)

    def doubts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return what was not certain of the updates as events."""
        if self.head.how == UNCERTAIN:
            yield (
                "head_uncertain",
                {"attacked": self.head.name, "rivals": list(self.head.rivals)},
            )
        if self.trained is not None and self.trained.form.doubt:
            form = self.trained.form
            yield "reply_form_uncertain", {"read_as": str(form.kind), "reason": form.doubt}
        if self.unfed:
            yield "not_fed", {"reasons": self.unfed}
        if not self.answers:
            yield "not_attacked", {"reasons": dict(self.not_applicable)}

    def states(self, row: int) -> dict[str, str]:
        """Return the states of one update's scale and sign, as records hold them."""
        if self.limits is None:
            return {}
        found = {"scale": self.limits.scale, "sign": self.limits.sign}
        rest = self.limits.otherwise
        return {
            name: str(State.impossible if np.ravel(raised)[row] else rest)
            for name, raised in found.items()
        }

    @property
    def sender(self) -> Sender:
        """The first sender, who is the only one of a single update."""
        return self.senders[0]

    @property
    def worst(self) -> float:
        """The largest advantage of an attack that reads the update.

        Where nobody told a prior and the labels are unlike batches drawn evenly, it counts from
        what the even guess names of them, since a server that knows the client expects no even
        batch. It is one update's figure, so it has no interval; being the largest of many, it is
        not zero on average even where nothing leaks. Where the guess without the update is always
        right there is nothing left to learn, and it is 0.

        Raises:
            BadInput: if no attack that reads the update could be scored.
        """
        found = [one for one in self.answers if one.result and one.threat_model != "none"]
        if not found:
            raise BadInput("no attack could be scored on this update, so nothing is known of it")
        most = [0.0 if one.advantage is None else float(one.advantage.max()) for one in found]
        if (unsuited := self.unsuited).any():
            named = self._named[unsuited]
            asr = [np.ravel(one.score.asr)[unsuited] for one in found]
            most += [float(((one - named) / (1 - named)).max()) for one in asr]
        return max(most)

    @cached_property
    def unsuited(self) -> np.ndarray:
        """Which updates' labels are unlike batches drawn evenly, where nobody told a prior."""
        passes = 0 if self.trained is None else self.trained.evenly
        if self.truth is None or not passes or self.task is not Task.classes:
            return locked(np.zeros(len(self.senders), dtype=bool))
        return locked(suits_badly(self._even_guess, self._named, repeats=passes))

    @property
    def _named(self) -> Floats:
        """What the even guess names of each update's labels."""
        assert self.truth is not None
        return np.ravel(share_named(self._even_guess, self.truth.counts))

    @property
    def _even_guess(self) -> Ints:
        assert self.truth is not None
        total, classes = int(self.truth.counts.sum(axis=-1).max()), self.truth.counts.shape[-1]
        return free_guess(UniformPrior(), total, classes)[0]


__all__ = ["Finding", "Sender"]
