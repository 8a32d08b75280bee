"""How commands end: one sentence for what is wrong, one JSON object, the verdict last."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperArgument

from labelleak.cli.app import main
from labelleak.cli.commands import load_all
from labelleak.cli.doctor import doctor
from labelleak.cli.terminal import interruptible
from labelleak.records.journal import Journal
from labelleak.records.record import append_records
from labelleak.report.remedies import group_reasons
from report.federated import federated_records
from report.samples import make_records

FEW = {"stages": (0,), "schemes": ("iid",), "batch_sizes": (8, 32), "trials": 8}


@pytest.fixture
def typed(monkeypatch, capsys):
    """Run the command line as typed; give its status, its output and its errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["labelleak", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "one" / "records.jsonl"
    path.parent.mkdir()
    append_records(path, make_records(**FEW))
    return path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["audti"], "unknown command 'audti'; did you mean 'audit'?"),
        (["list", "attakcs"], "unknown list 'attakcs'; did you mean 'attacks'?"),
        (["list"], "WHAT is missing; see `labelleak list --help`"),
        (["gate", "r.jsonl"], "--policy is missing; see `labelleak gate --help`"),
        (["audit", "--trails", "3"], "there is no option '--trails'; did you mean --trials?"),
        (["audit", "--trials", "x"], "invalid value for '--trials': 'x' is not a valid integer"),
        (["audit", "--attacks", "lgg"], "unknown attack 'lgg'; did you mean 'llg'?"),
        (["audit", "--attacks", "zgl"], "unknown attack 'zgl'; did you mean 'zlg'?"),
        (["audit", "--model", "mlp:tanh"], "the activation of mlp is chosen by --activation"),
        (["audit", "--attacks", "rulse"], "did you mean 'rules'? Known: standard, rules, random"),
        (["audit", "--model", "./own/net.py:build"], "not by a file: own.net:build"),
        (["list", "experiments"], "experiments are listed by `labelleak list paper`"),
        (["audit", "more"], "`labelleak audit` takes no 'more' by itself"),
        (["report", "a", "b", "c"], "a report is of one file of records or of two, not of 3"),
        (["watch", "r.jsonl", "--json"], "--json needs --once: what is followed has no end"),
    ],
)
def test_the_parser_refuses_in_one_sentence_that_names_the_nearest(typed, words, sentence):
    code, out, said = typed(*words)
    assert (code, out) == (2, "")
    assert said == f"Error: {said[7:].strip()}\n"
    assert sentence in said


@pytest.mark.parametrize("words", [["-h"], ["audit", "-h"], ["attack", "--help"], []])
def test_help_fits_eighty_columns(typed, words):
    code, out, _ = typed(*words)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert "labelleak" in out


def test_lists_fit_eighty_columns_and_are_json(typed):
    _, out, _ = typed("list", "attacks")
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads(typed("list", "attacks", "--json")[1])
    assert found["llg"].startswith("[update] Read labels off")


def test_every_command_takes_json():
    commands = load_all()
    for name, one in commands.items():
        assert "--json" in [flag for option in one.params for flag in option.opts], name


def test_help_says_what_each_argument_is(typed):
    for name, one in load_all().items():
        for argument in (found for found in one.params if isinstance(found, TyperArgument)):
            shown = " ".join(typed(name, "--help")[1].replace("│", " ").split())
            assert argument.help.split("`")[0].strip() in shown, (name, argument.name)
    shown = " ".join(typed("run", "--help")[1].replace("│", " ").split())
    assert "such as batch_sizes = [1, 8]. A list multiplies." in shown


@pytest.mark.parametrize(
    ("measured", "done", "said"),
    [
        (False, False, "Interrupted. Nothing was finished; run the same command again"),
        (True, False, "Interrupted. What was measured is kept in {}/run.json; run the same"),
        (True, True, "Interrupted. What was finished is kept in {}/records.jsonl; run the same"),
    ],
)
def test_an_interrupt_names_only_what_is_there(tmp_path, capsys, measured, done, said):
    with Journal.open(tmp_path, {"asked": 1}) as journal:
        if measured:
            journal.keep("cost", 1.0)
        if done:
            journal.write((0, 0, 0), make_records(**FEW)[:1])
    with pytest.raises(typer.Exit), interruptible(journal.records):
        raise KeyboardInterrupt
    assert said.format(tmp_path) in capsys.readouterr().err


def test_a_report_ends_with_its_verdict_and_is_json(typed, records):
    code, out, _ = typed("report", records)
    assert code == 0
    tail = " ".join(out.split("Nearly everything leaks.")[-1].split())
    assert tail.startswith("Of 32 labels in a batch, a server")
    assert "95 % interval" in tail
    found = json.loads(typed("report", records, "--json")[1])
    assert found["verdict"]["word"] == "Nearly everything leaks"
    assert found["verdict"]["worst"]["advantage"]["high"] > 0.8
    assert Path(found["report"]).exists()


def test_two_audits_are_compared(typed, records, tmp_path):
    later = tmp_path / "records.jsonl"
    low = [
        row.__class__(**{**vars(row), "asr": row.asr_free, "advantage": 0.0, "defense": "sign"})
        for row in make_records(**FEW)
    ]
    append_records(later, low)
    _, out, _ = typed("report", records, later)
    assert "Before: Nearly everything leaks." in out
    assert "After: These attackers found no leak above 0.05." in out
    assert "The advantage fell by" in out
    page = (tmp_path / "comparison.html").read_text()
    assert "Defenses: none before, sign after" in page
    found = json.loads(typed("report", records, later, "--json")[1])
    assert found["change"]["high"] < 0


def test_gate_watch_and_capture_are_json(typed, records, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text("[max_advantage]\nupdate = 0.1\n")
    code, out, _ = typed("gate", records, "--policy", policy, "--json")
    found = json.loads(out)
    assert (code, found["passed"]) == (1, False)
    assert {check["rule"] for check in found["checks"]} == {"max_advantage.update"}
    rounds = tmp_path / "rounds.jsonl"
    append_records(rounds, federated_records(rounds=2, clients=12))
    found = json.loads(typed("watch", rounds, "--once", "--json")[1])
    assert found["verdict"]["worst"]["updates"] == 24
    files = json.loads(typed("capture", "--out", tmp_path / "c", "--json")[1])
    assert all(Path(path).exists() for path in files)


def test_doctor_says_what_is_there_and_tries_it(typed):
    found = json.loads(typed("doctor", "--json")[1])
    assert found["self-test"] == "works"
    assert found["data"] == "digits: 1,797 images"
    assert doctor.__doc__


def test_attacks_that_could_not_answer_are_grouped_by_what_would_let_them():
    reasons = {name: f"{name} needs the model, which is not granted" for name in ("zlg", "dlg")}
    reasons["own"] = "own found nothing to read"
    assert group_reasons(reasons) == [
        "2 attacks need the model: give `model` (dlg, zlg)",
        "own found nothing to read",
    ]


def test_records_are_written_in_the_form_of_the_files_ending(typed, records, tmp_path):
    assert typed("records", records, "--out", tmp_path / "r.csv")[0] == 0
    assert (tmp_path / "r.csv").read_text().startswith("trial,")
    assert "say the form with --to: one of parquet" in typed("records", records)[2]
    assert "unknown form 'txt'" in typed("records", records, "--out", tmp_path / "r.txt")[2]


def test_a_capture_prints_commands_that_know_how_its_batch_was_drawn(typed, tmp_path):
    common = ["capture", "--model", "mlp", "--batch-size", 4]
    printed = typed(*common, "--out", tmp_path / "a")[1].splitlines()[-3:]
    assert all("--scheme unbalanced" in line for line in printed)
    printed = typed(*common, "--scheme", "natural", "--out", tmp_path / "b")[1].splitlines()[-3:]
    assert ["--scheme natural" in line for line in printed] == [False, False, True]
    assert "--scheme" not in typed(*common, "--scheme", "iid", "--out", tmp_path / "c")[1]
