"""Defenses as a user asks for them: notes on what surprises, one sentence on what cannot be."""

import pytest
from typer.testing import CliRunner

from labelleak.audits import grids
from labelleak.cli.app import app
from labelleak.errors import BadInput

AUDITED = ["audit", "--batch-sizes", "4", "--schemes", "iid", "--trials", "2", "--attacks", "llg"]
AUDITED += ["--initialisations", "1", "--training-steps", "0", "--defenses"]


@pytest.mark.parametrize(
    ("defense", "said"),
    [
        ("gaussian:0", "Note: gaussian:0 is off: at this strength it changes nothing."),
        ("gaussian:1|clip:1", "clip first if the noise is to be private."),
        ("clip:1", "it hides no label."),
    ],
)
def test_a_defense_that_does_not_do_what_it_seems_to_runs_with_a_note(tmp_path, defense, said):
    done = CliRunner().invoke(app, [*AUDITED, defense, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize("command", [
    [*AUDITED, "dpsgd:1", "--model", "resnet20"],
    [*AUDITED, "dpsgd:1", "--model", "resnet18", "--local-steps", "2"],
    ["tune", "--target-advantage", "0.2", "--model", "resnet20", "--families", "dpsgd"],
])  # fmt: skip
def test_dp_sgd_on_batch_norm_is_refused_before_the_folder_is_touched(tmp_path, command):
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, BadInput), done.output
    assert "replace it by group normalisation" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_the_compression_finding_takes_some_of_its_defenses(tmp_path, monkeypatch):
    whole = grids.read_grid

    def shorter(path, *, quick, override):
        few = {"attacks": ["free", "llg", "llg_plus"], "trials": 4, "initialisations": 2}
        return whole(path, quick=quick, override={**override, **few, "training_steps": [0]})

    monkeypatch.setattr(grids, "read_grid", shorter)
    words = ["paper", "compression_finding", "--quick", "--defenses", "none,prune:0.9"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    table = (tmp_path / "out" / "summary.md").read_text()
    assert "| prune:0.9 |" in table
    assert "historical" not in table


def test_rows_are_chosen_of_two_experiments_only(tmp_path):
    done = CliRunner().invoke(app, ["paper", "noise", "--defenses", "clip:1"])
    assert "takes no --defenses" in str(done.exception)
    done = CliRunner().invoke(app, ["paper", "defenses", "--defenses", "clip:1,clop:1"])
    assert "did you mean 'clip'" in str(done.exception)
    done = CliRunner().invoke(app, [*AUDITED, "", "--out", str(tmp_path / "out")])
    assert str(done.exception) == "--defenses is empty; name at least one"
