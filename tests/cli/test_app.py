"""The command line as a user meets it: what it writes, what it says, how it ends."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from commands import command
from labelleak.attacks import STANDARD
from labelleak.audits import run as audits_run
from labelleak.records.record import read_records
from labelleak.records.whole import read_frame

QUICK = ["--batch-sizes=1,4", "--schemes=iid", "--trials=4"]
QUICK += ["--initialisations=2", "--training-steps=0", "--shadow-batches=20"]


def run(*words, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", "labelleak", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **(env or {})},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One quick audit that several tests look at."""
    out = tmp_path_factory.mktemp("audit")
    done = run("audit", *QUICK, "--out", out)
    assert done.returncode == 0, done.stderr
    (out / "stdout.txt").write_text(done.stdout)
    return out


def test_an_audit_writes_records_and_a_page_and_prints_a_table(folder):
    records = read_records(folder / "records.jsonl")
    assert len(records) == 2 * 4 * len(STANDARD)
    assert {r.attack for r in records} == set(STANDARD)
    assert records[0].command.startswith("labelleak audit --batch-sizes=1,4")
    page = (folder / "report.html").read_text()
    assert "best guess without the update" in page
    printed = (folder / "stdout.txt").read_text()
    assert "advantage of" in printed
    assert "best guess without the update" in printed


def test_the_page_is_rendered_again_from_records_alone(folder, tmp_path):
    done = run("report", folder / "records.jsonl", "--out", tmp_path / "again.html")
    assert done.returncode == 0
    assert (tmp_path / "again.html").read_bytes() == (folder / "report.html").read_bytes()


def test_the_same_command_again_does_nothing_twice(folder):
    before = [(folder / name).read_bytes() for name in ("records.jsonl", "report.html")]
    assert command("audit", *QUICK, "--out", folder)[0] == 0
    assert [(folder / name).read_bytes() for name in ("records.jsonl", "report.html")] == before


def test_cycles_are_collected_while_an_audit_runs(tmp_path, monkeypatch):
    seen, run_parts = [], audits_run.run_parts
    monkeypatch.setattr(
        audits_run, "run_parts", lambda *a, **k: seen.append(gc.isenabled()) or run_parts(*a, **k)
    )
    assert command("audit", *QUICK, "--attacks=free", "--out", tmp_path)[0] == 0
    assert seen == [True]
    gc.unfreeze()


def test_what_an_audit_has_at_hand_it_does_not_read_again(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "labelleak.report.page.read_frame", lambda path: read.append(path) or read_frame(path)
    )
    few = [*QUICK, "--attacks=llg,free", "--out", tmp_path]
    assert command("audit", *few)[0] == 0
    assert not read
    page = (tmp_path / "report.html").read_bytes()
    records = tmp_path / "records.jsonl"
    half = records.read_text().splitlines()[: 2 * 2 * 4]
    records.write_text("\n".join(half) + "\n")  # the second model's are to be made again
    assert command("audit", *few)[0] == 0
    assert read == [records]
    assert (tmp_path / "report.html").read_bytes() == page


def test_processes_write_the_same_records(folder, tmp_path):
    done = run("audit", *QUICK, "--out", tmp_path, "--executor", "joblib", "--workers", "2")
    assert done.returncode == 0, done.stderr
    same, found = (
        [replace(one, seconds=0.0, command="") for one in read_records(place / "records.jsonl")]
        for place in (folder, tmp_path)
    )
    assert found == same


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["audit", "--attacks", "llgg"], "unknown attack 'llgg'; did you mean 'llg'?"),
        (["audit", "--data", "digitz"], "did you mean 'digits'"),
        (["audit", "--data", "nowhere.npz"], "nowhere.npz"),
        (["audit", "--model", "lenett"], "did you mean 'lenet'"),
        (["audit", "--batch-sizes", "1,x"], "--batch-sizes takes whole numbers"),
        (["audit", "--batch-sizes", "999999"], "larger than the victims' data"),
        (["audit", "--trials", "0"], "--trials 0"),
        (["report", "nowhere.jsonl"], "cannot read records"),
        (["paper", "signal"], "did you mean 'signals'"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_status_2(tmp_path, words, sentence, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, said = command(*words)
    assert status == 2
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
    assert "Traceback" not in said
    assert not list(tmp_path.glob("**/records.jsonl"))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    status, _, said = command("audit", *QUICK, "--out", tmp_path / "file" / "out")
    assert status == 2
    assert "cannot write to the folder" in said


def test_records_of_another_schema_or_none_are_refused(tmp_path, folder):
    bad = tmp_path / "records.jsonl"
    bad.write_text("")
    assert "holds no records" in command("report", bad)[2]
    row = json.loads((folder / "records.jsonl").read_text().splitlines()[0])
    bad.write_text(json.dumps({**row, "schema": 7}) + "\n")
    status, _, said = command("report", bad)
    assert (status, "line 1 has schema 7" in said) == (2, True)


def test_an_unknown_option_ends_in_status_2():
    status, _, said = command("audit", "--nope")
    assert status == 2
    assert "--nope" in said


@pytest.mark.parametrize("what", ["attacks", "data", "models", "schemes"])
def test_lists_name_what_there_is(what):
    status, printed, _ = command("list", what)
    assert status == 0
    wanted = {"attacks": "llg_plus", "data": "digits", "models": "resnet18", "schemes": "iid"}
    assert wanted[what] in printed


def test_help_names_every_command_and_option():
    text = run("--help").stdout
    for name in ("audit", "report", "list", "paper", "bench", "selftest"):
        assert name in text
    text = run("audit", "--help").stdout
    for option in ("--data", "--model", "--init", "--batch-sizes", "--schemes", "--attacks"):
        assert option in text
    for option in ("--trials", "--initialisations", "--training-steps", "--seed", "--out"):
        assert option in text
    assert run("--version").stdout.startswith("labelleak ")


def test_ctrl_c_keeps_what_was_finished_and_says_how_to_go_on(tmp_path):
    words = ["audit", "--out", str(tmp_path), "--schemes", "iid", "--batch-sizes", "1,2"]
    words += ["--trials", "400", "--initialisations", "400", "--training-steps", "0"]
    words += ["--shadow-batches", "20"]
    started = subprocess.Popen(
        [sys.executable, "-m", "labelleak", *words], stderr=subprocess.PIPE, text=True
    )
    path = tmp_path / "records.jsonl"
    # Records are kept once all that are written together are on the disk, so it is waited for more:
    # for a size that stood still for a while, and then one beyond it.
    size = still = 0
    for _ in range(2400):  # a busy machine takes its time
        time.sleep(0.05)
        before, size = size, path.stat().st_size if path.exists() else 0
        if 0 < still < size:
            break
        still = size if size == before else still
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=30)
    assert started.returncode == 130
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    assert 0 < len(read_records(path)) < 400 * 2 * len(STANDARD)


def test_a_users_own_model_is_audited_by_import_path(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def make(input_shape, num_classes):\n"
        "    size = torch.Size(input_shape).numel()\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, num_classes))\n"
    )
    words = ["audit", "--quick", "--model", "mine:make", "--attacks", "llg"]
    done = run(*words, "--out", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = read_records(Path(tmp_path) / "found" / "records.jsonl")
    assert {(r.model, r.attack) for r in records} == {("mine:make", "llg")}
