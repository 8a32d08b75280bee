"""Data sets of other tasks that are made of what scikit-learn ships, so that they run offline."""

from __future__ import annotations

import numpy as np

from labelleak.simulation.data.parts import STANDARDISED, Parts, stratified_split

SIDE = 16
# Ink from which a pixel is the digit's.
_INK = 0.3


def read_breast_cancer() -> Parts:
    """Return the 569 tumours of Wisconsin, 212 of them malignant (class 1)."""
    from sklearn.datasets import load_breast_cancer

    table, benign = load_breast_cancer(return_X_y=True)
    labels = 1 - benign.astype(np.int64)
    train, test = stratified_split(labels)
    centre, spread = table[train].mean(axis=0), table[train].std(axis=0)
    inputs = ((table - centre) / spread).astype(np.float32)
    names = ("benign", "malignant")
    return Parts(inputs[train], labels[train], inputs[test], labels[test], names, STANDARDISED)


def read_digit_maps() -> Parts:
    """Return each handwritten digit at a place of its own; class 0 is the canvas, d + 1 digit d."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    images = np.zeros((len(labels), 1, SIDE, SIDE), np.float32)
    maps = np.zeros((len(labels), SIDE, SIDE), np.int64)
    places = rng.integers(0, SIDE - 7, size=(len(labels), 2))
    for number, (digit, (row, column)) in enumerate(zip(pixels, places, strict=True)):
        ink = digit.reshape(8, 8).astype(np.float32) / 16
        images[number, 0, row : row + 8, column : column + 8] = ink
        maps[number, row : row + 8, column : column + 8] = (ink > _INK) * (labels[number] + 1)
    train, test = stratified_split(labels)
    names = ("canvas", *map(str, range(10)))
    return Parts(images[train], maps[train], images[test], maps[test], names, "pixels/16")


__all__ = ["SIDE", "read_breast_cancer", "read_digit_maps"]
