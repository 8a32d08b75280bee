"""Frames find once what is asked of all records, and say what one by one would say."""

import numpy as np

from labelleak.records.cells import tabulate
from labelleak.records.frame import RecordFrame, block_of
from labelleak.records.strongest import strongest_records
from report.samples import make_record


def test_values_of_other_types_are_other_conditions():
    rows = [make_record(extra={"users": value}) for value in (1, True, 1.0, "1", [1])]
    frame = RecordFrame(rows)
    assert frame.varying == ["users"]
    numbers, places = frame.conditions
    said = [dict(places[number][2])["users"] for number in numbers]
    assert said == ["1", "True", "1.0", "1", "[1]"]
    assert numbers[0] == numbers[3], "what is written alike is one condition"


def test_numbers_are_nan_where_a_record_has_none():
    rows = [make_record(extra={"expected_asr": 0.5}), make_record(extra={"expected_asr": "x"})]
    found = RecordFrame(rows).numbers("expected_asr")
    assert found[0] == 0.5
    assert np.isnan(found[1])


def test_blocks_do_not_depend_on_the_order_of_the_records():
    rows = [make_record(initialisation=i, extra={"client": c}) for i in (10, 2) for c in ("b", "a")]
    names = [block_of(row) for row in rows]
    found = dict(zip(names, RecordFrame(rows).blocks.tolist(), strict=True))
    assert [name for name, _ in sorted(found.items(), key=lambda pair: pair[1])] == sorted(names)


def test_a_frame_gives_the_tables_of_its_records(grid):
    frame = RecordFrame(grid)
    assert tabulate(frame) == tabulate(grid) == tabulate(reversed(grid))
    assert strongest_records(frame) == strongest_records(grid)
    assert RecordFrame.of(frame) is frame
