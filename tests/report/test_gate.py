"""The gate: what fails, what passes, and that no evidence never passes."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.records.cells import tabulate
from labelleak.records.flags import FLAGS, Doubt
from labelleak.records.record import Record, append_records
from labelleak.report import worst_cases
from labelleak.report.gate import Finding, judge
from labelleak.report.gate_files import junit, markdown
from labelleak.report.headlines import caution
from labelleak.report.policy import Cells, Policy, make_policy, read_policy

from .federated import federated_records
from .samples import make_record, make_records

EXAMPLES = Path(__file__).parents[2] / "examples" / "gate"


def found(records: list[Record], **asked: Any) -> list[Finding]:
    return judge(records, make_policy({"min_trials": 2, **asked}, "policy"))


def failures(records: list[Record], **asked: Any) -> list[str]:
    return [f"{f.rule}: {f.said}" for f in found(records, **asked) if not f.passed]


def test_the_upper_end_of_the_strongest_attacker_is_judged(grid: list[Record]) -> None:
    cells = [c for c in worst_cases(grid) if c.threat_model == "model"]
    for limit in (0.3, 0.7, 0.9):
        wanted = sum(c.advantage is not None and c.advantage.high > limit for c in cells)
        findings = found(grid, max_advantage={"model": limit})
        assert len(findings) == len(cells)
        assert sum(not finding.passed for finding in findings) == wanted
    cell = next(c for c in cells if c.advantage and c.advantage.high - c.advantage.mean > 0.01)
    assert cell.advantage
    between = (cell.advantage.mean + cell.advantage.high) / 2
    assert failures(grid, max_advantage={"model": between})


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"max_advantage": {"auxiliary": 1.0}}, "no attack of threat model auxiliary was run"),
        ({"max_advantage": {"update": 1.0}, "min_trials": 50}, "5 trials here, the policy asks"),
        ({"must_run": ["rlg"]}, "rlg was not run here; run were: free, llg, random"),
        ({"must_run": ["llg"], "min_trials": 50}, "5 trials here"),
        ({"flags": {"optimisation_diverged": 1.0}}, "no attack that the flag concerns"),
        ({"flags": {"no_bias": 1.0}, "min_trials": 50}, "no attack that the flag concerns"),
        ({"flags": {"noise_dominates": 1.0}, "min_trials": 50}, "5 trials here"),
        ({"must_run": ["llg"], "cells": {"batch_sizes": [8, 64]}}, "no record has batch_size 64"),
        ({"must_run": ["llg"], "cells": {"rounds": [3]}}, "no record has round 3"),
        ({"must_run": ["llg"], "cells": {"defended": True}}, "the policy's [cells] ask for"),
    ],
)
def test_no_evidence_fails_with_a_reason(asked: dict[str, Any], reason: str) -> None:
    rows = make_records(
        attacks=("random", "free", "llg"),
        batch_sizes=(8,),
        schemes=("iid",),
        stages=(0,),
        initialisations=1,
    )
    assert any(reason in said for said in failures(rows, **asked))
    assert failures([], **asked)


def test_a_cell_without_anything_to_learn_fails() -> None:
    rows = [make_record(trial=t, asr=1.0, asr_free=1.0, advantage=None) for t in range(3)]
    assert "measures no leak" in failures(rows, max_advantage={"update": 1.0})[0]


def test_repeats_do_not_make_up_for_missing_trials() -> None:
    rows = [make_record(trial=t) for t in range(3)]
    assert failures(rows * 4, max_advantage={"update": 1.0}, min_trials=4)
    assert not failures(rows * 4, max_advantage={"update": 1.0}, min_trials=3)


def test_flags_are_tolerated_up_to_their_share() -> None:
    rows = [make_record(trial=t, flags=("noise_dominates",) if t < 2 else ()) for t in range(8)]
    assert not failures(rows, flags={"noise_dominates": 0.25})
    assert "25.0 % of trials" in failures(rows, flags={"noise_dominates": 0.2})[0]


def test_clients_and_rounds_are_judged_by_themselves() -> None:
    rows = federated_records(rounds=4, clients=3)
    limit = {"max_advantage": {"model": 0.6}}
    alone = found(rows, **limit, cells={"per": ["client"], "defended": False})
    assert [f.cell.split(",")[0] for f in alone] == ["client c0", "client c1", "client c2"]
    assert not alone[0].passed
    assert len(found(rows, **limit, cells={"rounds": [2, 3], "per": ["round"]})) == 2 * 2
    assert all(f.passed for f in found(rows, **limit, cells={"defended": True}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[max_advantag]\nupdate = 1", "unknown key 'max_advantag'; did you mean 'max_advantage'"),
        ("[cells]\nbatch_size = [8]", "unknown key 'batch_size'; did you mean 'batch_sizes'"),
        ("[max_advantage]\nupdat = 0.1", "unknown threat model 'updat'; did you mean 'update'"),
        ("[max_advantage]\nupdate = 1.5", "max_advantage.update = 1.5"),
        ("[max_advantage]\nupdate = nan", "max_advantage.update = nan"),
        ("[max_advantage]\nupdate = 'x'", "max_advantage.update = 'x'"),
        ("min_trials = 1\nmust_run = ['llg']", "min_trials = 1"),
        ("[flags]\nnoise_dominate = 0", "did you mean 'noise_dominates'"),
        ("[cells]\nper = ['trial']", "cells.per.0"),
        ("must_run = 'llg'", "must_run = 'llg'"),
        ("", "asks for nothing"),
        ("[max_advantage", "is not TOML"),
    ],
)
def test_bad_policies_end_in_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_policy(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="cannot read the policy"):
        read_policy(tmp_path / "absent.toml")


EVIL = 'a|b\n<script>"&`*_\x00\x1b'


def test_findings_that_say_the_same_are_one_row_for_people_and_all_in_json(tmp_path: Path) -> None:
    rows = [make_record(batch_size=n, num_samples=n, extra={"round": n}) for n in range(20, 50)]
    records, policy, runner = tmp_path / "r.jsonl", tmp_path / "p.toml", CliRunner()
    append_records(records, rows)
    policy.write_text("min_trials = 2\n[max_advantage]\nupdate = 0.5\n")
    words = ["gate", str(records), "--policy", str(policy)]
    told = runner.invoke(app, words).output
    assert told.count("1 trial here") == 1
    assert "and 29 more cells" in " ".join(told.split())
    assert "30 of 30 checks failed" in told
    assert len(json.loads(runner.invoke(app, [*words, "--json"]).output)["checks"]) == 30


def test_files_are_valid_and_inert() -> None:
    findings = [Finding("r", EVIL, False, EVIL), Finding("r", "c", True, "fine")]
    root = ElementTree.fromstring(junit(findings, source=EVIL))
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    cases = list(root.iter("testcase"))
    assert [case.find("failure") is not None for case in cases] == [True, False]
    text = markdown(findings, source=EVIL)
    assert "<script" not in text
    table = [line for line in text.splitlines() if line.startswith("| r ")]
    assert [line.replace("\\|", "").count("|") for line in table] == [4, 4]


def test_the_command_ends_in_0_1_or_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, policy, runner = tmp_path / "r.jsonl", tmp_path / "p.toml", CliRunner()
    append_records(records, [make_record(trial=t) for t in range(3)])
    words = ["gate", str(records), "--policy", str(policy), "--github-summary"]
    files = ["--junit", str(tmp_path / "j.xml"), "--summary", str(tmp_path / "s.md")]
    step = tmp_path / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    for limit, status in ((0.9, 0), (0.1, 1)):
        policy.write_text(f"min_trials = 2\n[max_advantage]\nupdate = {limit}\n")
        done = runner.invoke(app, words + files)
        assert done.exit_code == status
        assert ("FAILED" in done.output) == bool(status)
        assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == str(status)
        assert (tmp_path / "s.md").read_text() in step.read_text()
    assert step.read_text().startswith("before\n")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert isinstance(runner.invoke(app, words).exception, BadInput)
    words[1] = str(tmp_path / "absent.jsonl")
    assert isinstance(runner.invoke(app, words).exception, BadInput)


def test_the_examples_hold(tmp_path: Path) -> None:
    policy = read_policy(EXAMPLES / "policy.toml")
    assert set(policy.max_advantage) == {"update", "model"}
    yaml = pytest.importorskip("yaml")
    steps = yaml.safe_load((EXAMPLES / "workflow.yml").read_text())["jobs"]["gate"]["steps"]
    assert any("labelleak gate" in step.get("run", "") for step in steps)
    assert any(step.get("run") == "python -m pip install ." for step in steps)


def test_what_is_impossible_fails_whatever_the_policy_asks() -> None:
    asked = {"max_advantage": {"update": 1.0}}
    rows = [make_record(trial=trial, attack="llg") for trial in range(5)]
    assert not failures(rows, **asked)
    broken = [replace(row, flags=("impossible_scale",)) for row in rows]
    (said,) = failures(broken, **asked)
    assert said.startswith("impossible_scale: the bias gradient is longer")


def test_what_is_not_known_fails_where_the_policy_asks() -> None:
    rows = [make_record(trial=trial, attack="llg") for trial in range(5)]
    open_ = [replace(row, extra={**row.extra, "scale": "not_known"}) for row in rows]
    assert not failures(rows, on_unknown="fail")
    assert not failures(open_, max_advantage={"update": 1.0})
    (said,) = failures(open_, on_unknown="fail")
    assert "not known to hold in 5 trials" in said


@pytest.mark.parametrize("flag", [name for name, one in FLAGS.items() if one.doubt])
def test_a_flag_of_doubt_closes_the_gate_where_the_policy_asks(flag: str) -> None:
    kept = {"scale": "held", "sign": "held"}
    rows = [make_record(trial=t, attack="llg", extra=kept, flags=(flag,)) for t in range(5)]
    (said,) = failures(rows, on_unknown="fail", on_refuted="pass")
    assert f"raised: {flag}" in said
    assert not failures(rows, max_advantage={"update": 1.0}, on_refuted="pass")
    refuted = FLAGS[flag].doubt is Doubt.refuted
    assert bool(failures(rows, max_advantage={"update": 1.0})) == refuted
    tolerated = failures(rows, max_advantage={"update": 1.0}, flags={flag: 1.0})
    assert not [said for said in tolerated if said.startswith(f"{flag}:")]
    # An audit made the update itself, and a declared defense explains odd entries.
    assert not failures([replace(row, extra={}) for row in rows], on_unknown="fail")
    defended = [replace(row, defense="gaussian:0.1") for row in rows]
    untold = FLAGS[flag].doubt is Doubt.untold
    assert bool(failures(defended, on_unknown="fail")) == untold


def test_attacks_that_all_do_worse_than_the_guess_open_no_gate() -> None:
    kept = {"scale": "not_known", "round": 1}
    low = [make_record(trial=t, advantage=-0.5, asr=0.4, extra=kept) for t in range(5)]
    asked = {"max_advantage": {"update": 0.5}}
    (said,) = failures(low, **asked)
    assert "worse than the guess without it, so the reported labels may not be" in said
    assert not failures(low, **asked, on_refuted="pass")
    assert not failures([replace(row, defense="gaussian:0.1") for row in low], **asked)
    assert not failures(
        [*low, *(replace(row, attack="ebi", asr=0.6, advantage=0.0) for row in low)], **asked
    )
    audited = [replace(row, extra={}) for row in low]  # which made its labels itself
    assert not failures(audited, **asked)


def test_updates_that_were_withheld_are_judged_apart_where_the_policy_asks() -> None:
    def one(trial: int, action: str, asr: float) -> Record:
        extra = {"round": 1, "client": str(trial), "action": action, "policy": "block"}
        return make_record(trial=trial, asr=asr, advantage=(asr - 0.6) / 0.4, extra=extra)

    rows = [one(t, "sent", 0.62) for t in range(5)] + [one(t, "blocked", 1.0) for t in range(5, 9)]
    asked = {"max_advantage": {"update": 0.3}}
    assert len(failures(rows, **asked)) == 1
    said = {f.rule: f.said for f in found(rows, **asked)}
    assert said["withheld"].startswith(
        "4 of 9 updates were withheld by their clients and are judged"
    )
    assert not failures(rows, **asked, cells={"left": True})
    assert failures(rows, **asked, cells={"left": False})
    assert "no record has left True" in failures(rows[5:], **asked, cells={"left": True})[0]


def test_the_howto_names_every_key_of_a_policy() -> None:
    text = (Path(__file__).parents[2] / "docs" / "howto" / "gate.md").read_text("utf-8")
    block = next(part for part in text.split("```toml")[1:]).split("```")[0]
    named = tomllib.loads(block)
    assert set(named) == {one.name for one in fields(Policy)}
    assert set(named["cells"]) == {one.name for one in fields(Cells)}
    assert set(named["max_advantage"]) == {"update", "model", "auxiliary"}
    make_policy(named, "docs/howto/gate.md")


def test_a_cell_in_doubt_is_no_evidence_of_safety() -> None:
    rows = [make_record(trial=trial, attack="llg", advantage=-0.5, asr=0.1) for trial in range(5)]
    (plain,) = (caution(cell) for cell in tabulate(rows))
    assert "evidence" not in plain
    for doubt in (
        {"flags": ("impossible_sign",)},
        {"extra": {"scale": "not_known"}},
        {"extra": {"sign": "repaired"}},
    ):
        (said,) = (caution(cell) for cell in tabulate([replace(row, **doubt) for row in rows]))
        assert "no evidence of safety" in said


@pytest.mark.parametrize("command", ["gate", "report", "watch"])
def test_names_from_records_never_control_the_terminal(tmp_path: Path, command: str) -> None:
    evil = "\x1b[2J\x1b]0;x\x07\u202e[bold]$\\frac$"
    names = {"model": evil, "scheme": evil, "attack": evil, "data": evil, "flags": (evil,)}
    keys = {"round": 1, "client": evil, "not_applicable": {evil: evil}, "attack_title": evil}
    path, policy = tmp_path / "r\x1b.jsonl", tmp_path / "p.toml"
    append_records(path, [make_record(trial=t, **names, extra=keys) for t in range(3)])
    policy.write_text("min_trials = 2\nmust_run = ['\\u001b[2J']\n")
    more = {"gate": ["--policy", str(policy)], "watch": ["--once"]}.get(command, [])
    done = CliRunner().invoke(app, [command, str(path), *more], env={"COLUMNS": "200"})
    assert done.exit_code == (command == "gate"), done.exception
    assert "\\x1b[2J" in done.output
    assert not [c for c in done.output if not c.isprintable() and c not in "\n\xa0"]


@pytest.mark.parametrize("command", ["gate", "report", "records"])
def test_a_folder_stands_for_the_records_in_it(tmp_path: Path, command: str) -> None:
    append_records(tmp_path / "records.jsonl", make_records())
    (tmp_path / "policy.toml").write_text("min_trials = 2\n[max_advantage]\nupdate = 0.1\n")
    more = {
        "gate": ["--policy", str(tmp_path / "policy.toml")],
        "report": ["--json"],
        "records": ["--to", "csv"],
    }[command]
    named = CliRunner().invoke(app, [command, str(tmp_path / "records.jsonl"), *more])
    asked = CliRunner().invoke(app, [command, str(tmp_path), *more])
    assert (asked.exit_code, asked.output) == (named.exit_code, named.output)
    assert asked.exit_code == (command == "gate")
    (tmp_path / "empty").mkdir()
    empty = CliRunner().invoke(app, [command, str(tmp_path / "empty"), *more])
    assert isinstance(empty.exception, BadInput)
