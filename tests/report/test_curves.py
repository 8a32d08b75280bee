"""Curves: records averaged along any key, drawn and tabulated beside the free guess."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from labelleak.errors import BadInput
from labelleak.record import read_records
from labelleak.report.curves import CurveOptions, draw_curves, tabulate_curves, trace, write_curves


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


def test_records_without_the_key_leave_nothing_to_draw(rows, tmp_path):
    assert write_curves(rows, tmp_path, title="t", figure=CurveOptions(x="nosuch")) == []
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(rows, tmp_path):
    with pytest.raises(BadInput, match="cannot write"):
        write_curves(rows, tmp_path / "none", title="t", figure=STAGES)
