"""Lines that are read together give the records that they give one by one, and no others."""

import json
import random

import pytest

from labelleak.errors import BadInput
from labelleak.records.record import Record, read_records
from labelleak.records.together import read_columns
from report.samples import make_records

LINES = [record.to_json() for record in make_records()][:12]
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


def changed(rng):
    """Return lines with one value exchanged, one key said twice, or one line broken."""
    lines, place = list(LINES), rng.randrange(len(LINES))
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


def test_whatever_is_wrong_is_refused_as_one_by_one(tmp_path):
    rng = random.Random(0)
    refused = 0
    for _ in range(600):
        lines = changed(rng)
        expected = one_by_one(lines)
        assert together(tmp_path / "records.jsonl", lines) == expected, lines
        refused += expected is None
    assert 200 < refused < 560, "both kinds must come"


def test_good_lines_are_read_together(tmp_path):
    names = ("schema", "trial")
    assert read_columns(LINES, names) is not None
    assert together(tmp_path / "records.jsonl", LINES) == one_by_one(LINES)


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
