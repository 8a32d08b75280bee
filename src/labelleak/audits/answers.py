"""What attacks answered on one update, as an object, as JSON and as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from labelleak.attacks.baselines import FreeGuess
from labelleak.audits.standing import Standing
from labelleak.core.answers import CONFIDENCE, Answer, AttackResult, make_records
from labelleak.core.batch_size import BatchSize
from labelleak.core.score import Truth
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining
from labelleak.core.uneven import share_named, suits_badly
from labelleak.errors import BadInput, few
from labelleak.records.flags import FLAGS, Doubt
from labelleak.records.provenance import VERSION, origin
from labelleak.records.record import Record
from labelleak.records.states import IMPOSSIBLE, State, doubts

# Classes up to which answers tell all of them.
MOST_DENSE = 1000
_DENSE = ("counts", "confidence", "flags")
# The flag of an optimiser after which sizes are no counts.
_SCALED = "adaptive_optimiser"
# Flags of what was told that a reader must know before any row.
CAUTIONS = ("training_contradicted", "steps_unknown")
# What bends a softmax's loss, by the flag that says that it does.
_OF_LOSS = {"class_weights": "`class_weights`", "label_smoothing": "`label_smoothing`"}


@dataclass(frozen=True, eq=False)
class UpdateReport:
    """Every attack's answer on one update, and what was found about the update itself.

    Attributes:
        answers: what the attacks answered, scored where the truth was told.
        head: module name of the head.
        head_found: how it was found; see `HeadFinding`.
        num_classes: K.
        num_samples: N, or None.
        made: how the update was made, as far as it was told.
        scale: what is known of the update's scale.
        sign: what is known of its sign.
        free_guess: the best counts without the update, for the scheme's prior; None without N.
        asr_free: the ASR which that guess scores on average.
        checked: each assumption: whether it failed, the figure, and its state (held, failed,
            repaired or not_known).
        not_applicable: attacks that could not answer, with the reason.
        notes: what else the reader should know.
        source: name of the file.
        model: name of the model, or ``unknown``.
        task: what the labels are: classes, binary, multilabel or dense.
        noted_head: the head's name as the file has it.
        scheme: how batches are taken to be drawn, for the guess without the update.
        estimated: N as it was read off the update, where nobody told it.
        truth: what was really there, where it was told.
        head_evidence: what speaks for the head.
        head_rivals: other layers that could be heads.
        told_doubts: what is in doubt of what was told, in words, by flag.
    """

    answers: tuple[Answer, ...]
    head: str
    num_classes: int
    num_samples: int | None
    made: LocalTraining
    scale: Standing
    sign: Standing
    free_guess: tuple[int, ...] | None
    asr_free: float | None
    checked: Mapping[str, Mapping[str, Any]]
    not_applicable: Mapping[str, str]
    notes: tuple[str, ...]
    source: str
    model: str
    seed: int
    task: str = "classes"
    noted_head: str | None = None
    scheme: str = "iid"
    estimated: BatchSize | None = None
    truth: Truth | None = None
    head_found: str = "named"
    head_evidence: tuple[str, ...] = ()
    head_rivals: tuple[str, ...] = ()
    told_doubts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def results(self) -> tuple[AttackResult, ...]:
        """The answers as plain values; the guess, lucky or not, gains nothing over itself."""
        found = tuple(_over_itself(answer.at(0)) for answer in self.answers)
        if self.task != "multilabel":
            return found
        return tuple(
            replace(one, counts=one.counts[1::2], confidence=one.confidence[1::2]) for one in found
        )

    def _images(self) -> dict[str, Any]:
        """Return the true counts of each image, where they are known."""
        held = None if self.truth is None else self.truth.images
        return {} if held is None else {"true_image_counts": held.tolist()}

    def _told(self, counts: Sequence[int]) -> list[int]:
        """Return counts by class; of several labels, how many samples have each."""
        return list(counts)[1::2] if self.task == "multilabel" else list(counts)

    @property
    def asr_of_guess(self) -> float | None:
        """The share of this batch's labels that the guess names, where the truth is told."""
        if self.truth is None or self.free_guess is None:
            return None
        return float(share_named(np.asarray(self.free_guess), self.truth.counts))

    @property
    def doubts(self) -> tuple[str, ...]:
        """Flags with which no low number is evidence of safety, of every attack."""
        failed = [name for name, found in self.checked.items() if found["failed"]]
        return (*doubts(failed), *(name for name in (_SCALED,) if name in failed))

    @property
    def disbelief(self) -> str:
        """Say why no answer of the report is to be believed; empty where they may be.

        That is where the update cannot be what it was said to be, or is unlike any gradient of the
        loss: weights and noise look the same there. An optimiser that scales each coordinate
        explains the latter, where it is known.
        """
        failed = [name for name, one in self.checked.items() if one["failed"]]
        impossible = [name for name in failed if name in IMPOSSIBLE]
        explained = _SCALED in failed
        kinds = (Doubt.refuted,) if explained else (Doubt.refuted, Doubt.unlike)
        odd = [*impossible, *doubts(failed, kinds)]
        if not odd:
            return ""
        said = "; ".join(f"{FLAGS[name].says} ({name})" for name in odd)
        return f"no answer here is to be believed, and a low score shows nothing: {said}"

    @property
    def caution(self) -> str:
        """Say which part of the answers is not to be believed; empty where nothing is known."""
        failed = {name for name, one in self.checked.items() if one["failed"]}
        said = [words for flag, words in self.told_doubts.items() if flag in CAUTIONS]
        if "weights_assumed" in failed:
            said.append(
                "the model has fresh weights, as it was built: answers of attacks that hold it "
                "are wrong if the client had others; give `weights`"
            )
        counting = [one.attack for one in self.results if _SCALED in one.flags]
        if _SCALED in failed and counting:
            said.append(
                f"{FLAGS[_SCALED].says}: do not believe the counts of {few(counting, 100)}; which "
                "classes are there may be right"
            )
        if self._is_unlike_scheme():
            said.append(
                f"the true labels are unlike a batch drawn {self.scheme}, of which the guess names "
                f"{self.asr_free:.1%} on average and of this one {self.asr_of_guess:.1%}: "
                "advantages are over too high a guess; give `scheme` unbalanced, or `prior`"
            )
        return "; ".join(said)

    def _is_unlike_scheme(self) -> bool:
        """Return whether fewer than 1 in 1,000 batches drawn evenly suit the guess so badly."""
        own = self.asr_of_guess
        plain = self.scheme == "iid" and self.task == Task.classes
        if own is None or not plain:
            return False
        return bool(suits_badly(np.asarray(self.free_guess), np.asarray(own), seed=self.seed))

    @property
    def assumed_loss(self) -> str:
        """Say what of the loss nobody told or measured, and what was taken; empty for nothing."""
        states = {name: one["state"] for name, one in self.checked.items()}
        failed = [name for name, one in self.checked.items() if one["failed"]]
        open_ones = [
            words
            for name, words in _OF_LOSS.items()
            if states.get(name) == State.not_known and name not in failed
        ]
        sigmoid = self.task in (Task.binary, Task.multilabel)
        if sigmoid:
            open_ones = ["`pos_weight`"] if "pos_weight_assumed" in failed else []
        kind = "binary cross-entropy" if sigmoid else "cross-entropy"
        untold = " and ".join(open_ones)
        return f"a plain {kind} was assumed ({untold} not told)" if untold else ""

    def to_json(self, *, dense: bool = False, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the report as plain values; ``results`` is the list of answers.

        Of more than `MOST_DENSE` classes only those that are there are told: ``present`` in place
        of ``counts`` and ``confidence``, the likeliest first.

        Args:
            dense: tell all classes, however many there are.
            names: of the classes, such as a tokenizer's strings, told with those present.
        """
        few = dense or self.num_classes <= MOST_DENSE
        told = asdict if few else partial(_sparse, names=names)
        whole = self._told if few else partial(_present, names=names)
        noted = {} if self.noted_head is None else {"head": self.noted_head}
        return {
            "labelleak": VERSION,
            "source": self.source,
            "head": self.head,
            "head_found": self.head_found,
            "head_evidence": list(self.head_evidence),
            "head_rivals": list(self.head_rivals),
            "task": self.task,
            "num_classes": self.num_classes,
            "num_samples": self.num_samples,
            "model": self.model,
            "update": {**self.made.to_json(), **noted},
            "scale": self.scale.to_json(),
            "sign": self.sign.to_json(),
            "free_guess": None if self.free_guess is None else whole(self.free_guess),
            "asr_free": self.asr_free,
            "asr_of_guess": self.asr_of_guess,
            "scheme": self.scheme,
            "estimated": None if self.estimated is None else asdict(self.estimated),
            "true_counts": None if self.truth is None else whole(self.truth.counts.tolist()),
            **self._images(),
            "confidence_means": CONFIDENCE,
            "results": [told(result) for result in self.results],
            "doubts": list(self.doubts),
            "disbelief": self.disbelief,
            "caution": self.caution,
            "assumed_loss": self.assumed_loss,
            "checked": {name: dict(found) for name, found in self.checked.items()},
            "not_applicable": dict(self.not_applicable),
            "notes": list(self.notes),
        }

    def records(self, *, command: str = "", keep_counts: bool = False) -> list[Record]:
        """Write the answers as records, one an attack.

        What only a simulation knows is left at 0 (initialisation, training steps) or None
        (model accuracy), and the scheme is ``captured``.

        Raises:
            BadInput: without the truth, since a record says how right an answer is.
        """
        if self.truth is None or self.num_samples is None:
            raise BadInput(
                "without `truth` no record can be written, since a record says how right an "
                "answer was; give the true labels, or keep the report as JSON"
            )
        steps = self.made.local_steps or 1
        common = origin(
            seed=self.seed,
            data="captured",
            model=self.model,
            command=command,
            num_classes=self.num_classes,
            model_accuracy=None,
            scheme="captured",
            batch_size=self.num_samples // steps,
            local_steps=steps,
            num_samples=self.num_samples,
            defense="none",
        )
        extra: dict[str, Any] = {
            "source": self.source,
            "head": self.head,
            "head_found": self.head_found,
            "task": self.task,
            "scale": str(self.scale.state),
            "sign": str(self.sign.state),
        }
        if self.not_applicable:
            extra["not_applicable"] = dict(self.not_applicable)
        truth = self.truth[None]
        return [
            record
            for answer in self.answers
            for record in make_records(
                answer,
                truth,
                trials=[0],
                common=common,
                extra=extra,
                keep_counts=keep_counts,
            )
        ]


def _over_itself(result: AttackResult) -> AttackResult:
    told = result.attack == FreeGuess.name and result.advantage is not None
    return replace(result, advantage=0.0) if told else result


def _sparse(result: AttackResult, names: Sequence[str] | None) -> dict[str, Any]:
    """Return an answer with the classes that are there, the likeliest first."""
    plain = {name: value for name, value in vars(result).items() if name not in _DENSE}
    found = _present(result.counts, names, result.confidence)
    return {**plain, "flags": list(result.flags), "present": found}


def _present(
    counts: Sequence[int], names: Sequence[str] | None, confidence: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """List the classes that are there, the likeliest first, by count where nothing says more."""
    there = [k for k, count in enumerate(counts) if count]
    sure = [0.0] * len(counts) if confidence is None else confidence
    there.sort(key=lambda k: (-sure[k], -counts[k], k))
    return [
        {
            "class": k,
            **({} if names is None else {"token": names[k]}),
            "count": int(counts[k]),
            **({} if confidence is None else {"confidence": confidence[k]}),
        }
        for k in there
    ]


__all__ = ["CAUTIONS", "MOST_DENSE", "UpdateReport"]
