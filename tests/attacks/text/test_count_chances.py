"""Chances of counts: Poisson's, what was read, and counts of the highest expected ASR."""

from itertools import product

import numpy as np
import pytest

from labelleak.attacks.text.count_chances import likeliest, log_chances, moments


def test_moments_without_more_are_poissons():
    mean, spread = moments(log_chances(np.array([0.02, 3.0, 40.0]), None, 0.0))
    assert mean == pytest.approx([0.02, 3, 40], rel=1e-3)
    assert spread == pytest.approx([0.02, 3, 40], rel=1e-2)


def test_a_token_that_was_read_is_there_and_another_one_at_the_end_of_a_text_alone():
    expected, read = np.array([0.1, 0.1, 5.0, 5.0]), np.array([True, False, True, False])
    found = np.exp(log_chances(expected, read, 1 / 64))
    there = 1 - found[:, 0] / found.sum(1)
    assert there[0] > 0.7  # the doubt is that it was read at the beginning of a text
    assert there[2] > 0.99
    assert there[1] == pytest.approx(0.1 / 64, rel=0.01)
    assert there[3] == pytest.approx(1 - np.exp(-5 / 64), rel=0.01)
    sure = np.exp(log_chances(expected, read, 0.0))
    assert sure[0, 0] < 1e-9 * sure[0, 1]
    assert sure[1, 1:].sum() < 1e-9


def test_counts_are_those_of_the_highest_expected_asr():
    rng = np.random.default_rng(0)
    for total in (1, 3, 5):
        logs = np.log(rng.dirichlet(np.ones(5), size=3))
        chances = np.exp(logs)
        tails = np.cumsum(chances[:, ::-1], 1)[:, ::-1][:, 1:]

        def worth(counts, tails=tails):
            return sum(tails[v, :c].sum() for v, c in enumerate(counts))

        every = [c for c in product(range(5), repeat=3) if sum(c) == total]
        counts, there = likeliest(logs, total)
        assert counts.sum() == total
        assert worth(counts) == pytest.approx(max(map(worth, every)))
        assert there == pytest.approx(tails[:, 0])


def test_more_labels_than_counts_are_weighed_still_sum_to_n():
    counts, _ = likeliest(np.log(np.full((2, 3), 1 / 3)), 9)
    assert counts.sum() == 9
