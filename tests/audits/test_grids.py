"""Grids: every list multiplies, and what is wrong in a file is named with what was meant."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from labelleak.audits.grids import make_grid, read_grid
from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.records.record import read_records

EXAMPLE = Path(__file__).parents[2] / "examples" / "grid.toml"


def test_every_list_multiplies():
    grid = make_grid(
        "g",
        {"model": ["cnn", "mlp"], "momentum": [0.0, 0.9], "local_steps": [1, 2], "lr": 0.1},
        override={},
    )
    assert [(a.model, a.momentum) for a in grid.audits] == [
        ("cnn", 0.0),
        ("cnn", 0.9),
        ("mlp", 0.0),
        ("mlp", 0.9),
    ]
    assert {a.local_steps for a in grid.audits} == {(1, 2)}
    assert {a.lr for a in grid.audits} == {(0.1,)}


def test_parts_replace_common_options_quick_replaces_both_and_the_caller_all():
    tree = {
        "trials": 50,
        "batch_sizes": [8],
        "part": [{"model": "cnn"}, {"model": "mlp", "trials": 30}],
        "quick": {"trials": 4},
    }
    full = make_grid("g", tree, override={"seed": 3})
    assert [(a.model, a.trials, a.seed) for a in full.audits] == [("cnn", 50, 3), ("mlp", 30, 3)]
    coarse = make_grid("g", tree, quick=True, override={})
    assert [(a.model, a.trials) for a in coarse.audits] == [("cnn", 4), ("mlp", 4)]


def test_a_part_that_comes_twice_is_run_once():
    grid = make_grid("g", {"part": [{"model": "mlp"}, {"model": "mlp"}]}, override={})
    assert len(grid.audits) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("batch_size = [1]", "did you mean 'batch_sizes'"),
        ("[[part]]\nschems = 'iid'", r"under \[\[part\]\] 'schems'; did you mean 'schemes'"),
        ("[quick]\ntrails = 3", "did you mean 'trials'"),
        ("[figure]\nlog = 3", r"\[figure\] `log` 3: should be"),
        ("[figure]\npanel = ['scheme']", "did you mean 'panels'"),
        ("[part]\nmodel = 'cnn'", "part must be tables"),
        ("quick = 3", r"write \[quick\] above it"),
        ("title = 3", "text in quotes"),
        ("model = []", "empty list"),
        ("batch_sizes = []", "empty list"),
        ("batch_sizes = [0]", "`batch_sizes` 0"),
        ("momentum = 1.0", "`momentum` 1.0: must be below 1"),
        ("batch_sizes = [1", "is not TOML"),
        ("per_round = 3", "add `users`"),
        ("users = 3\nper_round = 4", "4 of 3 users"),
    ],
)
def test_what_a_grid_cannot_hold_is_named_in_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=sentence) as caught:
        read_grid(path)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grid_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read the grid .*none.toml"):
        read_grid(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_grid(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    "tree",
    [
        {"lr": [0.1] * 5000},
        {"model": ["cnn"] * 3000},
        {"model": ["cnn"] * 100, "trials": [1] * 100, "seed": [0] * 100},
    ],
)
def test_lists_that_multiply_without_end_are_refused(tree):
    with pytest.raises(BadInput, match="more than 2000"):
        make_grid("g", tree, override={})


def test_the_example_runs_and_shows_every_kind_of_table(tmp_path):
    audits = read_grid(EXAMPLE).audits
    assert {(audit.activation, audit.local_steps) for audit in audits} == {
        ("relu", (1,)),
        ("sigmoid", (1,)),
        ("relu", (1, 5)),
    }
    done = CliRunner().invoke(app, ["run", str(EXAMPLE), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    # Of each part: 2 batch sizes, 2 defenses, 8 trials, 3 attacks, times 2 that its own list holds.
    assert len(read_records(tmp_path / "records.jsonl")) == 2 * (2 * 2 * 8 * 3 * 2)
    assert (tmp_path / "curves.md").read_text().startswith("# Does noise help?")
    assert "sigmoid" in (tmp_path / "report.html").read_text()
