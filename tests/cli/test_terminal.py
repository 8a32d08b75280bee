"""What commands share at the terminal leaves the process as it was."""

import gc
from types import SimpleNamespace

import pytest

from labelleak.cli import terminal
from labelleak.cli.terminal import last_act, progress_bar, settled, uncollected


def test_the_collector_rests_and_goes_on_again_even_after_an_error():
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="x"), uncollected():
        raise ValueError("x")
    assert gc.isenabled()


def test_a_collector_that_rests_already_stays_at_rest():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: found.now)
    return found


def test_without_a_terminal_plain_lines_say_now_and_then_what_is_done_and_left(capsys, clock):
    with progress_bar("searching", "measurements") as bar:
        bar(10, 100)  # ten are of an earlier run
        for done in range(11, 51):
            clock.now += 10
            bar(done, 100)
        bar.tell("fitting")
        clock.now += 30
        bar(50, 100)
        bar.tell("")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "searching: 13/100 measurements, 14 minutes left"  # 30 s for three
    assert len(said) == 15  # every 30 of 430 seconds, and the end
    assert said[-2].startswith("fitting: 50/100 measurements, ")
    assert said[-1] == "searching: 50/100 measurements"


def test_what_is_quick_or_refused_prints_at_most_where_it_ended(capsys, clock):
    with progress_bar("auditing", "cells") as bar:
        bar(0, 2)
        bar(2, 2)
    assert capsys.readouterr().err == "auditing: 2/2 cells\n"
    with pytest.raises(ValueError, match="refused"), progress_bar("auditing", "cells"):
        raise ValueError("refused")
    assert capsys.readouterr().err == ""


def test_nothing_done_yet_promises_no_time(capsys, clock):
    with progress_bar("auditing", "cells") as bar:
        bar(0, 2)
        clock.now += 60
        bar(0, 3)
    assert capsys.readouterr().err.splitlines()[0] == "auditing: 0/3 cells"


def test_the_collector_rests_to_the_end_of_a_last_act_and_works_for_whoever_goes_on():
    with last_act():
        with uncollected(last=False):
            assert not gc.isenabled()
        assert gc.isenabled(), "much comes after it"
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the process ends with it, so nothing is looked through"
    assert gc.isenabled()
    gc.unfreeze()
    with uncollected():
        pass
    assert gc.isenabled(), "only the last act leaves it off"
    with pytest.raises(ValueError, match="x"), last_act():
        raise ValueError("x")
    assert gc.isenabled()
    gc.unfreeze()


def test_what_is_loaded_is_passed_over_by_the_collector_until_a_command_ends():
    with settled():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_what_a_program_has_frozen_before_a_command_stays_so():
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with settled(), settled():
            pass
        assert gc.get_freeze_count() > before - 100  # what was given back since is gone
    finally:
        gc.unfreeze()
