"""`labelleak paper`: every experiment by one command, and three kills leave no trace."""

import random
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from commands import command
from labelleak.records.record import read_records
from labelleak.studies.registry import STUDIES, load_study, read_shipped

SHIPPED = [n for n, title in STUDIES.items() if title is None and read_shipped(n).claim]
PAPER = [sys.executable, "-m", "labelleak", "paper"]


def plain(folder):
    return {
        name: [
            replace(row, seconds=0.0, command="")
            for row in read_records(folder / name / "records.jsonl")
        ]
        for name in SHIPPED
    }


def test_one_experiment_leaves_records_figure_table_and_page(tmp_path):
    words = [*PAPER, "aggregates", "--quick", "--out", "out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"records.jsonl", "curves.svg", "curves.md", "report.html"}
    rows = read_records(tmp_path / "out" / "records.jsonl")
    assert {row.extra["clients"] for row in rows} == {1, 4, 16}
    assert all(row.command.startswith("labelleak paper aggregates") for row in rows)


@pytest.mark.slow
def test_three_kills_at_random_moments_leave_the_same_records(tmp_path):
    words = [*PAPER, "--quick", "--data", "digits", "--out"]
    started = time.monotonic()
    subprocess.run([*words, "whole"], cwd=tmp_path, check=True, capture_output=True)
    whole = time.monotonic() - started
    moments = random.Random(time.time())
    for _ in range(3):
        run = subprocess.Popen([*words, "killed"], cwd=tmp_path, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(1.5, whole / 3))
        run.kill()
        run.wait()
    subprocess.run([*words, "killed"], cwd=tmp_path, check=True, capture_output=True)
    assert plain(tmp_path / "killed") == plain(tmp_path / "whole")
    page = (tmp_path / "killed" / "paper.html").read_text()
    assert page.count("<img ") == len([name for name in STUDIES if load_study(name).claim])
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("home", {"quick": True}),
        ("verdicts", {"model": "cnn"}),
        ("rounds", {"model": "cnn"}),
        ("signals", {"overwrite": True}),
    ],
)
def test_an_option_that_means_nothing_to_a_study_is_refused(tmp_path, name, option):
    word, value = next(iter(option.items()))
    words = ["paper", name, "--out", tmp_path / "out", f"--{word}"]
    status, _, said = command(*words, *([] if value is True else [value]))
    assert status == 2
    assert f"'{name}' takes no --{word}" in said
    assert not list(tmp_path.iterdir())
