"""Frames find once what is asked of all records, and say what one by one would say."""

import numpy as np

from labelleak.records.cells import tabulate
from labelleak.records.frame import RecordFrame, block_of, name_titles
from labelleak.records.rounds import federated, is_federated
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


def test_values_stand_in_the_order_of_the_records_whatever_keys_they_have():
    extras = [{"a": 1, "b": "x"}, {}, {"b": "y", "a": None}, {"a": 1, "b": "x"}]
    rows = [make_record(trial=number, extra=extra) for number, extra in enumerate(extras)]
    frame = RecordFrame(rows)
    for name in ("a", "b", "c"):
        assert frame.values(name) == [row.extra.get(name) for row in rows]
    assert frame.values("trial") == [0, 1, 2, 3]
    assert RecordFrame([]).values("trial") == []


def test_distinct_values_are_told_apart_by_type_and_come_once():
    rows = [make_record(extra={"a": value}) for value in (1, True, 1, "1", None, 1.0)]
    assert [(type(v), v) for v in RecordFrame(rows).distinct("a")] == [
        *((int, 1), (bool, True), (str, "1"), (float, 1.0)),
    ]
    lists = [make_record(extra={"a": value}) for value in ([1], [1])]
    assert RecordFrame(lists).distinct("a") == [[1], [1]], "a list cannot be hashed"


def test_combinations_are_counted():
    rows = [make_record(seed=seed, initialisation=i) for seed in (0, 1) for i in (0, 1, 1)]
    assert RecordFrame(rows).count("seed", "initialisation") == 4
    assert RecordFrame(rows).count("seed") == 2


def test_the_last_title_counts_and_names_what_was_chosen():
    assert name_titles(["a", "a", "b"], [None, None, "c"], ["one", "two", "three"]) == {
        "a": "two",
        "c": "three",
    }
    assert name_titles(["a"], [None], [None]) == {}


def test_a_frame_tells_the_records_of_rounds_from_others_as_a_list_does():
    told = [{}, {"round": 0}, {"round": 3}, {"round": True}, {"round": "1"}, {"round": None}]
    rows = [make_record(trial=n, extra=extra) for n, extra in enumerate(told)]
    for some in (rows, rows[:1], rows[3:], []):
        wanted = [row for row in some if is_federated(row)]
        assert federated(RecordFrame(some)) == federated(iter(some)) == wanted


def test_distinct_values_of_one_type_are_those_of_many():
    rows = [make_record(extra={"one": v, "two": v}) for v in (0.0, 2.5, -0.0, 2.5)]
    rows.append(make_record(extra={"two": 2}))
    assert RecordFrame(rows).distinct("one") == [0.0, 2.5]
    assert [(type(v), v) for v in RecordFrame(rows).distinct("two")] == [
        (float, 0.0),
        (float, 2.5),
        (int, 2),
    ]


def test_what_all_records_hold_alike_stands_beside_what_varies():
    more = {"init": "uniform", "partition": ["iid"]}
    rows = [make_record(extra={**more, "users": value}) for value in (1, 2, True, 2)]
    numbers, places = RecordFrame(rows).conditions
    assert numbers == [0, 1, 2, 1]
    assert [(init, extra) for _, init, extra in places] == [
        ("uniform", (("users", said),)) for said in ("1", "2", "True")
    ]
    numbers, places = RecordFrame(rows[:1] * 3).conditions
    assert numbers == [0, 0, 0]
    assert [(init, extra) for _, init, extra in places] == [("uniform", ())]
    assert RecordFrame([]).conditions == ([], [])
