"""Families of defenses: every rung is a defense, none is off, and grids cover the ladders."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.tune.ladders import (
    LADDERS,
    list_families,
    make_families,
    make_family,
    spread,
)
from labelleak.tune.options import STANDARD_FAMILIES


@pytest.mark.parametrize("name", LADDERS)
def test_every_rung_is_a_defense_of_its_own_and_is_on(name):
    labels = LADDERS[name]
    assert len(set(labels)) == len(labels)
    for label in labels:
        chain = parse_defense(label)
        assert chain.label == label
        assert not chain.is_off


def test_strength_rises_along_a_ladder():
    sigmas = [float(label.split(":")[1]) for label in LADDERS["gaussian"]]
    kept = [float(label.split(":")[1]) for label in LADDERS["topk"]]
    pruned = [float(label.split(":")[1]) for label in LADDERS["prune"]]
    assert sigmas == sorted(sigmas)
    assert kept == sorted(kept, reverse=True)
    assert pruned == sorted(pruned)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["gausian"], "did you mean 'gaussian'"),
        (["gaussian:0"], "is off"),
        (["clip:-1"], "above 0"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(texts, said):
    with pytest.raises(BadInput, match=said) as refused:
        make_families(texts)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("points", [1, 8, 30, 1000])
def test_a_grid_lies_over_all_families_and_keeps_its_size(points):
    families = [make_family(name) for name in STANDARD_FAMILIES]
    laid = spread(families, points)
    assert len(laid) == len({(f.name, r) for f, r in laid})
    assert len(laid) == min(points, sum(len(f.labels) for f in families))
    assert all(0 <= rung < len(family.labels) for family, rung in laid)


def test_a_grid_of_one_rung_each_takes_the_middle_of_every_ladder():
    families = [make_family(name) for name in ("gaussian", "topk", "sign")]
    laid = spread(families, 3)
    assert [(family.name, rung) for family, rung in laid] == [
        (family.name, (len(family.labels) - 1) // 2)
        for family in sorted(families, key=lambda family: len(family.labels))
    ]
    assert all(0 < rung < len(family.labels) - 1 for family, rung in laid if family.name != "sign")


def test_page_and_help_name_every_family_that_is_searched_by_default():
    page = (Path(__file__).parents[2] / "docs" / "tune.md").read_text()
    assert list_families(STANDARD_FAMILIES) in page
    helped = CliRunner().invoke(app, ["tune", "--help"], env={"COLUMNS": "300"}).output
    assert ", ".join(STANDARD_FAMILIES) in " ".join(helped.split())
