"""The two-level bootstrap against a slow twin, and its coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelleak.records.intervals import bootstrap_mean, bootstrap_means, quantiles


def slow_bootstrap(values, groups, rng, resamples):
    members = [
        np.array([v for v, g in zip(values, groups, strict=True) if g == k]) for k in set(groups)
    ]
    means = []
    for _ in range(resamples):
        drawn = []
        for _ in members:
            group = members[rng.integers(len(members))]
            drawn.extend(rng.choice(group, len(group)))
        means.append(np.mean(drawn))
    return np.percentile(means, [2.5, 97.5])


def test_ends_are_those_of_the_slow_twin():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), [3, 8, 8, 2, 5, 8])
    values = rng.random(6)[groups] + 0.3 * rng.random(len(groups))
    fast = bootstrap_mean(values, groups, resamples=20_000)
    low, high = slow_bootstrap(values.tolist(), groups.tolist(), rng, 20_000)
    assert fast.mean == pytest.approx(values.mean())
    assert (fast.low, fast.high) == pytest.approx((low, high), abs=0.01)


def test_nested_trials_widen_the_interval():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(10), 20)
    values = rng.normal(size=10)[groups] + 0.1 * rng.normal(size=200)
    nested = bootstrap_mean(values, groups)
    flat = bootstrap_mean(values, np.arange(200))
    assert nested.high - nested.low > 2 * (flat.high - flat.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 5)
    covered = 0
    for _ in range(200):
        values = rng.normal(size=20)[groups] + rng.normal(size=100)
        covered += 0.0 in bootstrap_mean(values, groups, resamples=400)
    assert 0.85 <= covered / 200 <= 0.99


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1)), min_size=1, max_size=30))
def test_order_does_not_matter_and_columns_share_their_draws(pairs):
    groups, values = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    shuffled = np.random.default_rng(0).permutation(len(pairs))
    one, other = bootstrap_means([(values, groups), (values[shuffled], groups[shuffled])])
    assert (one.low, one.high) == pytest.approx((other.low, other.high))
    alone = bootstrap_mean(values, groups)
    assert (alone.low, alone.high) == pytest.approx((one.low, one.high))


@pytest.mark.parametrize("groups", [[0, 1], []])
def test_unequal_lengths_are_refused(groups):
    with pytest.raises(ValueError, match="as many groups as values"):
        bootstrap_mean([1.0], groups)


@pytest.mark.parametrize("seed", range(20))
def test_quantiles_are_those_of_numpy_to_the_last_digit(seed):
    rng = np.random.default_rng(seed)
    rows = rng.choice([rng.random((7, 2000)), rng.integers(0, 33, (7, 2000)) / 32])
    rows = rows[:, : rng.choice([1, 2, 3, 40, 2000])]
    shares = [2.5000000000000022 / 100, 0.975, *rng.random(2), 0.0, 1.0, 0.5]
    wanted = np.quantile(rows, shares, axis=1)
    for found, expected in zip(quantiles(rows.copy(), shares), wanted, strict=True):
        assert found.tolist() == expected.tolist()


def test_groups_are_counted_in_their_order_whatever_names_them():
    values = [0.5, 1.0, 0.0, 0.25, 0.75]
    named = bootstrap_mean(values, ["b", "a", "b", "b", "a"])
    assert (
        named == bootstrap_mean(values, [1, 0, 1, 1, 0]) == bootstrap_mean(values, [9, 2, 9, 9, 2])
    )
    assert bootstrap_mean([0.5], ["a"]).low == 0.5
