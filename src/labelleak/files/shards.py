"""Read a model that was saved as several safetensors files, by their index."""

from __future__ import annotations

import re
from pathlib import Path

from labelleak.errors import BadInput, shown
from labelleak.files.limits import HEADER_LIMIT, LONGEST_NAME
from labelleak.records.reading import decode, parse_json

_MOST = 4096
_SHARD = re.compile(r".*-\d{3,6}-of-\d{3,6}\.safetensors")


def is_shard(path: Path) -> bool:
    """Return whether a file's name says that it is one shard of several.

    >>> is_shard(Path("model-00001-of-00002.safetensors"))
    True
    """
    return _SHARD.fullmatch(path.name) is not None


def read_index(text: bytes, folder: Path, where: str) -> dict[Path, list[str]]:
    """Read which tensors stand in which file.

    The index comes from anybody: each file it names must lie in its own folder, by a plain name.

    Args:
        text: the index, no longer than a header may be.
        folder: where it lies.
        where: its name, for the sentence.

    Raises:
        BadInput: if it is no index, or names a file anywhere else.
    """
    decoded = decode(text, where)
    try:
        told = parse_json(decoded)
    except BadInput as error:
        raise BadInput(f"{where} is no index of safetensors files: it {error}") from error
    placed = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(placed, dict) or not placed or len(text) > HEADER_LIMIT:
        raise BadInput(f"{where} is no index of safetensors files: it has no weight_map")
    shards: dict[Path, list[str]] = {}
    for name, file in placed.items():
        if not isinstance(file, str) or not _is_plain(file):
            raise BadInput(
                f"{where} names {shown(file)}; a shard must be a safetensors file beside its index"
            )
        shards.setdefault(folder / file, []).append(name)
    if len(shards) > _MOST:
        raise BadInput(f"{where} names {len(shards)} files, far more than a model has")
    return shards


def _is_plain(file: str) -> bool:
    """Return whether a name leads nowhere but into the same folder."""
    safe = file.isprintable() and not set(file) & set("/\\:") and not file.startswith(".")
    return safe and file.endswith(".safetensors") and len(file) <= LONGEST_NAME // 2


__all__ = ["is_shard", "read_index"]
