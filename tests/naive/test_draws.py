"""Samples that are drawn together are those that are drawn one after the other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from labelleak.attacks.shadow.layer_clients import pick_samples
from labelleak.core.draws import draw_each
from naive import twins


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=12),
    st.integers(0, 2**32),
    st.sampled_from([(0,), (1,), (33,), (7, 12)]),
)
def test_one_draw_of_all_gives_what_single_draws_give_and_leaves_the_stream_there(
    sizes, seed, shape
):
    drawn, chosen = (np.random.default_rng(seed) for _ in range(2))
    pools = [np.arange(size) + 10_000 * label for label, size in enumerate(sizes)]
    labels = np.random.default_rng(seed + 1).integers(0, len(pools), size=shape)
    want = twins.draw_each(pools, labels, chosen)
    assert draw_each(pools, labels, drawn).tolist() == want.tolist()
    assert drawn.integers(2**60, size=3).tolist() == chosen.integers(2**60, size=3).tolist()


def test_a_class_without_samples_takes_any_of_the_pool():
    labels, pool = np.array([0, 0, 2, 2, 0]), np.array([1, 2, 4])
    counts = np.array([[2, 1, 1], [0, 0, 4]])
    picks = pick_samples(pool, labels, counts, np.random.default_rng(0))
    assert picks.shape == (2, 4)
    assert set(picks[0, :2]) <= {1, 4}
    assert picks[0, 2] in pool
    assert set(picks[1]) == {2}
