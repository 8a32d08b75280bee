"""Where records come from: version, command and files, and the keys that every door writes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

from labelleak.errors import BadInput, shown_path
from labelleak.records.reading import open_regular

VERSION = "0.1.0"
# Options whose file is written and not read.
_WRITTEN = ("--out", "--save")


def origin(
    *,
    seed: int,
    data: str,
    model: str,
    command: str,
    num_classes: int,
    initialisation: int = 0,
    training_steps: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Return the keys of a record that say what it is of and what made it.

    Args:
        seed: seed of everything random.
        data: name of the data.
        model: name of the model.
        command: the command that made it.
        num_classes: K.
        initialisation: number of the model's initialisation.
        training_steps: steps that the global model was trained before.
        more: further keys of the contract that are known by now.

    >>> keys = origin(seed=0, data="digits", model="mlp", command="", num_classes=10)
    >>> keys["model"], keys["labelleak"] == VERSION
    ('mlp', True)
    """
    return {
        "seed": seed,
        "data": data,
        "model": model,
        "initialisation": initialisation,
        "training_steps": training_steps,
        "num_classes": num_classes,
        **more,
        **software(),
        "command": command,
    }


def command_of(words: Iterable[str], *, full_paths: bool = False) -> str:
    """Return a command as records hold it: files by name, and what they hold as a comment.

    Args:
        words: the command, word by word; ``--option=value`` may be one.
        full_paths: keep paths as they were typed.

    >>> command_of(["labelleak", "report", "/nowhere/my records.jsonl", "--out=/nowhere/page"])
    "labelleak report 'my records.jsonl' --out=page"
    """
    typed = list(words)
    return shlex.join(typed if full_paths else map(_bare_word, typed)) + digests_of(typed)


def bare(path: str | os.PathLike[str]) -> str:
    """Return the name alone of a file, and of any path that begins at the root.

    >>> bare("/home/somebody/out"), bare("runs/out")
    ('out', 'runs/out')
    """
    text = os.fsdecode(path)
    alone = os.path.isabs(text) or os.path.isfile(text)
    return Path(text).name or text if alone else text


def without_folders(value: Any) -> Any:
    """Return options in JSON's terms in which files stand by name and SHA-256, folders by name.

    So an option that names a file means what the file holds, wherever it lies.

    >>> without_folders({"data": "/nowhere/to/be/found.npz", "sizes": [1, 8]})
    {'data': 'found.npz', 'sizes': [1, 8]}
    """
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    if not isinstance(value, str):
        return value
    return " ".join([bare(value), *(f"sha256:{held}" for _, held in _digests([value]))])


def digests_of(words: Iterable[str]) -> str:
    """Return a comment with the SHA-256 of each file that a command reads; empty without one."""
    found = dict(_digests(words))
    return f"  # {', '.join(f'{name} sha256:{found[name]}' for name in found)}" if found else ""


def _digests(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    before = ""
    for word in words:
        flag, path = _split(word)
        if (flag or before) not in _WRITTEN and os.path.isfile(path):
            try:
                with open_regular(path) as file:
                    held = file_digest(cast(Any, file), "sha256").hexdigest()
            except (BadInput, OSError):  # whoever needs the file says so
                continue
            yield shown_path(Path(path).name), held
        before = word


def _split(word: str) -> tuple[str, str]:
    """Part an option from its value, where they are one word."""
    flag, sign, value = word.partition("=")
    return (flag, value) if sign and flag.startswith("--") else ("", word)


def _bare_word(word: str) -> str:
    flag, path = _split(word)
    return f"{flag}={bare(path)}" if flag else bare(path)


def software() -> dict[str, str]:
    """Return the versions that figures depend on, without loading torch."""
    return {"labelleak": VERSION, "torch": _version_of_torch()}


@cache
def _version_of_torch() -> str:
    """Look the version up once: to read a package's description takes milliseconds."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:  # a torch that was not installed as a package
        return "unknown"


__all__ = ["VERSION", "bare", "command_of", "digests_of", "origin", "software", "without_folders"]
