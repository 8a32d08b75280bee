"""Lines that are read together give the records that they give one by one, and no others."""

import json
import random

import pytest

from labelleak.errors import BadInput
from labelleak.records.record import Record, read_records
from labelleak.records.repeating import read_repeating
from labelleak.records.together import read_columns
from labelleak.records.whole import read_frame
from records.broken_lines import LINES, NAMES, REPEATED, TWISTED, changed, one_by_one


def together(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    try:
        return read_records(path)
    except BadInput:
        return None


def outcome(path):
    """Return the records of a file that is read by column, or None where it is refused."""
    try:
        return list(read_frame(path))
    except BadInput:
        return None


@pytest.mark.parametrize("good", [LINES, REPEATED])
def test_whatever_is_wrong_is_refused_as_one_by_one(tmp_path, good):
    rng = random.Random(0)
    refused = 0
    for _ in range(600):
        lines = changed(rng, good)
        expected = one_by_one(lines)
        assert together(tmp_path / "records.jsonl", lines) == expected, lines
        refused += expected is None
    assert 200 < refused < 560, "both kinds must come"


def test_good_lines_are_read_together(tmp_path):
    names = ("schema", "trial")
    assert read_columns(LINES, names) is not None
    assert together(tmp_path / "records.jsonl", LINES) == one_by_one(LINES)


def test_repeated_text_is_read_once(tmp_path):
    read = read_repeating(REPEATED, NAMES)
    assert read is not None
    assert read.place == [0] * 9 + [1] * 9
    found = together(tmp_path / "records.jsonl", REPEATED)
    assert found == one_by_one(REPEATED)
    assert [list(vars(row)) for row in found] == [list(vars(row)) for row in one_by_one(REPEATED)]
    assert [row.to_json() for row in found] == [
        Record.from_json(line).to_json() for line in REPEATED
    ]
    assert read_repeating(LINES, NAMES) is None


LISTS = {
    "as deep as may be": ("[" * 31 + "]" * 31, True),
    "deeper": ("[" * 32 + "]" * 32, False),
    "deeper, as objects": ('{"a": ' * 31 + "{}" + "}" * 31, False),
    "many": (f"[{', '.join(['[]'] * 20_000)}]", True),
    "too many": (f"[{', '.join(['[]'] * 140_000)}]", False),
    "too many in a text": (f'"{"[" * 140_000}"', False),
}


@pytest.mark.parametrize("what", LISTS)
@pytest.mark.parametrize("places", [[3], range(len(REPEATED))])
def test_lists_are_bounded_as_one_by_one(tmp_path, what, places):
    value, good = LISTS[what]
    for before in ('"seed": ', '"presence_accuracy": '):
        lines = list(REPEATED)
        for place in places:
            lines[place] = lines[place].replace(before, f'"odd": {value}, {before}', 1)
        assert (one_by_one(lines) is not None) == good
        path = tmp_path / "records.jsonl"
        assert together(path, lines) == one_by_one(lines)
        assert outcome(path) == one_by_one(lines)


@pytest.mark.parametrize("places", [[3], range(len(REPEATED))])
@pytest.mark.parametrize("seed", [2**63, -(2**64), 10**39, 10**40 - 1, 10**40, -(10**39), 10**44])
def test_whole_numbers_have_as_many_digits_as_one_by_one(tmp_path, seed, places):
    lines = list(REPEATED)
    for place in places:
        lines[place] = lines[place].replace('"seed": 0', f'"seed": {seed}', 1)
    path = tmp_path / "records.jsonl"
    assert together(path, lines) == one_by_one(lines)
    assert outcome(path) == one_by_one(lines)


@pytest.mark.parametrize("twist", TWISTED)
@pytest.mark.parametrize("places", [[3], range(len(REPEATED))])
def test_lines_that_are_whole_by_halves_only_are_not_read(tmp_path, twist, places):
    before, after, then, at_last = twist
    lines = list(REPEATED)
    for place in places:
        assert before in lines[place]
        lines[place] = lines[place].replace(before, after, 1)
        lines[place] = lines[place].replace(then, at_last, 1) if then else lines[place]
    assert together(tmp_path / "records.jsonl", lines) == one_by_one(lines)


@pytest.mark.parametrize("value", ['"\\u00e9"', "[1, 2]", '{"a": [1.5, "b"]}'])
def test_what_is_harmless_is_read_together_too(value):
    line = f'{{"a": {value}}}'
    read = read_columns([line], ["a"])
    assert read is not None
    assert read[0]["a"] == [json.loads(line)["a"]]


@pytest.mark.parametrize(
    "line",
    [
        *('{"a": 1, "a": 1}', '{"a": {"b": 1, "b": 2}}', '{"a": [1e999]}', '{"a": NaN}', "[1]"),
        *('{"b": 1}', '{"a": "x\\"y"}', '{"a": "\\uD800"}', '{"a": [' + "9" * 30 + "]}"),
        '{"a": ' + "[" * 40 + "]" * 40 + "}",
    ],
)
def test_what_may_be_refused_is_left_to_the_strict_reader(line):
    assert read_columns([line], ["a"]) is None
