"""Reads tables of text: CheXpert-like lists of images with findings, and columns of numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from labelleak.errors import BadInput, shown, shown_path
from labelleak.records.reading import read_text
from labelleak.simulation.data.columns import LABEL_COLUMNS
from labelleak.simulation.data.images import read_images
from labelleak.simulation.data.parts import (
    Parts,
    parts_from_arrays,
    present_file,
    stratified_split,
)

PATH_COLUMNS = ("path", "image", "file")
# Columns of a table that are named so are labels which an input has or not.
PREFIX = "label:"
SIDE = 64
# What a finding that the reader of an image was not sure of counts as; None leaves the row out.
UNCERTAIN: Mapping[str, int | None] = {"zeros": 0, "ones": 1, "skip": None}
_MOST_COLUMNS, _MOST_ROWS, _LONGEST_NAME = 2000, 1_000_000, 255
_FINDINGS = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": -1, "-1.0": -1}

Rows = Mapping[str, Sequence[str]]


def read_table(path: str | Path, uncertain: str = "zeros") -> Parts:
    """Read a .csv file.

    With a column ``path``, ``image`` or ``file`` it lists images, cropped to squares and resized to
    64x64; each column of 0, 1, -1 and blanks alone is a finding, as in CheXpert (Irvin et al., AAAI
    2019): a blank is absent, and -1 follows ``uncertain``. Other columns are left out. Without one
    it is a table of numbers: columns ``label:NAME`` of 0 and 1 are labels of which an input may
    have several, or one column holds the class, called as in a .parquet file. A fifth of the rows
    becomes the test part.

    Args:
        path: the file.
        uncertain: zeros, ones, or skip, which leaves such rows out.

    Raises:
        BadInput: if it is missing, broken or holds no such columns.

    >>> read_table("nowhere.csv")
    Traceback (most recent call last):
    labelleak.errors.BadInput: there is no file nowhere.csv
    """
    file = present_file(path)
    rows = _parse(file)
    pictures = next((name for name in rows if name.lower() in PATH_COLUMNS), None)
    if pictures is None:
        return _of_numbers(rows, str(file))
    labels = {name: _findings(cells) for name, cells in rows.items() if name != pictures}
    found = {name: values for name, values in labels.items() if values is not None}
    if not found:
        raise BadInput(f"{shown_path(file)} has no column of 0, 1, -1 and blanks for a finding")
    table = np.stack(list(found.values()), axis=1)
    kept = np.arange(len(table))
    if UNCERTAIN[uncertain] is None:
        kept = np.flatnonzero((table >= 0).all(axis=1))
    table = np.where(table < 0, UNCERTAIN[uncertain] or 0, table)[kept]
    files = [_inside(file, rows[pictures][row]) for row in kept.tolist()]
    images = read_images(files, SIDE, str(file))
    parts = _split(images, table, list(found), str(file))
    said = f"resized to {SIDE}x{SIDE}, {parts.normalisation}; uncertain findings: {uncertain}"
    return replace(parts, normalisation=said)


def _parse(file: Path) -> Rows:
    """Read a table's columns by name."""
    text, where = read_text(file, "the table "), shown_path(file)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise BadInput(f"{where} cannot be read as .csv ({error})") from error
    if len(lines) < 2 or len(lines) > _MOST_ROWS or len(lines[0]) > _MOST_COLUMNS:
        raise BadInput(f"{where} must have a row of names and from 1 to {_MOST_ROWS:,} more rows")
    names = [name.strip() for name in lines[0]]
    if len(set(names)) < len(names) or "" in names:
        raise BadInput(f"{where} must name each column, none twice, in its first row")
    for number, line in enumerate(lines):
        if len(line) != len(names):
            raise BadInput(f"row {number} of {where} has {len(line)} cells, not {len(names)}")
    return dict(zip(names, map(list, zip(*lines[1:], strict=True)), strict=True))


def _findings(cells: Sequence[str]) -> np.ndarray | None:
    """Return 1, 0 and -1 for uncertain, or None if a column holds anything else, or nothing."""
    told = [cell.strip() for cell in cells]
    if any(cell not in _FINDINGS for cell in told) or not any(told):
        return None
    return np.array([_FINDINGS[cell] for cell in told], np.int64)


def _inside(file: Path, named: str) -> Path:
    """Return the path of an image that a list names, in the list's own folder."""
    parts = Path(named.strip()).parts
    odd = len(named) > _LONGEST_NAME or not named.strip().isprintable()
    if odd or not parts or Path(named).is_absolute() or ".." in parts:
        raise BadInput(f"{shown_path(file)} names {shown(named)}, which is not in its folder")
    folder = file.resolve().parent
    # CheXpert's own paths begin with the name of that folder.
    own = folder.parent if parts[0] == folder.name else folder
    found = own.joinpath(*parts)
    if not found.resolve().is_relative_to(folder):
        raise BadInput(f"{shown_path(file)} names {shown(named)}, which is not in its folder")
    return found


def _of_numbers(rows: Rows, source: str) -> Parts:
    several = [name for name in rows if name.startswith(PREFIX)]
    single = [name for name in rows if name.lower() in LABEL_COLUMNS]
    if not several and not single:
        raise BadInput(f"{source} has no column of labels; call it label, or {PREFIX}NAME of each")
    left = several or single[:1]
    table = np.stack([_numbers(name, rows[name], source) for name in rows if name not in left], 1)
    if several:
        each = [_numbers(name, rows[name], source).astype(np.int64) for name in several]
        return _split(table, np.stack(each, 1), [n.removeprefix(PREFIX) for n in several], source)
    names = sorted(set(rows[single[0]]), key=_in_order)
    place = {name: number for number, name in enumerate(names)}
    numbers = np.array([place[cell] for cell in rows[single[0]]], np.int64)
    return _split(table, numbers, names, source)


def _in_order(name: str) -> tuple[bool, int, str]:
    whole = name.isascii() and name.isdecimal() and len(name) < 19
    return not whole, int(name) if whole else 0, name


def _numbers(name: str, cells: Sequence[str], source: str) -> np.ndarray:
    try:
        return np.array([float(cell) for cell in cells])
    except ValueError as error:
        raise BadInput(f"column {shown(name)} of {source} holds something else than numbers") from (
            error
        )


def _split(inputs: np.ndarray, labels: np.ndarray, names: Sequence[str], source: str) -> Parts:
    groups = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    train, test = stratified_split(groups)
    if not len(test):
        raise BadInput(f"{source} has too few rows to keep a fifth of them for testing")
    return parts_from_arrays(
        (inputs[train], labels[train]), (inputs[test], labels[test]), names, source
    )


def split_suffix(name: str) -> tuple[str, str] | None:
    """Part ``FILE.csv:RULE`` into file and rule; None for another name.

    Raises:
        BadInput: for an unknown rule.

    >>> split_suffix("train.csv"), split_suffix("train.csv:ones"), split_suffix("digits")
    (('train.csv', 'zeros'), ('train.csv', 'ones'), None)
    """
    file, dot, rule = name.rpartition(":")
    if name.lower().endswith(".csv"):
        return name, "zeros"
    if not dot or not file.lower().endswith(".csv"):
        return None
    if rule not in UNCERTAIN:
        raise BadInput(f"uncertain findings count as {', '.join(UNCERTAIN)}, not {shown(rule)}")
    return file, rule


__all__ = ["UNCERTAIN", "read_table", "split_suffix"]
