"""Where the leak sits: cases, parts, and that probes stand nowhere else on the page."""

from __future__ import annotations

from labelleak.report import render
from labelleak.report.layer_leaks import split_layers
from labelleak.report.page import Tables

from .samples import make_record

GAINS = {
    "none": 0.9,
    "withhold:head": 0.6,
    "withhold:conv:others": 0.2,
    "withhold:fc1:others": 0.5,
    "withhold:head:others": 0.8,
}


def make_rows(base="", stages=(0, 300)):
    return [
        make_record(
            defense=label if not base else base if label == "none" else f"{base}|{label}",
            attack=attack,
            threat_model="auxiliary",
            training_steps=steps,
            initialisation=start,
            trial=2 * start + trial,
            advantage=gain - (0.3 if attack == "gdbr" else 0.0) - 0.1 * (steps > 0),
            asr=0.6 + 0.4 * gain - (0.1 if attack == "gdbr" else 0.0),
            extra={"head": "fc"},
        )
        for label, gain in GAINS.items()
        for attack in ("layer_regression", "gdbr")
        for steps in stages
        for start in range(2)
        for trial in range(2)
    ]


def test_parts_stand_in_the_models_order_with_their_strongest_attacker():
    whole, leaks = split_layers(make_rows())
    assert {row.defense for row in whole} == {"none"}
    assert [case.name for case in leaks.shown] == [
        "untrained, iid, batch of 32",
        "300 steps, iid, batch of 32",
    ]
    gained = {name: round(c.advantage.mean, 2) for name, c in leaks.shown[0].cells.items()}
    assert gained == {
        "all layers": 0.9,
        "all but the head": 0.6,
        "layer conv alone": 0.2,
        "layer fc1 alone": 0.5,
        "layer fc (the head) alone": 0.8,
    }
    assert {c.chosen[0][0] for c in leaks.shown[0].cells.values()} == {"layer_regression"}


def test_the_picture_and_its_table_say_the_same():
    tables = Tables.of(make_rows())
    page = render(tables, source="records.jsonl")
    assert "Where the leak sits" in page
    bars = tables.layers.shown[0].draw().bars
    assert [bar.name for bar in bars][:2] == ["All layers", "All but the head"]
    assert bars[0].width > bars[1].width > bars[2].width > 0
    assert all(f">{bar.value}<" in page for bar in bars)
    assert "withhold:conv:others" not in page
    assert "Where the leak sits" not in render(
        [row for row in make_rows() if row.defense == "none"], source="records.jsonl"
    )


def test_layers_behind_a_defense_are_told_apart_and_other_defenses_stay():
    other = [make_record(defense="withhold:head|gaussian:1", trial=trial) for trial in range(2)]
    whole, leaks = split_layers([*make_rows("clip:1", (0,)), *make_rows("", (0,)), *other])
    assert {row.defense for row in whole} == {"clip:1", "none", "withhold:head|gaussian:1"}
    assert [len(case.cells) for case in leaks.cases] == [5, 5]
    assert {case.name.rsplit("defense ")[-1] for case in leaks.cases} == {"clip:1", "none"}
