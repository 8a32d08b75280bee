"""Labels from how the model confuses classes: PPLR and RLU on auxiliary data, iLRG on none.

A batch with counts c has the bias gradient ``N b = sum_c c_c (P_c - e_c)``, P_c the mean posterior
of its samples of class c. All three solve this line; they differ in where P comes from. Without
a bias, PPLR and RLU use row sums instead, each sample weighted with the sum H of its head inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from labelleak.attacks.bounds import round_bounded
from labelleak.attacks.class_sums import ClassSums, input_sums, ones, sum_posteriors
from labelleak.attacks.inverse_confusions import Confusions, plain_shares
from labelleak.attacks.many_confusions import CUT_SHORT, DIRECT, ManyConfusions
from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import PART_ENTRIES, Knowledge
from labelleak.core.lazy import F, Tensor, torch
from labelleak.core.needs import OWN_DATA, READS_BIAS, READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass
from labelleak.errors import BadInput
from labelleak.records.assumptions import MEASURED, Assumption

# A slice of trials stays in the cache.
_SLICE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class PPLR(Attack):
    """Solve for each class alone, knowing how sure the model is of it when right and wrong.

    With u the mean posterior of a class on its own auxiliary samples and w on all
    others, ``N b = c (u - 1) + (N - c) w`` for each class, so ``c = N (w - b) / (1 - u + w)``.
    Without a bias the same holds for row sums, every mean weighted with H.

    Assumes auxiliary data like the client's, and that a class is confused with the others in
    one batch as in the next. Any activation does where there is a bias.

    Edge cases: counts are held within 0 and N before rounding, and a class whose denominator
    vanishes (a model always right) is put at N / K. A class without auxiliary data is modelled by
    all of them. Cost: one pass over the auxiliary data, then ``K log K`` a trial.
    """

    name = "pplr"
    needs = OWN_DATA
    cite = "Posterior Probability-Based Label Recovery, ICLR 2024 submission"
    card = Card(
        "PPLR",
        MEASURED | {Assumption.BIAS},
        standard=True,
        plain="Solves for each class alone, from how sure the model is when right and wrong.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once; keep two numbers a class for biases and for row sums."""
        passes, labels = known.stream_own(int(rng.integers(2**31)))
        of_bias, of_rows = own_and_others(passes, labels.cpu().numpy())

        def answer(observation: Observation) -> Estimate:
            own, other = of_rows if observation.bias is None else of_bias
            total = samples(observation)
            slope = other - own
            usable = np.abs(slope) > np.finfo(np.float64).eps * np.abs(own).max(initial=1e-300)
            share = (other - _signal(observation)) / np.where(usable, slope, 1.0)
            counts = total * np.where(usable, np.clip(share, 0.0, 1.0), 1 / num_classes)
            return Estimate(round_bounded(counts, observation), counts)

        return answer


@dataclass(frozen=True)
class RLU(Attack):
    """Solve for all classes at once, knowing how the model confuses each pair of them.

    Auxiliary data give P, row c the mean posterior of class c. The counts are the least-squares
    solution of ``sum_c c_c (P_c - e_c) = N b`` with ``sum_c c_c = N`` and c >= 0.
    Without a bias the same holds for row sums, every mean weighted with H.

    Assumes auxiliary data like the client's and one step, or steps that barely move the
    model (`RLUEpochs` goes on from here where they do). On a trained model P nears the
    identity, the system nears zero, and a few misclassified samples decide.

    Edge cases: what the system cannot tell apart stays even. A class without auxiliary data is
    modelled by all of them. Cost: one pass over the auxiliary data and a K x K
    pseudo-inverse once; ``K^2`` a trial, and a non-negative least squares (about K^3) for each
    trial in which the plain solution turns negative. Above 1,000 classes nothing is inverted: the
    least squares are solved on the classes that matter (`ManyConfusions`), to a hundredth of a
    label, some ``10 K^2`` a trial; a note says where that took too many classes.
    """

    name = "rlu"
    needs = OWN_DATA
    cite = "Chen & Vikalo, ICML 2024"
    card = replace(
        PPLR.card,
        title="RLU",
        plain="Solves for all classes at once, from how the model confuses them.",
        quick_up_to=10_000,
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once and invert the confusions of biases and of row sums."""
        if num_classes > DIRECT:
            return _of_many(known, num_classes, int(rng.integers(2**31)))
        tables = auxiliary_tables(known, num_classes, rng)
        of_bias, of_rows = (Confusions.of(table.by_class()) for table in tables)

        def answer(observation: Observation) -> Estimate:
            confusions = of_rows if observation.bias is None else of_bias
            total = samples(observation)
            counts = total * confusions.shares(_signal(observation))
            return Estimate(round_bounded(counts, observation), counts)

        return answer


@dataclass(frozen=True)
class ILRG(Attack):
    """Read each class's features off the update, and its confusions off the model.

    ``h_c = dW_c / b_c`` is a weighted mean of the batch's head inputs, the weights
    summing to 1, so ``P_c = softmax(W h_c + b)`` stands in for class c's mean posterior;
    then ``sum_c c_c (P_c - e_c) = N b`` with ``sum_c c_c = N`` is solved for c (Moore-Penrose).

    Exact for a batch of one class or with equal features. Assumes a nearly linear softmax over
    the batch: for a class that is present the weights have both signs, and h_c can lie far from any
    feature where b_c is small. No data are needed, but noise on the gradient is amplified.

    Edge cases: where b_c is faint beside the largest entry, h_c is pulled smoothly to the mean
    feature ``sum_i b_i dW_i / sum_i b_i^2``; an all-zero update gives N times the softmax of the
    head's bias. Counts are held within 0 and N, and rounded to sum to N. Cost: ``K^2 D + K^3`` a
    trial, in slices of trials. Above 1,000 classes nothing is inverted: ``K^2 (D + N)`` a trial
    by a Krylov solver (`ManyConfusions`), and a note where it did not reach the solution.

    Attributes:
        faint: the share of the largest bias entry at which h_c lies half-way to the mean feature.
            The default only guards against rounding. Larger ones mix fewer signs and tell classes
            apart less: 0.1 helped a half-trained CNN on digits (0.58 to 0.81) and hurt others.
    """

    faint: float = 1e-5

    name = "ilrg"
    needs = READS_WEIGHT | READS_BIAS | {Need.MODEL}
    cite = "Ma et al., ICLR 2023"
    card = replace(
        PPLR.card,
        title="iLRG",
        plain="Recovers the mean features of each class from the update and solves for the counts.",
        quick_up_to=10_000,
    )

    def __post_init__(self) -> None:
        if not 0 < self.faint < float("inf"):
            raise BadInput(f"faint must be above 0, not {self.faint}")

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Keep the head."""
        assert known.model is not None
        head = known.model.head_module
        weight = _double(head.weight)
        bias = _double(
            head.bias if isinstance(head.bias, torch.Tensor) else torch.zeros(num_classes)
        )

        def answer(observation: Observation) -> Estimate:
            assert observation.weight is not None
            total, b = samples(observation), observation.bias_gradient
            stacked = observation.weight.detach().reshape(-1, *weight.shape)
            flat = b.reshape(-1, num_classes)
            if num_classes > DIRECT:
                return _solved(
                    observation,
                    (
                        self._many(_double(part), own, weight, bias).plain_shares(own)
                        for part, own in zip(stacked, flat, strict=True)
                    ),
                )
            size = max(1, _SLICE_BYTES // (8 * stacked[0].numel() + 48 * num_classes**2))
            shares = []
            for n, part in enumerate(torch.split(stacked, size)):
                own = flat[size * n : size * (n + 1)]
                # What the head makes of dW gives what it makes of h, which is linear in dW.
                rows = (_double(part.flatten(0, 1)) @ weight.T).reshape(*own.shape, num_classes)
                logits = recover_features(rows, own, self.faint)
                logits += bias
                posteriors = torch.from_numpy(logits).softmax(dim=-1).numpy()
                shares.append(plain_shares(posteriors, own))
            counts = total * np.clip(np.concatenate(shares), 0.0, 1.0).reshape(b.shape)
            return Estimate(round_bounded(counts, observation), counts)

        return answer

    def _many(self, gradient: Floats, b: Floats, weight: Floats, bias: Floats) -> ManyConfusions:
        """Make the posteriors of many classes, some rows at a time."""
        features = recover_features(gradient, b, self.faint)
        head, offset = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
        table = torch.empty(len(b), len(b))
        for rows in torch.split(torch.arange(len(b)), max(1, PART_ENTRIES // len(b))):
            part = torch.from_numpy(features[rows.numpy()]).float()
            torch.softmax(F.linear(part, head, offset), dim=-1, out=table[rows[0] : rows[-1] + 1])
        return ManyConfusions.of(table)


def _of_many(known: Knowledge, num_classes: int, seed: int) -> Prepared:
    """Prepare RLU for many classes: the table that an observation calls for is made when it comes.

    Args:
        known: what the attacker holds.
        num_classes: K.
        seed: of the pass.
    """
    weighings = {False: ones, True: input_sums}

    @cache
    def confusions(of_rows: bool) -> ManyConfusions:
        passes, labels = known.stream_own(seed)
        return ManyConfusions.of(
            mean_posteriors(passes, labels.cpu(), num_classes, weighings[of_rows])
        )

    def answer(observation: Observation) -> Estimate:
        total = samples(observation)
        solver, signals = confusions(observation.bias is None), _signal(observation)
        each = signals.reshape(-1, num_classes)
        return _solved(observation, (solver.shares(own, total) for own in each))

    return answer


def _solved(observation: Observation, found: Iterable[tuple[Floats, bool]]) -> Estimate:
    """Round the shares of many classes to counts, with a note where they were not reached."""
    shares, reached = zip(*found, strict=True)
    bounded = np.clip(np.reshape(shares, (*observation.trials, observation.num_classes)), 0.0, 1.0)
    counts = samples(observation) * bounded
    notes = () if all(reached) else (CUT_SHORT,)
    return Estimate(round_bounded(counts, observation), counts, notes)


def mean_posteriors(
    passes: Iterable[HeadPass],
    labels: Tensor,
    num_classes: int,
    weigh: Callable[[HeadPass], Floats],
) -> Tensor:
    """Return the mean weighted posterior of each class, ``K x K`` in single precision.

    A class that has no samples gets that of all.
    """
    sizes = torch.bincount(labels, minlength=num_classes)
    table, at = torch.zeros(num_classes, num_classes), 0
    whole = torch.zeros(num_classes, dtype=torch.float64)
    for seen in passes:
        mine = labels[at : at + len(seen.inputs)]
        at += len(mine)
        heavy = torch.from_numpy(weigh(seen))
        weighted = seen.probabilities.detach().cpu() * heavy.float()[:, None]
        whole += weighted.sum(dim=0, dtype=torch.float64)
        table.index_add_(0, mine, weighted / sizes[mine, None])
    table[sizes == 0] = (whole / max(at, 1)).float()
    return table


def recover_features(weight: Floats, bias: Floats, faint: float = 1e-5) -> Floats:
    """Return h_c = dW_c / b_c for each class, steadied where b_c is faint; ``*R x K x D``.

    With entries scaled so that the largest is 1, it is ``(b_c dW_c + f^2 m) / (b_c^2 + f^2)``, m
    the mean feature ``sum_i b_i dW_i / sum_i b_i^2``.

    Args:
        weight: gradient of the head's weight, ``*R x K x D``.
        bias: gradient of its bias, ``*R x K``.
        faint: f, above 0.

    >>> gradient = np.array([[2.0, 4.0], [-2.0, -4.0], [0.0, 0.0]])
    >>> recover_features(gradient, np.array([1.0, -1.0, 0.0])).round(6).tolist()
    [[2.0, 4.0], [2.0, 4.0], [2.0, 4.0]]
    """
    scale = np.abs(bias).max(axis=-1, keepdims=True)
    usable = scale > 1e-100  # less is rounding of nothing, and would overflow
    unit = np.where(usable, 1 / np.where(usable, scale, 1.0), 0.0)[..., None]
    entries = bias[..., None] * unit
    pulls, power = weight * (entries * unit), np.square(entries)
    mean = pulls.sum(axis=-2, keepdims=True) / np.maximum(power.sum(-2, keepdims=True), 1.0)
    pulls += faint**2 * mean
    pulls /= power + faint**2
    return np.asarray(pulls)


@dataclass(frozen=True, eq=False)
class AuxiliaryTable:
    """What auxiliary samples show at the head: posteriors, one-hot labels, and the signal's weight.

    The weight is 1 where the signal is the bias gradient, and H where it is the row sums.
    """

    posteriors: Floats
    labels: Floats
    weights: Floats

    def by_class(self) -> Floats:
        """Mean signal of one sample of each class, ``K x K``; of any sample where it has none."""
        missing = ~self.labels.any(axis=0)
        members = np.where(missing, 1.0, self.labels)
        members /= members.sum(axis=0)
        others = members.T @ (self.posteriors * self.weights[:, None])
        return np.asarray(others - np.diag(members.T @ self.weights))


def own_and_others(passes: Iterable[HeadPass], labels: Ints) -> tuple[tuple[Floats, Floats], ...]:
    """Return what one sample leaves at its own class, and one of any other class there, on average.

    Args:
        passes: samples at the head, in parts.
        labels: the classes of all of them; a class that has none is modelled by all samples.

    Returns:
        Both for the bias gradient, then both for the row sums.
    """
    return tuple(map(_means, sum_posteriors(passes, labels, ones, input_sums, double=True)))


def _means(sums: ClassSums) -> tuple[Floats, Floats]:
    sizes, everyone = sums.sizes, max(int(sums.sizes.sum()), 1)
    of_all = (sums.whole - sums.weights.sum()) / everyone
    own = np.where(sizes > 0, (sums.own - sums.weights) / np.maximum(sizes, 1), of_all)
    return own, (sums.whole - sums.own) / np.maximum(everyone - sizes, 1)


def auxiliary_tables(
    known: Knowledge, num_classes: int, rng: np.random.Generator
) -> tuple[AuxiliaryTable, AuxiliaryTable]:
    """Pass the auxiliary data once, for bias gradients and for row sums."""
    seen, own_labels = known.pass_own(int(rng.integers(2**31)))
    posteriors = _double(seen.logits.double().softmax(dim=-1))
    labels = np.eye(num_classes)[own_labels.cpu().numpy()]
    sums = _double(seen.inputs).sum(axis=1)
    return AuxiliaryTable(posteriors, labels, np.ones(len(sums))), AuxiliaryTable(
        posteriors, labels, sums
    )


def _signal(observation: Observation) -> Floats:
    return observation.row_sums if observation.bias is None else observation.bias_gradient


def _double(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().double().numpy())


__all__ = [
    "ILRG",
    "PPLR",
    "RLU",
    "AuxiliaryTable",
    "auxiliary_tables",
    "recover_features",
]
