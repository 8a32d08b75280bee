"""Where the leak sits: what each layer alone gives away, all but the head, and all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labelleak.records.cells import Cell
from labelleak.records.frame import RecordFrame
from labelleak.records.record import THREAT_MODELS, Record
from labelleak.records.strongest import worst_cases
from labelleak.report import wording
from labelleak.report.picture import Picture, lay_bars

_ALONE = re.compile(r"(?:^|(?<=.)\|)withhold:([^:|]+):others$")
_NO_HEAD = re.compile(r"(?:^|(?<=.)\|)withhold:head$")
_ALL, _BELOW = "all layers", "all but the head"


@dataclass(frozen=True)
class LayerCase:
    """One condition: what the strongest attacker gains from each part of the update.

    Attributes:
        name: the condition in words.
        cells: by what is shared, in the order of the model.
    """

    name: str
    cells: dict[str, Cell]

    @property
    def below(self) -> float:
        """The advantage without the head."""
        found = self.cells.get(_BELOW)
        return found.advantage.mean if found and found.advantage else 0.0

    def draw(self) -> Picture:
        """Draw a bar for each part, from no advantage to all of it."""
        known = [(name, c.advantage) for name, c in self.cells.items() if c.advantage]
        rows = [(name, wording.number(gained.mean), gained) for name, gained in known]
        title = f"Advantage of the strongest attacker by what is shared, {self.name}"
        return lay_bars(title, rows)

    def say(self) -> str:
        """Return the bars in one sentence."""
        return f"Advantage by what is shared ({self.name}): " + "; ".join(
            f"{name} {wording.span(cell.advantage, cell.trials)}"
            for name, cell in self.cells.items()
        )


@dataclass(frozen=True)
class LayerLeaks:
    """All conditions, and for each training stage the one that leaks most below the head."""

    cases: tuple[LayerCase, ...]
    shown: tuple[LayerCase, ...]


def split_layers(records: Sequence[Record]) -> tuple[Sequence[Record], LayerLeaks | None]:
    """Take out the records of an audit of layers, and gather them.

    Returns:
        The records of whole updates, and what each layer gives away; None where nobody asked.
    """
    defenses = RecordFrame.of(records).distinct("defense")
    bases = {_ALONE.sub("", name) or "none" for name in defenses if _ALONE.search(name)}
    if not bases:
        return records, None
    held = [row for row in records if _base(row.defense) in bases]
    whole = [row for row in records if row.defense in bases or _base(row.defense) not in bases]
    return whole, _gather(held)


def _base(defense: str) -> str:
    return _NO_HEAD.sub("", _ALONE.sub("", defense)) or "none"


def _gather(rows: Sequence[Record]) -> LayerLeaks:
    order = list(dict.fromkeys(row.defense for row in rows))
    heads = {str(row.extra.get("head", "")) for row in rows}
    head = f"layer {heads.pop()} (the head) alone" if len(heads) == 1 else "the head alone"
    cases: dict[Any, list[Cell]] = {}
    for cell in worst_cases(rows):
        place = (cell.setting._replace(defense=_base(cell.defense)), cell.training_steps)
        cases.setdefault((*place, cell.scheme, cell.batch_size), []).append(cell)
    several = len({key[0] for key in cases}) > 1
    found = [
        LayerCase(_name(cells[0], several), _by_part(cells, order, head))
        for cells in cases.values()
    ]
    stages = dict.fromkeys(key[1] for key in cases)
    keyed = list(zip(cases, found, strict=True))
    shown = (max((c for k, c in keyed if k[1] == s), key=lambda c: c.below) for s in stages)
    return LayerLeaks(tuple(found), tuple(shown))


def _by_part(cells: Sequence[Cell], order: Sequence[str], head: str) -> dict[str, Cell]:
    """Return the cell of the attacker who holds most, for each part that is shared."""
    best: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda one: THREAT_MODELS.index(one.threat_model)):
        best[cell.defense] = cell
    return {_part(name, head): best[name] for name in order if name in best}


def _part(defense: str, head: str) -> str:
    if alone := _ALONE.search(defense):
        return head if alone[1] == "head" else f"layer {alone[1]} alone"
    return _BELOW if _NO_HEAD.search(defense) else _ALL


def _name(cell: Cell, several: bool) -> str:
    stage = wording.name_training(cell.training_steps, cell.init)
    said = f"{stage}, {cell.scheme}, batch of {cell.batch_size}"
    base = _base(cell.defense)
    return f"{said}, {cell.data}, {cell.model}, defense {base}" if several else said


__all__ = ["LayerCase", "LayerLeaks", "split_layers"]
