"""Forty random training loops, none silently wrong; `make loops` runs five hundred."""

import warnings

import pytest

from loops.training_loops import draw_loop
from loops.verdicts import judge

LOOPS = range(10_000, 10_040)


@pytest.fixture(scope="module")
def verdicts():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own modules, about odd loops
        return {loop: judge(loop) for loop in map(draw_loop, LOOPS)}


def test_no_loop_is_silently_wrong(verdicts):
    assert not [(loop, why) for loop, (verdict, why) in verdicts.items() if verdict == "SILENT"]


def test_a_plain_loop_is_right_and_not_flagged(verdicts):
    plain = {"loss": "cross_entropy", "odd": "", "dtype": "float32", "optimiser": "sgd"}
    drawn = [
        loop
        for loop in verdicts
        if all(getattr(loop, name) == value for name, value in plain.items())
        and not (loop.weighted and loop.smoothing)
    ]
    assert len(drawn) > 5
    assert {verdicts[loop][0] for loop in drawn} == {"right"}
