"""Our distance is scipy's, to the last bit, and scores need no more of scipy for it."""

import subprocess
import sys

import numpy as np
from scipy.spatial.distance import jensenshannon

from labelleak.core.distances import jensen_shannon


def test_the_distance_is_scipy_s():
    made = np.random.default_rng(0)
    one = made.multinomial(9, np.full(6, 1 / 6), size=(40, 3)) / 9
    other = made.multinomial(4, np.full(6, 1 / 6), size=(40, 3)) * 1.0
    wanted = jensenshannon(one, other, base=2, axis=-1)
    np.testing.assert_array_equal(jensen_shannon(one, other), wanted)


def test_what_is_alike_is_not_apart_and_what_shares_nothing_is_1_apart():
    shares = np.random.default_rng(1).dirichlet(np.full(7, 0.1), size=500)
    assert np.abs(jensen_shannon(shares, shares)).max() < 1e-7
    nearly = shares * (1 + 1e-16)
    assert np.isfinite(jensen_shannon(shares, nearly)).all()
    apart = jensen_shannon(np.eye(4), np.roll(np.eye(4), 1, axis=1))
    np.testing.assert_array_equal(apart, np.ones(4))


def test_a_score_loads_no_distances_of_scipy():
    code = (
        "import sys, numpy as np; from labelleak.core.score import Truth, score;"
        "score([2, 1], Truth(np.array([1, 2]))); assert 'scipy.spatial' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
