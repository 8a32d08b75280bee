"""A training and a test part as plain arrays, checked, scaled and laid out for a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from labelleak.errors import BadInput

MAX_BYTES = 4 * 2**30
MAX_CLASSES = 100_000
CHANNELS = (1, 3)
TEST_SHARE = 0.2

UINT8_SCALING = "uint8/255"
NO_SCALING = "none"
STANDARDISED = "standardised by the training part"


@dataclass(frozen=True, eq=False)
class Parts:
    """Both parts of a data set as a model takes them: float32 inputs, int64 labels.

    ``writers`` names whose each training row is, where the data say so; else it is None. ``given``
    holds the inputs of tables as they were before they were standardised.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    normalisation: str
    writers: np.ndarray | None = None
    given: tuple[np.ndarray, np.ndarray] | None = None


def present_file(path: str | Path) -> Path:
    """Return a file's path.

    Raises:
        BadInput: if there is no such file.
    """
    if not os.path.isfile(path):
        raise BadInput(f"there is no file {path}")
    return Path(path)


def check_size(elements: int, source: str) -> None:
    """Refuse what would outgrow MAX_BYTES once it is float32, before it is allocated.

    Raises:
        BadInput: if it would.
    """
    if elements * 4 > MAX_BYTES:
        raise BadInput(
            f"{source} would take {elements * 4 / 2**30:.1f} GiB as float32, more than the "
            f"{MAX_BYTES / 2**30:.0f} GiB that are read; save a part of it as .npz"
        )


def stratified_split(labels: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Choose a fifth of each class for testing; the same rows at every call.

    A class with a single row stays in training. Rows keep their order.

    >>> train, test = stratified_split(np.array([0, 1] * 10))
    >>> len(train), len(test), np.bincount(np.array([0, 1] * 10)[test]).tolist()
    (16, 4, [2, 2])
    """
    rng = np.random.default_rng(seed)
    in_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        taken = max(1, round(TEST_SHARE * len(rows))) if len(rows) > 1 else 0
        in_test[rows[:taken]] = True
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def check_rows(inputs: np.ndarray, x: str, labels: np.ndarray, y: str, source: str) -> None:
    """Refuse inputs and labels of different length.

    Raises:
        BadInput: naming both.
    """
    rows, told = (len(array) if array.ndim else 0 for array in (inputs, labels))
    if not rows or rows != told:
        raise BadInput(f"{source} has {rows} rows in {x}, {told} in {y}")


def part_rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep a fifth of each class for testing; of rows with several labels a fifth of all."""
    return stratified_split(labels if labels.ndim == 1 else np.zeros(len(labels), np.int64))


def parts_from_arrays(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str] | None,
    source: str,
) -> Parts:
    """Check raw inputs and labels, scale the inputs and lay images out as N x C x H x W.

    Whole-number images must be uint8 and are divided by 255, float images are kept as they are,
    and tables (N x D) are standardised by the training part.

    Args:
        train: inputs to train on, with a label each, or 0 and 1 for each class, or a map, in which
            a negative pixel has no label.
        test: inputs and labels to test on.
        class_names: name of class k at place k; None numbers the classes up to the largest label.
        source: how error messages call the data.

    Raises:
        BadInput: if anything about them cannot be used.

    >>> table = np.array([[0.0, 5.0], [2.0, 5.0]]), np.array([0, 1])
    >>> parts = parts_from_arrays(table, table, None, "a table")
    >>> parts.x_train.tolist(), parts.normalisation
    ([[-1.0, 0.0], [1.0, 0.0]], 'standardised by the training part')
    """
    for (inputs, labels), part in ((train, "train"), (test, "test")):
        _check_inputs(inputs, f"x_{part} of {source}")
        _check_labels(labels, f"y_{part} of {source}")
        if len(inputs) != len(labels):
            raise BadInput(
                f"{source} has {len(inputs)} rows in x_{part}, {len(labels)} in y_{part}"
            )
    if train[0].shape[1:] != test[0].shape[1:] or (train[0].dtype.kind != test[0].dtype.kind):
        raise BadInput(
            f"x_train and x_test of {source} must hold rows of one shape and one element type, "
            f"not {train[0].shape[1:]} {train[0].dtype} and {test[0].shape[1:]} {test[0].dtype}"
        )
    if train[1].ndim != test[1].ndim or train[1].shape[2:] != test[1].shape[2:]:
        raise BadInput(f"y_train and y_test of {source} must hold labels of one kind")
    names = _names_of(train[1], test[1], class_names, source)
    x_train, x_test, normalisation = _scale(train[0], test[0])
    for inputs, part in ((x_train, "train"), (x_test, "test")):
        if not np.isfinite(inputs).all():
            raise BadInput(f"x_{part} of {source} holds NaN, infinite or overflowing values")
    y_train, y_test = train[1].astype(np.int64), test[1].astype(np.int64)
    for labels, part in ((y_train, "train"), (y_test, "test")):
        if labels.ndim == 3 and not (labels >= 0).any():
            raise BadInput(f"y_{part} of {source} has no pixel with a label")
    parts = Parts(x_train, y_train, x_test, y_test, names, normalisation)
    if normalisation != STANDARDISED:
        return parts
    return replace(parts, given=(_as_float32(train[0]), _as_float32(test[0])))


def _check_inputs(inputs: np.ndarray, what: str) -> None:
    if inputs.dtype.kind in "USTO":
        raise BadInput(f"{what} is text; turn it into numbers first (for instance TF-IDF vectors)")
    if inputs.dtype.kind not in "fiub":
        raise BadInput(f"{what} must be numbers, not {inputs.dtype}")
    if inputs.size == 0:
        raise BadInput(f"{what} is empty (shape {inputs.shape})")
    if inputs.ndim not in (2, 3, 4):
        raise BadInput(
            f"{what} has shape {inputs.shape}; tables are N x D, images N x H x W or N x H x W x 3"
        )
    if inputs.ndim == 4 and not {inputs.shape[1], inputs.shape[3]} & set(CHANNELS):
        raise BadInput(f"{what} has shape {inputs.shape}; images need 1 or 3 channels")
    if inputs.ndim > 2 and inputs.dtype.kind != "f" and inputs.dtype != np.uint8:
        raise BadInput(f"{what} holds images of {inputs.dtype}; save them as uint8 or float32")


def _check_labels(labels: np.ndarray, what: str) -> None:
    if labels.ndim not in (1, 2, 3):
        raise BadInput(
            f"{what} has shape {labels.shape}; labels are one a row (N), 0 or 1 for each class "
            "(N x K) or maps (N x H x W)"
        )
    if labels.dtype.kind not in "iub":
        raise BadInput(f"{what} must be whole numbers (int64), not {labels.dtype}")
    if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
        raise BadInput(f"{what} has a row for each input, so it must hold 0 or 1 for each class")
    if labels.ndim == 1 and labels.size and int(labels.min()) < 0:
        raise BadInput(f"{what} holds the negative label {int(labels.min())}; classes count from 0")


def _names_of(
    train: np.ndarray, test: np.ndarray, class_names: Sequence[str] | None, source: str
) -> tuple[str, ...]:
    """Name the classes: up to the largest label, or one for each column of several labels."""
    if train.ndim != 2:
        return _name_classes(max(int(train.max()), int(test.max())), class_names, source)
    columns = train.shape[1]
    if test.shape[1] != columns or (class_names is not None and len(class_names) != columns):
        raise BadInput(f"{source} has {columns} labels a row in y_train; all parts need as many")
    return _name_classes(columns - 1, class_names, source)


def _name_classes(largest: int, class_names: Sequence[str] | None, source: str) -> tuple[str, ...]:
    if class_names is not None and largest >= len(class_names):
        raise BadInput(
            f"{source} has the label {largest}, but class_names has only {len(class_names)} entries"
        )
    if largest >= MAX_CLASSES:
        raise BadInput(f"{source} has the label {largest}; number the classes from 0 without gaps")
    names = tuple(map(str, range(largest + 1) if class_names is None else class_names))
    if len(names) < 2:
        raise BadInput(f"{source} has only one class; at least 2 are needed")
    return names


def _scale(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    if train.ndim == 2:
        return *_standardise(train, test), STANDARDISED
    x_train, x_test = _channels_first(train), _channels_first(test)
    if train.dtype == np.uint8:
        return _divide_by_255(x_train), _divide_by_255(x_test), UINT8_SCALING
    return _as_float32(x_train), _as_float32(x_test), NO_SCALING


def _divide_by_255(pixels: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = np.divide(pixels, np.float32(255), dtype=np.float32)
    return scaled


def _as_float32(inputs: np.ndarray) -> np.ndarray:
    # What overflows becomes infinite and is refused by the caller in a sentence.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(inputs, dtype=np.float32)


def _channels_first(images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        return images[:, None]
    last_is_channel = images.shape[3] in CHANNELS
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if last_is_channel else images


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore", invalid="ignore"):
        mean = train.mean(axis=0, dtype=np.float64)
        spread = train.std(axis=0, dtype=np.float64)
        spread[spread == 0] = 1
        return _as_float32((train - mean) / spread), _as_float32((test - mean) / spread)
