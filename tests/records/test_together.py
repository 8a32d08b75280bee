"""Lines that are read together give the records that they give one by one, and no others."""

import json
import random

import pytest

from labelleak.errors import BadInput
from labelleak.records.record import Record, read_records
from labelleak.records.repeating import read_repeating
from labelleak.records.together import read_columns
from report.samples import make_records

LINES = [record.to_json() for record in make_records()][:12]
NAMES = [name for name in json.loads(LINES[0]) if name in Record.__dataclass_fields__]


def ends(number):
    """Return what a trial has of its own at the end of its line."""
    return {"presence_accuracy": number / 64, "exact": number % 2 == 0, "flag_figures": {"a": [1]}}


# Trials of two cells, as audits write them: all of a line but its rates and its end is repeated.
REPEATED = [
    json.dumps({**json.loads(line), "trial": number, "head": "h,[{", **ends(number)})
    for number, line in enumerate([*LINES[:1] * 9, *LINES[-1:] * 9])
]
# What a hostile or broken line may hold under any key.
VALUES = [
    *("null", "true", "1", "1.0", "-1", "1e999", "NaN", "-Infinity", '"x"', '"\\ud800"', '""'),
    *(
        "9" * 41,
        "9007199254740993",
        "-9007199254740993",
        "1e101",
        "[]",
        "{}",
        '["x"]',
        "[1]",
        "[[1e999]]",
        '{"a": 1}',
    ),
    *('"a\\"b"', "[" * 40 + "]" * 40, '{"a": 1, "a": 2}', json.dumps("y" * 5000), "0.5", "[[]]"),
    *('"D\\u00e1n"', '"\\u0022"', "-0", "01", "1.", '"tab\tinside"', json.dumps("y" * 70000)),
]


def one_by_one(lines):
    try:
        return [Record.from_json(line) for line in lines]
    except BadInput:
        return None


def together(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    try:
        return read_records(path)
    except BadInput:
        return None


def changed(rng, good):
    """Return lines with one value exchanged, one key said twice, or one line broken."""
    lines, place = list(good), rng.randrange(len(good))
    row = json.loads(lines[place])
    key = rng.choice([*row, "round", "client", "expected_asr", "policy", "new"])
    value = rng.choice(VALUES)
    way = rng.randrange(3)
    if way == 0:
        row.pop(key, None)
        lines[place] = f"{json.dumps(row)[:-1]}, {json.dumps(key)}: {value}}}"
    elif way == 1:
        lines[place] = f"{lines[place][:-1]}, {json.dumps(key)}: {value}}}"
    else:
        cut = rng.randrange(len(lines[place]))
        lines[place] = lines[place][:cut] + rng.choice('{}[],:"x0') + lines[place][cut + 1 :]
    return lines


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


# What opens before a cut and closes after it, so that halves look whole though the line is not.
OPENED = '"seed": 0, "x": {"a": 1'
TWISTED = [
    ('"seed": 0', OPENED, '"asr": ', '"b": 1}, "asr": '),
    ('"trial": ', '"x": {"trial": ', '"asr": ', '"a": 1}, "asr": '),
    ('"asr": ', '"y": {"asr": 1, "seed": 1}, "asr": ', "", ""),
    ('"asr": ', '"y": [{"asr": ', '"flags": ', '"z": 1}], "flags": '),
    ('"flags": ', '"y": {"flags": ', '"presence_accuracy": ', '"z": 1}, "presence_accuracy": '),
    (
        '"flags": ',
        '"y": {"a": 1, "flags": ',
        '"presence_accuracy": ',
        '"presence_accuracy": 1}, "b": ',
    ),
    ('"presence_accuracy": ', '"asr": 0.5, "presence_accuracy": ', "", ""),
    ('"presence_accuracy": ', '"head": "h", "presence_accuracy": ', "", ""),
    ('"presence_accuracy": ', '"y": {"presence_accuracy": 1}, "presence_accuracy": ', "", ""),
    ('"head": "h', '"head": "h, "seed": 1, "asr": ', "", ""),
    ('{"schema": 1, ', '{"schema": 1, "trial": 1, ', "", ""),
    ('{"schema": 1, ', '[{"schema": 1, ', "}\n", "}]\n"),
    ('"seed": 0, ', "", '"exact": ', '"seed": 0, "exact": '),
]


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
