"""Run attacks on observations, score them against the truth aside, and write it all as records."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from labelleak.core.assumptions import Flag, check_model, check_training, check_update
from labelleak.core.card import Card, card_of
from labelleak.core.interfaces import (
    Attack,
    Defense,
    Estimate,
    Knowledge,
    Need,
    Prepared,
    prepare,
    refuse_observation,
    threat_model,
)
from labelleak.core.observation import Observation
from labelleak.core.priors import Prior, free_guess
from labelleak.core.score import Score, Truth, advantage, score
from labelleak.core.seeding import stream
from labelleak.core.training import LocalTraining
from labelleak.errors import NotApplicable
from labelleak.records.flags import FLAGS, concerning
from labelleak.records.record import THREAT_MODELS, Record

# A weaker attack's lead in ASR that is worth a flag.
WEAKER_LEAD = 0.02


@dataclass(frozen=True, eq=False)
class Answer:
    """One attack's answer to one observation (of one or many trials), the truth not known.

    Attributes:
        attack: the attack's name.
        card: what is known of the attack.
        threat_model: what the attacker holds: none, update, model or auxiliary.
        estimate: what it answered.
        seconds: time per trial that answering took, preparation not counted.
        flags: assumptions of this attack that did not hold, trial by trial.
        adaptive: whether the attacker knows the client's defense.
    """

    attack: str
    card: Card
    threat_model: str
    estimate: Estimate
    seconds: float
    flags: tuple[Flag, ...] = ()
    adaptive: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """One attack's answer to one observation (of one or many trials), scored.

    Attributes:
        attack: the attack's name.
        card: what is known of the attack.
        threat_model: what the attacker holds: none, update, model or auxiliary.
        estimate: what it answered.
        score: how right that is.
        asr_free: expected ASR of the best guess without the update.
        advantage: (ASR - asr_free) / (1 - asr_free) per trial; None where nothing is left to learn.
        seconds: time per trial that answering took, preparation not counted.
        flags: assumptions of this attack that did not hold, trial by trial.
        adaptive: whether the attacker knows the client's defense.
    """

    attack: str
    card: Card
    threat_model: str
    estimate: Estimate
    score: Score
    asr_free: float
    advantage: np.ndarray | None
    seconds: float
    flags: tuple[Flag, ...] = ()
    adaptive: bool = False


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
    """

    attacks: tuple[Attack, ...]
    ready: Mapping[str, Prepared]
    refused: Mapping[str, str]
    known: Knowledge
    num_classes: int
    seed: int
    flags: tuple[Flag, ...] = ()

    @classmethod
    def prepare(
        cls, attacks: Iterable[Attack], known: Knowledge, num_classes: int, *, seed: int = 0
    ) -> Battery:
        """Prepare attacks; those whose needs are not granted are noted as refused."""
        asked = tuple(attacks)
        ready, refused = _prepare(asked, known, num_classes, seed)
        return cls(asked, ready, refused, known, num_classes, seed, tuple(check_model(known)))

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
        ready, refused = _prepare(users, known, self.num_classes, self.seed)
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
        """Say of each attack that cannot answer this observation why."""
        reasons = dict(self.refused)
        for attack in self.attacks:
            try:
                refuse_observation(attack, observation)
            except NotApplicable as reason:
                reasons.setdefault(attack.name, str(reason))
        return reasons

    def answer(self, observation: Observation) -> Iterator[Answer]:
        """Let every attack answer that the observation serves."""
        checked = (*self.flags, *check_update(observation, self.known))
        flags = [flag for flag in checked if flag.raised.any()]
        missing = self.not_applicable(observation)
        for attack in self.attacks:
            if attack.name in missing:
                continue
            start = time.perf_counter()
            estimate = self.ready[attack.name](observation)
            seconds = (time.perf_counter() - start) / max(1, int(np.prod(observation.trials)))
            about = (*_about(attack, flags), *_noted(estimate))
            adaptive = Need.DEFENSE in attack.needs
            model = threat_model(attack)
            yield Answer(attack.name, card_of(attack), model, estimate, seconds, about, adaptive)

    def run(self, observation: Observation, truth: Truth) -> list[Outcome]:
        """Let every attack answer, then score it against the truth and the free guess.

        Attacks that the observation does not serve (no bias, N unknown) are left out.
        """
        size = int(truth.counts.sum(axis=-1).flat[0])
        _, asr_free = free_guess(self.known.prior, size, self.num_classes)
        answers = list(self.answer(observation))
        outcomes = [
            Outcome(
                answer.attack,
                answer.card,
                answer.threat_model,
                answer.estimate,
                result,
                asr_free,
                advantage(result.asr, asr_free),
                answer.seconds,
                answer.flags,
                answer.adaptive,
            )
            for answer, result in zip(answers, _scores(answers, truth), strict=True)
        ]
        return [replace(o, flags=(*o.flags, *_outdone(o, outcomes))) for o in outcomes]


def _scores(answers: Sequence[Answer], truth: Truth) -> Iterator[Score]:
    """Score all answers in one call, which for a single trial is most of the cost."""
    if not answers:
        return
    counts = np.stack([answer.estimate.counts for answer in answers])
    found = score(counts, Truth(np.broadcast_to(truth.counts, counts.shape)))
    for place in range(len(answers)):
        yield Score(**{part.name: getattr(found, part.name)[place] for part in fields(Score)})


def _prepare(
    attacks: Iterable[Attack], known: Knowledge, num_classes: int, seed: int
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Prepare attacks; give those that apply, and the reason for each that does not."""
    ready: dict[str, Prepared] = {}
    refused: dict[str, str] = {}
    for attack in attacks:
        try:
            rng = stream(seed, "attack", attack.name)
            ready[attack.name] = prepare(attack, known, num_classes, rng)
        except NotApplicable as reason:
            refused[attack.name] = str(reason)
    return ready, refused


def _about(attack: Attack, flags: Iterable[Flag]) -> Iterator[Flag]:
    """Keep the flags that concern an attack; a guess without the update assumes nothing."""
    if threat_model(attack) != "none":
        assumes = card_of(attack).assumes
        yield from (flag for flag in flags if FLAGS[flag.name].concerns(assumes))


def _noted(estimate: Estimate) -> Iterator[Flag]:
    """Turn an attack's own notes into flags."""
    yield from (Flag(n, np.asarray(True), np.asarray(1.0)) for n in estimate.notes if n in FLAGS)


def _outdone(outcome: Outcome, rivals: Iterable[Outcome]) -> Iterator[Flag]:
    """Flag an attack that one which knows less beats by more than chance, on the same trials."""
    rank = THREAT_MODELS.index(outcome.threat_model)
    lead = 0.0
    for rival in rivals:
        if 0 < THREAT_MODELS.index(rival.threat_model) < rank:
            gaps = np.ravel(rival.score.asr - outcome.score.asr)
            if gaps.size > 1 and gaps.mean() > 2 * gaps.std(ddof=1) / np.sqrt(gaps.size):
                lead = max(lead, float(gaps.mean()))
    if lead > WEAKER_LEAD:
        yield Flag("weaker_attack_wins", np.asarray(True), np.asarray(lead))


def make_records(
    outcome: Outcome,
    truth: Truth,
    *,
    trials: Sequence[int],
    common: Mapping[str, Any],
    extra: Mapping[str, Any],
    keep_counts: bool = False,
    more: Sequence[Mapping[str, Any]] = (),
) -> list[Record]:
    """Write an outcome of T trials as T records.

    Args:
        outcome: what an attack answered, over one trial dimension.
        truth: what was really there.
        trials: number of each trial, as recorded.
        common: the record's keys that all trials share (data, model, scheme, ...).
        extra: further keys that all trials share.
        keep_counts: write guessed and true counts too, and where the attack gives it the
            probability that each class is there; they are private.
        more: further keys of each trial.
    """
    result = outcome.score
    records = []
    for row, trial in enumerate(trials):
        keys = {**extra, **(more[row] if more else {})}
        keys["attack_title"] = outcome.card.title
        keys["concerned_by"] = concerning(outcome.card.assumes)
        keys["presence_accuracy"] = round(float(result.presence_accuracy[row]), 6)
        keys["count_accuracy"] = round(float(result.count_accuracy[row]), 6)
        keys["exact"] = bool(result.exact[row])
        keys["jensen_shannon"] = round(float(result.jensen_shannon[row]), 6)
        if outcome.estimate.expected_asr is not None:
            keys["expected_asr"] = round(float(outcome.estimate.expected_asr[row]), 6)
        raised = {f.name: _figure(f, row) for f in outcome.flags if _at(f.raised, row)}
        if raised:
            keys["flag_figures"] = raised
        if keep_counts:
            keys["counts"] = outcome.estimate.counts[row].tolist()
            keys["true_counts"] = truth.counts[row].tolist()
            if outcome.estimate.expected_asr is not None:
                keys["presence_chances"] = np.round(outcome.estimate.scores[row], 6).tolist()
        gained = None if outcome.advantage is None else round(float(outcome.advantage[row]), 6)
        records.append(
            Record(
                trial=int(trial),
                attack=outcome.attack,
                threat_model=outcome.threat_model,
                adaptive=outcome.adaptive,
                asr=round(float(result.asr[row]), 6),
                asr_free=round(outcome.asr_free, 6),
                advantage=gained,
                presence_precision=round(float(result.presence_precision[row]), 6),
                presence_recall=round(float(result.presence_recall[row]), 6),
                seconds=outcome.seconds,
                flags=tuple(sorted(raised)),
                extra=keys,
                **common,
            )
        )
    return records


def _at(values: np.ndarray, row: int) -> float:
    """Take a trial's value of an array that holds one for each trial, or one for all."""
    return float(values[row] if values.ndim else values)


def _figure(flag: Flag, row: int) -> float:
    return float(f"{_at(flag.figure, row):.4g}")
