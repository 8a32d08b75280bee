"""The digits that scikit-learn ships, read without importing it."""

import subprocess
import sys

import numpy as np
from sklearn import datasets

from labelleak.simulation.data import bundled


def test_digits_are_those_of_scikit_learn(monkeypatch):
    known = datasets.load_digits(return_X_y=True)
    read = bundled.load_digits()
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)  # its file lies elsewhere
    for pixels, labels in (read, bundled.load_digits()):
        assert np.array_equal(pixels, known[0])
        assert np.array_equal(labels, known[1])


def test_digits_are_read_without_importing_scikit_learn():
    code = (
        "import sys; from labelleak.simulation.data.datasets import load_dataset;"
        "load_dataset('digits'); load_dataset('digit_maps'); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
