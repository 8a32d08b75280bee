"""Options check themselves: types, ranges and lists, each refusal in one sentence."""

from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import TypeAdapter

from labelleak.errors import BadInput
from labelleak.records.options import Option, Options, declared, is_plainly


@dataclass(frozen=True, kw_only=True)
class Walk(Options):
    steps: Annotated[int, Option("How far.", min=2)] = 3
    sizes: Annotated[tuple[int, ...], Option("How large.", min=1)] = (1,)
    shape: Annotated[tuple[int, ...] | None, Option("Of one.", repeats=True)] = None
    rate: Annotated[float, Option("How fast.", above=0, below=1)] = 0.5
    way: Annotated[Literal["up", "down"] | None, Option("Where to.")] = None
    note: str = ""


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"steps": 1}, "`steps` 1: must be at least 2"),
        ({"steps": "many"}, "`steps` takes whole numbers, not 'many'"),
        ({"steps": 2.5}, "`steps` takes whole numbers, not 2.5"),
        ({"sizes": [4, 0]}, "`sizes` 0: must be at least 1"),
        ({"sizes": []}, "`sizes` is empty; name at least one"),
        ({"sizes": (4, 2, 4)}, "`sizes` lists 4 more than once"),
        ({"rate": 0}, "`rate` 0.0: must be above 0"),
        ({"rate": 1}, "`rate` 1.0: must be below 1"),
        ({"rate": float("nan")}, "`rate` nan: must be a finite number"),
        ({"steps": 10**400}, f"`steps` 1{'0' * 59}...: must be a finite number"),
        ({"rate": "fast"}, "`rate` takes numbers, not 'fast'"),
        ({"way": "left"}, "`way` 'left': should be 'up' or 'down'"),
        ({"note": 3}, "`note` 3: should be a valid string"),
        ({"way": "x\n" * 99}, "`way` 'x\\n"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(choices, sentence):
    with pytest.raises(BadInput) as caught:
        Walk(**choices)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_values_are_converted_and_then_fixed():
    walk = Walk(steps="4", sizes=[8, "2"], shape=(28, 28), rate=1e-9)
    assert walk == Walk(steps=4, sizes=(8, 2), shape=(28, 28), rate=1e-9)
    assert hash(walk) == hash(Walk(**vars(walk)))
    assert Walk(sizes=5).sizes == (5,)
    with pytest.raises(FrozenInstanceError):
        walk.steps = 5
    with pytest.raises(BadInput, match="`steps` 0"):
        replace(walk, steps=0)


def test_fields_are_declared_in_order_with_their_options():
    names = [(name, option and option.help) for name, _, option in declared(Walk)]
    assert names[0] == ("steps", "How far.")
    assert names[-1] == ("note", None)


KINDS = [
    int, float, str, bool, Path, int | None, str | float, Path | None, Literal["up"], list[int],
    tuple[int, ...], tuple[str, ...] | None, tuple[int, int], tuple[int | None, ...],
    tuple[tuple[int, ...], ...], list[int | str] | None, list[Literal["up"]], dict[str, float],
    dict[Literal["up"], int], dict[str, list[int]],
]  # fmt: skip
GIVEN = [
    0, 1.0, True, "up", "", "é", "\udcff", None, Path("a"), Path("\udcff"), (), (1,), (1, 2, 3),
    ("a", "b"), (1, None), (True,), ((1, 2), ()), [1], float("inf"),
    ["up"], ["a", 1], [True], [], {}, {"up": 1}, {"up": 1.0}, {"a": [1]}, {"é": 1.0}, {1: 1},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_as_it_is_is_what_pydantic_would_give_back(kind):
    taken = [value for value in GIVEN if is_plainly(kind, value)]
    for value in taken:
        found = TypeAdapter(kind).validate_python(value)
        assert (found, type(found)) == (value, type(value))
    plain = {int: 0, float: 1.0, str: "up", bool: True, Path: Path("a"), tuple[int, ...]: (1,)}
    assert kind not in plain or plain[kind] in taken
