"""Read the true labels of an update, to score answers against: JSON labels or counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelleak.core.images import count_split
from labelleak.core.score import Truth, pair_counts
from labelleak.core.task import NO_LABEL
from labelleak.errors import BadInput
from labelleak.records.reading import parse_json, read_json

_NO_TRUTH = "the truth must be a list of whole numbers: labels, or counts by class"
_BYTES = (bytes, bytearray, memoryview)
_NOT_MANY = "the truth must be rows of 0 and 1, or positives by class"


def read_truth(
    source: str | os.PathLike[str] | Sequence[int] | Mapping[str, Any],
    num_classes: int,
    num_samples: int,
) -> Truth:
    """Read labels or counts: a list of either, or an object ``{"labels": [...]}`` or ``counts``.

    A plain list counts as labels if it has N entries, and as counts if it has K that sum to N.
    Labels of -100 are those of positions without one, and are left out.

    Args:
        source: path of a JSON file, its text, or what would stand in it.
        num_classes: K.
        num_samples: N, which the truth must have too.

    Raises:
        BadInput: if it is neither, could be both, or does not fit K and N.

    >>> read_truth([0, 2, 2], num_classes=4, num_samples=3).counts.tolist()
    [1, 0, 2, 0]
    """
    found = _loaded(source)
    kinds = ("labels", "counts")
    if isinstance(found, Mapping):
        held = [kind for kind in kinds if kind in found]
        if len(held) != 1:
            raise BadInput('the truth needs either "labels" or "counts"')
        kind, numbers = held[0], _whole(found[held[0]])
    else:
        numbers = _whole(found)
        numbers = numbers[numbers != NO_LABEL]
        kind = _tell(numbers, num_classes, num_samples)
    if kind == "labels":
        truth = Truth.from_labels(numbers[numbers != NO_LABEL], num_classes)
    elif len(numbers) == num_classes and (numbers >= 0).all():
        truth = Truth(numbers)
    else:
        raise BadInput(f"the true counts must be {num_classes} numbers of at least 0")
    if truth.counts.sum() != num_samples:
        raise BadInput(
            f"the truth has {truth.counts.sum()} labels, the update {num_samples} "
            "(batch size times local steps)"
        )
    return truth


def read_maps(source: Any, num_classes: int, num_samples: int) -> Truth:
    """Read the truth of maps: as `read_truth`, or masks, an image after the other.

    Masks are nested lists; labels in a row may say under ``images`` how many each image has. Then
    the counts of each image are known, too.

    Raises:
        BadInput: as `read_truth`, or if the images' labels are not all that there are.

    >>> masks = [[[0, 1], [1, 1]], [[2, 2], [-100, 2]]]
    >>> read_maps(masks, num_classes=3, num_samples=7).images.tolist()
    [[1, 3, 0], [0, 0, 3]]
    """
    found = _loaded(source)
    inner = found.get("labels") if isinstance(found, Mapping) else found
    sizes = found.get("images") if isinstance(found, Mapping) else None
    if inner is not None and _is_row(inner) and len(inner) and not _fits(inner[0]):
        each = [[y for y in _flat(mask) if y != NO_LABEL] for mask in inner]
        found, sizes = {"labels": [y for image in each for y in image]}, list(map(len, each))
    truth = read_truth(found, num_classes, num_samples)
    if sizes is None or inner is None:
        return truth
    told = _whole(sizes)
    labels = [y for y in _flat(found["labels"]) if y != NO_LABEL]
    if told.min() < 0 or told.sum() != len(labels):
        raise BadInput(f"`images` must say how many labels each has, {len(labels)} in all")
    return Truth(truth.counts, count_split(labels, told.tolist(), num_classes))


def _flat(mask: Any) -> list[int]:
    """Return the labels of a mask of any depth."""
    return list(map(int, _whole([mask] if _fits(mask) else _leaves(mask))))


def _leaves(mask: Any) -> list[Any]:
    if isinstance(mask, np.ndarray):
        return list(mask.ravel())
    if not _is_row(mask):
        return [mask]
    return [leaf for part in mask for leaf in _leaves(part)]


def read_many(source: Any, num_classes: int, num_samples: int) -> Truth:
    """Read the truth of several labels: rows of 0 and 1, or how many samples have each class.

    Returns:
        Counts of absent and present, class after class.

    Raises:
        BadInput: if it is neither, or does not fit K and N.

    >>> read_many([[1, 0], [1, 1]], num_classes=2, num_samples=2).counts.tolist()
    [0, 2, 1, 1]
    """
    found = _loaded(source)
    if isinstance(found, Mapping):
        found = found.get("labels", found.get("counts"))
    try:
        given = np.asarray(found)
    except (TypeError, ValueError) as error:
        raise BadInput(_NOT_MANY) from error
    if given.dtype.kind not in "biuf":
        raise BadInput(_NOT_MANY)
    numbers = given.astype(np.float64)
    if numbers.shape == (num_samples, num_classes) and np.isin(numbers, (0, 1)).all():
        numbers = numbers.sum(axis=0)
    good = numbers.shape == (num_classes,) and np.isfinite(numbers).all()
    if not good or ((numbers < 0) | (numbers > num_samples) | (numbers % 1 > 0)).any():
        raise BadInput(
            f"the truth must be {num_samples} rows of {num_classes} numbers, 0 or 1, or "
            f"{num_classes} counts of at most {num_samples}"
        )
    return Truth(pair_counts(numbers.astype(np.int64), num_samples))


def labels_in(source: Any) -> tuple[int, ...] | None:
    """Return the labels of a truth that holds labels, None where it holds counts or nothing.

    >>> labels_in({"labels": [1, 0, 1]})
    (1, 0, 1)
    """
    if source is None:
        return None
    found = _loaded(source)
    if isinstance(found, Mapping):
        found = found.get("labels")
    if found is None or (_is_row(found) and len(found) and not _fits(found[0])):
        return None
    return tuple(_whole(found).tolist())


def _loaded(source: Any) -> Any:
    """Return what stands in a file, in a text of JSON, or in place of both."""
    if isinstance(source, str) and source.lstrip()[:1] in ("[", "{") and not os.path.exists(source):
        try:
            return parse_json(source)
        except BadInput as error:
            raise BadInput(f"the text of the truth {error}") from error
    if isinstance(source, str | os.PathLike):
        return _parse(Path(source))
    if hasattr(source, "detach"):  # a tensor
        held = source.detach().cpu()
        # Half precision has kinds that numpy lacks.
        return np.asarray(held.double() if held.is_floating_point() else held)
    if not isinstance(source, Mapping | Sequence | np.ndarray) or isinstance(source, _BYTES):
        raise BadInput(
            f"the truth must be labels or counts, or a file of them, not {type(source).__name__}"
        )
    return source


def _parse(path: Path) -> Any:
    try:
        return read_json(path)
    except BadInput as error:
        raise BadInput(
            f"{error}; give a JSON list of labels or of counts, or a file of one"
        ) from error


def _whole(numbers: Any) -> np.ndarray:
    # Kinds are looked at once each: there may be a hundred thousand labels.
    if not (_is_row(numbers) and len(numbers) and all(map(_is_whole, set(map(type, numbers))))):
        raise BadInput(_NO_TRUTH)
    if not (_fits(min(numbers)) and _fits(max(numbers))):
        raise BadInput(_NO_TRUTH)
    return np.asarray(numbers, dtype=np.int64)


def _is_row(numbers: Any) -> bool:
    """Return whether it holds values in a row: no text, and no array of one value alone."""
    if isinstance(numbers, np.ndarray):
        return numbers.ndim > 0
    return isinstance(numbers, Sequence) and not isinstance(numbers, (str, *_BYTES))


def _is_whole(kind: type) -> bool:
    return issubclass(kind, int | np.integer) and not issubclass(kind, bool | np.timedelta64)


def _fits(number: Any) -> bool:
    return _is_whole(type(number)) and abs(int(number)) < 2**40


def _tell(numbers: np.ndarray, num_classes: int, num_samples: int) -> str:
    as_labels = len(numbers) == num_samples and (numbers < num_classes).all()
    as_counts = len(numbers) == num_classes and numbers.sum() == num_samples
    if as_labels and as_counts:
        raise BadInput('the truth could be labels or counts; write {"labels": [...]} or "counts"')
    return "counts" if as_counts else "labels"
