"""The benchmark's ratios are of the same work, and its page says what was measured."""

import sys

import numpy as np
import pytest
import torch

from labelleak.attacks.catalogue import RULES
from labelleak.core.counts import extract_counts
from labelleak.core.head_sums import row_sums_of
from labelleak.studies import measuring
from labelleak.studies.many_updates import battery_works
from labelleak.studies.measuring import peak_of
from labelleak.studies.speed import (
    Cost,
    chunked_sum,
    growth,
    measure_costs,
    one_by_one,
    write_costs,
)


@pytest.fixture(scope="module")
def costs():
    return list(measure_costs((10, 20), (4, 8), (1, 3), (16, 8), (3, 12)))


def test_what_is_compared_gives_the_same():
    rng = np.random.default_rng(1)
    row_sums = rng.normal(size=12)
    assert (one_by_one(row_sums, -0.1, 30) == extract_counts(row_sums, -0.1, 0.0, 30)).all()
    weight = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert np.allclose(chunked_sum(weight), row_sums_of(weight), atol=1e-5)


def test_clients_in_one_call_are_answered_as_in_a_call_for_each():
    together, each, times = battery_works(30, 8, 16)
    assert times == 1.5
    found = {answer.attack: answer.estimate.counts for answer in together()}
    assert set(found) == {*RULES}
    alone = each()
    assert len(alone) == 20
    for place, answers in enumerate(alone):
        for one in answers:
            if one.attack != "random":
                assert (one.estimate.counts == found[one.attack][place]).all()


def test_every_group_is_measured(costs):
    assert [one.group for one in costs].count("rows") == 4
    assert {one.group for one in costs} == {
        *("rows", "labels", "trials", "clients", "file", "battery")
    }
    assert all(one.seconds > 0 and one.beside > 0 for one in costs)


def test_the_page_holds_every_ratio_and_the_picture(costs, tmp_path):
    page = write_costs(costs, tmp_path / "docs").read_text()
    assert all(one.what in page for one in costs)
    words = " ".join(page.split())
    assert f"LLG as K to the {growth(costs, 'rows')}" in words
    assert f"LLG+ with a model as K to the {growth(costs, 'battery')}" in words
    assert all(len(line) <= 100 or line.startswith("|") for line in page.split("\n"))
    assert (tmp_path / "docs" / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_sums_over_rows_are_aimed_at_where_rows_are_many(costs):
    assert not any(one.aim for one in costs if one.group == "rows")
    times = [Cost("rows", "", n, "", s, 1.0) for n, s in ((10, 7.0), (1_000, 1.0), (10_000, 10.0))]
    assert growth(times, "rows") == 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak")
def test_the_peak_of_a_work_is_its_own():
    # A machine short of memory may take pages back from this process in between.
    large = max(peak_of(lambda: np.ones(2**23)) for _ in range(3))
    small = min(peak_of(lambda: np.ones(2**10)) for _ in range(3))
    assert 2**25 < large < 2**27
    assert small < 2**23


def test_where_nobody_tells_the_peak_the_work_is_done_and_nothing_said(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "_OWN", tmp_path / "none")
    done = []
    assert peak_of(lambda: done.append(1)) is None
    assert done == [1]
    assert Cost("rows", "LLG", 10, "a sum", 1.0, 1.0).memory == ""
    assert "24 MiB" in str(Cost("rows", "LLG", 10, "a sum", 1.0, 1.0, peak=24 * 2**20))


def test_a_ratio_above_its_aim_is_a_miss():
    fine, slow = (Cost("rows", "LLG", 10, "a sum", s, 1e-3, 2.0) for s in (1e-3, 5e-3))
    assert str(fine) == "ok   LLG: 1 x a sum, 1 ms / 1 ms (aim <= 2 x)"
    assert str(slow).startswith("MISS LLG: 5 x")
    assert not slow.met
