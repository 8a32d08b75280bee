"""Guesses that see no update: the same for a cell, whatever was asked before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelleak.attacks import FreeGuess, RandomGuess, baselines
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.priors import RepeatedPrior, UniformPrior, free_guess


def seen(size, trials=200, classes=10):
    return Observation.from_gradient(None, np.zeros((trials, classes)), num_samples=size)


def ready(attack, seed=0, known=None):
    return prepare(attack, known or Knowledge(), 10, np.random.default_rng(seed))


def test_a_random_guess_does_not_depend_on_earlier_calls():
    fresh, used = ready(RandomGuess()), ready(RandomGuess())
    for size in (1, 8, 32):
        used(seen(size))
    assert (fresh(seen(16)).counts == used(seen(16)).counts).all()


def test_random_guesses_differ_between_trials_sizes_and_seeds():
    guess = ready(RandomGuess())
    found = guess(seen(64)).counts
    assert len(np.unique(found, axis=0)) > 190
    assert not (found == ready(RandomGuess(), seed=1)(seen(64)).counts).all()
    assert np.abs(found - guess(seen(65)).counts).sum(axis=1).mean() > 10
    assert abs(found.mean(axis=0) / 6.4 - 1).max() < 0.1


@pytest.mark.parametrize("times", [1, 2, 5])
def test_the_guess_for_repeated_samples_is_the_one_for_samples(times):
    """Expected ASR is linear between multiples of E, so nothing is gained in between."""
    once, asr = free_guess(UniformPrior(), 12, 10)
    repeated = RepeatedPrior(UniformPrior(), times)
    counts, same = free_guess(repeated, 12 * times, 10)
    assert same == pytest.approx(asr)
    draws = np.random.default_rng(0).multinomial(12, np.full(10, 0.1), size=20_000) * times
    for guess in (counts, times * once):
        rate = np.minimum(draws, guess).sum(axis=1).mean() / (12 * times)
        assert rate == pytest.approx(asr, abs=0.005)
    known = Knowledge(prior=repeated)
    assert (ready(FreeGuess(), known=known)(seen(12 * times)).counts == counts).all()


def test_random_counts_are_kept_for_as_many_labels_and_trials_and_no_others(monkeypatch):
    def update(trials, size):
        weight = torch.zeros(*trials, 5, 3)
        return Observation.from_gradient(weight, num_samples=size)

    def anew(observation):
        return RandomGuess().prepare(Knowledge(), 5, np.random.default_rng(3))(observation)

    answer = RandomGuess().prepare(Knowledge(), 5, np.random.default_rng(3))
    one = update((2,), 9)
    assert answer(one) is answer(update((2,), 9))
    with pytest.raises(ValueError, match="read-only"):
        answer(one).counts[0] = 0
    for other in (update((2,), 8), update((3,), 9), update((), 9), one):
        assert answer(other).counts.tolist() == anew(other).counts.tolist()
    monkeypatch.setattr(baselines, "_MOST_KEPT", 3)
    large = RandomGuess().prepare(Knowledge(), 5, np.random.default_rng(3))
    assert large(one) is not large(one)
