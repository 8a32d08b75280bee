"""Tables in Markdown: every row has as many cells as the head, whatever stands in them."""

from hypothesis import given
from hypothesis import strategies as st

from labelleak.records.intervals import Interval
from labelleak.report.markdown import group, span, table

CELLS = st.text(alphabet="ab |:-", min_size=1, max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=4))
def test_a_bar_in_a_cell_ends_no_cell(rows):
    text = table(["first|one", "second"], rows, title="t")
    title, blank, *lines = text.splitlines()
    assert (title, blank) == ("**t**", "")
    assert len(lines) == len(rows) + 2
    for line in lines:
        assert line.replace("\\|", "").count("|") == 3


def test_what_is_escaped_stays_as_it_is_and_bold_titles_too():
    text = table(["a"], [["x\\|y"]], title="**bold** (plain)")
    assert text == "**bold** (plain)\n\n| a |\n|---|\n| x\\|y |"


def test_intervals_have_their_digits_and_groups_their_order():
    assert span(Interval(0.1234, -0.5, 1.0), 3) == "0.123 (-0.500 to 1.000)"
    assert group("banana", str) == {"b": ["b"], "a": ["a"] * 3, "n": ["n"] * 2}
