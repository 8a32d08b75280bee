"""Label counts by Bayes: what own text shows of a token's head inputs, and how often it occurs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from labelleak.attacks.row_energy import count_rows, is_rescaled
from labelleak.attacks.text.input_means import share_of_numbers, token_means
from labelleak.attacks.text.own_sums import OwnSums, pass_text
from labelleak.attacks.text.row_noise import (
    FEWEST,
    find_drift,
    measure_noise,
    noise_of_columns,
    squares,
    whitening,
)
from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints
from labelleak.core.frequencies import FrequencyPrior, smooth_frequencies, told_frequencies
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, special, torch
from labelleak.core.needs import OWN_DATA, READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.records.assumptions import MEASURED

# A count lies within this many standard deviations, and labels, of what the row or the prior say.
_SPREADS, _MORE = 8.0, 8
# Entries of chances that are weighed at once.
_BLOCK = 2**21
# Classes that a batch holds with less than this chance show what absent rows look like.
_ABSENT = 0.3
# Rows tell of so many labels together, in shares of N, at most if noise is as it seems.
_EXCEEDS = 1.2
# Logarithm of a factor beyond which a scale that is said to be known is doubted.
_FAR = 0.4


@dataclass(frozen=True)
class TokenPosterior(Attack):
    """Weigh every count of every token by what the model shows of own text.

    Row v of the weight gradient is ``N g_v = sum_j p_jv h_j - sum_{j: y_j = v} h_j``. With q_v the
    mean of p_v h over own text, ``R_v = N (q_v - g_v)`` is the sum of c_v head inputs, plus what
    the batch's own posteriors differ by. Inputs before token v have the mean m_v and the
    covariance S (measured on own text; the means of rare tokens are drawn to that of all), so with
    c labels R_v is normal around c m_v with covariance ``(c + c^2 / n_v) S + t_v``. Here n_v is
    how often v was seen, and ``t_v = N Var(p_v h)``. Where a text holds v more often than others do
    a model that has learnt expects it there, too: m_v is less b_v, by which each label more than
    usual raises ``sum_j p_jv h_j`` on own text (a regression over its texts), and R_v less
    ``N f_v b_v``. Where inputs before a token are alike, since the same words stand before it again
    and again, their D numbers tell less than D independent ones would, and the likelihood is
    raised to the power that says so. Times the Poisson chance of c at v's frequency
    this is the posterior of c, and the counts are those with the highest expected ASR. A bias
    gives one more number a row, ``N (E p_v - b_v)``.

    Of this project (no paper). It holds for any head with one label a row, above all for language
    models: an untrained model's rows tell by their length, a trained one's by their direction.

    Assumes text like the client's, a known scale and one gradient. Where the learning rate is not
    known the scale is the likeliest one. Over local steps head inputs drift; how far they do alike
    is read off all rows together. Noise is measured on rows of tokens that are hardly there.

    Edge cases: where entries were rescaled one by one (steps of Adam) the answer is that of
    `RowEnergy`. Where another scale explains the gradient better than the one that was told, as
    after clipping, it is taken and flagged. A token that own text lacks has the mean of all and a
    small share of what is seen for the first time. Of a tied embedding own text tells what a token
    leaves as an input, too. With few classes noise is measured on the columns alone, which sum to
    nought without it, and a scale that was guessed may be wrong, so no ASR is expected then.

    Cost: one pass over own text (at most 100,000 labels) and ``n K D`` products once; ``K D^2`` and
    some K times 16 chances a trial.
    """

    name = "token_posterior"
    needs = READS_WEIGHT | OWN_DATA | {Need.PRIOR}
    cite = "labelleak"
    card = Card(
        "token posterior",
        MEASURED,
        plain="Weighs each count of each class by what the model shows of one's own text.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass own text once."""
        own = pass_text(known, num_classes)
        told = told_frequencies(known.prior)
        shares = smooth_frequencies(own.seen) if told is None else told
        within = own.within()

        def answer(observation: Observation) -> Estimate:
            assert observation.weight is not None
            weight, total = observation.weight.detach(), samples(observation)
            rows = weight.reshape(-1, *weight.shape[-2:])
            bias: list[Floats | None] = [None] * len(rows)
            if observation.bias is not None and observation.lr_known:
                bias = list(observation.bias_gradient.reshape(-1, num_classes))
            known_scale = observation.lr_known
            # What a guessed scale leaves in doubt is not in the chances.
            drifts = observation.local_steps > 1
            tells = known_scale and (total * shares < _ABSENT).sum() >= FEWEST
            scaled = [_expected_scale(one, own, shares) for one in rows]
            found, odd = [], False
            for one, beside, factor in zip(rows, bias, scaled, strict=True):
                held = known_scale
                if is_rescaled(one):
                    told_by = count_rows(one, total, shares)
                    found.append((round_counts(told_by, total), told_by, 0.0))
                    tells = False
                    continue
                rows_of = partial(
                    _Rows.of, own=own, within=within, total=total, shares=shares, drifts=drifts
                )
                best = rows_of(one if held else one * factor, beside)
                if held and abs(np.log(factor)) > _FAR:  # a clipped update, say
                    other = rows_of(one * factor, None)
                    if other.evidence(factor) > best.evidence(1.0):
                        best, held, odd = other, False, True
                found.append(best.answer(held))
            tells = tells and not odd
            counts, scores, expected = (np.stack(part) for part in zip(*found, strict=True))
            shape = weight.shape[:-2]
            return Estimate(
                counts.reshape(*shape, num_classes),
                scores.reshape(*shape, num_classes),
                expected_asr=expected.reshape(shape) if tells else None,
                notes=("unlikely_scale",) if odd else (),
            )

        return answer


@dataclass(frozen=True, eq=False)
class _Rows:
    """What the likelihood of each row's count needs, in coordinates where S is round.

    Attributes:
        total: N.
        width: D.
        means: what a label is expected at each count: ``N^2 |q|^2``, ``N^2 q . g``, ``N^2 |g|^2``,
            ``N q . m``, ``N g . m``, ``|m|^2``, a row each.
        label: variance that one label adds, and that its mean's doubt adds for a squared count.
        power: of the likelihood, at most: the share of an input's numbers that vary by themselves.
        noise: t_v, a number a row.
        prior: N f_v.
        bias: what is seen of ``N (E p_v - b_v)``, its variance and what one label adds to it,
            where there is a bias.
        volume: log determinant of the turn to those coordinates.
    """

    total: int
    width: int
    means: Floats
    label: tuple[float, Floats]
    power: float
    noise: Floats
    prior: Floats
    bias: tuple[Floats, Floats, Floats] | None
    volume: float

    @classmethod
    def of(
        cls,
        gradient: Tensor,
        bias: Floats | None,
        own: OwnSums,
        within: Tensor,
        total: int,
        shares: Floats,
        drifts: bool = False,
    ) -> _Rows:
        """Whiten a gradient and measure its noise, and how far head inputs drift over steps."""
        width = gradient.shape[1]
        varies = own.squares * float(own.second.trace()) / width - squares(own.weighted) / width
        posterior = total * np.maximum(varies, 0.0)
        rare = total * shares < _ABSENT
        pull, pulled = own.follows
        usual = torch.from_numpy(own.seen / own.total)
        weighted = own.weighted - (usual[:, None] * pull).to(own.weighted)
        plain = total * (own.weighted - gradient.to(own.weighted))
        beside = noise_of_columns(gradient, own, total)
        factor, noise = measure_noise(squares(plain) / width, posterior, rare, beside)
        metric = within + noise * torch.eye(width, dtype=torch.float64)
        turn, kept = whitening(metric)
        label = float((turn.mT @ within @ turn).trace()) / width
        around = float((turn.mT @ turn).trace()) / width
        means, doubt = token_means(own, turn, label)
        means = means - pull @ turn
        q, g = (total * (rows.to(turn) @ turn) for rows in (weighted, gradient))
        other = factor * posterior * around + noise * around + 1e-9
        if drifts:
            means = means + find_drift(q - g, means, label, other, total * shares)
        sums = [(a * b).sum(1).numpy() for a, b in ((q, q), (q, g), (g, g), (q, means), (g, means))]
        told = None
        if bias is not None:
            spread = total * np.maximum(own.squares - own.chances**2, 0.0)
            apart = total * (own.chances - bias)
            times, more = measure_noise(apart**2, spread, rare, beside)
            apart = apart - total * usual.numpy() * pulled
            told = apart, times * spread + more + 1e-6, 1 - pulled
        return cls(
            total,
            kept,
            np.stack([*sums, squares(means)]),
            (label, label * doubt),
            share_of_numbers(own, turn, label),
            other,
            total * shares,
            told,
            float(torch.linalg.slogdet(turn)[1]),
        )

    def answer(self, scale_known: bool) -> tuple[Ints, Floats, float]:
        """Return counts, the chance that each class is there, and the ASR to expect."""
        if not self.means[2].any():  # nothing was shared
            return self._by_prior()
        scale = 1.0 if scale_known else self._likeliest_scale()
        parts = list(self._posteriors(scale, self._trust(scale)))
        rows, numbers, missed = (np.concatenate([part[i] for part in parts]) for i in range(3))
        order = np.lexsort((rows, numbers, missed))[: self.total]
        tails = -np.expm1(np.minimum(missed, 0.0))
        counts = np.bincount(rows[order], minlength=len(self.prior))
        chances = np.zeros(len(self.prior))
        first = numbers == 1
        chances[rows[first]] = tails[first]
        return counts, chances, min(1.0, float(tails[order].sum()) / self.total)

    def evidence(self, factor: float) -> float:
        """Return the log likelihood of the gradient before it was multiplied with a factor."""
        found = sum(part for _, _, part in self._joint(1.0))
        return found + len(self.prior) * (self.volume + self.width * float(np.log(factor)))

    def _by_prior(self) -> tuple[Ints, Floats, float]:
        """Return the best guess without the update."""
        shares = self.prior / self.total
        counts, asr = FrequencyPrior(tuple(shares.tolist())).best_guess(self.total, len(shares))
        return counts, -np.expm1(-self.prior), asr

    def _expected_total(self, scale: float, trust: float) -> float:
        """Return how many labels the rows tell of together; N where the noise is as thought."""
        found = 0.0
        for _, logs, _ in self._joint(scale, trust):
            chances = np.exp(logs - logs.max(1, keepdims=True))
            found += float((chances @ np.arange(logs.shape[1]) / chances.sum(1)).sum())
        return found

    def _trust(self, scale: float) -> float:
        """Return the power of the likelihood at which the rows tell of about N labels.

        Less than `power` where noise that is not as it was taken to be makes too many present.
        """
        most = _EXCEEDS * self.total
        if self._expected_total(scale, self.power) <= most:
            return self.power
        low, high = 0.0, self.power
        for _ in range(12):
            middle = (low + high) / 2
            much = self._expected_total(scale, middle) > most
            low, high = (low, middle) if much else (middle, high)
        return max(low, high / 2)  # rows still break ties of the prior

    def _residual(self, scale: float) -> tuple[Floats, Floats]:
        """Return ``|R|^2`` and ``R . m`` of ``R = N (q - scale g)``."""
        qq, qg, gg, qm, gm, _ = self.means
        return np.maximum(qq - 2 * scale * qg + scale**2 * gg, 0.0), qm - scale * gm

    def _posteriors(self, scale: float, trust: float) -> Iterator[tuple[Ints, Ints, Floats]]:
        """Yield rows, counts of at least one and log P(c < count), a block of rows at a time.

        The logarithm ranks counts that are all but certain.
        """
        for rows, logs, _ in self._joint(scale, trust):
            below = np.logaddexp.accumulate(logs, axis=1)
            missed = below[:, :-1] - below[:, -1:]
            most = missed.shape[1]
            numbers = np.tile(np.arange(1, most + 1), len(rows))
            yield np.repeat(rows, most), numbers, missed.ravel()

    def _joint(self, scale: float, trust: float = 1.0) -> Iterator[tuple[Ints, Floats, float]]:
        """Yield rows, the log of each count's chance times its likelihood, and the evidence.

        Args:
            scale: factor that the gradient is multiplied with.
            trust: power of the likelihood.
        """
        square, along = self._residual(scale)
        length = self.means[5]
        guess = np.maximum(along / np.maximum(length, 1e-12), self.prior)
        most = np.minimum(guess + _SPREADS * np.sqrt(guess) + _MORE, self.total).astype(np.int64)
        order = np.argsort(most, kind="stable")
        at = 0
        while at < len(order):
            fits = max(1, _BLOCK // (int(most[order[at]]) + 1))
            rows = order[at : at + fits]
            while len(rows) > 1 and len(rows) * (most[rows[-1]] + 1) > 2 * _BLOCK:
                rows = rows[: len(rows) // 2]
            at += len(rows)
            counts = np.arange(int(most[rows[-1]]) + 1)[None]
            logs = trust * self._log_likelihood(rows, counts, square, along)
            mean = np.maximum(self.prior[rows, None], 1e-12)
            logs += counts * np.log(mean) - mean - special.gammaln(counts + 1)
            top = logs.max(1)
            evidence = (top + np.log(np.exp(logs - top[:, None]).sum(1))).sum()
            yield rows, logs, float(evidence)

    def _log_likelihood(
        self, rows: Ints, counts: np.ndarray, square: Floats, along: Floats
    ) -> Floats:
        one, doubt = self.label
        variance = one * counts + doubt[rows, None] * counts**2 + self.noise[rows, None]
        apart = square[rows, None] - 2 * counts * along[rows, None]
        apart = np.maximum(apart + counts**2 * self.means[5][rows, None], 0.0)
        logs = -(apart / variance + self.width * np.log(variance)) / 2
        if self.bias is not None:
            seen, spread, each = (part[rows, None] for part in self.bias)
            logs -= (seen - counts * each) ** 2 / spread / 2
        return np.asarray(logs)

    def _likeliest_scale(self) -> float:
        """Return the factor of an unknown learning rate under which the rows are likeliest."""

        def worth(power: float) -> float:
            evidence = sum(found for _, _, found in self._joint(2.0**power))
            return evidence + len(self.prior) * self.width * power * float(np.log(2))

        powers = np.linspace(-2, 2, 9)
        best = float(powers[int(np.argmax([worth(power) for power in powers]))])
        for step in (0.25, 0.125, 0.06, 0.03):
            best = max((best - step, best, best + step), key=worth)
        return float(2.0**best)


def _expected_scale(gradient: Tensor, own: OwnSums, shares: Floats) -> float:
    """Return the factor that makes a gradient of unknown scale about as long as expected.

    On average a batch's gradient is ``q_v - f_v m_v``; along it the batch's own part is nought.
    """
    seen = torch.from_numpy(np.maximum(own.seen, 1.0))[:, None]
    means = torch.where(seen > 1, own.inputs / seen, own.middle[None].to(own.inputs))
    expected = own.weighted.double() - torch.from_numpy(shares)[:, None] * means
    along, size = float((expected * gradient.double()).sum()), float(expected.square().sum())
    if along > 0:
        return size / along
    length = float(gradient.double().norm())
    return float(np.sqrt(size)) / length if length > 0 else 1.0


__all__ = ["TokenPosterior"]
