"""Many rows at once are written as `json` writes each by itself."""

import json
import random

import numpy as np
import pytest

from labelleak.records.lines import to_json_lines

VALUES = [
    0, 1, True, False, None, 1.0, -0.0, 0.1, 1e-12, 1e300, 2**70, "", "a", 'é "\n\\', "\u2028",
    (), ("x",), [1, 2.5], {"a": {"b": [None]}}, np.float64(0.25),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_lines_are_those_of_json_whatever_rows_share(seed):
    drawn = random.Random(seed)
    keys = ["trial", "ключ", 'a "b"', *"cdefgh"]
    rows = []
    for _ in range(60):
        few = drawn.sample(keys, drawn.randint(0, len(keys)))
        rows.append({**(rows[-1] if rows and drawn.random() < 0.5 else {})})
        rows[-1].update((key, drawn.choice(VALUES)) for key in few)
    assert to_json_lines(rows) == [json.dumps(row) for row in rows]


def test_values_that_are_equal_but_not_the_same_keep_their_own_text():
    rows = [{"a": 1}, {"a": True}, {"a": 1.0}, {"a": 0.0}, {"a": -0.0}]
    assert to_json_lines(rows) == [json.dumps(row) for row in rows]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")], np.float64("nan")])
def test_numbers_that_json_cannot_say_are_refused_among_many(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json_lines([{"a": 1.0}, {"a": value}])


def test_keys_that_are_no_text_are_named_as_json_names_them():
    rows = [{1: 0.5, "a": 1}, {True: 0.5, "a": 1}, {None: 0.5}, {}, {"a": 1}]
    assert to_json_lines(rows) == [json.dumps(row) for row in rows]
    with pytest.raises(TypeError, match="keys must be"):
        to_json_lines([{(1, 2): 0}])
