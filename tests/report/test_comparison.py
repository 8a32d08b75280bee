"""Two audits: the change with its interval, and what else differs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.records.intervals import Interval, bootstrap_mean
from labelleak.records.record import Record, append_records
from labelleak.report.about import About
from labelleak.report.comparison import (
    Side,
    apart,
    changes,
    compare,
    difference,
    overall,
    read_side,
    say_change,
    say_defenses,
)
from labelleak.report.opening import say_verdict

from .federated import federated_records
from .samples import make_record, make_records


def side(folder: Path, name: str, **changes: object):
    path = folder / f"{name}.jsonl"
    append_records(
        path, make_records(stages=(0,), schemes=("iid",), batch_sizes=(8, 32), **changes)
    )
    return read_side(path)


def test_the_interval_of_a_difference_is_that_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.6, 0.2, 400), rng.normal(0.4, 0.3, 400)
    one, two = (bootstrap_mean(x, np.arange(400)) for x in (a, b))
    found = difference(one, two)
    spread = 1.96 * np.hypot(a.std(), b.std()) / 20
    assert found.mean == np.mean(b) - np.mean(a)
    assert abs(found.high - found.mean - spread) < 0.15 * spread
    assert abs(found.mean - found.low - spread) < 0.15 * spread


def test_a_change_is_said_only_where_it_is_shown() -> None:
    assert "fell by 0.30 (95\xa0% interval 0.20 to 0.40)" in say_change(Interval(-0.3, -0.4, -0.2))
    assert "rose by 0.30 (95\xa0% interval 0.20 to 0.40)" in say_change(Interval(0.3, 0.2, 0.4))
    assert say_change(Interval(-0.1, -0.3, 0.1)).startswith("These records show no change")
    assert say_change(None, "they are of other data") == "Not comparable: they are of other data."


def test_cases_are_matched_and_what_differs_is_named(tmp_path: Path) -> None:
    before, after = side(tmp_path, "a"), side(tmp_path, "b", model="mlp", attacks=("llg", "free"))
    found = changes(before, after)
    assert {one.server for one in found} == {"update"}
    assert len(found) == 2
    differ = apart(before, after)
    assert "model: cnn before, mlp after" in differ
    assert any(line.startswith("attacks: ") for line in differ)
    page = compare(before, after, About(system="<b>"))
    assert "&lt;b&gt;" in page
    assert page.count("<h1") == 1
    assert page == compare(before, after, About(system="<b>"))
    same = compare(before, before)
    assert "These records show no change" in same
    assert "Neither data, model, defenses" in same


def test_a_file_of_several_defenses_is_compared_by_the_one_that_leaves_least(
    tmp_path: Path,
) -> None:
    def of(**gained: float) -> Side:
        path = tmp_path / f"{'-'.join(gained)}.jsonl"
        rows = [
            make_record(defense=name, advantage=value, asr=0.6 + 0.4 * value, trial=t)
            for name, value in gained.items()
            for t in range(4)
        ]
        append_records(path, rows)
        return read_side(path)

    plain, several = of(none=0.9), of(none=0.9, clip=0.5, noise=0.1)
    moved = overall(plain, several)
    assert moved is not None
    assert round(moved.mean, 6) == -0.8
    said = "before, none; after, noise, which leaves least of clip, noise and none."
    assert say_defenses(plain, several).endswith(said)
    assert said in compare(plain, several)
    assert "0.10" in say_verdict(several.verdict)
    assert say_defenses(plain, plain) == ""


def of(folder: Path, rows: list[Record]) -> Path:
    folder.mkdir()
    append_records(folder / "records.jsonl", rows)
    return folder / "records.jsonl"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (federated_records(), "the records before are of an audit of simulated clients, those"),
        (make_records(data="wine"), "they are of other data, digits before and wine after"),
        (make_records(num_classes=3), "they are of other numbers of classes, 10 before and 3"),
        (make_records(attacks=("free", "llg_star"), batch_sizes=(8,)), "no server was tried in"),
        (make_records(attacks=("free", "llg"), batch_sizes=(64,)), "no case was measured in both"),
    ],
)
def test_unrelated_audits_are_not_comparable(tmp_path: Path, other: list[Record], why: str) -> None:
    first = of(tmp_path / "a", make_records(attacks=("free", "llg"), batch_sizes=(8,)))
    second = of(tmp_path / "b", other)
    done = CliRunner().invoke(app, ["report", str(first), str(second)])
    assert f"Not comparable: {why}" in " ".join(done.output.split())
    assert "moved by" not in done.output
    page = (tmp_path / "b" / "comparison.html").read_text("utf-8")
    assert f"Not comparable: {why}" in page
    assert "moved by" not in page
    told = json.loads(CliRunner().invoke(app, ["report", str(first), str(second), "--json"]).output)
    assert told["change"] is None
    assert told["not_comparable"].startswith(why)


def test_a_server_or_case_that_one_audit_lacks_is_no_change(tmp_path: Path) -> None:
    every = make_records(batch_sizes=(8, 32), stages=(0,), schemes=("iid",))
    update = [row for row in every if row.threat_model in ("none", "update")]
    small = [row for row in every if row.batch_size == 8]
    sides = [
        read_side(of(tmp_path / n, r)) for n, r in zip("abc", (every, update, small), strict=True)
    ]
    for other in sides[1:]:
        moved = overall(sides[0], other)
        assert moved is not None
        assert moved.mean == 0
