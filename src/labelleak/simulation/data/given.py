"""Data as Python users hold it: a name, arrays, a torch data set, a Hugging Face data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import torch
from labelleak.errors import BadInput, few
from labelleak.simulation.data.columns import Columns, parts_from_rows
from labelleak.simulation.data.datasets import Dataset, load_dataset
from labelleak.simulation.data.parts import check_rows, part_rows, parts_from_arrays

# Rows that are read one by one of a torch data set at most; more would take minutes.
MOST_ROWS = 200_000
NAME = "your data"


def dataset_of(data: Any) -> Dataset:
    """Return data as a `Dataset`, a fifth of each class kept for testing where none is named.

    Args:
        data: a name or path (``labelleak list data``), a `Dataset`, ``(X, y)`` or ``(x_train,
            y_train, x_test, y_test)`` as arrays, tensors or lists, a ``torch.utils.data.Dataset``
            of pairs, or a ``datasets.Dataset`` or ``DatasetDict``.

    Raises:
        BadInput: for anything else; the sentence never shows a value of the data.

    >>> found = dataset_of((np.zeros((10, 4)), [0, 1] * 5))
    >>> found.num_classes, found.input_shape, len(found.x_train), len(found.x_test)
    (2, (4,), 8, 2)
    """
    if isinstance(data, str | os.PathLike):
        return load_dataset(os.fspath(data))
    if isinstance(data, Dataset):
        return data
    if isinstance(data, LabelledData):
        data = (data.inputs, data.labels)
    if isinstance(data, tuple | list):
        return _of_arrays(data)
    if hasattr(data, "column_names"):
        return _of_rows(data)
    rows = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if rows and not isinstance(data, Mapping):
        return _of_arrays(_pairs(data))
    raise BadInput(
        f"`data` takes a name, a path, (X, y), a torch or Hugging Face data set or a "
        f"labelleak.Dataset, not {type(data).__name__}"
    )


def own_data(data: Any) -> LabelledData | None:
    """Return what an attacker holds as `LabelledData`: of a data set its training data, as given.

    Args:
        data: as `dataset_of` takes it, a `LabelledData` that is used as it is, or None.

    Raises:
        BadInput: as `dataset_of`.

    >>> own_data((np.zeros((10, 4)), [0, 1] * 5))
    <LabelledData: 8 rows of 4>
    """
    if data is None or isinstance(data, LabelledData):
        return data
    found = dataset_of(data).as_given()
    return LabelledData(found.x_train, found.y_train)


def _of_arrays(given: Sequence[Any]) -> Dataset:
    if len(given) not in (2, 4):
        raise BadInput(
            f"`data` takes (X, y) or (x_train, y_train, x_test, y_test), not {len(given)} parts"
        )
    arrays = [_array(one, name) for one, name in zip(given, ("X", "y") * 2, strict=False)]
    arrays[1::2] = [_rows_of_signs(labels) for labels in arrays[1::2]]
    check_rows(arrays[0], "X", arrays[1], "y", NAME)
    if len(arrays) == 2:
        arrays = [array[part] for part in part_rows(arrays[1]) for array in arrays]
    x_train, y_train, x_test, y_test = arrays
    parts = parts_from_arrays((x_train, y_train), (x_test, y_test), None, NAME)
    return Dataset.of(NAME, parts)


def _rows_of_signs(labels: np.ndarray) -> np.ndarray:
    """Return rows of 0.0 and 1.0, or of truth values, as whole numbers: a BCE takes them so."""
    signs = labels.dtype.kind in "fb" and labels.ndim == 2 and bool(np.isin(labels, (0, 1)).all())
    return labels.astype(np.int64) if signs else labels


def _array(given: Any, name: str) -> np.ndarray:
    """Return an array, whole numbers as such; the reason of a failure is not shown."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy()
    try:
        found = np.asarray(given)
    except Exception as error:  # noqa: BLE001
        raise BadInput(f"{name} of {NAME} is no array: {type(error).__name__}") from None
    if found.ndim == 0:
        raise BadInput(f"{name} of {NAME} is one {type(given).__name__}, not an array")
    return found


def _pairs(rows: Any) -> tuple[list[np.ndarray], list[int]]:
    """Read a torch data set row by row."""
    if not 0 < len(rows) <= MOST_ROWS:
        raise BadInput(f"{NAME} has {len(rows)} rows; from 1 to {MOST_ROWS} are read")
    inputs, labels = [], []
    for number in range(len(rows)):
        row = rows[number]
        if not (isinstance(row, tuple | list) and len(row) == 2):
            raise BadInput(f"row {number} of {NAME} is no pair of an input and a label")
        if not isinstance(row[0], torch.Tensor | np.ndarray):
            raise BadInput(
                f"the input of row {number} of {NAME} is a {type(row[0]).__name__}; give the data "
                "set a transform that makes tensors"
            )
        if np.ndim(row[1]) or not float(row[1]).is_integer():
            raise BadInput(f"the label of row {number} of {NAME} is no whole number")
        inputs.append(np.asarray(torch.as_tensor(row[0]).cpu()))
        labels.append(int(row[1]))
    if len({one.shape for one in inputs}) > 1:
        raise BadInput(f"the inputs of {NAME} differ in shape")
    return inputs, labels


def _of_rows(data: Any) -> Dataset:
    """Read a Hugging Face data set, or its parts train and test."""
    train, test = data, None
    if isinstance(data, dict):
        if "train" not in data:
            raise BadInput(f"{NAME} has no part called train; it has {few(data)}")
        train = data["train"]
        test = next((data[part] for part in ("test", "validation") if part in data), None)
    return Dataset.of(NAME, parts_from_rows(train, test, Columns(), NAME))


__all__ = ["dataset_of", "own_data"]
