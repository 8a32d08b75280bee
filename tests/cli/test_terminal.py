"""What commands share at the terminal leaves the process as it was."""

import gc

import pytest

from labelleak.cli.terminal import uncollected


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
