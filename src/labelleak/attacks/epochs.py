"""Labels from several local steps: search for counts whose simulated steps move the bias so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from labelleak.attacks.bounds import round_bounded
from labelleak.attacks.by_class import pick, pools
from labelleak.attacks.confusions import AuxiliaryTable
from labelleak.attacks.inverse_confusions import Confusions
from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import special
from labelleak.core.needs import OWN_DATA, READS_BIAS, Need
from labelleak.core.observation import Observation
from labelleak.core.scale import StepPath
from labelleak.core.training import FullTraining
from labelleak.errors import BadInput
from labelleak.records.assumptions import TRAJECTORY, Assumption

# Of more local steps than these, several are taken as one.
_MOST_STEPS = 32
_SLICE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class RLUEpochs(Attack):
    """RLU for several local steps: move labels until simulated steps explain the head's bias.

    Chen & Vikalo start from the counts of one step (`RLU`) and then simulate the client in terms of
    class-conditional logits alone. With x the label shares, S_c the mean posterior of class c,
    h_c its mean head input and m_c its mean logits, a step has the bias gradient and moves the
    logits by::

        b = sum_c x_c (S_c - e_c)
        m_c <- m_c - lr sum_d x_d (S_d - e_d) (h_d . h_c + 1)

    S is taken anew from the moved logits. The mean b along the steps is compared with the observed
    one: where it is too low, a class was given too many labels. Labels move from the most over- to
    the most under-estimated class, an eighth of N at first; a move that brings the two no
    nearer is undone and tried with half as many, down to one. Momentum replays steps as SGD does.

    Two changes. Instead of normal draws, the auxiliary samples' own logits stand for the spread
    around m_c. And ``h_d . h_c`` is taken from auxiliary data, where the paper reads one size of h
    off the update and uses it for all pairs of classes.

    Assumes auxiliary data like the client's, labels spread alike over the steps, and that the head
    moves more than what is below it. An Adam client is read as plain SGD, as its update was.

    Edge cases: at one step the answer is RLU's. A class without auxiliary data is modelled by all
    of them. Of more than 32 steps, several are taken as one. Never farther from the observed bias
    than RLU's counts are, under its own simulation; no more than `moves` are tried, so it ends.

    Cost: one pass over the auxiliary data once; ``moves`` simulations a trial of
    ``steps K^2 samples_per_class`` exponentials each, in slices of trials.

    Attributes:
        samples_per_class: auxiliary logits that stand for a class.
        moves: moves that are tried at most.
    """

    samples_per_class: int = 16
    moves: int = 64

    name = "rlu_epochs"
    needs = READS_BIAS | OWN_DATA | {Need.TRAINING}
    cite = "Chen & Vikalo, ICML 2024 (several epochs)"
    card = Card(
        "RLU, epochs",
        TRAJECTORY | {Assumption.BIAS},
        plain="As RLU, moving labels until simulated local steps explain the update.",
    )

    def __post_init__(self) -> None:
        if self.samples_per_class < 1 or self.moves < 0:
            raise BadInput("samples_per_class must be at least 1 and moves at least 0")

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once; keep confusions, some logits and mean head inputs."""
        assert known.training is not None
        confusions, logits, kernel = _measure(known, num_classes, self.samples_per_class, rng)
        assert known.model is not None
        training, moving = known.training.filled(), known.model.moving

        def answer(observation: Observation) -> Estimate:
            total, b = samples(observation), observation.bias_gradient
            shares = confusions.shares(b)
            counts = round_bounded(total * shares, observation)
            if observation.local_steps == 1:
                return Estimate(counts, total * shares)
            client = _Client.of(training, observation.local_steps, logits, kernel, moving)
            found = counts.reshape(-1, num_classes).copy()
            flat = b.reshape(-1, num_classes)
            for part in client.slices(len(found)):
                found[part] = _search(client, found[part], flat[part], self.moves)
            counts = found.reshape(counts.shape)
            return Estimate(counts, counts.astype(np.float64))

        return answer


@dataclass(frozen=True, eq=False)
class _Client:
    """A client as its head sees it: logits of each class, and how one class's step moves another's.

    Attributes:
        logits: before the first step, ``K x samples x K``.
        kernel: ``h_d . h_c + 1``, ``K x K``.
        rate: learning rate of a simulated step.
        momentum: SGD momentum between simulated steps.
        weights: how much each simulated step counts; they sum to 1.
        moving: 1 for each row that moves, K numbers; see `WhiteBox.moving`.
    """

    logits: Floats
    kernel: Floats
    rate: float
    momentum: float
    weights: Floats
    moving: Floats | float = 1.0

    @classmethod
    def of(
        cls,
        how: FullTraining,
        steps: int,
        logits: Floats,
        kernel: Floats,
        moving: Floats | float = 1.0,
    ) -> _Client:
        path = StepPath.of(how, steps)
        rate, momentum, weights = how.lr, path.momentum, path.weights / path.weights.sum()
        if steps > _MOST_STEPS:
            rate, momentum = path.rate / _MOST_STEPS, 0.0
            weights = np.full(_MOST_STEPS, 1 / _MOST_STEPS)
        return cls(logits, kernel, rate, momentum, weights, moving)

    def slices(self, trials: int) -> Iterator[slice]:
        """Divide trials into slices that fit into memory."""
        size = max(1, _SLICE_BYTES // (32 * self.logits.size))
        return (slice(start, start + size) for start in range(0, trials, size))

    def mean_bias(self, shares: Floats) -> Floats:
        """Return the mean bias gradient along the steps of clients with label shares ``R x K``."""
        classes = len(self.kernel)
        moved = np.zeros((len(shares), classes, classes))
        speed, seen = np.zeros_like(moved), np.zeros(shares.shape)
        for weight in self.weights:
            posteriors = special.softmax(self.logits + moved[:, :, None], axis=-1).mean(axis=2)
            errors = shares[:, :, None] * (posteriors - np.eye(classes))
            seen += weight * errors.sum(axis=1)
            speed = self.momentum * speed + self.kernel @ errors
            moved = moved - self.rate * speed * self.moving
        return seen


def _search(client: _Client, counts: Ints, b: Floats, moves: int) -> Ints:
    """Move labels while that brings the simulated bias gradient nearer, for each trial."""
    total = int(counts[0].sum())
    gap = b - client.mean_bias(counts / total)
    distance = np.linalg.norm(gap, axis=1)
    size = np.full(len(counts), max(1, total // 8))
    for _ in range(moves):
        active = np.flatnonzero(size)
        if not active.size:
            break
        own, miss = counts[active], gap[active]
        row = np.arange(len(active))
        # A bias gradient that came out too low has b - b' > 0: too many labels.
        over = np.where(own > 0, miss, -np.inf).argmax(axis=1)
        under = miss.argmin(axis=1)
        amount = np.minimum(size[active], own[row, over])
        tried = own.copy()
        tried[row, over] -= amount
        tried[row, under] += amount
        left = b[active] - client.mean_bias(tried / total)
        reach = np.linalg.norm(left, axis=1)
        nearer = reach < distance[active]
        kept = active[nearer]
        counts[kept], gap[kept], distance[kept] = tried[nearer], left[nearer], reach[nearer]
        size[active[~nearer]] = amount[~nearer] // 2
    return counts


def _measure(
    known: Knowledge, num_classes: int, per_class: int, rng: np.random.Generator
) -> tuple[Confusions, Floats, Floats]:
    """Give RLU's confusions, the logits of some samples of each class, and the kernel."""
    seen, own_labels = known.pass_own(int(rng.integers(2**31)))
    logits, inputs = (np.asarray(t.double().cpu().numpy()) for t in (seen.logits, seen.inputs))
    labels = own_labels.cpu().numpy()
    table = AuxiliaryTable(
        special.softmax(logits, axis=-1), np.eye(num_classes)[labels], np.ones(len(labels))
    )
    members = pools(labels, num_classes)
    picks = pick(members, rng.random(per_class))
    means = np.stack([inputs[pool].mean(axis=0) for pool in members])
    return Confusions.of(table.by_class()), logits[picks], means @ means.T + 1


__all__ = ["RLUEpochs"]
