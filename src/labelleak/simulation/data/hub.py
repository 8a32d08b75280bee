"""Loads labelled image sets from the Hugging Face hub, or from its cache when offline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from labelleak.errors import BadInput
from labelleak.simulation.data.columns import Columns, import_datasets, parts_from_rows
from labelleak.simulation.data.parts import Parts

TEST_SPLITS = ("test", "valid", "validation")
LOCAL_INSTEAD = "go online, or give a local .npz file, .parquet file or image folder"
FOUND_BY_NAME = Columns()


@dataclass(frozen=True)
class HubSet:
    """Where a data set lies on the hub and which columns hold its images and labels.

    Attributes:
        path: owner and name on the hub.
        summary: one line for listings.
        config: the hub set's configuration, or None for its only one.
        columns: what its columns hold.
    """

    path: str
    summary: str = ""
    config: str | None = None
    columns: Columns = FOUND_BY_NAME


HAIR_COLOURS = (
    ("Black_Hair", "black"),
    ("Blond_Hair", "blond"),
    ("Brown_Hair", "brown"),
    ("Gray_Hair", "gray"),
    ("Bald", "bald"),
)
HUB: Mapping[str, HubSet] = {
    "mnist": HubSet(
        "ylecun/mnist", "handwritten digits, 28x28 grey", columns=Columns("image", "label")
    ),
    "svhn": HubSet(
        "ufldl-stanford/svhn",
        "house numbers, 32x32 RGB",
        "cropped_digits",
        Columns("image", "label"),
    ),
    "cifar100": HubSet(
        "uoft-cs/cifar100",
        "100 kinds of things, 32x32 RGB",
        columns=Columns("img", "fine_label"),
    ),
    "celeba": HubSet(
        "flwrlabs/celeba",
        "faces by hair colour (5 classes), resized to 32x32 RGB",
        "img_align+identity+attr",
        Columns("image", attributes=HAIR_COLOURS, side=32),
    ),
    "celeba_male": HubSet(
        "flwrlabs/celeba",
        "faces, male or not (2 classes), resized to 32x32 RGB",
        "img_align+identity+attr",
        Columns("image", attributes=(("!Male", "not male"), ("Male", "male")), side=32),
    ),
    "femnist": HubSet(
        "flwrlabs/femnist",
        "62 handwritten characters by writer, 28x28 grey",
        columns=Columns("image", "character", writer="writer_id"),
    ),
}


def read_hub(source: HubSet) -> Parts:
    """Load a set from the Hugging Face hub, or from its cache when HF_HUB_OFFLINE is set.

    A set without a test or validation split is split 80/20 within each class.

    Args:
        source: where it lies, an entry of HUB or ``HubSet("owner/name")``.

    Raises:
        BadInput: if it cannot be reached, or holds no images or numbers with labels.
    """
    library = import_datasets()
    if _wants_offline() and not library.config.HF_HUB_OFFLINE:
        # The library reads the variable once, on import; set later it would go unheeded.
        raise BadInput(f"{source.path} is on the hub and HF_HUB_OFFLINE is set; {LOCAL_INSTEAD}")
    try:
        splits = library.load_dataset(source.path, source.config)
    except Exception as error:
        raise BadInput(
            f"{source.path} could not be had from the Hugging Face hub ({type(error).__name__}); "
            f"{LOCAL_INSTEAD}"
        ) from error
    train = splits["train"] if "train" in splits else next(iter(splits.values()))
    test = next((splits[name] for name in TEST_SPLITS if name in splits), None)
    return parts_from_rows(train, None if test is train else test, source.columns, source.path)


def _wants_offline() -> bool:
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)
