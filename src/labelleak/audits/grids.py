"""Grids: a TOML file of audits in which every list multiplies, checked before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from labelleak.audits.options import AuditOptions, check_options
from labelleak.errors import BadInput, shown_path, shown_value, unknown_name
from labelleak.records.reading import read_toml
from labelleak.report.curves import CurveOptions

# Of an audit's options these take a list in an audit already; a list of any other one
# multiplies into several audits.
LISTS = frozenset(f.name for f in fields(AuditOptions) if isinstance(f.default, tuple))
OPTIONS = tuple(f.name for f in fields(AuditOptions))
# Values of an option, and audits of a part.
_MOST = 2000
_OWN = ("title", "claim", "figure", "quick", "part")


@dataclass(frozen=True)
class Grid:
    """Audits that are run as one.

    Attributes:
        name: the file's name without its ending.
        title: what it is, in a line.
        claim: what the literature claims of it, in our words; empty for a grid of one's own.
        audits: the parts, in order.
        figure: what is drawn of it.
    """

    name: str
    title: str
    claim: str
    audits: tuple[AuditOptions, ...]
    figure: CurveOptions


def read_grid(
    path: Path, *, quick: bool = False, override: Mapping[str, Any] | None = None
) -> Grid:
    """Read a grid from a TOML file.

    Top-level keys are options of an audit (underscores in place of dashes). A list multiplies.
    ``[[part]]`` tables hold options that replace the top-level ones; their audits are run one
    after the other. ``[quick]`` holds options that replace all others in a coarse run, and
    ``[figure]`` says what to draw.

    Args:
        path: the file.
        quick: apply the ``[quick]`` table.
        override: options that replace whatever the file says, such as the data.

    Raises:
        BadInput: if the file cannot be read, is no TOML, or holds what no audit takes; the
            sentence names the file and the nearest known key.
    """
    tree = read_toml(path, "the grid ")
    try:
        return make_grid(path.stem, tree, quick=quick, override=override or {})
    except BadInput as error:
        raise BadInput(f"{shown_path(path.name)}: {error}") from error


def make_grid(
    name: str, tree: Mapping[str, Any], *, quick: bool = False, override: Mapping[str, Any]
) -> Grid:
    """Make a grid from a tree of TOML values; as `read_grid`.

    >>> grid = make_grid("mine", {"model": ["cnn", "mlp"], "batch_sizes": [1, 8]}, override={})
    >>> [(audit.model, audit.batch_sizes) for audit in grid.audits]
    [('cnn', (1, 8)), ('mlp', (1, 8))]
    """
    for key in tree:
        if key not in (*OPTIONS, *_OWN):
            raise unknown_name("key", key, (*OPTIONS, *_OWN))
    common = {key: value for key, value in tree.items() if key in OPTIONS}
    parts = _tables(tree, "part") or [{}]
    coarse = _table(tree, "quick")
    for table, kind in ((coarse, "key under [quick]"), *((p, "key under [[part]]") for p in parts)):
        for key in table:
            if key not in OPTIONS:
                raise unknown_name(kind, key, OPTIONS)
    audits = [
        audit
        for part in parts
        for audit in _multiply({**common, **part, **(coarse if quick else {}), **override})
    ]
    return Grid(
        name,
        _words(tree, "title") or name.replace("_", " "),
        _words(tree, "claim"),
        tuple(dict.fromkeys(audits)),
        _figure(_table(tree, "figure")),
    )


def _multiply(choices: Mapping[str, Any]) -> Iterator[AuditOptions]:
    """Make an audit of every combination of the options that an audit has only one of."""
    single = {k: v if isinstance(v, list) else [v] for k, v in choices.items() if k not in LISTS}
    listed = {
        k: v if isinstance(v, list | tuple) else [v] for k, v in choices.items() if k in LISTS
    }
    for key, values in {**single, **listed}.items():
        if not values:
            raise BadInput(f"{key} is an empty list; give it a value or leave it out")
        if len(values) > _MOST:
            raise BadInput(f"{key} has {len(values)} values, more than {_MOST}; make several grids")
    if prod(map(len, single.values())) > _MOST:
        raise BadInput(f"the lists multiply to more than {_MOST} audits; make several grids")
    for values in product(*single.values()):
        yield check_options(**dict(zip(single, values, strict=True)), **listed)


def _tables(tree: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = tree.get(key, [])
    if not isinstance(found, Sequence) or not all(isinstance(one, Mapping) for one in found):
        raise BadInput(f"{key} must be tables; write [[{key}]] above each")
    return list(found)


def _table(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key, {})
    if not isinstance(found, Mapping):
        raise BadInput(f"{key} must be a table; write [{key}] above it")
    return found


def _words(tree: Mapping[str, Any], key: str) -> str:
    found = tree.get(key, "")
    if not isinstance(found, str):
        raise BadInput(f"{key} must be text in quotes, not {shown_value(found)}")
    return found


def _figure(table: Mapping[str, Any]) -> CurveOptions:
    known = tuple(f.name for f in fields(CurveOptions))
    for key in table:
        if key not in known:
            raise unknown_name("key under [figure]", key, known)
    try:
        return CurveOptions(**table)
    except BadInput as error:
        raise BadInput(f"[figure] {error}") from error


__all__ = ["Grid", "make_grid", "read_grid"]
