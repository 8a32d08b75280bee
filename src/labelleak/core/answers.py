"""What an attack answered, scored or not, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelleak.core.assumptions import Flag
from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints
from labelleak.core.interfaces import Estimate
from labelleak.core.score import Score, Truth
from labelleak.core.task import Task
from labelleak.errors import BadInput
from labelleak.records.flags import concerning
from labelleak.records.record import Record

CONFIDENCE = (
    "where expected_asr is given, the probability that the class is in the batch, P(c_i >= 1 | "
    "update); else the attack's own score for each class, scaled to 0 (least of this update's "
    "classes) to 1 (most), which ranks the classes and is no probability"
)


# Of a score, what records tell, in their order.
_SCORES = (
    *("asr", "presence_precision", "presence_recall"),
    *("presence_accuracy", "count_accuracy", "jensen_shannon", "hellinger"),
)


@dataclass(frozen=True, eq=False)
class Result:
    """How right an answer was.

    Attributes:
        score: against the truth, trial by trial.
        asr_free: expected ASR of the best guess without the update.
        advantage: (ASR - asr_free) / (1 - asr_free) per trial; None where nothing is left to learn.
        class_free: asr_free of each label, where an input has several; else empty.
        asr_image: of maps, the share of positions named where each image is taken to hold its share
            of the pooled counts, trial by trial; None where images are not told apart.
        asr_image_free: the same of the best guess at one image without the update.
    """

    score: Score
    asr_free: float
    advantage: np.ndarray | None
    class_free: tuple[float, ...] = ()
    asr_image: Floats | None = None
    asr_image_free: float | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """One attack's answer to one observation (of one or many trials).

    Attributes:
        attack: the attack's name.
        card: what is known of the attack.
        threat_model: what the attacker holds: none, update, model or auxiliary.
        estimate: what it answered.
        seconds: time per trial that answering took, preparation not counted.
        flags: assumptions of this attack that did not hold, trial by trial.
        adaptive: whether the attacker knows the client's defense.
        result: how right it was; None where the truth is not known.
    """

    attack: str
    card: Card
    threat_model: str
    estimate: Estimate
    seconds: float
    flags: tuple[Flag, ...] = ()
    adaptive: bool = False
    result: Result | None = None

    @property
    def scored(self) -> Result:
        """How right it was.

        Raises:
            BadInput: if the truth was not known, so that nobody can say.
        """
        if self.result is None:
            raise BadInput(f"the answer of {self.attack} was not scored; the truth is not known")
        return self.result

    @property
    def score(self) -> Score:
        """The score of a scored answer."""
        return self.scored.score

    @property
    def asr_free(self) -> float:
        """The expected ASR of the best guess without the update, of a scored answer."""
        return self.scored.asr_free

    @property
    def advantage(self) -> np.ndarray | None:
        """The advantage of a scored answer."""
        return self.scored.advantage

    def raised(self, trial: int) -> dict[str, float]:
        """Return the flags that were raised on a trial, with what was measured."""
        return {f.name: _figure(f, trial) for f in self.flags if _at(f.raised, trial)}

    def at(self, trial: int) -> AttackResult:
        """Return the answer to one trial as plain values."""
        told, scores = self.estimate.expected_asr, self.estimate.scores[trial]
        result = self.result
        gained = None if result is None else result.advantage
        return AttackResult(
            self.attack,
            self.threat_model,
            tuple(np.asarray(self.estimate.counts[trial], dtype=np.int64).tolist()),
            scale_scores(scores) if told is None else _rounded(scores),
            tuple(sorted(self.raised(trial))),
            self.seconds,
            None if result is None else float(result.score.asr[trial]),
            None if gained is None else float(gained[trial]),
            None if told is None else round(float(told[trial]), 6),
            None if result is None else _of_images(result, trial).get("asr_image"),
        )


@dataclass(frozen=True)
class AttackResult:
    """One attack's answer to one update, as plain values.

    Attributes:
        attack: its name.
        threat_model: what the attacker holds: none, update, model or auxiliary.
        counts: guessed label counts, K numbers that sum to N.
        confidence: of each class, in 0..1; see `CONFIDENCE`.
        flags: assumptions that did not hold.
        seconds: time to answer.
        asr: attack success rate, where the truth was given.
        advantage: over the best guess without the update, where the truth was given.
        expected_asr: the ASR that the attack expects of its counts, where it can say.
        asr_image: of maps, what the pooled counts name of single images; see `Result`.
    """

    attack: str
    threat_model: str
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    flags: tuple[str, ...]
    seconds: float
    asr: float | None = None
    advantage: float | None = None
    expected_asr: float | None = None
    asr_image: float | None = None


def make_records(
    answer: Answer,
    truth: Truth,
    *,
    trials: Sequence[int],
    common: Mapping[str, Any],
    extra: Mapping[str, Any],
    keep_counts: bool = False,
    more: Sequence[Mapping[str, Any]] = (),
) -> list[Record]:
    """Write a scored answer to T trials as T records.

    Args:
        answer: what an attack answered, over one trial dimension.
        truth: what was really there.
        trials: number of each trial, as recorded.
        common: the record's keys that all trials share (data, model, scheme, ...).
        extra: further keys that all trials share.
        keep_counts: write guessed and true counts too, and where the attack gives it the
            probability that each class is there; they are private.
        more: further keys of each trial.
    """
    concerned, told = list(concerning(answer.card.assumes)), _columns(answer)
    free, gained = round(answer.asr_free, 6), told.pop("advantage")
    asr, precision, recall = (
        told.pop(name) for name in ("asr", "presence_precision", "presence_recall")
    )
    records = []
    for row, trial in enumerate(trials):
        keys = {**extra, **(more[row] if more else {})}
        keys["attack_title"] = answer.card.title
        keys["concerned_by"] = concerned
        keys |= {name: column[row] for name, column in told.items()}
        raised = answer.raised(row)
        if raised:
            keys["flag_figures"] = raised
        several = keys.get("task") == Task.multilabel
        if several:
            keys["class_asr"] = _by_class(answer.estimate.counts[row], truth.counts[row])
            keys["class_asr_free"] = [round(share, 6) for share in answer.scored.class_free]
        keys |= _of_images(answer.scored, row)
        if keep_counts:
            keys |= _counts(answer.estimate, truth, row, several=several)
        records.append(
            Record(
                trial=int(trial),
                attack=answer.attack,
                threat_model=answer.threat_model,
                adaptive=answer.adaptive,
                asr=asr[row],
                asr_free=free,
                advantage=gained[row],
                presence_precision=precision[row],
                presence_recall=recall[row],
                seconds=answer.seconds,
                flags=tuple(sorted(raised)),
                extra=keys,
                **common,
            )
        )
    return records


def _columns(answer: Answer) -> dict[str, list[Any]]:
    """Return what an answer scored, rounded, a list of all trials for each name."""
    score, told = answer.score, answer.estimate.expected_asr
    found: dict[str, list[Any]] = {name: _six(getattr(score, name)) for name in _SCORES}
    found["exact"] = np.asarray(score.exact, dtype=bool).tolist()
    if told is not None:
        found["expected_asr"] = _six(told)
    gained = answer.advantage
    found["advantage"] = [None] * len(score.asr) if gained is None else _six(gained)
    return found


def _six(values: Floats) -> list[float]:
    return [round(value, 6) for value in np.asarray(values, dtype=np.float64).tolist()]


def _counts(guess: Estimate, truth: Truth, row: int, *, several: bool) -> dict[str, Any]:
    """Return what is private of a trial; of several labels, how many samples have each."""
    own = slice(1, None, 2) if several else slice(None)
    kept = {"counts": guess.counts[row][own], "true_counts": truth.counts[row][own]}
    if truth.images is not None:
        kept["true_image_counts"] = truth.images[row]
    if guess.expected_asr is not None:
        kept["presence_chances"] = np.asarray(_rounded(guess.scores[row]))[own]
    return {name: values.tolist() for name, values in kept.items()}


def _of_images(result: Result, row: int) -> dict[str, float]:
    """Return what a trial's pooled counts say of its single images, and what a guess does."""
    if result.asr_image is None or result.asr_image_free is None:
        return {}
    own = float(np.ravel(result.asr_image)[row])
    return {"asr_image": round(own, 6), "asr_image_free": round(result.asr_image_free, 6)}


def _by_class(guess: Ints, real: Ints) -> list[float]:
    """Return the ASR of each of several labels, over those who have it and those who have not."""
    right = np.minimum(guess, real).reshape(-1, 2).sum(axis=1)
    return [round(float(share), 6) for share in right / real.reshape(-1, 2).sum(axis=1)]


def _at(values: np.ndarray, row: int) -> float:
    """Take a trial's value of an array that holds one for each trial, or one for all."""
    return float(values[row] if values.ndim else values)


def _figure(flag: Flag, row: int) -> float:
    return float(f"{_at(flag.figure, row):.4g}")


def _rounded(scores: Floats) -> tuple[float, ...]:
    """Round to six digits; in double precision, or more of them would be written."""
    return tuple(np.round(np.asarray(scores, dtype=np.float64), 6).tolist())


def scale_scores(scores: Floats) -> tuple[float, ...]:
    """Scale scores of one update to 0..1 by their range; all 0.5 where they are all alike.

    >>> scale_scores(np.array([-1.0, 0.0, 3.0]))
    (0.0, 0.25, 1.0)
    """
    finite = np.nan_to_num(np.asarray(scores, dtype=np.float64), posinf=1e300, neginf=-1e300)
    low, high = finite.min() / 2, finite.max() / 2
    if not high > low:
        return (0.5,) * len(finite)
    return _rounded((finite / 2 - low) / (high - low))


__all__ = ["CONFIDENCE", "Answer", "AttackResult", "Result", "make_records", "scale_scores"]
