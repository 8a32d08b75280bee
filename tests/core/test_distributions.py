"""Distances between label distributions: bounds, what they share, and what they refuse."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelleak.core.distributions import compare_distributions
from labelleak.errors import BadInput

COUNTS = st.lists(st.integers(0, 40), min_size=2, max_size=12).filter(sum)


@settings(max_examples=60)
@given(COUNTS, st.integers(0, 999))
def test_distances_keep_their_bounds_and_agree_with_each_other(counts, seed):
    held = np.array(counts)
    guess = np.random.default_rng(seed).dirichlet(np.full(len(held), 0.3))
    found = compare_distributions(guess, held)
    # Pinsker, Le Cam and the like tie the distances together.
    variation = found.l1 / 2
    assert 0 <= found.l_infinity <= variation + 1e-12 <= 1 + 1e-9
    assert found.hellinger**2 - 1e-9 <= variation <= np.sqrt(2) * found.hellinger + 1e-9
    assert -1e-9 <= found.jensen_shannon <= 1 + 1e-9
    assert found.jensen_shannon**2 <= variation + 1e-9
    assert found.kl >= -0.02
    assert 0 <= found.cosine <= 1 + 1e-9
    assert 0 <= found.top3 <= 1
    assert (found.absent_found is None) == bool((held > 0).all())
    json.dumps(found.keys(), allow_nan=False)


@settings(max_examples=30)
@given(COUNTS)
def test_the_truth_is_at_no_distance_from_itself(counts):
    held = np.array(counts)
    found = compare_distributions(held / held.sum(), held)
    assert found.l1 == pytest.approx(0, abs=1e-12)
    assert found.hellinger == pytest.approx(0, abs=1e-7)
    assert found.cosine == pytest.approx(1)
    assert found.majority
    assert found.top3 == 1
    assert found.absent_found in (None, 1.0)
    assert found.absent_wrong == 0


def test_the_order_of_classes_does_not_matter():
    rng = np.random.default_rng(3)
    guess, held = rng.dirichlet(np.ones(6)), np.array([0, 9, 2, 5, 0, 1])
    order = rng.permutation(6)
    one, other = (
        compare_distributions(guess, held),
        compare_distributions(guess[order], held[order]),
    )
    assert one.keys() == pytest.approx(other.keys())


def test_hand_made_distances():
    found = compare_distributions([0.5, 0.25, 0.25, 0.0], [2, 0, 0, 2])
    assert found.l1 == 1.0
    assert found.l_infinity == 0.5
    assert found.hellinger == pytest.approx(np.sqrt(0.5))
    assert found.cosine == pytest.approx(0.25 / np.sqrt(0.5 * 0.375))
    assert found.majority
    assert found.top3 == 0.5  # of the two present classes one is among the three guessed
    assert found.absent_found == 0.0
    assert found.absent_wrong == 0.5
    # A class that is guessed absent costs a large but finite divergence.
    assert 1 < found.kl < 5


def test_a_class_is_guessed_absent_below_half_a_sample():
    guess = [0.96, 0.04]
    assert compare_distributions(guess, [12, 0]).absent_found == 1.0
    assert compare_distributions(guess, [13, 0]).absent_found == 0.0


@pytest.mark.parametrize(
    ("guess", "counts"),
    [
        ([0.5, 0.5], [1, 1, 1]),
        ([0.5, 0.6], [1, 1]),
        ([1.5, -0.5], [1, 1]),
        ([float("nan"), 1.0], [1, 1]),
        ([0.5, 0.5], [0, 0]),
        ([0.5, 0.5], [2, -1]),
        ([1.0], [1]),
    ],
)
def test_what_is_no_distribution_is_refused(guess, counts):
    with pytest.raises(BadInput):
        compare_distributions(guess, counts)
