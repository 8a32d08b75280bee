"""What a server would believe of its clients, where nobody knows whether it is right; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labelleak.records.files import write_whole
from labelleak.records.mixing import WHAT_TO_DO
from labelleak.records.unscored import Unscored, last_answers, read_unscored, say_client
from labelleak.report import wording
from labelleak.report.about import NOBODY, About
from labelleak.report.page import day_of, fill
from labelleak.report.terminal import inert

if TYPE_CHECKING:
    from rich.console import Group

_MOST_ROWS = 400
_MOST_CLASSES = 8
COLUMNS = ("Client", "Round", "Server", "Attack", "Labels named, how often", "Flags")
ADVICE = (
    "To score them, audit on the clients, which know their labels (labelleak.flower.audit_mod), "
    "or give the Auditor its argument truth in a simulation."
)


def say_unscored(rows: Sequence[Unscored]) -> str:
    """Say in a sentence what a file of answers without a score holds.

    >>> row = Unscored(round=1, client="a", attack="llg", threat_model="update", counts=(0, 2),
    ...                flags=())
    >>> say_unscored([row])[:44]
    '1 answer on 1 client in 1 round, none of the'
    """
    runs = len({row.run for row in rows if row.run})
    several = f" Flower numbers {runs} runs in this file: {WHAT_TO_DO}." if runs > 1 else ""
    clients, rounds = len({row.client for row in rows}), len({row.round for row in rows})
    return (
        f"{wording.count(len(rows), 'answer')} on {wording.count(clients, 'client')} in "
        f"{wording.count(rounds, 'round')}, none of them scored: the server does not know the "
        f"true labels, so this is what it would believe, not how right it is.{several}"
    )


def write_unscored_page(path: Path, page: Path, about: About = NOBODY) -> list[Unscored]:
    """Write the page of a file of answers without a score, and return them.

    Raises:
        BadInput: if the file cannot be read, or the page cannot be written.
    """
    rows = read_unscored(path)
    write_whole(page, render_unscored(rows, path.name, about, day_of(path)))
    return rows


def render_unscored(
    rows: Sequence[Unscored], source: str, about: About = NOBODY, when: str = ""
) -> str:
    """Return the page of answers without a score."""
    table = table_rows(rows)
    context = {
        "about": about,
        "when": when,
        "source": source,
        "said": say_unscored(rows),
        "advice": ADVICE,
        "columns": COLUMNS,
        "rows": table[:_MOST_ROWS],
        "more": max(0, len(table) - _MOST_ROWS),
        "flags": say_flags(rows),
    }
    return fill("unscored.html.j2", context)


def view_unscored(rows: Sequence[Unscored], source: str) -> Group:
    """Return the view of answers without a score for the terminal."""
    from rich.console import Group
    from rich.table import Table

    table = Table()
    for name in COLUMNS[:-1]:
        table.add_column(name, overflow="fold")
    for row in table_rows(rows)[:_MOST_ROWS]:
        table.add_row(*map(inert, row[:-1]))
    return Group(
        inert(f"{source}: {say_unscored(rows)}"), table, inert(say_flags(rows)), inert(ADVICE)
    )


def table_rows(rows: Sequence[Unscored]) -> list[tuple[str, ...]]:
    """Return a row of text for each attack on each client's latest update."""
    return [
        (
            say_client(row),
            str(row.round),
            wording.SHORT_SERVERS[row.threat_model],
            wording.name_attack(row.attack),
            say_counts(row),
            wording.list_words(row.flags, 4),
        )
        for row in last_answers(rows)
    ]


def say_counts(row: Unscored) -> str:
    """Say which classes an answer names, the most frequent first.

    >>> say_counts(Unscored(round=1, client="a", attack="llg", threat_model="update",
    ...                     counts=(1, 0, 3), flags=()))
    '2 (3 times) and 0'
    """
    words = [f"{label} ({n} times)" if n > 1 else str(label) for label, n in row.named]
    return wording.list_words(words, _MOST_CLASSES) or "none"


def say_flags(rows: Sequence[Unscored]) -> str:
    """Say which flags were raised, and on how many answers."""
    raised = Counter(flag for row in rows for flag in row.flags).most_common(_MOST_CLASSES)
    return "flags: " + (", ".join(f"{name} ({number:,})" for name, number in raised) or "none")


__all__ = ["render_unscored", "say_unscored", "view_unscored", "write_unscored_page"]
