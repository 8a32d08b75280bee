"""A few kills of a run and of a server; `make kills` kills every command, 30 times in all."""

import random
from importlib.util import find_spec

import pytest

from hostile import kills


@pytest.mark.parametrize("kind", ["run", "server"])
def test_a_killed_command_goes_on_to_the_same_records(tmp_path, kind, monkeypatch):
    if kind == "server" and find_spec("flwr") is None:
        pytest.skip("needs labelleak[flower]")
    monkeypatch.setattr(kills, "GRID", kills.GRID.replace("40", "10").replace("20", "5"))
    found = kills.measure(kind, 1, tmp_path, random.Random(1))
    assert not found.faults
    assert found.kills.total() == found.began_again == 1
    assert found.records >= 60


def test_what_is_lost_or_altered_is_seen(tmp_path):
    row = {"round": 1, "client": "1", "attack": "llg", "asr": 0.5}
    other = {**row, "client": "2"}
    assert not list(kills._lost([row, row, other], [row, other], ""))
    assert list(kills._lost([row], [row, other], "s")) == ["s: 1 records are missing"]
    assert "other records" in next(kills._lost([{**row, "asr": 1.0}], [row], ""))
