"""Bisection finds what asking every rung finds, with fewer questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelleak.tune.bisection import first_holding, last_holding


@given(st.integers(1, 40), st.integers(0, 41))
def test_bisection_finds_what_asking_all_finds(rungs, edge):
    first = next((r for r in range(rungs) if r >= edge), None)
    assert first_holding([rungs], lambda asked: [r >= edge for _, r in asked]) == [first]
    last = next((r for r in reversed(range(rungs)) if r < edge), None)
    assert last_holding([rungs], lambda asked: [r < edge for _, r in asked]) == [last]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
@pytest.mark.parametrize("find", [first_holding, last_holding])
def test_what_is_found_holds_even_where_answers_do_not_rise(find, answers):
    asked = []

    def hold(questions):
        asked.extend(rung for _, rung in questions)
        return [answers[rung] for _, rung in questions]

    (found,) = find([len(answers)], hold)
    assert found is None or answers[found]
    assert len(asked) == len(set(asked)) <= len(answers).bit_length() + 1
    if find is first_holding:
        assert (found is None) == (not answers[-1])
    else:
        assert 0 not in asked[:-1], "the weakest is asked last, where nothing above it holds"


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=6))
def test_ladders_asked_together_are_found_as_each_alone_in_no_more_rounds(ladders):
    lengths = [rungs for rungs, _ in ladders]
    rounds = []

    def hold(asked):
        rounds.append(len(asked))
        assert len({ladder for ladder, _ in asked}) == len(asked)
        return [rung >= ladders[ladder][1] for ladder, rung in asked]

    together = first_holding(lengths, hold)
    alone = [first_holding([n], lambda asked, e=e: [r >= e for _, r in asked]) for n, e in ladders]
    assert together == [one for (one,) in alone]
    assert len(rounds) <= max(lengths).bit_length() + 1
