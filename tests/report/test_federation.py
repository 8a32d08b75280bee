"""Rounds and clients: numbers by hand, a section only where rounds are, the watcher's view."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.records.follow import Follower
from labelleak.records.intervals import bootstrap_mean
from labelleak.records.mixing import say_mixed
from labelleak.records.record import append_records
from labelleak.records.rounds import follow_rounds
from labelleak.report import render
from labelleak.report.actions import ActionCounts, follow_actions, say_policy
from labelleak.report.federation_words import findings
from labelleak.report.next_steps import next_steps
from labelleak.report.opening import say_verdict
from labelleak.report.verdict import UNDECIDED, reach_verdict

from .federated import federated_records
from .samples import make_record


def test_courses_match_a_naive_twin() -> None:
    rows = federated_records(states=(False,))
    course = next(c for c in follow_rounds(reversed(rows)) if c.threat_model == "update")
    told = [r for r in rows if r.attack == "llg"]  # the only attack that this server may run
    for one in course.rounds:
        mine = [r for r in told if r.extra["round"] == one.number]
        wanted = bootstrap_mean([r.advantage for r in mine], [r.extra["client"] for r in mine])
        got = (one.advantage.mean, one.advantage.low, one.advantage.high)
        assert got == pytest.approx((wanted.mean, wanted.low, wanted.high), abs=1e-9)
        assert one.clients == 5
    means = {
        name: np.mean([r.advantage for r in told if r.extra["client"] == name])
        for name in {r.extra["client"] for r in told}
    }
    worst = course.clients[0]
    assert worst.name == max(means, key=lambda name: means[name])
    assert worst.advantage.mean == pytest.approx(means[worst.name])
    assert course.updates == 30


def test_clients_of_different_sizes_are_one_round_and_odd_keys_do_no_harm() -> None:
    rows = [
        make_record(num_samples=10 + c, batch_size=10 + c, extra={"round": 1, "client": c})
        for c in range(3)
    ]
    (course,) = follow_rounds([*rows, make_record(extra={"round": "x"}), make_record()])
    assert (course.rounds[0].clients, len(course.clients), course.updates) == (3, 3, 3)
    (alone,) = follow_rounds([make_record(extra={"round": r}) for r in (1, 2)])
    assert [client.name for client in alone.clients] == ["not named"]
    assert follow_rounds([make_record(advantage=None, extra={"round": 1})]) == []


def test_the_page_has_the_section_where_there_are_rounds_only() -> None:
    rows = federated_records(rounds=3, clients=7)
    page = render(rows, source="x")
    for words in ("With the defense off, a server", "With the defense on", "Client c0 gives away"):
        assert words in page
    assert "and 2 more clients" in page
    assert 'id="rounds-title"' in page
    assert render(list(reversed(rows)), source="x") == page
    evil = [make_record(extra={"round": 1, "client": "<script>"}, trial=t) for t in range(2)]
    assert "<script" not in render(evil, source="x")
    plain = render([make_record()], source="x")
    assert "federation</h2>" not in plain


def test_a_growing_file_is_read_once_and_restarts_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    follower = Follower(path)
    assert not follower.read_new()
    rows = federated_records(rounds=2, clients=2)
    lines = [row.to_json() + "\n" for row in rows]
    for start in range(0, len(lines), 7):
        text = "".join(lines[start : start + 7])
        with path.open("a") as file:
            file.write(text[:-20])
        follower.read_new()
        with path.open("a") as file:
            file.write(text[-20:])
        assert follower.read_new()
    assert [r.to_json() + "\n" for r in follower.records] == lines
    assert follower.bytes_read == path.stat().st_size
    assert not follower.read_new()
    path.write_text("".join(lines[:3]))
    assert follower.read_new()
    assert len(follower.records) == 3
    path.write_text(lines[5] * 9)
    follower.read_new()
    assert len(follower.records) == 9
    other = tmp_path / "other"
    other.write_text(lines[0] + "no record\n" + json.dumps([1]) + "\n")
    other.replace(path)
    assert follower.read_new()
    assert (len(follower.records), follower.unreadable) == (1, 2)
    path.unlink()
    assert follower.read_new()
    assert follower.records == []


def test_watch_once_shows_rounds_clients_and_flags(tmp_path: Path) -> None:
    path, page = tmp_path / "r.jsonl", tmp_path / "p.html"
    words = ["watch", str(path), "--once", "--page", str(page)]
    assert isinstance(CliRunner().invoke(app, words).exception, BadInput)
    path.touch()
    assert "waiting" in CliRunner().invoke(app, words).output
    assert not page.exists()
    append_records(path, [make_record(flags=("no_bias",)), *federated_records()])
    done = CliRunner().invoke(app, words, env={"COLUMNS": "150"})
    assert done.exit_code == 0
    for said in ("last round 6", "clients seen 5", "c0: 0.77", "no_bias (1 records)"):
        assert said in done.output
    assert page.read_text() == render(
        [make_record(flags=("no_bias",)), *federated_records()], source="r.jsonl"
    )


def test_page_and_watch_say_that_the_usual_server_was_not_tried(tmp_path: Path) -> None:
    rows = federated_records(rounds=2)
    for kept, said in ((rows, False), ([r for r in rows if r.threat_model != "model"], True)):
        kept = [r for r in kept if r.threat_model != "auxiliary"]
        path = tmp_path / f"{said}.jsonl"
        append_records(path, kept)
        done = CliRunner().invoke(app, ["watch", str(path), "--once"], env={"COLUMNS": "400"})
        for shown in (done.output, render(kept, source="x")):
            assert ("usual server, which holds the model, was not tried" in shown) == said


def test_watch_says_what_the_page_says_and_finds_the_file_in_a_folder(tmp_path: Path) -> None:
    rows = [
        replace(r, advantage=0.0, asr=r.asr_free, extra={**r.extra, "scale": "not_known"})
        for r in federated_records(5, 6, states=(False,))
    ]
    (tmp_path / "a").mkdir()
    append_records(tmp_path / "a" / "estimates.jsonl", rows)
    words = ["watch", str(tmp_path / "a"), "--once"]
    assert "estimates.jsonl" in CliRunner().invoke(app, words).output
    append_records(tmp_path / "a" / "records.jsonl", rows)
    shown = " ".join(CliRunner().invoke(app, words).output.split())
    verdict = reach_verdict(rows)
    assert verdict.grade is UNDECIDED
    assert " ".join(say_verdict(verdict).split()) in shown
    assert "is not known to hold" in shown
    assert "free guess" not in shown


def test_watch_follows_and_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    path, page = tmp_path / "r.jsonl", tmp_path / "p.html"
    words = ["watch", str(path), "--every", "0.1", "--page", str(page)]
    started = subprocess.Popen(
        [sys.executable, "-m", "labelleak", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "150"},
    )
    append_records(path, federated_records(rounds=1))
    for _ in range(1200):  # a minute, for a busy machine
        if page.exists():
            break
        time.sleep(0.05)
    assert page.exists()
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=20)
    assert (started.returncode, err) == (0, "")
    assert "stopped watching" in out


def audited_by_clients() -> list[Any]:
    """Records as four clients' mods write them: one update of each fate in round 2."""

    def one(number: int, client: int, action: str, policy: str, defense: str = "none") -> Any:
        said = {"round": number, "client": str(client), "action": action, "policy": policy}
        return make_record(defense=defense, trial=10 * number + client, extra=said)

    return [
        *(one(1, client, "sent", "record") for client in range(4)),
        one(2, 0, "sent", "block"),
        one(2, 1, "blocked", "block"),
        one(2, 2, "warned", "warn"),
        one(2, 3, "defended", "defend"),
        one(2, 3, "sent", "defend", "gaussian:1"),
        make_record(extra={"round": 2, "client": "0", "action": "observed"}),
    ]


def test_each_update_has_one_fate() -> None:
    together, first, second = follow_actions(audited_by_clients())
    assert first.counts == {"sent": 4}
    assert second.counts == {"sent": 1, "blocked": 1, "warned": 1, "defended": 1}
    assert (first.policies, second.policies) == (("record",), ("block", "defend", "warn"))
    assert sum(together.counts.values()) == 8
    assert follow_actions(federated_records()) == []


def test_page_and_watch_say_what_became_of_updates(tmp_path: Path) -> None:
    rows = audited_by_clients()
    said = "8 updates audited by their clients: 5 sent, 1 warned, 1 defended, 1 blocked"
    html = render(rows, source="records.jsonl")
    assert said in html
    assert re.search(r">2</th><td[^>]*><span>block, defend, warn<", html)
    assert "What became of the updates" not in render(federated_records(), source="records.jsonl")
    append_records(tmp_path / "records.jsonl", rows)
    done = CliRunner().invoke(app, ["watch", str(tmp_path / "records.jsonl"), "--once"])
    assert "1 warned, 1 defended, 1 blocked" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("sent", "said", "left"),
    [
        (0, "The policy block withheld all 30 updates; the figures are of all of them", False),
        (2, "The policy block withheld 20 of 30 updates; the figures are of all of them", True),
        (6, "The policy block let all 30 updates leave", True),
    ],
)
def test_a_page_says_first_what_a_policy_did(sent: int, said: str, left: bool) -> None:
    rows = [
        replace(
            row,
            local_steps=4,
            extra={
                **row.extra,
                "policy": "block",
                "action": "sent" if row.extra["round"] <= sent else "blocked",
            },
        )
        for row in federated_records(6, 5, states=(False,))
    ]
    verdict = reach_verdict(rows)
    assert said in say_verdict(verdict)
    assert verdict.to_json()["fates"].startswith(said)
    html = render(rows, source="x")
    assert html.index(said) < html.index('id="tested"')
    assert "model cnn, data digits, policy block, batches of 32, 4 local steps, 10 classes" in html
    assert ("No update left its client. Without the policy" in html) != left
    assert ("Whoever receives an update" in html) == left


@pytest.mark.parametrize(
    ("fates", "said"),
    [
        (["blocked"], "withheld the only update; the figures are of it, as it was before"),
        (["sent"], "let the only update leave"),
        (["sent", "sent"], "let all 2 updates leave"),
        (["warned", "warned"], "warned of all 2 updates; the figures are of all of them"),
        (["defended", "defended"], "defended all 2 updates; the figures are of all of them"),
        (["defended", "blocked", "sent"], "withheld 1 and defended 1 of 3 updates;"),
    ],
)
def test_a_policy_is_told_with_its_limit_in_plain_words(fates: list[str], said: str) -> None:
    counts = ActionCounts(None, ("block",), Counter(fates), (0.2,))
    assert say_policy([counts]).startswith(f"The policy block (above an advantage of 0.2) {said}")
    assert not say_policy([ActionCounts(None, ("record",), {"sent": 3}, (0.5,))])


def test_two_runs_in_one_folder_are_counted_apart_and_two_limits_are_told() -> None:
    def one(run: str, limit: float) -> Any:
        said = {"round": 1, "client": "0", "action": "blocked", "policy": "block"}
        return make_record(extra={**said, "run": run, "limit": limit})

    (together, _) = follow_actions([one("1", 0.2), one("2", 0.2)])
    assert together.counts == {"blocked": 2}
    assert "was held against two limits" in say_mixed([one("1", 0.2), one("1", 0.9)])


def test_the_evidence_that_a_page_of_a_federation_asks_for_can_be_had() -> None:
    few = render(federated_records(1, 3, states=(False,)), source="x")
    assert "at least 100 updates of 10 clients" in few
    assert "trials on 10 models" not in few
    assert "trials on 10 models" in render([make_record()], source="x")


@pytest.mark.parametrize("flags", [("several_local_steps",), ("labels_inconsistent",)])
def test_a_page_in_doubt_advises_what_can_be_done(flags: tuple[str, ...]) -> None:
    rows = [
        replace(row, local_steps=4, flags=flags, asr=0.6, advantage=0.0, extra=extra)
        for row in federated_records(6, 5, states=(False,))
        for extra in [{**row.extra, "scale": "not_known", "sign": "not_known"}]
    ]
    said = {one.says: one.command for one in next_steps(rows, reach_verdict(rows), [])}
    assert not [one for one in said if "the flags say how" in one]
    assert not [one for one in said if one.startswith("Settle several_local_steps")]
    named = [one for one in said if one.startswith("Settle labels_inconsistent: tell ")]
    assert len(named) == (flags == ("labels_inconsistent",))
    (command,) = [c for one, c in said.items() if one.startswith("No setting of the Auditor")]
    assert command.endswith("--batch-sizes 32 --local-steps 4")
    leaks = [replace(row, asr=1.0, advantage=1.0) for row in rows]
    said = {one.says: one.command for one in next_steps(leaks, reach_verdict(leaks), [])}
    assert not [one for one in said if one.startswith(("Settle", "No setting"))]


def test_only_the_latest_rounds_are_listed_and_all_are_counted() -> None:
    rows = [
        make_record(trial=t, extra={"round": t, "client": "0", "action": "sent", "policy": "warn"})
        for t in range(1, 31)
    ]
    html = render(rows, source="records.jsonl")
    assert "10 earlier rounds are counted above" in html
    assert re.search(r">30</th><td[^>]*><span>warn<", html)
    assert not re.search(r">10</th><td[^>]*><span>warn<", html)


def test_no_client_and_no_round_is_named_worst_where_all_are_alike() -> None:
    same = [replace(row, advantage=1.0, asr=1.0) for row in federated_records(rounds=2)]
    (said, *_) = findings(follow_rounds(same))
    assert "highest" not in said
    assert "gives away most" not in said
    (said, *_) = findings(follow_rounds(federated_records(rounds=2)))
    assert "gives away most" in said
