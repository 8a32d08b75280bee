"""The experiments of the literature that ship as grids, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from labelleak.audits.grids import Grid, read_grid
from labelleak.errors import unknown_name

# In the order in which the literature's questions build on each other.
PRESETS = (
    "batch_sizes",
    "baselines",
    "trained",
    "architectures",
    "activations",
    "local_iterations",
    "learning_rates",
    "federations",
    "aggregates",
    "noise",
    "compression",
    "compression_finding",
    "privacy",
)


def load_preset(
    name: str, *, quick: bool = False, override: Mapping[str, Any] | None = None
) -> Grid:
    """Read a grid that ships with the package.

    Args:
        name: one of `PRESETS`.
        quick: take the coarse form.
        override: options that replace the grid's, such as the data.

    Raises:
        BadInput: for an unknown name or options that cannot be.

    >>> load_preset("trained", quick=True).figure.x
    'training_steps'
    """
    if name not in PRESETS:
        raise unknown_name("experiment", name, PRESETS)
    with resources.as_file(resources.files(__package__) / "paper" / f"{name}.toml") as path:
        return read_grid(Path(path), quick=quick, override=override)


def describe_presets() -> Iterator[tuple[str, str]]:
    """Return name and title of every preset."""
    for name in PRESETS:
        yield name, load_preset(name).title


__all__ = ["PRESETS", "describe_presets", "load_preset"]
