"""The large libraries, each loaded when it is first used.

Modules that describe attacks and defenses take them from here, so that a list, a report or a
gate can read what is known of every attack without loading any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


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


def load_lines(room: str, lines: Iterable[str]) -> dict[str, Any]:
    """Return what a catalogue's lines name, each under the `name` that it gives itself."""
    return {found.name: found for found in (load_line(room, line) for line in lines)}


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
    "F",
    "Tensor",
    "load_line",
    "load_lines",
    "nn",
    "optimize",
    "sparse_linalg",
    "special",
    "torch",
]
