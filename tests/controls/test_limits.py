"""No cry of wolf on ordinary updates, and no corrupted one in silence but those that docs list."""

from __future__ import annotations

from pathlib import Path

from controls.mutations import judge
from controls.wolf import cries

DOCS = Path(__file__).parents[2] / "docs" / "limits.md"


def test_ordinary_updates_are_neither_impossible_nor_repaired():
    wrong, states = cries(range(60))
    assert wrong == []
    assert states["plain update called unlikely"] == 0


def test_each_corruption_is_flagged_refused_or_listed_as_invisible():
    """The table of docs/limits.md is what the command prints."""
    listed = DOCS.read_text(encoding="utf-8")
    table = judge()
    assert len(table) >= 20
    for name, found in table.items():
        shown = [", ".join(sorted(level)) or "invisible" for level in found]
        assert f"| {name} | {shown[0]} | {shown[1]} |" in listed, name
