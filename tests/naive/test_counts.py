"""The fast counting rules against their slow twins, ties included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labelleak.core import counts, rounding
from labelleak.errors import BadInput
from naive import twins

# Small integers force ties; floats the general case.
tied = st.integers(-4, 4).map(float)
wild = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-6)
numbers = st.one_of(tied, wild)
sizes = st.integers(2, 12)
rows = sizes.flatmap(lambda k: st.lists(numbers, min_size=k, max_size=k))
steps = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(1e-3, 1e3))


@given(rows, steps, st.integers(1, 60))
def test_extraction_is_the_greedy_one(row, step, total):
    want = twins.extract_counts(row, -step, 0.25, total)
    got = counts.extract_counts(row, -step, 0.25, total)
    assert got.tolist() == want.tolist()


@given(rows, steps, st.integers(0, 60))
def test_fill_is_the_greedy_one(row, step, total):
    assert counts.fill(row, step, total).tolist() == twins.fill(row, step, total).tolist()


@given(rows, st.integers(0, 15))
def test_the_smallest_of_one_row_are_those_of_many_and_first_come_first(row, number):
    values = np.array(row)
    found = counts.smallest(values, number)
    assert (found == counts.smallest(values[None], number)[0]).all()
    ranked = np.argsort(values, kind="stable")[:number]
    assert found.sum() == len(ranked)
    assert found[ranked].all()


@given(
    st.tuples(sizes, st.integers(1, 8)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0, 0.1, 0.25, 0.5, 1]))
    ),
    st.data(),
)
def test_best_counts_is_the_greedy_one(tails, data):
    total = data.draw(st.integers(1, tails.size))
    assert rounding.best_counts(tails, total).tolist() == twins.best_counts(tails, total).tolist()


@given(st.integers(2, 5), st.integers(1, 6), st.data())
def test_rounding_moves_the_values_as_little_as_possible(classes, total, data):
    x = np.array(data.draw(st.lists(st.floats(-2, 6), min_size=classes, max_size=classes)))
    got = rounding.round_counts(x, total)
    grid = np.stack(np.meshgrid(*[np.arange(total + 1)] * classes), -1).reshape(-1, classes)
    grid = grid[grid.sum(1) == total]
    best = ((grid - x) ** 2).sum(1).min()
    assert got.sum() == total
    assert (got >= 0).all()
    assert ((got - x) ** 2).sum() <= best + 1e-6


@given(st.lists(st.floats(0, 5), min_size=2, max_size=6), st.integers(1, 20))
def test_rounding_of_values_that_fit_stays_within_one(raw, total):
    x = np.array(raw) + 1e-3
    x = x / x.sum() * total
    got = rounding.round_counts(x, total)
    assert (np.abs(got - x) < 1 + 1e-6).all()
    # Monotone: who is owed clearly more gets no less.
    more = x[:, None] > x[None, :] + 1e-9
    assert (got[:, None] >= got[None, :])[more].all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0, 3.7]), st.booleans())
def test_few_labels_of_many_classes_are_filled_for_many_trials_as_for_each(seed, step, tied):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 4, 30))
    values = values.round(1) if tied else values
    labels = rng.integers(0, 7, size=(2, 4, 1))
    found = counts.fill(values, step, labels)
    for place in np.ndindex(2, 4):
        row, total = values[place], int(labels[place][0])
        assert found[place].tolist() == counts.fill(row, step, total).tolist()
        assert found[place].tolist() == twins.fill(row, step, total).tolist()


def test_many_trials_at_once_equal_one_by_one():
    rng = np.random.default_rng(0)
    g = rng.normal(size=(3, 50, 7)).round(1)
    m = -rng.choice([0.0, 0.1, 0.5], size=(3, 50, 1))
    together = counts.extract_counts(g, m, 0.1, 9)
    for i in np.ndindex(3, 50):
        assert together[i].tolist() == twins.extract_counts(g[i], m[i][0], 0.1, 9).tolist()


def test_one_huge_gap_and_a_tiny_step_do_not_overflow():
    assert counts.fill([0.0, 0.0, 1e300], 1e-300, 5).tolist() == [3, 2, 0]
    assert counts.extract_counts([-1e-320, 1.0], -1e-320, 0.0, 3).tolist() == [3, 0]


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_without_an_impact_the_classes_tied_at_the_minimum_share(zero):
    assert counts.extract_counts([2.0, 1.0, 1.0], zero, 0.0, 5).tolist() == [0, 3, 2]
    assert counts.extract_counts([-2.0, 1.0, 1.0], zero, 0.0, 3).tolist() == [3, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(bad):
    with pytest.raises(BadInput, match="NaN or infinite"):
        counts.extract_counts([bad, 1.0], -1.0, 0.0, 2)
    with pytest.raises(BadInput, match="NaN or infinite"):
        rounding.round_counts([bad, 1.0], 2)
    with pytest.raises(BadInput, match="NaN or infinite"):
        rounding.best_counts([[bad], [1.0]], 2)


def test_a_positive_impact_an_empty_batch_and_too_many_labels_are_refused():
    with pytest.raises(BadInput, match="must not be positive"):
        counts.extract_counts([-1.0, 1.0], 0.5, 0.0, 2)
    with pytest.raises(BadInput, match="at least 1"):
        counts.extract_counts([-1.0, 1.0], -0.5, 0.0, 0)
    with pytest.raises(BadInput, match="do not fit"):
        rounding.best_counts([[1.0], [1.0]], 3)


@pytest.mark.parametrize("classes", [2, 3, 10, 64])
def test_one_trial_is_extracted_as_in_company(classes):
    rng = np.random.default_rng(classes)
    for scale in (1e-12, 1.0, 1e9):
        sums = scale * rng.integers(-3, 4, (40, classes)) * rng.choice([1.0, 0.37], (40, 1))
        offset = scale * rng.integers(-1, 2, classes) * 0.5
        impact = -scale * rng.choice([0.0, 1e-9, 0.3, 1.0, 1e6], (40, 1))
        for total in (1, 2, 7, 100):
            together = counts.extract_counts(sums, impact, offset, total)
            alone = [
                counts.extract_counts(g, m, offset, total)
                for g, m in zip(sums, impact, strict=True)
            ]
            np.testing.assert_array_equal(alone, together)


def test_one_trial_of_extreme_numbers_is_extracted_as_in_company():
    for row, impact in (([-1e308, 1e308, 0.0], -1e-300), ([0.0, -0.0, 5e-324], -5e-324)):
        for total in (1, 4):
            with np.errstate(over="ignore"):
                pair = counts.extract_counts([row, row], impact, 0.0, total)
            np.testing.assert_array_equal(counts.extract_counts(row, impact, 0.0, total), pair[0])


@given(
    st.integers(65, 90).flatmap(lambda k: st.lists(tied, min_size=k, max_size=k)),
    steps,
    st.integers(1, 120),
)
def test_extraction_of_many_classes_is_the_greedy_one_whatever_the_signs_settle(row, step, total):
    want = twins.extract_counts(row, -step, 0.25, total)
    got = counts.extract_counts(row, -step, 0.25, total)
    assert got.dtype == np.int64
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize("place", [0, 40, 79])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_wherever_it_stands(place, wrong):
    row = np.linspace(-1, 1, 80)
    row[place] = wrong
    for given_ in ((row, -1.0, 0.0), (np.linspace(-1, 1, 80), -1.0, row), ([-1.0, 1.0], wrong, 0)):
        with pytest.raises(BadInput, match="NaN or infinite"):
            counts.extract_counts(*given_, 5)
    with pytest.raises(BadInput, match="must not be positive"):
        counts.extract_counts(row[place + 1 :] if place < 40 else row[:place], 1e-300, 0.0, 5)


@pytest.mark.parametrize("classes", [2, 10, 64, 65])
def test_one_trial_is_extracted_alike_whatever_dimensions_it_comes_in(classes):
    rng = np.random.default_rng(classes)
    for total in (1, 4, 90):
        sums = rng.integers(-3, 4, (2, classes)) * 0.37
        impact, offset = -rng.choice([0.0, 0.2, 1.0]), rng.integers(-1, 2, classes) * 0.5
        both = counts.extract_counts(sums, np.full((2, 1), impact), offset, total)
        for row, wanted in zip(sums, both, strict=True):
            for lead in ((), (1,), (1, 1)):
                one = row.reshape(*lead, classes)
                step = np.full((*lead, 1), impact)
                got = counts.extract_counts(one, step, offset, total)
                assert got.shape == one.shape
                assert got.dtype == np.int64
                assert got.ravel().tolist() == wanted.tolist()
                assert wanted.tolist() == twins.extract_counts(row, impact, offset, total).tolist()


@pytest.mark.parametrize("classes", [2, 10, 64, 65, 200])
@pytest.mark.parametrize("total", [1, 4, 90, 300])
def test_an_impact_of_the_sums_own_is_that_share_of_the_negative_ones(classes, total):
    rng = np.random.default_rng(classes)
    for negative in (0.0, 0.1, 0.5, 1.0):
        sums = rng.integers(0, 4, (3, classes)) * 0.37
        sums = np.where(rng.random((3, classes)) < negative, -sums, sums)
        impact = 0.25 * np.minimum(sums, 0.0).sum(axis=-1, keepdims=True)
        wanted = counts.extract_counts(sums, impact, 0.0, total)
        together, all_fall = counts.extract_by_own_impact(sums, 0.25, total)
        assert together.tolist() == wanted.tolist()
        assert all_fall == (impact < 0).all()
        for row, one, own in zip(sums, wanted, impact, strict=True):
            alone, falls = counts.extract_by_own_impact(row, 0.25, total)
            assert alone.tolist() == one.tolist()
            assert alone.dtype == np.int64
            assert falls == (own.item() < 0)
            assert one.tolist() == twins.extract_counts(row, own.item(), 0.0, total).tolist()


def test_an_impact_of_the_sums_own_that_overflows_is_refused_where_it_is_asked_for():
    sums = np.full((2, 70), -1e308)
    with np.errstate(over="ignore"), pytest.raises(BadInput, match="the impact hold NaN or inf"):
        counts.extract_by_own_impact(sums, 1.0, 100)
    assert counts.extract_by_own_impact(sums[0], 1.0, 7)[0].tolist() == [1] * 7 + [0] * 63


@pytest.mark.parametrize("classes", [5, 63, 200])
@pytest.mark.parametrize("lead", [(), (2,)])
@np.errstate(over="ignore")
def test_sums_that_overflow_with_their_offset_are_refused(classes, lead):
    sums = np.broadcast_to(np.linspace(-1, 1, classes) * 1e308, (*lead, classes))
    with pytest.raises(BadInput, match="row sums less their offsets hold NaN or infinite"):
        counts.extract_counts(sums, -1.0, 1e308, 3 * classes)
    with pytest.raises(BadInput, match="row sums less their offsets hold NaN or infinite"):
        counts.extract_counts(sums, -1.0, -1e308, 3 * classes)
    found = counts.extract_counts(sums, -1e308, 0.0, 3 * classes)
    assert (found.sum(axis=-1) == 3 * classes).all()
