"""Gather what records say of defenses: leakage without and with, cost, privacy, what is open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from labelleak.records.cells import Cell, Setting, tabulate
from labelleak.records.frame import Place, RecordFrame
from labelleak.records.record import SETTING, THREAT_MODELS, Record
from labelleak.records.strongest import strongest_records, worst_cases
from labelleak.report import wording
from labelleak.report.headlines import nearest_batch_size

NONE = "none"
_COSTS = (
    "accuracy_cost",
    "seconds_ratio",
    "wire_bytes",
    "epsilon",
    "epsilon_method",
    "epsilon_delta",
    "epsilon_rounds",
    "epsilon_protects",
    "privacy",
)


@dataclass(frozen=True)
class Leakage:
    """What one server gains under a defense, at the worst stage and scheme that were tested.

    Attributes:
        usual: the strongest of the attackers who do not know the defense.
        adaptive: the strongest with those who know it; None where none of them was run.
    """

    usual: Cell | None
    adaptive: Cell | None

    @property
    def strongest(self) -> Cell | None:
        """The cell that counts: adaptive attackers included where they were run."""
        return self.adaptive or self.usual

    @property
    def gained(self) -> bool:
        """Whether knowing the defense changed which attacker is strongest."""
        knows = self.adaptive is not None and any(adaptive for _, adaptive in self.adaptive.chosen)
        return knows and self.usual is not None


@dataclass(frozen=True)
class Row:
    """One defense.

    Attributes:
        defense: its text form.
        leakages: by threat model, those of the table's head.
        costs: values of the extra keys that speak of cost and privacy, as far as records hold them.
        words: what may surprise about it, what is proved and what it does not cover.
    """

    defense: str
    leakages: dict[str, Leakage]
    costs: dict[str, Any]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The defenses of one data set, model and way to train.

    Attributes:
        title: what tells it from the other comparisons of the page; empty where it is alone.
        batch_size: labels of a batch, the size tested that is nearest to 32.
        rows: no defense first.
        servers: threat models that were tested.
    """

    title: str
    batch_size: int
    rows: tuple[Row, ...]
    servers: tuple[str, ...]

    def has(self, key: str) -> bool:
        """Return whether any row holds a cost key."""
        return any(row.costs.get(key) is not None for row in self.rows)


def compare_defenses(records: Sequence[Record]) -> list[Comparison]:
    """Compare the defenses wherever records hold more than one under the same conditions.

    >>> compare_defenses([])
    []
    """
    if len(RecordFrame.of(records).distinct("defense")) < 2:
        return []
    groups: dict[Any, list[Cell]] = defaultdict(list)
    best = RecordFrame(strongest_records(records))
    for cell in tabulate(best):
        groups[_place(cell)].append(cell)
    adaptive = {record.defense for record in records if record.adaptive}
    usual: dict[Any, list[Cell]] = defaultdict(list)
    plain = RecordFrame((r for r in records if not r.adaptive), varying=best.varying)
    for cell in worst_cases(plain) if adaptive else ():
        usual[_place(cell)].append(cell)
    kept = {
        place: cells for place, cells in groups.items() if len({cell.defense for cell in cells}) > 1
    }
    named = wording.tell_apart(list(kept)) if len(kept) > 1 else {}
    # Named as the cells of the strongest attackers are.
    numbers, places = RecordFrame(records, varying=best.varying).conditions
    settings = [_setting(place) for place in places]
    own: dict[Any, list[Record]] = defaultdict(list)
    for record, number in zip(records, numbers, strict=True):
        own[settings[number]].append(record)
    return [
        _comparison(named.get(place, ""), cells, usual.get(place, cells), adaptive, own[place])
        for place, cells in kept.items()
    ]


def _place(cell: Cell) -> Setting:
    return cell.setting._replace(defense=NONE)


def _setting(place: Place) -> Setting:
    fields, init, condition = place
    known = dict(zip(SETTING, fields, strict=True))
    return Setting(known["data"], known["model"], init, known["local_steps"], NONE, condition)


def _comparison(
    title: str,
    cells: Sequence[Cell],
    usual: Sequence[Cell],
    adaptive: set[str],
    records: Sequence[Record],
) -> Comparison:
    size = nearest_batch_size(cells)
    held = {cell.threat_model for cell in cells}
    servers = tuple(name for name in THREAT_MODELS if name in held)
    defenses = sorted({cell.defense for cell in cells}, key=lambda name: (name != NONE, name))
    rows = []
    for defense in defenses:
        leakages = {
            server: Leakage(
                _worst(usual, defense, server, size),
                _worst(cells, defense, server, size) if defense in adaptive else None,
            )
            for server in servers
        }
        own = [record for record in records if record.defense == defense]
        rows.append(Row(defense, leakages, _costs(own), _words(defense, own)))
    return Comparison(title, size, tuple(rows), servers)


def _worst(cells: Iterable[Cell], defense: str, server: str, size: int) -> Cell | None:
    """Return the cell that reaches highest, over stages and schemes."""
    own = [
        cell
        for cell in cells
        if (cell.defense, cell.threat_model, cell.batch_size) == (defense, server, size)
        and cell.advantage is not None
    ]
    return max(own, key=lambda c: c.advantage.high if c.advantage else 0.0, default=None)


def _words(defense: str, records: Sequence[Record]) -> tuple[str, ...]:
    """Return what may surprise a user, what is proved, and what is left open."""
    from labelleak.defenses.catalogue import uncovered  # only where there is a defense

    extra = next((r.extra for r in records if "privacy" in r.extra), {})
    said = [*extra.get("defense_remarks", ()), *([extra["privacy"]] if extra else [])]
    sentences = [wording.as_sentence(one, defense) for one in said]
    return tuple(dict.fromkeys([*sentences, *uncovered(defense, extra.get("defense_off", ()))]))


def _costs(records: Sequence[Record]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records:
        for key in _COSTS:
            if record.extra.get(key) is not None:
                found.setdefault(key, record.extra[key])
    return found


__all__ = ["Comparison", "Leakage", "Row", "compare_defenses"]
