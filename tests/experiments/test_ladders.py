"""Bisection finds what asking every rung finds, with fewer questions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labelleak.experiments.ladders import first_holding, last_holding


@given(st.integers(1, 40), st.integers(0, 41))
def test_bisection_finds_what_asking_all_finds(rungs, edge):
    first = next((r for r in range(rungs) if r >= edge), None)
    assert first_holding(rungs, lambda r: r >= edge) == first
    last = next((r for r in reversed(range(rungs)) if r < edge), None)
    assert last_holding(rungs, lambda r: r < edge) == last


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_what_is_found_holds_even_where_answers_do_not_rise(answers):
    asked = []

    def holds(rung):
        asked.append(rung)
        return answers[rung]

    found = first_holding(len(answers), holds)
    assert (found is None) == (not answers[-1])
    assert found is None or answers[found]
    assert len(asked) == len(set(asked)) <= len(answers).bit_length() + 1
