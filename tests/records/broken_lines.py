"""Lines of records that repeat each other or do not, and ways to break them."""

import json

from labelleak.errors import BadInput
from labelleak.records.record import Record
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
