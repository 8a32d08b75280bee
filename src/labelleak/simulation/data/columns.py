"""Turns rows of a Hugging Face `datasets` table into arrays: finds columns, decodes images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from labelleak.errors import BadInput, few, from_extra
from labelleak.simulation.data.parts import (
    Parts,
    check_size,
    parts_from_arrays,
    stratified_split,
)

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "y")
WRITER_COLUMN = "writer_id"
GREY_MODES = ("1", "L", "LA")


@dataclass(frozen=True)
class Columns:
    """Which columns hold images and labels.

    Attributes:
        image: image column; None finds it, and takes the columns of numbers where there is none.
        label: label column; None finds it.
        attributes: yes-or-no columns and the class each stands for, in place of a label column;
            rows with exactly one yes are kept. A column behind an exclamation mark stands for its
            no.
        writer: column that says whose a row is; None takes writer_id where there is one.
        side: images are cropped to a square and resized to this many pixels; None keeps them.
    """

    image: str | None = None
    label: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    writer: str | None = None
    side: int | None = None


def import_datasets() -> ModuleType:
    """Import Hugging Face `datasets`, with its reports home switched off.

    Raises:
        MissingExtra: if it is not installed.

    >>> import_datasets().__name__
    'datasets'
    """
    # Both are read once, on import.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    needed = "parquet files, image folders and hub sets need an extra: pip install labelleak[data]"
    with from_extra(needed):
        import datasets
    library: ModuleType = datasets
    return library


def first_line(error: Exception) -> str:
    """Shorten an error to one line, its class if it says nothing.

    >>> first_line(ValueError("bad\\nworse")), first_line(OSError())
    ('bad', 'OSError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def parts_from_rows(train: Any, test: Any | None, columns: Columns, source: str) -> Parts:
    """Read labelled images, or columns of numbers, and match classes between parts by name.

    Args:
        train: a ``datasets.Dataset``.
        test: another, or None to split the first 80/20 within each class.
        columns: which column is what.
        source: how error messages call the data.

    Raises:
        BadInput: if columns are missing or hold what cannot be used.

    >>> library = import_datasets()
    >>> rows = library.Dataset.from_dict({"a": [0, 1, 2, 3], "y": ["no", "no", "si", "si"]})
    >>> parts = parts_from_rows(rows, None, Columns(), "a table")
    >>> parts.class_names, parts.x_train.shape, parts.y_test.tolist()
    (('no', 'si'), (2, 1), [0, 1])
    """
    if columns.attributes:
        train, test = (_keep_single(rows, columns, source) for rows in (train, test))
    kept = [train] if test is None else [train, test]
    named = [_read_labels(rows, columns, source) for rows in kept]
    order = _order_classes(name for _, declared in named for name in declared)
    numbers = {name: number for number, name in enumerate(order)}
    labels = [np.array([numbers[name] for name in rows], np.int64) for rows, _ in named]
    inputs = [_read_inputs(rows, columns, source) for rows in kept]
    if test is None:
        indices = stratified_split(labels[0])
        inputs = [inputs[0][rows] for rows in indices]
        labels = [labels[0][rows] for rows in indices]
    parts = parts_from_arrays((inputs[0], labels[0]), (inputs[1], labels[1]), order, source)
    column = columns.writer or WRITER_COLUMN
    if column in train.column_names:
        whose = np.array([str(value) for value in train[column][:]])
        parts = replace(parts, writers=whose if test is not None else whose[indices[0]])
    if columns.side is None:
        return parts
    resized = f"resized to {columns.side}x{columns.side}, {parts.normalisation}"
    return replace(parts, normalisation=resized)


def _order_classes(names: Iterable[str]) -> list[str]:
    """Keep the order in which classes are declared, but count where they are all numbers."""
    distinct = list(dict.fromkeys(names))
    return sorted(distinct, key=int) if all(n.isdecimal() for n in distinct) else distinct


def _need_columns(rows: Any, wanted: Iterable[str], source: str) -> None:
    missing = [column for column in wanted if column not in rows.column_names]
    if missing:
        held = few(rows.column_names) or "nothing"
        raise BadInput(f"{source} lacks the column {', '.join(missing)}; it holds {held}")


def _keep_single(rows: Any | None, columns: Columns, source: str) -> Any | None:
    """Keep the rows with exactly one attribute, whose class is beyond doubt."""
    if rows is None:
        return None
    _need_columns(rows, (column.lstrip("!") for column, _ in columns.attributes), source)
    return rows.select(np.flatnonzero(_read_attributes(rows, columns).sum(axis=1) == 1))


def _read_attributes(rows: Any, columns: Columns) -> np.ndarray:
    # Some copies of CelebA say -1 for no, others False.
    yes = [np.asarray(rows[name.lstrip("!")][:]) > 0 for name, _ in columns.attributes]
    negated = [name.startswith("!") for name, _ in columns.attributes]
    return np.asarray(np.stack(yes, axis=1) != np.array(negated))


def _read_labels(rows: Any, columns: Columns, source: str) -> tuple[list[str], list[str]]:
    """Return each row's class by name, and the classes in the order in which they are declared."""
    if columns.attributes:
        names = [name for _, name in columns.attributes]
        return [names[index] for index in _read_attributes(rows, columns).argmax(axis=1)], names
    column = columns.label or _find_label(rows, source)
    _need_columns(rows, [column], source)
    values, declared = rows[column][:], getattr(rows.features[column], "names", None)
    if any(not _is_class(value, declared) for value in values):
        raise BadInput(f"column {column!r} of {source} must hold a class in every row")
    if declared is not None:
        return [declared[value] for value in values], list(declared)
    return [str(value) for value in values], [str(value) for value in sorted(set(values))]


def _is_class(value: object, declared: list[str] | None) -> bool:
    if declared is not None:
        # A hidden label is -1.
        return isinstance(value, int) and 0 <= value < len(declared)
    return isinstance(value, str) or (isinstance(value, int) and value >= 0)


def _find_label(rows: Any, source: str) -> str:
    declared = [name for name, kind in rows.features.items() if hasattr(kind, "names")]
    by_name = [name for name in LABEL_COLUMNS if name in rows.column_names]
    found = declared if len(declared) == 1 else by_name
    if not found:
        held = few(rows.column_names) or "nothing"
        raise BadInput(f"{source} has no label column; call it 'label' (it holds {held})")
    return found[0]


def _read_inputs(rows: Any, columns: Columns, source: str) -> np.ndarray:
    pictures = [name for name, kind in rows.features.items() if type(kind).__name__ == "Image"]
    if columns.image is not None:
        _need_columns(rows, [columns.image], source)
        return stack_images(rows[columns.image], columns.side, source)
    if not pictures:
        return _stack_numbers(rows, columns.label or _find_label(rows, source), source)
    usual = [name for name in IMAGE_COLUMNS if name in pictures]
    return stack_images(rows[(usual or pictures)[0]], columns.side, source)


def _stack_numbers(rows: Any, label: str, source: str) -> np.ndarray:
    """Put numbers side by side, columns of equally long vectors among them; an array stays one."""
    left_out = (label, WRITER_COLUMN)
    try:
        table = [np.asarray(rows[name][:]) for name in rows.column_names if name not in left_out]
    except ValueError as error:
        raise BadInput(f"{source} holds lists that differ in length") from error
    if not table or any(column.dtype.kind not in "fiub" for column in table):
        raise BadInput(f"{source} holds neither images nor columns of numbers alone")
    if len(table) == 1 and table[0].ndim > 1:
        return table[0].astype(np.float64)
    return np.hstack([column.reshape(len(column), -1) for column in table]).astype(np.float64)


def stack_images(pictures: Any, side: int | None, source: str) -> np.ndarray:
    """Read pictures as one array, ``N x H x W`` or ``N x H x W x 3``.

    Raises:
        BadInput: if there are none, one is broken, or they differ in size.
    """
    pixels: list[np.ndarray] = []
    try:
        for picture in pictures:
            pixels.append(_read_pixels(picture, side, source))
            if len(pixels) == 1:
                check_size(len(pictures) * pixels[0].size, source)
            if pixels[-1].shape[:2] != pixels[0].shape[:2]:
                raise BadInput(f"the images of {source} differ in size; resize them first")
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"an image of {source} is broken ({first_line(error)})") from error
    if not pixels:
        raise BadInput(f"{source} holds no images")
    return np.stack(_with_equal_channels(pixels))


def _with_equal_channels(pixels: list[np.ndarray]) -> list[np.ndarray]:
    """Colour the grey images where they stand among coloured ones."""
    if len({image.ndim for image in pixels}) == 1:
        return pixels
    return [np.stack([image] * 3, axis=-1) if image.ndim == 2 else image for image in pixels]


def _read_pixels(picture: Any, side: int | None, source: str) -> np.ndarray:
    from PIL import ImageOps

    if not hasattr(picture, "mode") or picture.mode[0] in "IF":
        raise BadInput(f"an image of {source} is missing or not of 8 bits a channel")
    if side is not None:
        picture = ImageOps.fit(picture, (side, side))
    return np.asarray(picture.convert("L" if picture.mode in GREY_MODES else "RGB"))
