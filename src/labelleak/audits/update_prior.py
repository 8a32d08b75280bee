"""How labels are taken to come before one update is seen: by a scheme, or by frequencies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from labelleak.core.frequencies import FrequencyPrior, prior_of_frequencies, smooth_frequencies
from labelleak.core.knowledge import LabelledData
from labelleak.core.observation import Observation
from labelleak.core.priors import Prior, UniformPrior
from labelleak.core.task import Task
from labelleak.errors import BadInput
from labelleak.files.frequencies import read_frequencies
from labelleak.simulation.batches import parse_scheme, prior_of

DRAWN_BY = "by the prior given"
BY_TEXT = "by the frequencies of own text"
WORDS_ALIKE = (
    "nobody told how often tokens occur, so the guess without the update takes them for alike "
    "likely and every advantage is overstated; give `prior` (frequencies) or `auxiliary` text"
)


@dataclass(frozen=True)
class Belief:
    """How labels are taken to come.

    Attributes:
        drawn: in words, for reports.
        prior: the prior that follows for an update.
        notes: what is to be said of it.
    """

    drawn: str
    prior: Callable[[Observation], Prior]
    notes: tuple[str, ...] = ()


def beliefs(
    scheme: str,
    prior: str | os.PathLike[str] | Sequence[float] | None,
    own: LabelledData | None,
    task: Task | None,
) -> Belief:
    """Say how labels are taken to come: as told, of tokens as in one's own text.

    Raises:
        BadInput: for both a scheme and a prior, or a prior that cannot be read.
    """
    if prior is not None:
        if scheme != "iid":
            raise BadInput("give either `scheme` or `prior`; each says how labels come")
        return Belief(DRAWN_BY, partial(_told, read_frequencies(prior)))
    if task is not Task.tokens:
        return Belief(scheme, partial(_drawn, scheme, own))
    if own is None:
        return Belief(scheme, lambda _: UniformPrior(), (WORDS_ALIKE,))
    return Belief(BY_TEXT, partial(_of_text, own))


def _told(told: Sequence[float], seen: Observation) -> Prior:
    return prior_of_frequencies(told, seen.num_classes, seen.problems)


def _of_text(own: LabelledData, seen: Observation) -> Prior:
    words = own.labels[own.labels >= 0].numpy()
    if words.size and words.max() >= seen.num_classes:
        raise BadInput(f"own text has tokens up to {words.max()}, the head {seen.num_classes} rows")
    shares = smooth_frequencies(np.bincount(words, minlength=seen.num_classes))
    return FrequencyPrior(tuple(shares.tolist()))


def _drawn(scheme: str, own: LabelledData | None, seen: Observation) -> Prior:
    drawn = parse_scheme(scheme)
    if drawn.label == "natural" and own is None:
        raise BadInput("the scheme natural needs a pool of labels; give `auxiliary`")
    pool = np.zeros(0, dtype=np.int64) if own is None else own.labels.numpy()
    return prior_of(drawn, pool, seen.num_classes, seen.problems)


__all__ = ["BY_TEXT", "DRAWN_BY", "WORDS_ALIKE", "Belief", "beliefs"]
