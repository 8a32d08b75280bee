"""Labels unlike even batches: found by simulation, and rarely where batches are even."""

import numpy as np
import pytest

from labelleak.core.priors import UniformPrior, free_guess
from labelleak.core.uneven import share_named, suits_badly


@pytest.mark.parametrize(("total", "classes"), [(8, 10), (64, 3), (128, 10), (32, 2)])
def test_even_batches_are_hardly_ever_called_uneven(total, classes):
    guess, _ = free_guess(UniformPrior(), total, classes)
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(total, np.full(classes, 1 / classes), 3000)
    named = share_named(guess, drawn)
    assert named.tolist() == [np.minimum(guess, one).sum() / total for one in drawn]
    assert suits_badly(guess, named).mean() <= 0.004


@pytest.mark.parametrize("share", [0.75, 1.0])
def test_lopsided_batches_are_seen(share):
    guess, _ = free_guess(UniformPrior(), 64, 10)
    own = round(share * 64)
    counts = np.array([own, *np.bincount(np.arange(64 - own) % 9, minlength=9)])
    assert suits_badly(guess, share_named(guess, counts))


def test_epochs_repeat_labels_and_make_even_batches_look_more_lopsided():
    guess, _ = free_guess(UniformPrior(), 80, 10)
    drawn = np.random.default_rng(2).multinomial(8, np.full(10, 0.1), 2000) * 10
    named = share_named(guess, drawn)
    assert suits_badly(guess, named).mean() > 0.9
    assert suits_badly(guess, named, repeats=10).mean() <= 0.004


def test_of_more_classes_than_an_even_guess_can_say_anything_of_nothing_is_called_uneven():
    guess = np.zeros(2000, dtype=int)
    guess[:4] = 1
    assert not suits_badly(guess, np.array(0.0))
