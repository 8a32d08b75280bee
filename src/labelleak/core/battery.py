"""Run attacks on observations, and score them against the truth aside."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

import numpy as np

from labelleak.core.answers import Answer, Result
from labelleak.core.assumptions import Flag, check_model, check_update
from labelleak.core.card import Card, card_of
from labelleak.core.counts import Ints
from labelleak.core.each_label import for_each_label
from labelleak.core.frequencies import guess_asr
from labelleak.core.images import image_free, score_images
from labelleak.core.interfaces import (
    Attack,
    Estimate,
    Prepared,
    prepare,
    refuse_observation,
    refuse_still_head,
    threat_model,
)
from labelleak.core.knowledge import Defense, Knowledge
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.own_labels import check_labels
from labelleak.core.priors import Prior, free_guess
from labelleak.core.score import Score, Truth, advantage, score
from labelleak.core.seeding import stream
from labelleak.core.task import Task
from labelleak.core.task_priors import class_guesses
from labelleak.core.told_loss import for_told_loss
from labelleak.core.training import LocalTraining
from labelleak.core.training_checks import check_training
from labelleak.errors import LabelleakError, NotApplicable, reason
from labelleak.records.flags import FLAGS
from labelleak.records.record import THREAT_MODELS

# A weaker attack's lead in ASR that is worth a flag.
WEAKER_LEAD = 0.02
# How the reason begins of an attack that the model or own data failed, and what they raise then.
UNFED = "it cannot be fed: "
_UNFED = (ValueError, IndexError, RuntimeError, TypeError)


@dataclass(frozen=True, eq=False)
class Battery:
    """Attacks prepared against one model.

    Attributes:
        attacks: every attack that was asked for.
        ready: those that apply, by name, ready to answer.
        refused: the others, with the reason.
        known: what the attackers hold.
        num_classes: K.
        seed: seed of the attacks' own randomness; each attack has a stream of its own.
        flags: what was found about the model and the client's training.
        unread: attacks that found nothing to read in the update answered last, with the reason.
        lenient: leave out an attack that the model or own data fail, with the reason. Without it
            the error is raised, which would else hide an attack's own fault.
    """

    attacks: tuple[Attack, ...]
    ready: Mapping[str, Prepared]
    refused: Mapping[str, str]
    known: Knowledge
    num_classes: int
    seed: int
    flags: tuple[Flag, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)
    lenient: bool = False

    @classmethod
    def prepare(
        cls,
        attacks: Iterable[Attack],
        known: Knowledge,
        num_classes: int,
        *,
        seed: int = 0,
        lenient: bool = False,
    ) -> Battery:
        """Prepare attacks; those whose needs are not granted are noted as refused.

        Raises:
            BadInput: if own data have one label an input where the head sees several positions.
        """
        known.refuse_pooled()
        told = (_one_label(known) if known.has_several else known).training
        heavy = known.pos_weight
        asked = tuple(attacks) if {*heavy} - {1.0} else for_told_loss(attacks, told)
        if known.has_several or {*heavy} - {1.0}:
            asked = for_each_label(asked, heavy)
        ready, refused = _prepare(asked, known, num_classes, seed, lenient)
        flags = (*check_training(known), *check_model(_one_label(known)))
        return cls(asked, ready, refused, known, num_classes, seed, flags, lenient=lenient)

    def with_batches(
        self, prior: Prior, training: LocalTraining, defense: Defense | None = None
    ) -> Battery:
        """Prepare anew the attacks that use how batches are drawn, trained on or defended.

        The others stay as they were prepared for the model, or for the same conditions before.
        """
        known = replace(self.known, prior=prior, training=training, defense=defense)
        held = self.known
        changed = {
            need
            for need, same in (
                (Need.PRIOR, held.prior == prior),
                (Need.TRAINING, held.training == training),
                (Need.DEFENSE, held.defense == defense),
            )
            if not same
        }
        users = [attack for attack in self.attacks if attack.needs & changed]
        ready, refused = _prepare(users, known, self.num_classes, self.seed, self.lenient)
        kept = {name: why for name, why in self.refused.items() if name not in ready}
        of_training = check_training(known)
        again = {flag.name for flag in of_training}
        return replace(
            self,
            ready={**self.ready, **ready},
            refused={**kept, **refused},
            known=known,
            flags=(*(f for f in self.flags if f.name not in again), *of_training),
        )

    def without(self, names: Collection[str]) -> Battery:
        """Leave some attacks out."""
        return replace(self, attacks=tuple(a for a in self.attacks if a.name not in names))

    def not_applicable(self, observation: Observation) -> dict[str, str]:
        """Say of each attack that cannot answer this observation why.

        That an attack finds nothing to read is known once it was asked.
        """
        reasons = {**self.refused, **self.unread}
        for attack in self.attacks:
            try:
                refuse_observation(attack, observation)
                if self.known.model is not None and self.known.model.task is Task.tokens:
                    refuse_still_head(attack, observation)
            except NotApplicable as missing:
                reasons.setdefault(attack.name, str(missing))
        return reasons

    def answer(self, observation: Observation, truth: Truth | None = None) -> list[Answer]:
        """Let every attack answer that the observation serves; scored where the truth is known."""
        return list(self._answers(observation)) if truth is None else self.run(observation, truth)

    def _answers(self, observation: Observation) -> Iterator[Answer]:
        checked = (*self.flags, *check_update(observation, self.known))
        flags = [flag for flag in checked if flag.raised.any()]
        self.unread.clear()
        missing = self.not_applicable(observation)
        for attack in self.attacks:
            if attack.name in missing:
                continue
            start = time.perf_counter()
            with _left_out(attack, self.unread, self.lenient):
                estimate = self.ready[attack.name](observation)
            if attack.name in self.unread:
                continue
            seconds = (time.perf_counter() - start) / max(1, math.prod(observation.trials))
            adaptive = Need.DEFENSE in attack.needs
            card, model = card_of(attack), threat_model(attack)
            about = (*_about(model, card, flags), *_noted(estimate))
            yield Answer(attack.name, card, model, estimate, seconds, about, adaptive)

    def run(
        self, observation: Observation, truth: Truth, real: Prior | None = None
    ) -> list[Answer]:
        """Let every attack answer, then score it against the truth and the free guess.

        Attacks that the observation does not serve (no bias, N unknown) are left out.

        Args:
            observation: what is seen.
            truth: what was there.
            real: how labels come, where the attackers believe something else.
        """
        size = int(truth.counts.sum(axis=-1).flat[0])
        guess, asr_free = free_guess(self.known.prior, size, self.num_classes)
        each = tuple(class_guesses(self.known.prior, size))
        if real is not None and real != self.known.prior:
            each = tuple(guess_asr(real, guess, size))
            asr_free, each = float(np.mean(each)), each if self.known.has_several else ()
        answers = self.answer(observation)
        image = None if truth.images is None else image_free(real or self.known.prior, truth.images)
        scored = [
            replace(
                answer,
                result=Result(
                    score,
                    asr_free,
                    advantage(score.asr, asr_free),
                    each,
                    None if truth.images is None else score_images(counts, truth.images),
                    image,
                ),
            )
            for answer, counts, score in _scores(answers, truth)
        ]
        held = [f for f in check_labels(observation, truth.counts, self.known) if f.raised.any()]
        more = [
            (*_about(one.threat_model, one.card, held), *_outdone(one, scored)) for one in scored
        ]
        return [
            replace(one, flags=(*one.flags, *flags)) if flags else one
            for one, flags in zip(scored, more, strict=True)
        ]


_FIGURES = tuple(part.name for part in fields(Score))


def _scores(answers: Sequence[Answer], truth: Truth) -> Iterator[tuple[Answer, Ints, Score]]:
    """Score all answers in one call, which for a single trial is most of the cost."""
    if not answers:
        return
    counts = np.stack([answer.estimate.counts for answer in answers])
    found = score(counts, Truth(np.broadcast_to(truth.counts, counts.shape)))
    for place, answer in enumerate(answers):
        own = {name: getattr(found, name)[place] for name in _FIGURES}
        yield answer, counts[place], Score(**own)


def _one_label(known: Knowledge) -> Knowledge:
    """Return the knowledge of the first label of several, which shows what concerns the model."""
    return known.of_label(0) if known.has_several else known


def _prepare(
    attacks: Iterable[Attack], known: Knowledge, num_classes: int, seed: int, lenient: bool
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Prepare attacks; give those that apply, and the reason for each that does not."""
    ready: dict[str, Prepared] = {}
    refused: dict[str, str] = {}
    for attack in attacks:
        with _left_out(attack, refused, lenient):
            rng = stream(seed, "attack", attack.name)
            ready[attack.name] = prepare(attack, known, num_classes, rng)
    return ready, refused


@contextmanager
def _left_out(attack: Attack, reasons: dict[str, str], lenient: bool) -> Iterator[None]:
    """Note why an attack does not apply, or why what is fed to it fails."""
    try:
        yield
    except NotApplicable as missing:
        reasons[attack.name] = str(missing)
    except _UNFED as error:
        if not lenient or not attack.needs & {Need.MODEL, Need.AUXILIARY}:
            raise
        said = str(error) if isinstance(error, LabelleakError) else reason(error)
        reasons[attack.name] = UNFED + said


def _about(model: str, card: Card, flags: Iterable[Flag]) -> Iterator[Flag]:
    """Keep the flags that concern an attack; a guess without the update assumes nothing."""
    if model != "none":
        assumes = card.assumes
        yield from (flag for flag in flags if FLAGS[flag.name].concerns(assumes))


def _noted(estimate: Estimate) -> Iterator[Flag]:
    """Turn an attack's own notes into flags."""
    yield from (Flag(n, np.asarray(True), np.asarray(1.0)) for n in estimate.notes if n in FLAGS)


def _outdone(answer: Answer, rivals: Iterable[Answer]) -> Iterator[Flag]:
    """Flag an attack that one which knows less beats by more than chance, on the same trials."""
    rank = THREAT_MODELS.index(answer.threat_model)
    lead = WEAKER_LEAD
    for rival in rivals:
        if 0 < THREAT_MODELS.index(rival.threat_model) < rank:
            gaps = np.ravel(rival.score.asr - answer.score.asr)
            mean = float(gaps.sum()) / max(1, gaps.size)
            leads = mean > lead and gaps.size > 1
            if leads and mean > 2 * gaps.std(ddof=1) / np.sqrt(gaps.size):
                lead = mean
    if lead > WEAKER_LEAD:
        yield Flag("weaker_attack_wins", np.asarray(True), np.asarray(lead))
