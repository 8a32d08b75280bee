"""Counts from how long rows of the head's gradient are: for many classes, no bias, any features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from labelleak.core.card import Card
from labelleak.core.counts import Floats
from labelleak.core.frequencies import FrequencyPrior, told_frequencies
from labelleak.core.head_sums import by_rows, measured_once, sums_of, weighted_sum
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, special
from labelleak.core.needs import READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.errors import BadInput
from labelleak.records.assumptions import ONE_GRADIENT

# The share of absent classes that may be named, unless said.
_FALSE_ALARMS = 0.05
# Rows nearer to a limit than this are on its safe side, whatever the order of sums.
_TIE = 1e-6
# A gap this wide (in logarithms) parts present rows from absent ones; else the absent rows' own
# spread decides.
_GAP = 0.5
# Rows tell little if fewer stand out than this share of the classes that are expected.
_ENOUGH = 0.5
# A class of which so many labels are expected is hardly ever absent.
_SURE = 3.0
# Expected classes must be so much likelier than all for their rows to be held against it.
_TELLING = 1.5
# Rows that tell of lengths, or of posteriors, by their quantiles at least.
_FEW = 20
# Rows sum to so much of what rows that are all alike sum to, at most, if nothing rescaled entries.
_ALIKE = 0.5
# The shortest interval that holds this share of the present rows is where single labels lie.
_MODE = 0.3
# Absent rows of a model that has not learnt are alike; their lengths spread by less than this, in
# logarithms (0.1 untrained and 1.0 after 60 steps in language models).
_SPREAD = 0.5


@dataclass(frozen=True)
class RowEnergy(Attack):
    """Count labels by the length of each row, split along and across the absent rows' direction.

    Row v of the weight gradient is ``N g_v = sum_j p_jv h_j - sum_{j: y_j = v} h_j``. With many
    classes most are absent. Their rows hold the first sum alone, which is nearly parallel to the
    mean head input; its direction d is read off the shorter half of the rows. A row is present
    if it points against d, or if more of it lies across d than the absent rows' law allows: their
    law is normal in logarithms, and `false_alarms` of them may pass for present.

    Counts of present rows: c labels leave the energy ``|N g_v|^2 = u (c + c (c - 1) r)``. Here u,
    the energy of one label, is where most present rows lie (most present tokens occur once), and
    r, the mean cosine of two inputs of a class, is the one with which all counts sum to N. In a
    model that has learnt, the posteriors' part lies in present rows too, and single labels have no
    one energy, and the absent rows' lengths spread. As far as the posteriors cancel what labels
    have in common, ``c = max(1, |g_v|^2 / L)`` is left, else ``max(1, |g_v| / L)``, with the L at
    which counts sum to N; counts are the mean of both. Where it is known how often each class
    occurs (a prior of frequencies f), the posteriors' part is known, too: such a model's posteriors
    sum to about ``N f_v``, so ``c = max(1, N f_v - N g_v . d / L)``.
    Where entries were rescaled one by one (signs, steps of Adam) a present class has the count
    that is expected of it. Where few of the expected classes stand out (noise, or a batch of most
    classes) the answer is the guess by frequencies, with a label for each class that does.

    Attributes:
        false_alarms: the share of absent classes that may be named, above 0 and below 1. Where a
            gap parts present rows from absent ones the gap decides, and hardly any is.

    Of this project (no paper). It needs no bias and no sign of the features, unlike LLG.

    Assumes many classes of which most are absent, head inputs of like length (a final layer
    norm) and one gradient. The scale does not matter.

    Edge cases: with few classes there is no law of absent rows, and the answer is a guess. Where
    no row stands out, all rows count by their length. An all-zero update has labels spread
    evenly. Cost: ``K D`` a trial.
    """

    name = "row_energy"
    needs = READS_WEIGHT | {Need.PRIOR}
    cite = "labelleak"
    card = Card(
        "row energy",
        ONE_GRADIENT,
        plain="Counts labels by how long each class's gradient row is, whatever its sign.",
    )

    false_alarms: float = _FALSE_ALARMS

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms < 1:
            raise BadInput(f"false_alarms must lie between 0 and 1, not {self.false_alarms}")

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Keep how often each class occurs, where that is known."""
        shares = told_frequencies(known.prior)

        def answer(observation: Observation) -> Estimate:
            assert observation.weight is not None
            total = samples(observation)
            weight = observation.weight.detach()
            rows = weight.reshape(-1, *weight.shape[-2:])
            named = self._named(observation)
            found = np.stack(
                [
                    count_rows(one, total, shares, self.false_alarms, there)
                    for one, there in zip(rows, named, strict=True)
                ]
            )
            scores = found.reshape(*weight.shape[:-2], num_classes)
            return Estimate(round_counts(scores, total), scores)

        return answer

    def _named(self, observation: Observation) -> Sequence[np.ndarray | None]:
        """Return the classes that are there, trial by trial; None where the rows have to tell."""
        return [None] * prod(observation.trials)


def count_rows(
    weight: Tensor,
    total: int,
    shares: Floats | None = None,
    false_alarms: float = _FALSE_ALARMS,
    named: np.ndarray | None = None,
) -> Floats:
    """Return about how many of N labels each row holds, before rounding.

    Args:
        weight: gradient of the head's weight at any scale, ``K x D``.
        total: N.
        shares: how often each class occurs, where that is known.
        false_alarms: share of absent classes that may be named.
        named: the classes that are there, where something else tells.
    """
    along, energy = measured_once(weight, split_rows)
    if named is None:
        across = np.sqrt(np.maximum(energy - np.square(along), 0.0))
        there = present_rows(along, energy, across, total, weight.shape[-1], false_alarms)
    else:
        there = named & (energy > 0)
    if shares is not None and named is None:
        if not _tells(there, total * shares):
            return _beside_guess(there, shares, total, false_alarms)
        # A word that common is there, however its row looks.
        there |= (total * shares > _SURE) & (energy > 0)
    there = there if there.any() else energy > 0
    if not there.any():
        return np.full(len(energy), total / len(energy))
    labels = energy[there] / _single(energy[there])
    if shares is not None and is_rescaled(weight):
        found = np.maximum(total * shares[there], 1.0)
    elif not has_learnt(energy[~there]):
        found = _solve(labels, total)
    elif shares is not None:
        found = _beside_posteriors(-along[there], total * shares[there], total)
    else:
        none = np.zeros(len(labels))
        found = np.sum([_beside_posteriors(one, none, total) for one in (labels, labels**0.5)], 0)
    counts = np.zeros(len(energy))
    counts[there] = found * total / found.sum()
    return counts


def _beside_guess(there: np.ndarray, shares: Floats, total: int, false_alarms: float) -> Floats:
    """Return the best guess by frequencies, with a label at least for rows that stand out.

    They have none where no more stand out than may by chance.
    """
    guess, _ = FrequencyPrior(tuple(shares.tolist())).best_guess(total, len(shares))
    by_chance = false_alarms * np.exp(-total * shares).sum()
    if there.sum() <= by_chance or not _likely(there, total * shares):
        return guess.astype(np.float64)
    found = np.maximum(guess, there).astype(np.float64)
    return np.asarray(found * total / found.sum())


def _tells(there: np.ndarray, expected: Floats) -> bool:
    """Return whether rows stand out as if labels did it, and not too few of them."""
    enough = _ENOUGH * -np.expm1(-expected).sum()
    return there.sum() > enough and _likely(there, expected)


def _likely(there: np.ndarray, expected: Floats) -> bool:
    """Return whether rows that are expected to stand out do so more often.

    Under noise all rows stand out alike.

    Args:
        there: which rows stand out.
        expected: how many labels of each class are expected.
    """
    if not there.any():
        return False
    chance = -np.expm1(-expected)
    plain, right = chance.mean(), np.square(chance).sum() / chance.sum()
    return bool(right < _TELLING * plain or chance[there].mean() > (plain + right) / 2)


def are_signs(energy: Floats) -> bool:
    """Return whether rows are of one length, as the first step of Adam makes them."""
    low, high = np.quantile(energy, [0.05, 0.95])
    return bool(len(energy) >= _FEW and high < 1.1 * low)


def is_rescaled(weight: Tensor) -> bool:
    """Return whether entries were rescaled one by one, as Adam and RMSprop do.

    The rows of a gradient sum to zero, and noise sums to little. Rescaled rows are nearly alike,
    present ones aside, at the first step (signs) and at later ones.
    """
    energy = measured_once(weight, energies)
    columns = sums_of(weight).columns
    most = len(energy) * energy.sum()
    alike = len(energy) >= _FEW and np.square(columns).sum() > _ALIKE**2 * most > 0
    return bool(alike) or are_signs(energy)


def has_learnt(absent: Floats) -> bool:
    """Return whether posteriors differ from class to class, by the energies of absent rows."""
    seen = absent[absent > 0]
    if len(seen) < _FEW:
        return False
    low, high = np.quantile(np.log(seen) / 2, [0.16, 0.84])
    return bool(high - low > 2 * _SPREAD)


def energies(weight: Tensor) -> Floats:
    """Return the squared length of each row."""
    return by_rows(weight, lambda rows: rows.square().sum(-1))


def split_rows(weight: Tensor) -> tuple[Floats, Floats]:
    """Return each row's projection on the direction of the shorter half of rows, and its energy.

    Sizes are in units of the longest row.
    """
    energy = measured_once(weight, energies)
    longest = float(np.sqrt(energy.max()))
    if longest == 0:
        return np.zeros(len(energy)), energy
    mean = weighted_sum(weight, (energy <= np.median(energy)).astype(np.float64))
    size = float(mean.norm())
    direction = mean / size if size > 0 else mean
    along = by_rows(weight, lambda rows: rows @ direction)
    return along / longest, energy / longest**2


def present_rows(
    along: Floats,
    energy: Floats,
    across: Floats,
    total: int,
    width: int,
    false_alarms: float = _FALSE_ALARMS,
) -> np.ndarray:
    """Tell which rows hold more than the posteriors' part, at most N of them.

    The direction is not quite right, so what lies across it grows with the row: it is held
    against what the shorter half of the rows has, made longer in proportion.

    Args:
        along: projection of each row on the absent rows' direction.
        energy: of each row.
        across: how long what is left of each row is.
        total: N.
        width: D.
        false_alarms: share of absent rows that may pass for present.
    """
    short = energy <= np.median(energy)
    size, law = float(np.median(np.abs(along[short]))), float(np.median(across[short]))
    tiny = np.finfo(np.float64).tiny
    stretched = max(law, tiny) * np.maximum(1.0, np.abs(along) / max(size, tiny))
    beyond = np.log(np.maximum(across, tiny) / stretched)
    spreads = float(special.ndtri(1 - false_alarms / 2))  # half of them by either rule
    # Absent rows point along d, as far as noise like that across d lets them.
    against = max(size / 2, spreads * law / np.sqrt(max(width - 1, 1)))
    there = (along < -against) | (beyond > _cut(beyond, total, spreads) + _TIE)
    there &= energy > 0
    if there.sum() > total:
        there &= energy >= np.sort(energy[there])[-total]
    return np.asarray(there)


def _cut(beyond: Floats, total: int, spreads: float) -> float:
    """Return the middle of the widest gap above the median, or the end of the absent rows' law."""
    ranked = np.sort(beyond)
    upper = ranked[max(len(ranked) // 2, len(ranked) - 1 - total) :]
    gaps = np.diff(upper)
    if len(gaps) and gaps.max() > _GAP:
        widest = int(gaps.argmax())
        return float(upper[widest] + upper[widest + 1]) / 2
    low, middle = np.quantile(beyond, [0.16, 0.5])
    return float(middle + spreads * (middle - low))


def _solve(labels: Floats, total: int) -> Floats:
    """Solve ``c + c (c - 1) r = labels`` for counts, r in 0 to 1 so that they sum to N."""
    if labels.sum() <= total:
        return labels
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _counts_of(labels, middle).sum() > total:
            low = middle
        else:
            high = middle
    return _counts_of(labels, high)


def _beside_posteriors(against: Floats, posterior: Floats, total: int) -> Floats:
    """Solve ``c_v = max(1, N f_v + a_v / L)`` for L, so that counts sum to N.

    Here a_v is how far a row points against d, and the posteriors of a model that has learnt sum
    to about ``N f_v`` at class v.
    """
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        found = np.maximum(posterior + against * np.exp(-middle), 1.0)
        low, high = (middle, high) if found.sum() > total else (low, middle)
    return np.asarray(found)


def _counts_of(labels: Floats, cosine: float) -> Floats:
    if cosine == 0:
        return labels
    rest = 1 - cosine
    return np.asarray((np.sqrt(rest**2 + 4 * cosine * labels) - rest) / (2 * cosine))


def _single(energy: Floats) -> float:
    """Return the centre of the shortest interval, in logarithms, that holds a share."""
    logs = np.log(np.sort(energy))
    held = min(len(logs), max(2, int(_MODE * len(logs))))
    widths = logs[held - 1 :] - logs[: len(logs) - held + 1]
    first = int(widths.argmin())
    return float(np.exp((logs[first] + logs[first + held - 1]) / 2))


__all__ = [
    "RowEnergy",
    "are_signs",
    "count_rows",
    "energies",
    "is_rescaled",
    "present_rows",
    "split_rows",
]
