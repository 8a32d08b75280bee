"""P1 and P2 are seen in the picture's numbers, and the benchmark's lines say what they measure."""

import csv
import io

import numpy as np
import pytest

from labelleak.studies.signals import draw_signals, measure_signals
from labelleak.studies.study import Asked, Found


def test_absent_classes_are_positive_and_counts_are_linear():
    signals = measure_signals("digits", seed=0)
    g, counts = signals.row_sums, signals.counts
    assert (g[counts == 0] >= 0).all()
    assert (counts.sum(1) == 32).all()
    for label in range(10):
        line = np.corrcoef(counts[:, label], g[:, label])[0, 1]
        assert line < -0.97
    slope = np.polyfit(counts.ravel(), g.ravel(), 1)[0]
    assert slope == pytest.approx(signals.measured.own / 32, rel=0.25)


def test_the_picture_and_its_numbers_are_drawn():
    files = draw_signals(Found(Asked()))
    assert files["signals.svg"].count(b"<svg") == 1
    assert files["signals.png"][:4] == b"\x89PNG"
    assert len(list(csv.DictReader(io.StringIO(files["signals.csv"])))) == 600
    assert draw_signals(Found(Asked()))["signals.svg"] == files["signals.svg"]
