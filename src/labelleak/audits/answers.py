"""What attacks answered on one update, as an object, as JSON and as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

import labelleak
from labelleak.audits.standing import Standing
from labelleak.core.batch_size import BatchSize
from labelleak.core.battery import Outcome, make_records
from labelleak.core.counts import Floats
from labelleak.core.score import Truth
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.records.record import Record

CONFIDENCE = (
    "where expected_asr is given, the probability that the class is in the batch, P(c_i >= 1 | "
    "update); else the attack's own score for each class, scaled to 0 (least of this update's "
    "classes) to 1 (most), which ranks the classes and is no probability"
)


@dataclass(frozen=True)
class AttackResult:
    """One attack's answer.

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


@dataclass(frozen=True, eq=False)
class UpdateReport:
    """Every attack's answer on one update, and what was found about the update itself.

    Attributes:
        results: the answers.
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
        noted_head: the head's name as the file has it.
        scheme: how batches are taken to be drawn, for the guess without the update.
        estimated: N as it was read off the update, where nobody told it.
        truth: what was really there, where it was told.
        outcomes: the scored answers, where the truth was told.
        head_evidence: what speaks for the head.
        head_rivals: other layers that could be heads.
    """

    results: tuple[AttackResult, ...]
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
    noted_head: str | None = None
    scheme: str = "iid"
    estimated: BatchSize | None = None
    truth: Truth | None = None
    outcomes: tuple[Outcome, ...] = ()
    head_found: str = "named"
    head_evidence: tuple[str, ...] = ()
    head_rivals: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values; ``results`` is the list of answers."""
        noted = {} if self.noted_head is None else {"head": self.noted_head}
        return {
            "labelleak": labelleak.__version__,
            "source": self.source,
            "head": self.head,
            "head_found": self.head_found,
            "head_evidence": list(self.head_evidence),
            "head_rivals": list(self.head_rivals),
            "num_classes": self.num_classes,
            "num_samples": self.num_samples,
            "model": self.model,
            "update": {**self.made.known, **noted},
            "scale": self.scale.to_json(),
            "sign": self.sign.to_json(),
            "free_guess": None if self.free_guess is None else list(self.free_guess),
            "asr_free": self.asr_free,
            "scheme": self.scheme,
            "estimated": None if self.estimated is None else asdict(self.estimated),
            "true_counts": None if self.truth is None else self.truth.counts.tolist(),
            "confidence_means": CONFIDENCE,
            "results": [asdict(result) for result in self.results],
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
                "without --truth no record can be written, since a record says how right an "
                "answer was; give the true labels, or keep the output of --json"
            )
        steps = self.made.local_steps or 1
        common = {
            "seed": self.seed,
            "data": "captured",
            "model": self.model,
            "initialisation": 0,
            "training_steps": 0,
            "model_accuracy": None,
            "scheme": "captured",
            "num_classes": self.num_classes,
            "batch_size": self.num_samples // steps,
            "local_steps": steps,
            "num_samples": self.num_samples,
            "defense": "none",
            "labelleak": labelleak.__version__,
            "torch": str(torch.__version__),
            "command": command,
        }
        extra: dict[str, Any] = {
            "source": self.source,
            "head": self.head,
            "head_found": self.head_found,
            "scale": str(self.scale.state),
            "sign": str(self.sign.state),
        }
        if self.not_applicable:
            extra["not_applicable"] = dict(self.not_applicable)
        truth = Truth(self.truth.counts[None])
        return [
            record
            for outcome in self.outcomes
            for record in make_records(
                outcome,
                truth,
                trials=[0],
                common=common,
                extra=extra,
                keep_counts=keep_counts,
            )
        ]


def scale_scores(scores: Floats) -> tuple[float, ...]:
    """Scale scores of one update to 0..1 by their range; all 0.5 where they are all alike.

    >>> scale_scores(np.array([-1.0, 0.0, 3.0]))
    (0.0, 0.25, 1.0)
    """
    finite = np.nan_to_num(np.asarray(scores, dtype=np.float64), posinf=1e300, neginf=-1e300)
    low, high = finite.min() / 2, finite.max() / 2
    if not high > low:
        return (0.5,) * len(finite)
    return tuple(round(float(x), 6) for x in (finite / 2 - low) / (high - low))
