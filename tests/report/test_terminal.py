"""The terminal table fits its width and names the strongest attack."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from labelleak.records.record import Record
from labelleak.report import summary_table, tabulate, worst_cases

from .samples import make_record


def shown(records: list[Record], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), no_color=True)
    console.print(summary_table(tabulate(records), worst_cases(records)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return str(text)


@pytest.mark.parametrize("width", [80, 120])
def test_fits(grid: list[Record], width: int) -> None:
    text = shown(grid, width)
    for words in ("free", "LLG*", "LLG+", "unbalanced, 200", "model + own data"):
        assert words in " ".join(text.split())
    assert "…" not in text


def test_numbers_are_those_of_the_cells(grid: list[Record]) -> None:
    text = shown(grid, 120)
    cells = [c for c in tabulate(grid) if c.threat_model == "auxiliary"]
    for cell in cells:
        assert f"{100 * cell.asr.mean:.1f}%" in text or cell.asr.mean in (0, 1)


def test_many_attacks_keep_one_of_each_threat_model() -> None:
    rows = [
        make_record(attack=f"a{n}", threat_model="auxiliary", asr=0.9, advantage=0.75)
        for n in range(6)
    ]
    rows += [make_record(attack="weak", threat_model=t, advantage=0.1) for t in ("update", "model")]
    text = shown(rows, 80)
    assert "weak: update only" in text
    assert "weak: holds the model" in text
    assert "5 more attacks are left out" in " ".join(text.split())


def test_settings_are_sections_and_markup_is_inert() -> None:
    rows = [make_record(defense=defense) for defense in ("none", "[red]noise[/red]")]
    text = shown(rows, 80)
    assert "no defense" in text
    assert "[red]" in text


def test_free_guess_alone() -> None:
    assert "–" in shown([make_record(attack="free", threat_model="none")], 80)


def test_no_word_of_a_heading_is_cut() -> None:
    titles = {"rows": "Rare-token energy", "posterior": "Token interpolation", "third": "Third"}
    rows = [
        make_record(attack=name, threat_model="auxiliary", extra={"attack_title": title})
        for name, title in titles.items()
    ]
    text = shown(rows, 80)
    for word in ["Rare-token", "energy", "Token", "interpolation", "advantage", "strongest"]:
        assert word in text
