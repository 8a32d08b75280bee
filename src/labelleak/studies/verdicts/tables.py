"""Write the records behind the verdicts as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from labelleak.records.intervals import Interval
from labelleak.records.record import Record
from labelleak.report import Cell, tabulate, worst_cases
from labelleak.report.wording import name_attack, name_attacker

_TITLES = {
    "a": "(a) Untrained model, one step",
    "b": "(b) Trained model, one step",
    "c": "(c) Several local steps",
    "d": "(d) Untrained model, one step, noised or compressed",
    "llbg": "LLBG's ground: ten local steps of 10 samples, lr 0.001, iid, untrained",
    "rlu": "RLU's ground: heterogeneous clients of 64 samples, steps of 16, lr 0.01",
}


def make_verdict_table(records: Iterable[Record]) -> str:
    """Write records as Markdown tables, one per verdict and model.

    Each entry is the ASR with its interval. The expected ASR of the best guess without the
    update stands in the first row, and the strongest attacker of each threat model below.
    """
    rows = list(records)
    tables = sorted(dict.fromkeys(map(_table_of, rows)), key=lambda table: table[0])
    return "\n\n".join(
        _write_table(*key, [row for row in rows if _table_of(row) == key]) for key in tables
    )


def _table_of(row: Record) -> tuple[str, str]:
    if row.extra["verdict"] == "llbg":
        return "llbg", row.data
    net = f"{row.data}, {row.extra['activation']} ({row.extra['init']} initialisation)"
    return str(row.extra["verdict"]), net


def _write_table(verdict: str, net: str, rows: list[Record]) -> str:
    titles = list(dict.fromkeys(str(row.extra["column"]) for row in rows))
    columns = [[row for row in rows if row.extra["column"] == title] for title in titles]
    cells = [{cell.attack: cell for cell in tabulate(column)} for column in columns]
    best = [{cell.threat_model: cell for cell in worst_cases(column)} for column in columns]
    heads = [_heading(title, column) for title, column in zip(titles, columns, strict=True)]
    needs = {name: cell.threat_model for column in cells for name, cell in column.items()}
    free = [f"{next(iter(column.values())).free:.2f}" for column in cells]
    first = rows[0]
    models, each = _spread_of(columns[0])
    return "\n".join(
        [
            f"**{_TITLES[verdict]}: {net}** (K = {first.num_classes}, {models} models, "
            f"{each} updates of each; ASR)",
            "",
            "| attack | needs | " + " | ".join(heads) + " |",
            "|---|---|" + "---|" * len(heads),
            f"| **{name_attack('free')}, expected** | none | " + " | ".join(free) + " |",
            *(
                f"| {name_attack(name)} | {need} | {_row(cells, name, _entry)} |"
                for name, need in needs.items()
                if name != "free"
            ),
            *(
                f"| advantage of the strongest | {need} | {_row(best, need, _advantage)} |"
                for need in dict.fromkeys(name for column in best for name in column)
            ),
        ]
    )


def _spread_of(rows: list[Record]) -> tuple[int, int]:
    models = len({row.initialisation for row in rows})
    return models, len({row.trial for row in rows}) // models


def _heading(title: str, rows: list[Record]) -> str:
    first = rows[0]
    said = []
    if first.training_steps:
        found = {row.initialisation: row.model_accuracy or 0.0 for row in rows}.values()
        said.append(f"accuracy {min(found):.2f} to {max(found):.2f}")
    if "lr_h2" in first.extra:
        said.append(f"lr·(‖h‖²+1) = {np.mean([r.extra['lr_h2'] for r in rows]):.2g}")
    return f"{title} ({'; '.join(said)})" if said else title


def _row(columns: list[dict[str, Cell]], name: str, write: Callable[[Cell], str]) -> str:
    return " | ".join(write(column[name]) if name in column else "-" for column in columns)


def _entry(cell: Cell) -> str:
    return _span(cell.asr)


def _advantage(cell: Cell) -> str:
    return "-" if cell.advantage is None else f"{_span(cell.advantage)} {name_attacker(cell)}"


def _span(interval: Interval) -> str:
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})"
