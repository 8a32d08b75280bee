"""Packed records grow by members, survive a killed writer, and are followed and exported."""

import gzip
import io
import json
import logging
import zlib
from dataclasses import replace

import pytest

from labelleak.errors import BadInput
from labelleak.records.follow import Follower
from labelleak.records.journal import Journal, records_in, say_unfinished
from labelleak.records.packing import Unpacker, end_of_members, pack
from labelleak.records.record import read_records
from records.test_record import RECORD

UNITS = [(0, 0, 0), (0, 1, 0)]
ROWS = {
    unit: [replace(RECORD, initialisation=unit[1], trial=trial) for trial in range(3)]
    for unit in UNITS
}


def begin(folder, units=UNITS, **more):
    with Journal.open(folder, {"a": 1}, planned=2, packed=True, **more) as journal:
        for unit in units:
            journal.write(unit, ROWS[unit])
    return journal


def test_a_unit_is_a_member_and_the_counts_are_those_of_plain_lines(tmp_path):
    packed = begin(tmp_path / "packed")
    with Journal.open(tmp_path / "plain", {"a": 1}, planned=2) as plain:
        for unit in UNITS:
            plain.write(unit, ROWS[unit])
    assert packed.records.name == "records.jsonl.gz"
    assert gzip.decompress(packed.records.read_bytes()) == plain.records.read_bytes()
    marks = [(journal.folder / "run.json").read_text() for journal in (packed, plain)]
    assert marks[0] == marks[1]
    assert read_records(packed.records) == ROWS[UNITS[0]] + ROWS[UNITS[1]]
    assert say_unfinished(packed.records) == ""


def test_what_is_begun_packed_goes_on_packed_and_the_other_way_round(tmp_path):
    begin(tmp_path / "a", UNITS[:1])
    with Journal.open(tmp_path / "a", {"a": 1}) as journal:
        assert journal.packed
        assert journal.done == {UNITS[0]}
    with Journal.open(tmp_path / "b", {"a": 1}) as journal:
        journal.write(UNITS[0], ROWS[UNITS[0]])
    assert not begin(tmp_path / "b", UNITS[1:]).packed
    assert begin(tmp_path / "b", overwrite=True).packed
    assert records_in(tmp_path / "b").name == "records.jsonl.gz"


@pytest.mark.parametrize("left", [1, 2, 15, 60, "all"])
def test_what_a_killed_writer_left_of_a_member_is_cut_off_and_done_again(tmp_path, left, caplog):
    journal = begin(tmp_path, UNITS[:1])
    whole = journal.records.read_bytes()
    member = pack(b"".join(row.to_json().encode() + b"\n" for row in ROWS[UNITS[1]]))
    journal.records.write_bytes(whole + (member if left == "all" else member[:left]))
    # A reader sees whole lines only.
    assert read_records(journal.records)[:3] == ROWS[UNITS[0]]
    assert "not finished" in say_unfinished(journal.records)
    with caplog.at_level(logging.WARNING):
        journal = begin(tmp_path, UNITS[1:])
    assert read_records(journal.records) == ROWS[UNITS[0]] + ROWS[UNITS[1]]
    assert not caplog.records
    assert (
        end_of_members(io.BytesIO(journal.records.read_bytes())) == journal.records.stat().st_size
    )


def test_a_unit_whose_lines_were_altered_is_run_again(tmp_path, caplog):
    journal = begin(tmp_path)
    lines = gzip.decompress(journal.records.read_bytes()).splitlines(keepends=True)
    journal.records.write_bytes(pack(b"".join(lines[:-1])))
    with (
        caplog.at_level(logging.WARNING),
        Journal.open(tmp_path, {"a": 1}) as again,
    ):
        assert again.done == {UNITS[0]}
    assert "run again" in caplog.text
    assert read_records(journal.records) == ROWS[UNITS[0]]


def test_records_are_amended_in_their_own_form(tmp_path):
    begin(tmp_path)
    with Journal.open(tmp_path, {"a": 1}) as journal:
        journal.amend(lambda row: replace(row, seed=7))
    assert {row.seed for row in read_records(journal.records)} == {7}
    assert journal.records.read_bytes()[:2] == b"\x1f\x8b"
    with Journal.open(tmp_path, {"a": 1}) as again:
        assert again.done == set(UNITS)


def test_a_packed_file_is_followed_as_it_grows_member_by_member_and_within_one(tmp_path):
    path = tmp_path / "records.jsonl.gz"
    rows = [replace(RECORD, trial=trial, command=f"c{trial * 7919}") for trial in range(40)]
    whole = b"".join(pack(f"{row.to_json()}\n".encode()) for row in rows)
    follower, seen = Follower(path), []
    assert not follower.read_new()
    for end in range(1, len(whole) + 1, 97):
        path.write_bytes(whole[:end])
        follower.read_new()
        seen.append(len(follower.records))
    path.write_bytes(whole)
    follower.read_new()
    assert follower.records == rows
    assert follower.bytes_read == len(whole)
    assert seen == sorted(seen)
    assert 0 < seen[len(seen) // 2] < 40


def test_a_damaged_file_is_refused_by_a_follower_and_holds_no_members(tmp_path):
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(b"\x1f\x8b" + b"no gzip at all")
    with pytest.raises(BadInput, match="is no gzip file"):
        Follower(path).read_new()
    assert end_of_members(io.BytesIO(path.read_bytes())) == 0


def test_pieces_of_any_size_give_the_same_text():
    whole = pack(b"a" * 1000) + pack(json.dumps([1, 2]).encode())
    for size in (1, 7, 10**6):
        unpacker = Unpacker()
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert b"".join(map(unpacker.feed, pieces)) == b"a" * 1000 + b"[1, 2]"
        assert unpacker.whole == len(whole)
    with pytest.raises(zlib.error):
        Unpacker().feed(b"x" * 20)
