"""Scores, priors and the free guess, against counting by hand and by simulation."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labelleak.core.priors import (
    DirichletPrior,
    PoolPrior,
    RepeatedPrior,
    SummedPrior,
    UnbalancedPrior,
    UniformPrior,
    beta_binomial,
    free_guess,
    hypergeometric,
)
from labelleak.core.rounding import best_counts
from labelleak.core.score import Truth, advantage, score
from labelleak.errors import BadInput
from labelleak.simulation.batches import draw_batches, parse_scheme


def test_chances_of_counts_are_those_of_scipy_without_its_second_of_loading():
    k = np.arange(21)
    for a, b in ((0.05, 0.45), (3.0, 27.0)):
        assert np.allclose(beta_binomial(k, 20, a, b), stats.betabinom.pmf(k, 20, a, b))
    for sizes in ([0, 1, 3, 50, 200], [0, 1, 3, 17]):  # the second leaves none but one undrawn
        each = np.array(sizes)[:, None]
        wanted = stats.hypergeom.pmf(k, each.sum(), each, 20)
        assert np.allclose(hypergeometric(k, each.sum(), each, 20), wanted, atol=1e-11)


pairs = st.integers(2, 8).flatmap(
    lambda k: st.tuples(*[st.lists(st.integers(0, k - 1), min_size=6, max_size=6)] * 2).map(
        lambda two: (k, *two)
    )
)


@given(pairs)
def test_asr_is_one_minus_total_variation_and_counts_labels_once(case):
    classes, guessed, real = case
    guess, truth = Truth.from_labels(guessed, classes), Truth.from_labels(real, classes)
    result = score(guess.counts, truth)
    left = list(real)
    named = 0
    for label in guessed:
        if label in left:
            left.remove(label)
            named += 1
    assert result.asr == pytest.approx(named / 6)
    assert result.asr == pytest.approx(1 - np.abs(guess.counts - truth.counts).sum() / 12)
    there, said = set(real), set(guessed)
    assert result.presence_precision == pytest.approx(len(there & said) / len(said))
    assert result.presence_recall == pytest.approx(len(there & said) / len(there))
    right = sum((c in there) == (c in said) for c in range(classes))
    assert result.presence_accuracy == pytest.approx(right / classes)
    assert bool(result.exact) == (sorted(guessed) == sorted(real))
    assert 0 <= result.jensen_shannon <= 1 + 1e-12
    shared = sum(np.sqrt(guess.counts * truth.counts)) / 6
    assert result.hellinger**2 == pytest.approx(1 - shared, abs=1e-9)


def test_presence_accuracy_of_an_almost_empty_guess_shows_its_inflation():
    truth = Truth.from_labels(np.arange(24), 1000)
    result = score(Truth.from_labels([0] * 24, 1000).counts, truth)
    assert result.presence_accuracy == pytest.approx((1000 - 23) / 1000)
    assert result.asr == pytest.approx(1 / 24)


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        *(("iid", 8), ("iid", 32)),
        *(("unbalanced", 1), ("unbalanced", 7), ("unbalanced", 32)),
        *(("dirichlet:0.3", 16), ("dirichlet:5", 16), ("natural", 16)),
    ],
)
def test_priors_are_those_of_the_batches_that_are_drawn(scheme, size):
    rng = np.random.default_rng(0)
    pool = rng.choice(6, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05], size=400)
    drawn = parse_scheme(scheme)
    batches = draw_batches(drawn, pool, 6, size, 6000, rng)
    counts = Truth.from_labels(pool[batches], 6).counts
    tails = drawn.prior(pool, 6).tails(size, 6)
    for k in range(1, size + 1):
        assert np.abs((counts >= k).mean(0) - tails[:, k - 1]).max() < 0.03
    assert tails.sum() == pytest.approx(size)
    guess, expected = free_guess(drawn.prior(pool, 6), size, 6)
    found = np.minimum(guess, counts).sum(1).mean() / size
    assert found == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("prior", [UniformPrior(), UnbalancedPrior(), DirichletPrior(0.5)])
def test_no_other_constant_guess_does_better(prior):
    tails = prior.tails(5, 3)
    _, best = free_guess(prior, 5, 3)
    for a in range(6):
        for b in range(6 - a):
            guess = (a, b, 5 - a - b)
            asr = sum(tails[i, :g].sum() for i, g in enumerate(guess)) / 5
            assert asr <= best + 1e-12


EVEN = [UniformPrior(), UnbalancedPrior(), DirichletPrior(0.3)]


@pytest.mark.parametrize("prior", [*EVEN, *(RepeatedPrior(one, 3) for one in EVEN)])
def test_the_even_guess_is_the_best_of_all_counts_weighed_one_by_one(prior):
    for size, classes in [(1, 2), (2, 7), (5, 3), (12, 4), (31, 10), (64, 2), (90, 100)]:
        tails = prior.tails(size, classes)
        counts, asr = free_guess(prior, size, classes)
        assert counts.tolist() == best_counts(tails, size).tolist()
        taken = np.arange(size) < counts[:, None]
        assert asr == pytest.approx(tails[taken].sum() / size, abs=1e-12)


def test_no_number_of_labels_is_too_large_for_a_guess():
    start = time.process_time()
    for prior in (UniformPrior(), UnbalancedPrior(), RepeatedPrior(UniformPrior(), 10)):
        counts, asr = free_guess(prior, 10**9, 1000)
        assert counts.sum() == 10**9
        assert 0 < asr < 1
    assert free_guess(DirichletPrior(0.5), 10**6, 10)[0].sum() == 10**6
    assert time.process_time() - start < 2
    for prior in (PoolPrior((9, 1)), SummedPrior(UniformPrior(), 2), DirichletPrior(0.5)):
        with pytest.raises(BadInput, match="too many labels for"):
            free_guess(prior, 10**9, 2)


def test_balanced_batches_of_128_are_guessed_without_any_update():
    assert free_guess(UniformPrior(), 128, 10)[1] == pytest.approx(0.894, abs=0.002)


def test_a_known_pool_helps_the_guess():
    skewed = PoolPrior((90, 5, 5))
    counts, asr = free_guess(skewed, 10, 3)
    assert counts.tolist() == [10, 0, 0] or counts[0] >= 8
    assert asr > 0.85


def test_advantage_is_linear_and_has_no_value_where_nothing_is_left():
    assert advantage([0.9, 1.0, 0.8], 0.8) == pytest.approx([0.5, 1.0, 0.0])
    assert advantage([1.0], 1.0) is None


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [([0, 5], "0 to 2"), ([-1, 0], "0 to 2"), ([0.5], "whole numbers"), (3, "whole numbers")],
)
def test_labels_that_cannot_be_are_refused(labels, sentence):
    with pytest.raises(BadInput, match=sentence):
        Truth.from_labels(labels, 3)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [([1, 1], "shape"), ([2, 2, 0], "sum to"), ([4, -1, 0], "not be negative")],
)
def test_counts_that_cannot_be_are_refused(counts, sentence):
    with pytest.raises(BadInput, match=sentence):
        score(counts, Truth.from_labels([0, 1, 2], 3))
