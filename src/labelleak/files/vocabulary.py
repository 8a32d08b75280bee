"""Read the strings of a tokenizer's tokens: tokenizer.json, vocab.json or a list of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput, printable, shown_path
from labelleak.records.reading import read_json

# A token's string is cut here.
_LONGEST = 40


def read_vocabulary(path: str | os.PathLike[str], num_tokens: int) -> tuple[str, ...]:
    """Return the string of each token by its number, empty where there is none.

    Args:
        path: ``tokenizer.json`` of Hugging Face, ``vocab.json`` (strings with their numbers), or a
            JSON list of strings.
        num_tokens: rows of the head.

    Raises:
        BadInput: if it cannot be read, or no token has a number below that.
    """
    names = [""] * num_tokens
    for name, number in _pairs(read_json(Path(path)), path):
        if 0 <= number < num_tokens:
            names[number] = printable(name)[:_LONGEST]
    if not any(names):
        raise BadInput(f"{shown_path(path)} names no token from 0 to {num_tokens - 1}")
    return tuple(names)


def _pairs(found: Any, path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        added = found.get("added_tokens")
        more = added if isinstance(added, list) else []
        whole = _pairs(found["model"].get("vocab"), path)
        return whole + [
            (one["content"], one["id"])
            for one in more
            if isinstance(one, Mapping) and _fits(one.get("content"), one.get("id"))
        ]
    if isinstance(found, Mapping) and all(_fits(*pair) for pair in found.items()):
        return list(found.items())
    if isinstance(found, list):
        # Unigram models list pairs of a string and its score.
        plain = [one[0] if isinstance(one, list) and one else one for one in found]
        if all(isinstance(name, str) for name in plain):
            return [(name, number) for number, name in enumerate(plain)]
    raise BadInput(f"{shown_path(path)} is no tokenizer.json, vocab.json or list of tokens")


def _fits(name: Any, number: Any) -> bool:
    return isinstance(name, str) and isinstance(number, int) and not isinstance(number, bool)


__all__ = ["read_vocabulary"]
