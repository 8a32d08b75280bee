"""What a server sees under secure aggregation, and what it tells about each single client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor

from labelleak.core.counts import Floats, Ints
from labelleak.core.observation import Observation
from labelleak.core.priors import PoolPrior, Prior, UniformPrior, free_guess
from labelleak.core.score import Truth, advantage, score
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.simulation.aggregation import average_states
from labelleak.simulation.cohort import ClientRound

_UNIFORM = UniformPrior()


def observe_aggregate(
    clients: Sequence[ClientRound],
    head: str,
    *,
    weigh: Literal["labels", "samples"] = "labels",
    rest: Sequence[str] | None = None,
) -> Observation:
    """Observe the weighted mean update of n clients, all that secure aggregation shows.

    With weights by labels it is the mean gradient over all N = sum of N_u labels, so a FedSGD
    round looks like one big batch. With weights by samples (FedAvg) a client of many samples
    counts for more than its labels, and counts read from it are weighted alike.

    Args:
        clients: the clients of one round, trained alike and for as many steps.
        head: module name of the head.
        weigh: by the labels behind each update, or by the samples that each client holds.
        rest: names of further parameters to keep, as in `Observation.from_update`.

    Raises:
        BadInput: if there is no client, they trained differently (give local steps in place of
            epochs), or were sent different models.
    """
    if not clients:
        raise BadInput("an aggregate needs at least one client")
    first = clients[0]
    if any(_how(one.update.training) != _how(first.update.training) for one in clients):
        raise BadInput(
            "the clients of an aggregate must train alike, by the same number of local steps; "
            "give local steps in place of epochs"
        )
    if any(one.update.before is not first.update.before for one in clients):
        raise BadInput("the clients of an aggregate must have been sent the same model")
    weights = [one.num_labels if weigh == "labels" else one.samples for one in clients]
    mean = average_states([one.update.tensors for one in clients], weights)
    total = sum(one.num_labels for one in clients)
    update = replace(first.update, after=mean, num_samples=total)
    return update.observe(head, rest=rest)


def pooled_truth(clients: Sequence[ClientRound], num_classes: int) -> tuple[Truth, Truth]:
    """Count the labels behind an aggregate: all together (``K``), and by client (``n x K``)."""
    each = np.stack([Truth.from_labels(one.consumed, num_classes).counts for one in clients])
    return Truth(each.sum(axis=0)), Truth(each)


@dataclass(frozen=True, eq=False)
class ClientScores:
    """What an answer to an aggregate is worth against each of its clients.

    Attributes:
        counts: the counts guessed for each client, ``n x K``.
        asr: success rate against each client, n numbers.
        asr_free: expected ASR of the best guess without any update, n numbers.
        advantage: (asr - asr_free) / (1 - asr_free), n numbers; NaN where nothing is left to
            learn.
    """

    counts: Ints
    asr: Floats
    asr_free: Floats
    advantage: Floats


def score_clients(pooled: Ints, each: Truth, prior: Prior = _UNIFORM) -> ClientScores:
    """Score an estimate of the pooled counts against every single client of the aggregate.

    The attacker knows how many labels N_u each client gave, and takes them as drawn from the
    pool without replacement: client u's counts are then hypergeometric, and the guess for it is
    the one of the highest expected ASR under that (`priors.free_guess` with the pooled estimate
    as the pool). For one client alone that is the estimate itself. Clients get the
    same guess if they gave as many labels: an aggregate cannot tell them apart.

    Args:
        pooled: estimated counts of the aggregate, K numbers that sum to all labels given.
        each: the truth, ``n x K``.
        prior: how a client's counts are distributed before any update is seen; what
            ``asr_free`` rests on.

    Raises:
        BadInput: if the estimate does not sum to the labels that the clients gave.

    >>> found = score_clients(np.array([4, 2]), Truth(np.array([[2, 1], [2, 1]])))
    >>> found.counts.tolist(), found.asr.tolist()
    ([[2, 1], [2, 1]], [1.0, 1.0])
    """
    sizes = each.counts.sum(axis=1)
    if pooled.shape != each.counts.shape[1:] or pooled.sum() != sizes.sum() or pooled.min() < 0:
        raise BadInput(
            f"the pooled estimate must be one count a class that sum to {sizes.sum()}, the labels "
            "that the clients gave"
        )
    classes, held = len(pooled), np.flatnonzero(pooled)
    pool = PoolPrior(tuple(pooled[held].tolist()))
    guesses = {int(size): np.zeros(classes, dtype=np.int64) for size in np.unique(sizes)}
    for size, guess in guesses.items():
        guess[held] = free_guess(pool, size, len(held))[0]
    free = {size: free_guess(prior, size, classes)[1] for size in guesses}
    counts = np.stack([guesses[int(size)] for size in sizes])
    asr = np.asarray(score(counts, each).asr)
    asr_free = np.array([free[int(size)] for size in sizes])
    gains = [advantage(one, known) for one, known in zip(asr, asr_free, strict=True)]
    gained = np.array([np.nan if gain is None else float(gain) for gain in gains])
    return ClientScores(counts, asr, asr_free, gained)


def _how(training: LocalTraining) -> LocalTraining:
    """Return what must agree among clients: everything but the batch size."""
    return replace(training.filled(), batch_size=1)


def average_clients(observation: Observation, clients: int) -> Observation:
    """Average the updates of each trial's clients, which stand one after the other."""
    if clients == 1:
        return observation

    def mean(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, clients, *tensor.shape[1:]).mean(dim=1)

    weight, bias, rest = observation.weight, observation.bias, observation.rest
    total = observation.num_samples
    return replace(
        observation,
        weight=None if weight is None else mean(weight),
        bias=None if bias is None else mean(bias),
        num_samples=None if total is None else total * clients,
        rest=None if rest is None else {name: mean(tensor) for name, tensor in rest.items()},
    )


__all__ = [
    "ClientScores",
    "average_clients",
    "observe_aggregate",
    "pooled_truth",
    "score_clients",
]
