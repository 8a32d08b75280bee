"""The estimate of a run's time: what it counts, and that it is of the right size."""

import time
from dataclasses import replace

import pytest

from labelleak.audits import estimates
from labelleak.audits.estimates import Pace, estimate_seconds, measure_pace
from labelleak.audits.options import check_options
from labelleak.audits.run import Part, run_parts
from labelleak.studies.registry import STUDIES, load_study
from labelleak.studies.study import Asked

PACE = Pace(step=0.001, sample=0.0001, passed=0.00001, rows=1000)
PLAIN = check_options(
    model="mlp",
    batch_sizes=(8,),
    schemes=("iid",),
    attacks=("free", "llg"),
    trials=10,
    initialisations=2,
    training_steps=(0,),
)


@pytest.fixture
def steady(monkeypatch):
    monkeypatch.setattr(estimates, "measure_pace", lambda *asked: PACE)


def seconds(**more):
    return estimate_seconds([Part(options=replace(PLAIN, **more))])


def test_training_local_steps_and_dlg_are_counted(steady):
    plain = seconds()
    trained = seconds(training_steps=(0, 1000), train_batch_size=64)
    assert trained - 2 * plain == pytest.approx(2 * PACE.steps(1000, 64))
    several = seconds(local_steps=(100,))
    assert several - plain == pytest.approx(10 * PACE.steps(100, 8))
    optimised = seconds(attacks=("free", "dlg"))
    assert optimised - plain == pytest.approx(10 * PACE.steps(400, 8))
    rounds = seconds(training_steps=(5,), users=10, per_round=4, round_steps=3, train_batch_size=8)
    assert rounds - plain == pytest.approx(2 * PACE.steps(5 * 4 * 3, 8))
    assert seconds(trials=20) > plain
    assert seconds(batch_sizes=(8, 16)) > plain


def test_a_measure_of_its_own_says_its_steps(steady):
    part = Part(options=PLAIN, measure=lambda stage: iter(()), steps=500)
    assert estimate_seconds([part]) == pytest.approx(2 * PACE.steps(500, 8))


def test_the_estimate_is_of_the_right_size():
    part = Part(options=replace(PLAIN, training_steps=(0, 100)))
    pace = measure_pace("digits", "mlp", None, None, None)  # loads what the first step loads
    begin = time.process_time()
    run_parts([part], None)
    taken = time.process_time() - begin
    assert pace.step + pace.sample > 0
    # Machines differ and so do their moments; an error of scale is what this would find.
    assert taken / 30 < estimate_seconds([part]) < 30 * taken


def test_the_papers_sizes_take_longer_than_their_quick_forms(steady):
    for name in STUDIES:
        study = load_study(name)
        if study.claim and (full := study.parts(Asked())):
            assert estimate_seconds(study.parts(Asked(quick=True))) < estimate_seconds(full)
