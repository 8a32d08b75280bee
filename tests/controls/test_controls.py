"""Auditors are audited: leaky and safe updates are told apart, and a broken attack fails."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from labelleak.audits import controls
from labelleak.core.battery import Battery
from labelleak.core.interfaces import Estimate
from labelleak.core.knowledge import Knowledge
from labelleak.core.needs import Need
from labelleak.core.score import Truth
from labelleak.records.intervals import Interval


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_control_passes(seed):
    found = list(controls.run_controls(seed=seed))
    assert [str(c) for c in found if not c.passed] == []
    kinds = {(c.update, c.attack) for c in found}
    assert {("oracle", "llg"), ("zeros", "llg_plus"), ("noise", "llg_star")} <= kinds
    assert ("one sample", "llg_plus") in kinds


def test_noise_gains_no_attack_anything_and_one_sample_of_it_exactly_nothing():
    for control in controls.run_controls():
        if control.update == "noise":
            assert control.advantage.low <= 0
            assert (0 in control.advantage) == (control.num_samples == 1)


class Peeking:
    """A broken attack: it holds the truth."""

    name, needs, cite = "peeking", frozenset({Need.NUM_SAMPLES}), "none"

    def __init__(self, truth):
        self.truth = truth

    def prepare(self, known, num_classes, rng):
        return lambda seen: Estimate(self.truth.counts, self.truth.counts.astype(float))


class Constant(Peeking):
    """A broken attack: it answers the first class whatever it sees."""

    def prepare(self, known, num_classes, rng):
        one = np.eye(num_classes, dtype=np.int64)[np.zeros(len(self.truth.counts), dtype=int)]
        return lambda seen: Estimate(one * seen.num_samples, one.astype(float))


@pytest.mark.parametrize(
    ("attack", "update", "passes"),
    [(Peeking, "noise", False), (Peeking, "oracle", True), (Constant, "oracle", False)],
)
def test_a_broken_attack_is_found_out(attack, update, passes):
    rng = np.random.default_rng(0)
    truth = Truth.from_labels(rng.integers(10, size=(50, 8)), 10)
    seen = dict(controls._updates(truth, 8, rng))[update]
    battery = Battery.prepare([attack(truth)], Knowledge(), 10)
    (outcome,) = battery.run(seen, truth)
    assert controls._judge(update, 8, outcome).passed == passes


def test_the_command_fails_when_a_control_does(monkeypatch):
    from labelleak.cli.app import app

    good = controls.Control("zeros", "llg", 1, Interval(0.0, 0.0, 0.0), passed=True)
    monkeypatch.setattr(controls, "run_controls", lambda: iter([good, replace(good, passed=False)]))
    done = CliRunner().invoke(app, ["selftest"])
    assert done.exit_code == 1
    assert "selftest FAILED: 1 of 2 failed" in done.output
