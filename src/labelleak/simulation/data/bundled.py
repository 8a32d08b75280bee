"""Data sets of other tasks that are made of what scikit-learn ships, so that they run offline."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from labelleak.simulation.data.parts import STANDARDISED, Parts, stratified_split

SIDE = 16
# Ink from which a pixel is the digit's.
_INK = 0.3


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the 1,797 handwritten digits, pixels of 0 to 16, and what they are.

    They are read from scikit-learn's own file, since importing it takes most of a second.
    """
    found = find_spec("sklearn")
    folders = (found and found.submodule_search_locations) or ()
    for folder in folders:
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn import datasets  # which knows where its file is, should it lie elsewhere

    pixels, labels = datasets.load_digits(return_X_y=True)
    return pixels, labels.astype(np.int64)


def read_digits() -> Parts:
    """Return the handwritten digits as grey images of 8x8."""
    pixels, labels = load_digits()
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train, test = stratified_split(labels)
    names = tuple(map(str, range(10)))
    return Parts(images[train], labels[train], images[test], labels[test], names, "pixels/16")


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
    pixels, labels = load_digits()
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


def read_digit_sets() -> Parts:
    """Return canvases of up to four digits; an input's labels are the digits that stand on it.

    Digit d comes 0.8 times as often as d - 1, a quarter of the places is empty, and half of the
    digits are followed by the next one, so that labels are correlated.
    """
    pixels, labels = load_digits()
    parts = [
        _canvases(pixels[rows].reshape(-1, 8, 8) / 16, labels[rows], number, seed)
        for seed, (rows, number) in enumerate(
            zip(stratified_split(labels), (2400, 600), strict=True)
        )
    ]
    names = tuple(map(str, range(10)))
    return Parts(*parts[0], *parts[1], names, "pixels/16")


def _canvases(
    digits: np.ndarray, labels: np.ndarray, number: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Paste digits of one part of the data, and say which stand on each canvas."""
    rng = np.random.default_rng(seed)
    images = np.zeros((number, 1, SIDE, SIDE), np.float32)
    held = np.zeros((number, 10), np.int64)
    often = 0.8 ** np.arange(10)
    for image, own in zip(images[:, 0], held, strict=True):
        digit = 0
        for place in np.flatnonzero(rng.random(4) < 0.75):
            again = own.any() and rng.random() < 0.5
            digit = (digit + 1) % 10 if again else rng.choice(10, p=often / often.sum())
            row, column = 8 * (place // 2), 8 * (place % 2)
            picked = rng.choice(np.flatnonzero(labels == digit))
            image[row : row + 8, column : column + 8] = digits[picked]
            own[digit] = 1
    return images, held


__all__ = [
    "SIDE",
    "load_digits",
    "read_breast_cancer",
    "read_digit_maps",
    "read_digit_sets",
    "read_digits",
]
