"""Leaks of one model are one task, whoever attacks, and are what runs apart would find."""

from __future__ import annotations

import pytest

from labelleak.audits.executors import Executor
from labelleak.records.journal import Journal
from labelleak.tune import leaks
from labelleak.tune.leaks import Asked, LeakMeter
from labelleak.tune.options import TuneOptions

AUDIT = TuneOptions(
    target_advantage=0.2, trials=4, initialisations=2, training_steps=(0, 3), batch_size=8
).audit


class Counted(Executor):
    """Runs one task after the other and remembers how many each call had."""

    def map(self, function, tasks):
        calls.append(len(tasks))
        return map(function, tasks)


calls = []


@pytest.fixture(autouse=True)
def quick_attackers(monkeypatch):
    """Let one quick rule stand for the rules, and another for those that learn."""
    monkeypatch.setattr(
        leaks, "_attacks", lambda attacker, adaptive, learners: ("ilrg" if learners else "llg",)
    )
    calls.clear()


def measure(folder, *rounds):
    """Measure one group of questions after the other: the records by part, without times."""
    journal = Journal.open(folder, {})
    meter = LeakMeter(AUDIT, "model", journal, "", Counted())
    for asked, models in rounds:
        meter.measure(asked, seed=3, phase="fresh", models=models)
    parts = {part for asked, _ in rounds for one in asked for part in one.defenses}
    found = {
        part: [(r.attack, r.defense, r.trial, r.training_steps, r.asr) for r in meter.records(part)]
        for part in parts
    }
    journal.__exit__()
    return found


RULES = Asked(defenses={1: "none", 2: "gaussian:0.1"})
LEARN = Asked(defenses={5002: "gaussian:0.1"}, learners=True)


def test_what_is_asked_of_a_model_is_one_task_and_finds_what_runs_apart_find(tmp_path):
    together = measure(tmp_path / "together", ([RULES, LEARN], None))
    assert calls == [4]
    calls.clear()
    apart = measure(tmp_path / "apart", ([RULES], None), ([LEARN], None))
    assert calls == [4, 4]
    assert together == apart
    assert all(rows for rows in together.values())
    assert {row[0] for row in together[2]} == {"llg"}
    assert {row[0] for row in together[5002]} == {"ilrg"}


def test_what_the_first_model_showed_is_not_measured_again(tmp_path):
    first = Asked(defenses={2: "gaussian:0.1"})
    found = measure(tmp_path / "a", ([first, LEARN], 1), ([RULES], None), ([LEARN], None))
    assert calls == [2, 4, 2]  # of the first model the others ask of `none` alone
    assert found == measure(tmp_path / "b", ([RULES, LEARN], None))
