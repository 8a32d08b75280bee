"""Reads parquet files and image folders from disk.

They are opened beside the `datasets` library's own loader, which reports each use over the network
and guesses splits from words in file names.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from labelleak.errors import BadInput
from labelleak.simulation.data.columns import (
    Columns,
    first_line,
    import_datasets,
    parts_from_rows,
)
from labelleak.simulation.data.images import IMAGE_ENDINGS, holds_masks, read_mask_folder
from labelleak.simulation.data.parts import Parts, check_size, present_file

TEST_FOLDERS = ("test", "val", "valid", "validation")
ROWS_AT_ONCE = 1024


def read_parquet(path: str | Path) -> Parts:
    """Read a .parquet file of labelled images or of a labelled table of numbers.

    Images are a column ``image`` or ``img`` as Hugging Face `datasets` writes it. The label is the
    one ClassLabel column or one called label, labels, fine_label, class, target or y. A fifth of
    each class becomes the test part.

    Args:
        path: the file.

    Raises:
        BadInput: if it is missing, broken, too large or holds no such columns.

    >>> read_parquet("nowhere.parquet")
    Traceback (most recent call last):
    labelleak.errors.BadInput: there is no file nowhere.parquet
    """
    file = present_file(path)
    library = import_datasets()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            rows = library.Dataset(_read_table(opened, str(file)))
        rows = _with_pictures(rows, library, str(file))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{file} cannot be read as .parquet ({first_line(error)})") from error
    return parts_from_rows(rows, None, Columns(), str(file))


def read_image_folder(path: str | Path) -> Parts:
    """Read a folder with one folder of images a class, or train/ and test/ folders of these.

    Classes carry their folders' names and are matched between train and test by name. In place of
    test/ there may be val/, valid/ or validation/; without one of them a fifth of each class
    becomes the test part. A folder of ``images/`` and ``masks/`` holds a class a pixel; see
    `read_mask_folder`.

    Args:
        path: the folder.

    Raises:
        BadInput: if it holds no such images, or they differ in size.

    >>> read_image_folder(Path(__file__).parent)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    labelleak.errors.BadInput: ... holds no folders of images; make one folder a class
    """
    folder = Path(path)
    if holds_masks(folder):
        return read_mask_folder(folder)
    library = import_datasets()
    # Only if it holds folders in turn: train and test may be classes, too.
    if not _class_folders(folder / "train"):
        return parts_from_rows(_list_images(folder, library), None, Columns(), str(folder))
    tests = [folder / name for name in TEST_FOLDERS if _class_folders(folder / name)]
    train = _list_images(folder / "train", library)
    test = _list_images(tests[0], library) if tests else None
    return parts_from_rows(train, test, Columns(), str(folder))


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


def _list_images(folder: Path, library: ModuleType) -> Any:
    files = [
        (str(file), class_folder.name)
        for class_folder in _class_folders(folder)
        for file in sorted(class_folder.iterdir())
        if file.suffix.lower() in IMAGE_ENDINGS
    ]
    if not files:
        raise BadInput(f"{folder} holds no folders of images; make one folder a class")
    return library.Dataset.from_dict(
        {"image": [file for file, _ in files], "label": [name for _, name in files]},
        features=library.Features({"image": library.Image(), "label": library.Value("string")}),
    )


def _read_table(opened: Any, source: str) -> Any:
    """Read batch by batch and stop at the size cap, since repeated values pack very small."""
    import pyarrow

    batches, size = [], 0
    for batch in opened.iter_batches(batch_size=ROWS_AT_ONCE):
        size += batch.nbytes
        check_size(size // 4, source)
        batches.append(batch)
    return pyarrow.Table.from_batches(batches, schema=opened.schema_arrow)


def _with_pictures(rows: Any, library: ModuleType, source: str) -> Any:
    """Have encoded images decoded, and refuse links, which would be fetched from elsewhere."""
    for name in rows.column_names:
        column = rows.data.column(name)
        if not _has_bytes(column.type):
            continue
        if any(chunk.field("bytes").null_count for chunk in column.chunks):
            raise BadInput(f"column {name!r} of {source} holds links to images, not images")
        if not isinstance(rows.features[name], library.Image):
            rows = rows.cast_column(name, library.Image())
    return rows


def _has_bytes(column_type: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_struct(column_type) and column_type.get_field_index("bytes") >= 0)
