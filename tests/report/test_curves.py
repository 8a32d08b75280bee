"""Curves: records averaged along any key, drawn and tabulated beside the free guess."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from labelleak.records.record import read_records
from labelleak.report.curve_figures import curve_files, draw_curves
from labelleak.report.curves import CurveOptions, describe_ends, tabulate_curves, trace


@pytest.fixture
def rows():
    sample = read_records(Path(__file__).with_name("sample.jsonl"))[0]
    return [
        replace(
            sample,
            attack=attack,
            asr=asr,
            trial=trial,
            scheme=scheme,
            training_steps=stage,
            asr_free=0.4,
            model_accuracy=stage / 100,
            extra={"lr_h2": 2.0 * trial, "activation": "relu"},
        )
        for attack, asr in (("llg", 0.5), ("llg_plus", 1.0), ("free", 0.4))
        for scheme in ("iid", "unbalanced")
        for stage in (0, 50)
        for trial in (0, 1)
    ]


STAGES = CurveOptions(x="training_steps", accuracy=True, beside="lr_h2")


def test_points_are_averages_of_what_shares_panel_line_and_place(rows):
    points = trace(rows, STAGES)
    assert len(points) == 2 * 2 * 2
    assert {p.line for p in points} == {("llg",), ("llg_plus",)}
    assert all(p.trials == 2 and p.free == 0.4 and p.beside == 1.0 for p in points)
    assert {(p.line[0], p.asr.mean) for p in points} == {("llg", 0.5), ("llg_plus", 1.0)}


def test_the_free_guess_stands_in_every_table(rows):
    table = tabulate_curves(trace(rows, STAGES), STAGES)
    assert table.count("free guess") == 2
    assert "| 1 | 0.50 | 50 | 0.400 | 0.500 (0.500 to 0.500) | 1.000 (1.000 to 1.000) |" in table


def test_the_ends_say_what_lies_above_at_and_below_the_free_guess(rows):
    first, second = describe_ends(trace(rows, STAGES), STAGES)
    assert first.startswith("iid, at training steps 50, accuracy 0.50, against")
    assert "above it: LLG (0.50), LLG+ (1.00)." in first
    low = [replace(row, asr=0.2 if row.attack == "llg" else row.asr) for row in rows]
    assert "below it: LLG (0.20)" in describe_ends(trace(low, STAGES), STAGES)[0]
    assert second.startswith("unbalanced")


def test_flawless_batches_and_distances_have_panels_without_a_free_guess(rows):
    figure = replace(STAGES, measures=("asr", "exact", "hellinger"))
    wider = [
        replace(row, extra={**row.extra, "exact": row.trial == 0, "hellinger": 0.25})
        for row in rows
    ]
    points = trace(wider, figure)
    assert {p.asr.mean for p in points if p.panel[-1] == "exact"} == {0.5}
    table = tabulate_curves(points, figure)
    assert "iid, share of batches without an error" in table
    assert "| 1 | 0.50 | 50 | - | 0.250 (0.250 to 0.250) |" in table
    assert len(describe_ends(points, figure)) == 2  # of ASR alone
    drawn = draw_curves(points, title="Three", figure=figure)
    assert "Hellinger distance" in drawn
    assert len(trace(rows, figure)) == len(points) // 3  # records of old lack the keys


@pytest.mark.parametrize(
    "figure",
    [
        STAGES,
        CurveOptions(x="training_steps", log=True),
        CurveOptions(x="activation", lines=("attack", "training_steps")),
        CurveOptions(panels=()),
    ],
)
def test_figures_are_whole_svg_and_the_same_every_time(rows, figure):
    points = trace(rows, figure)
    drawn = draw_curves(points, title="Here & there", figure=figure)
    ElementTree.fromstring(drawn)
    assert "best guess without the update" in drawn
    assert drawn == draw_curves(points, title="Here & there", figure=figure)


def test_only_the_attacks_asked_for_are_shown(rows):
    assert {p.line for p in trace(rows, CurveOptions(attacks=("llg",)))} == {("llg",)}


def test_records_without_the_key_leave_nothing_to_draw(rows):
    assert curve_files(rows, title="t", figure=CurveOptions(x="nosuch")) == {}
