"""Lay the cells out as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labelleak.errors import printable
from labelleak.records.cells import Cell
from labelleak.report import wording
from labelleak.report.headlines import harm

if TYPE_CHECKING:
    from rich.table import Table

    from labelleak.report.figures import Series

_MOST_COLUMNS = 3


def inert(text: str) -> str:
    """Return text that rich prints as it is: no markup, nothing that controls the terminal.

    >>> inert("[red]\\x1b[2J")
    '\\\\[red]\\\\x1b[2J'
    """
    from rich.markup import escape

    return escape(printable(text))


def summary_table(cells: Sequence[Cell], worst: Sequence[Cell]) -> Table:
    """Lay out ASR per attack, one row per scheme, stage and batch size.

    Beyond four attacks only the strongest have a column, of each threat model at least one; the
    last column always names the strongest of all. Each setting is a section with a title row.

    Args:
        cells: what `tabulate` gives.
        worst: what `worst_cases` gives for the same records.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    series = _columns(cells)
    table = Table(
        caption=inert(_caption(cells, series)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("scheme, steps", overflow="fold", min_width=15)
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("free", justify="right", min_width=6)
    titles = {name: title for cell in cells for name, title in cell.titles}
    for attack, _, adaptive in series:
        name = inert(wording.name_attack(attack, adaptive, titles))
        least = max(6, *map(len, name.split()))  # no word of a heading is cut
        table.add_column(name, justify="right", overflow="fold", min_width=least)
    table.add_column("advantage of the strongest", overflow="fold", min_width=10)
    names = wording.tell_apart(list(dict.fromkeys(cell.setting for cell in cells)))
    for setting, name in names.items():
        if len(names) > 1:
            table.add_row(f"[bold]{inert(name)}[/bold]")
        here = [cell for cell in cells if cell.setting == setting]
        leaders = _leaders([cell for cell in worst if cell.setting == setting])
        for row in _rows(here, series, leaders):
            table.add_row(*map(inert, row))
        table.add_section()
    return table


def _columns(cells: Sequence[Cell]) -> list[Series]:
    """Choose the attacks that have a column, in reading order.

    Of many, the strongest of each threat model come first, then the strongest of the rest.
    """
    informed = [cell for cell in cells if cell.threat_model != "none"]
    ordered = sorted(informed, key=lambda c: c.sort_key[3])
    series = list(dict.fromkeys(cell.series for cell in ordered))
    best = {s: _gain([cell for cell in informed if cell.series == s]) for s in series}
    ranked = sorted(series, key=lambda s: -best[s])
    leaders = {threat_model: s for s in reversed(ranked) for threat_model in [s[1]]}
    kept = list(dict.fromkeys([*leaders.values(), *ranked]))[:_MOST_COLUMNS]
    return [s for s in series if s in kept]


def _gain(cells: Sequence[Cell]) -> float:
    """Return the mean advantage; a peak cannot rank attacks that are all right at N = 1."""
    gains = [c.advantage.mean for c in cells if c.advantage]
    return sum(gains) / len(gains) if gains else float("-inf")


Place = tuple[int, str, int]


def _place(cell: Cell) -> Place:
    return (cell.training_steps, cell.scheme, cell.batch_size)


def _leaders(worst: Sequence[Cell]) -> dict[Place, Cell]:
    """Return the cell of the server that gains most in each place."""
    ranked = sorted(worst, key=lambda cell: harm(cell.advantage), reverse=True)
    ranked = list(reversed(ranked))  # of equals, the server that holds least stands last
    return {_place(cell): cell for cell in ranked}


def _rows(
    cells: Sequence[Cell], series: Sequence[Series], leaders: Mapping[Place, Cell]
) -> list[list[str]]:
    """Write one row per scheme, stage and batch size of one setting."""
    groups: dict[Place, list[Cell]] = {}
    for cell in sorted(cells, key=_place):
        groups.setdefault(_place(cell), []).append(cell)
    rows, above = [], ""
    for key, members in groups.items():
        steps, scheme, size = key
        place = f"{scheme}, {steps}"
        rates = {cell.series: _share(cell.asr.mean) for cell in members}
        row = ["" if place == above else place, str(size), _share(members[0].free)]
        rows.append([*row, *(rates.get(s, "–") for s in series), _strongest(leaders.get(key))])
        above = place
    return rows


def _share(value: float) -> str:
    return wording.share(value).replace("\xa0", "")


def _strongest(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    value = wording.number(cell.advantage.mean) if cell.advantage else "none"
    return f"{value} {wording.name_attacker(cell)}"


def _caption(cells: Sequence[Cell], series: Sequence[Series]) -> str:
    """Return what the columns are and who each attacker is."""
    titles = {name: title for cell in cells for name, title in cell.titles}
    who = "; ".join(
        f"{wording.name_attack(attack, adaptive, titles)}: {wording.SHORT_SERVERS[threat_model]}"
        for attack, threat_model, adaptive in series
    )
    all_series = {cell.series for cell in cells if cell.threat_model != "none"}
    more = len(all_series) - len(series)
    hidden = f" {more} more attacks are left out here." if more else ""
    return (
        "Share of labels named. free: best guess without the update. Advantage: 0 = the "
        f"update told nothing, 1 = everything. {who}.{hidden}"
    )
