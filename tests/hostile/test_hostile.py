"""A part of the hostile corpus, and of the good files; `make hostile` runs all of it."""

import warnings
from collections import Counter

import pytest

from hostile.corpus import cases
from hostile.readers import judge
from hostile.run import read_good

PART = 83


def test_a_part_of_the_corpus_is_refused_in_one_line_or_read(tmp_path):
    corpus = cases()
    readers = Counter(case.reader for case in corpus)
    assert sum(readers.values()) >= 1500
    assert len(readers) == 13
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of figures, about letters that no font has
        tally = judge(corpus[7::PART], tmp_path)
    assert not tally.faults
    assert tally.refused.total() > tally.tried.total() / 3
    assert tally.slowest[0] < 10, tally.slowest


@pytest.mark.filterwarnings("ignore")
def test_good_files_are_read(tmp_path):
    assert read_good(150, tmp_path) == 0
