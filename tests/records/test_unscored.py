"""Answers without a score are read, and told from records and from what is neither."""

import json

import pytest

from labelleak.errors import BadInput
from labelleak.records.follow import Follower
from labelleak.records.unscored import (
    Unscored,
    is_unscored,
    last_answers,
    read_unscored,
    say_client,
)

ROW = {
    "round": 1,
    "client": "7",
    "attack": "llg",
    "threat_model": "update",
    "counts": [0, 3, 1],
    "flags": ["momentum"],
    "head": "fc",
}


def line(**changes):
    return json.dumps(ROW | changes) + "\n"


def unscored_row(**changes):
    return Unscored.from_json(line(**changes))


def test_a_file_is_read_and_told_from_records(tmp_path, grid):
    path = tmp_path / "estimates.jsonl"
    path.write_text(line() + line(round=2))
    assert is_unscored(path)
    assert [row.round for row in read_unscored(path)] == [1, 2]
    assert read_unscored(path)[0].named == ((1, 3), (2, 1))
    path.write_text(grid[0].to_json() + "\n")
    assert not is_unscored(path)
    path.write_text("")
    assert not is_unscored(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"round": -1},
        {"round": True},
        {"client": 5},
        {"client": "x" * 501},
        {"counts": [1.5]},
        {"counts": [-1]},
        {"counts": 3},
        {"threat_model": ["update"]},
        {"flags": [1]},
        {"asr": 0.5},
    ],
)
def test_what_no_auditor_writes_is_refused_with_its_line(tmp_path, changes):
    path = tmp_path / "estimates.jsonl"
    path.write_text(line() + line(**changes))
    with pytest.raises(BadInput, match="line 2"):
        read_unscored(path)


def test_a_missing_key_is_named():
    row = {name: value for name, value in ROW.items() if name != "counts"}
    with pytest.raises(BadInput, match="lacks the key counts"):
        Unscored.from_json(json.dumps(row))


def test_the_latest_update_of_each_client_is_kept_without_baselines():
    rows = [
        Unscored.from_json(line(client=client, round=server_round, threat_model=held))
        for client, server_round, held in (
            ("b", 1, "update"),
            ("b", 2, "model"),
            ("b", 2, "update"),
            ("a", 1, "update"),
            ("a", 1, "none"),
        )
    ]
    kept = [(row.client, row.round, row.threat_model) for row in last_answers(rows)]
    assert kept == [("a", 1, "update"), ("b", 2, "update"), ("b", 2, "model")]


def test_a_clients_name_cannot_control_a_terminal():
    assert say_client(Unscored.from_json(line(client="\x1b[2J"))) == "'\\x1b[2J'"


def test_a_follower_keeps_both_kinds_apart(tmp_path, grid):
    path = tmp_path / "mixed.jsonl"
    path.write_text(line() + grid[0].to_json() + "\nnonsense\n")
    follower = Follower(path)
    assert follower.read_new()
    found = (len(follower.records), len(follower.unscored), follower.unreadable)
    assert found == (1, 1, 1)
    with path.open("a") as file:
        file.write(line(round=2))
    assert follower.read_new()
    assert [row.round for row in follower.unscored] == [1, 2]
    path.unlink()
    assert follower.read_new()
    assert follower.unscored == []
