"""What is loaded when it is first used: the large libraries, and what a catalogue lists.

Modules that describe attacks and defenses take the libraries from here, so that a list, a report
or a gate can read what is known of an attack without loading any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")


class _Later(ModuleType):
    """Stand for a module, which is imported when something of it is asked for, and keep that."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(import_module(self.__name__), name)
        setattr(self, name, found)
        return found


def load_line(room: str, line: str) -> Any:
    """Return what a catalogue's line names: ``"module:Class"``, a module of that room.

    >>> load_line("labelleak.core", "card:Card").__name__
    'Card'
    """
    module, name = line.split(":")
    return getattr(import_module(f"{room}.{module}"), name)


class Catalogue(Mapping[str, T]):
    """What a room holds, by name and in order; each is loaded when it is asked for.

    Names, their order and their number are known without loading anything.

    Args:
        room: the package.
        lines: what each name stands for, as `load_line` takes it; what is loaded bears that name.
    """

    def __init__(self, room: str, lines: Mapping[str, str]) -> None:
        self._room, self._lines = room, dict(lines)
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            self._loaded[name] = load_line(self._room, self._lines[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, name: object) -> bool:
        return name in self._lines

    def __repr__(self) -> str:
        return f"Catalogue({self._room!r}, {list(self._lines)})"

    def of_class(self, name: str) -> T:
        """Return what bears this name in its file.

        Raises:
            KeyError: if the catalogue has no such class.

        >>> Catalogue("labelleak.core", {"card": "card:Card"}).of_class("Card").__name__
        'Card'
        """
        classes = {line.split(":")[1]: known for known, line in self._lines.items()}
        return self[classes[name]]


if TYPE_CHECKING:
    import torch
    from scipy import optimize, special
    from scipy.sparse import linalg as sparse_linalg
    from torch import Tensor, nn
    from torch.nn import functional as F
else:
    Tensor = Any  # for signatures alone; at run time ask for torch.Tensor
    torch, nn, F = map(_Later, ("torch", "torch.nn", "torch.nn.functional"))
    optimize, special = map(_Later, ("scipy.optimize", "scipy.special"))
    sparse_linalg = _Later("scipy.sparse.linalg")

__all__ = [
    "Catalogue",
    "F",
    "Tensor",
    "load_line",
    "nn",
    "optimize",
    "sparse_linalg",
    "special",
    "torch",
]
