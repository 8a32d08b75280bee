"""Data sets by name or path: the built-in ones, files, image folders and hub sets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from labelleak.core.fingerprints import fingerprint_tensors
from labelleak.core.lazy import Tensor, torch
from labelleak.core.task import Task
from labelleak.errors import BadInput, unknown_name
from labelleak.simulation.data.bundled import (
    read_breast_cancer,
    read_digit_maps,
    read_digit_sets,
    read_digits,
)
from labelleak.simulation.data.folders import read_image_folder, read_parquet
from labelleak.simulation.data.hub import HUB, HubSet, read_hub
from labelleak.simulation.data.idx import idx_prefixes, read_idx
from labelleak.simulation.data.npz import read_npz
from labelleak.simulation.data.parts import NO_SCALING, Parts
from labelleak.simulation.data.tables import read_table, split_suffix
from labelleak.simulation.data.text_form import TextForm, is_text
from labelleak.simulation.data.texts import read_texts

SYNTHETIC_CLASSES = 100
SYNTHETIC_MOST = 10_000
SYNTHETIC_SIDE = 8
SYNTHETIC_NOISE = 0.25
TRAIN_ROWS_A_CLASS = 40
TRAIN_ROWS_IN_ALL = 2000
TEST_ROWS_A_CLASS = 10
# Class names that records carry at most, and their length.
MOST_NAMED = 20
LONGEST_NAME = 40

DATASETS: Mapping[str, str] = {
    "digits": "scikit-learn's handwritten digits, 8x8 grey, 10 classes (offline)",
    "breast_cancer": "scikit-learn's tumours, 30 numbers each, benign or malignant (offline)",
    "digit_maps": "digits pasted on canvases of 16x16, a class a pixel, 11 classes (offline)",
    "digit_sets": "up to four digits on canvases of 16x16, ten labels each there or not (offline)",
    "zipf_text": "made-up sentences of 20,000 words, few of them common (offline)",
    "synthetic": "made-up 8x8 grey images, 100 classes; synthetic:K for K classes (offline)",
    **{name: f"{hub.summary} (Hugging Face hub, {hub.path})" for name, hub in HUB.items()},
    "FILE.npz": "x_train, y_train, x_test, y_test, or X and y; if you like class_names and writers",
    "FILE.txt": "a text a line, for `--task tokens`; FILE.jsonl: objects with a text; FILE.npz: "
    "texts as x_train",
    "FILE.parquet": "an image column or columns of numbers, and a label column",
    "FILE.csv": "numbers with label or label:NAME columns, or paths of images with findings of 0 "
    "and 1; :ones or :skip after it says what -1 is",
    "FOLDER": "one folder of images a class, or train/ and test/ folders of these; or images/ and "
    "masks/; or MNIST's or EMNIST's own idx files",
    "OWNER/NAME": "any labelled image set on the Hugging Face hub",
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled data in a training and a test part.

    Attributes:
        name: what it was loaded by; for a path, the last part of it.
        x_train: images float32 ``N x C x H x W``, tables float32 ``N x D``, or token ids int64
            ``N x L``.
        y_train: labels int64, 0 to K-1; ``N x K`` of 0 and 1 where an input may have several,
            ``N x H x W`` where each pixel has one, ``N x L`` the next token of each position.
        x_test: like x_train.
        y_test: like y_train.
        class_names: the name of class k at place k.
        normalisation: how the inputs were scaled.
        writers: whose each training row is; None where the data do not say.
        given: inputs of both parts before they were standardised; None where they were not.
        fingerprint: 16 hexadecimal digits of sha256 over the four tensors.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    class_names: tuple[str, ...]
    normalisation: str
    writers: np.ndarray | None = None
    given: tuple[Tensor, Tensor] | None = None
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        names = ("x_train", "y_train", "x_test", "y_test")
        found = fingerprint_tensors((name, getattr(self, name)) for name in names)
        object.__setattr__(self, "fingerprint", found)

    @classmethod
    def of(cls, name: str, parts: Parts) -> Dataset:
        """Make a data set of checked arrays."""
        return cls(
            name,
            torch.from_numpy(parts.x_train),
            torch.from_numpy(parts.y_train),
            torch.from_numpy(parts.x_test),
            torch.from_numpy(parts.y_test),
            parts.class_names,
            parts.normalisation,
            parts.writers,
            parts.given and (torch.from_numpy(parts.given[0]), torch.from_numpy(parts.given[1])),
        )

    def as_given(self) -> Dataset:
        """Return tables as they were before they were standardised; other data as they are."""
        if self.given is None:
            return self
        x_train, x_test = self.given
        return replace(self, x_train=x_train, x_test=x_test, normalisation=NO_SCALING, given=None)

    def __repr__(self) -> str:
        shape, rows = "x".join(map(str, self.input_shape)), len(self.x_train) + len(self.x_test)
        return f"<Dataset {self.name!r}: {rows:,} rows of {shape}, {self.num_classes} classes>"

    @property
    def num_classes(self) -> int:
        """How many classes there are, those without a row included."""
        return len(self.class_names)

    @property
    def task(self) -> Task | None:
        """What labels are: several an input, maps, tokens, or (None) one an input.

        >>> load_dataset("digit_maps").task
        <Task.dense: 'dense'>
        """
        if not self.x_train.is_floating_point():
            return Task.tokens
        return {1: None, 2: Task.multilabel}.get(self.y_train.dim(), Task.dense)

    @property
    def sequence_length(self) -> int:
        """Labels of an input: its positions, where it has more than one."""
        return int(self.y_train[0].numel())

    @property
    def told_names(self) -> tuple[str, ...]:
        """The names of the classes for a page; none where they are mere numbers or many."""
        names = self.class_names
        worth = len(names) <= MOST_NAMED and not all(name.isdecimal() for name in names)
        return tuple(name[:LONGEST_NAME] for name in names) if worth else ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input: ``(C, H, W)`` or ``(D,)``."""
        return tuple(self.x_train.shape[1:])


def load_dataset(name: str, form: TextForm | None = None) -> Dataset:
    """Load a data set by name, or from a path.

    Args:
        name: a name in DATASETS, ``synthetic:K``, the path of an .npz or .parquet file or of an
            image folder, or ``owner/name`` on the Hugging Face hub.
        form: how texts become tokens, where the data are texts.

    Raises:
        BadInput: if there is none of that name, or it cannot be used.

    >>> digits = load_dataset("digits")
    >>> digits.num_classes, digits.input_shape, len(digits.x_train), len(digits.x_test)
    (10, (1, 8, 8), 1438, 359)
    """
    parts = (
        _read(name) if form is None and not is_text(name) else read_texts(name, form or TextForm())
    )
    local = os.path.exists(name) or (name not in DATASETS and idx_prefixes(Path(name)))
    return Dataset.of(Path(name).resolve().name if local else name, parts)


def _read(name: str) -> Parts:
    kind, _, number = name.partition(":")
    if kind == "synthetic":
        return _make_blobs(_parse_classes(number) if ":" in name else SYNTHETIC_CLASSES)
    if name in _BUNDLED:
        return _BUNDLED[name]()
    if name in HUB:
        return read_hub(HUB[name])
    return _read_path(name)


def _read_path(name: str) -> Parts:
    if name.lower().endswith(".npz"):
        return read_npz(name)
    table = split_suffix(name)
    if table is not None:
        return read_table(*table)
    if name.lower().endswith(".parquet"):
        return read_parquet(name)
    if os.path.isfile(name):
        raise BadInput(f"{name} is not a data set that is read; give .npz, .csv or .parquet")
    if prefixes := idx_prefixes(Path(name)):
        return read_idx(Path(name), prefixes)
    if os.path.isdir(name):
        return read_image_folder(name)
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return read_hub(HubSet(name))
    if "/" in name or os.sep in name:
        raise BadInput(f"there is no file or folder {name}")
    raise unknown_name("data set", name, DATASETS)


_BUNDLED: Mapping[str, Callable[[], Parts]] = {
    "digits": read_digits,
    "breast_cancer": read_breast_cancer,
    "digit_maps": read_digit_maps,
    "digit_sets": read_digit_sets,
}


def _parse_classes(number: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", number) or not 2 <= int(number) <= SYNTHETIC_MOST:
        raise BadInput(
            f"synthetic:{number} needs a number of classes from 2 to {SYNTHETIC_MOST}, "
            "as in synthetic:100"
        )
    return int(number)


def _make_blobs(num_classes: int) -> Parts:
    """Make Gaussian blobs around one random image a class, clipped to [0, 1]."""
    rng = np.random.default_rng(num_classes)
    centres = rng.random((num_classes, 1, SYNTHETIC_SIDE, SYNTHETIC_SIDE), dtype=np.float32)
    # Few classes get more rows each, so that large batches can be drawn.
    rows = max(TRAIN_ROWS_A_CLASS, TRAIN_ROWS_IN_ALL // num_classes)
    drawn = []
    for each in (rows, TEST_ROWS_A_CLASS):
        labels = rng.permutation(np.repeat(np.arange(num_classes), each))
        noise = rng.standard_normal((len(labels), *centres.shape[1:]), dtype=np.float32)
        drawn.append((np.clip(centres[labels] + SYNTHETIC_NOISE * noise, 0, 1), labels))
    (x_train, y_train), (x_test, y_test) = drawn
    names = tuple(map(str, range(num_classes)))
    return Parts(x_train, y_train, x_test, y_test, names, NO_SCALING)
