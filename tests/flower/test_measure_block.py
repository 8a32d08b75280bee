"""Nothing above the limit leaves a client that blocks: the short form of `make block`."""

import pytest

pytest.importorskip("flwr")
from flower import measure_block


def test_nothing_above_the_limit_leaves_and_what_is_below_it_does():
    found = measure_block.run(range(24))
    assert measure_block.leaked(found) == []
    above = [one for one in found if one.advantage > measure_block.LIMIT]
    below = [one for one in found if one.advantage <= measure_block.LIMIT]
    assert len(above) > 5
    assert len(below) > 5
    assert sum(one.left for one in below) >= 0.95 * len(below)
