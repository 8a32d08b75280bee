"""Reads images one by one, and folders of images with a mask each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelleak.errors import BadInput, from_extra, shown
from labelleak.simulation.data.columns import first_line, stack_images
from labelleak.simulation.data.parts import (
    Parts,
    check_size,
    parts_from_arrays,
    stratified_split,
)

IMAGES, MASKS = "images", "masks"
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".pgm")
# The number that masks of VOC, Cityscapes and others have where a pixel has no class.
NO_CLASS = 255


def read_images(files: Sequence[Path], side: int | None, source: str) -> np.ndarray:
    """Read images of one size, grey or coloured.

    Args:
        files: their paths.
        side: crop each to a square of so many pixels; None keeps them.
        source: how error messages call them.

    Raises:
        BadInput: for one that is missing, broken or of another size.
    """
    return stack_images(_Opened(files, source), side, source)


class _Opened:
    """Images that are opened as they are asked for, so that no more than one is open."""

    def __init__(self, files: Sequence[Path], source: str) -> None:
        self.files, self.source = files, source

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Any:
        for file in self.files:
            with _open(file, self.source) as picture:
                yield picture


def _open(file: Path, source: str) -> Any:
    with from_extra("images need an extra: pip install labelleak[data]"):
        from PIL import Image
    if not file.is_file():
        raise BadInput(f"{source} has no image {shown(file.name)}")
    try:
        return Image.open(file)
    except Exception as error:
        raise BadInput(f"an image of {source} is broken ({first_line(error)})") from error


def holds_masks(folder: Path) -> bool:
    """Return whether a folder has images and masks beside each other."""
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def read_mask_folder(folder: Path) -> Parts:
    """Read ``images/`` and ``masks/``: a mask for each image, of its name and size.

    A mask has one number a pixel, its class; 255 stands for no class, as in VOC and Cityscapes. A
    fifth of the images becomes the test part.

    Raises:
        BadInput: if an image has no mask, or they differ in size.
    """
    files = sorted(f for f in (folder / IMAGES).iterdir() if f.suffix.lower() in IMAGE_ENDINGS)
    masks = {f.stem: f for f in (folder / MASKS).iterdir() if f.suffix.lower() in MASK_ENDINGS}
    source = str(folder)
    if len(files) < 5:
        raise BadInput(f"{source} holds {len(files)} images; at least 5 are needed")
    lone = [file.name for file in files if file.stem not in masks]
    if lone:
        raise BadInput(f"{source} has no mask for the image {shown(lone[0])}")
    inputs = read_images(files, None, source)
    labels = _read_masks([masks[file.stem] for file in files], inputs.shape[:3], source)
    train, test = stratified_split(np.zeros(len(files), np.int64))
    return parts_from_arrays(
        (inputs[train], labels[train]), (inputs[test], labels[test]), None, source
    )


def _read_masks(files: Sequence[Path], shape: tuple[int, ...], source: str) -> np.ndarray:
    check_size(int(np.prod(shape)) * 2, source)
    labels = np.empty(shape, np.int64)
    for number, file in enumerate(files):
        with _open(file, source) as picture:
            if picture.mode not in ("1", "L", "P") or picture.size != (shape[2], shape[1]):
                raise BadInput(
                    f"the mask {shown(file.name)} of {source} must have one number of 8 bits a "
                    "pixel and the size of its image"
                )
            try:
                labels[number] = np.asarray(picture)
            except Exception as error:
                raise BadInput(f"a mask of {source} is broken ({first_line(error)})") from error
    labels[labels == NO_CLASS] = -1
    return labels


__all__ = ["IMAGE_ENDINGS", "holds_masks", "read_images", "read_mask_folder"]
