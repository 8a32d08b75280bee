import json
import logging
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.records.files import lock_of
from labelleak.records.journal import Journal, say_unfinished
from records.test_record import RECORD

# A system without the locks of Unix, as Windows has none.
WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None
import labelleak.records.journal, labelleak.records.files
try:
    import labelleak.flower.events
except ModuleNotFoundError as error:
    assert error.name == "flwr"
print("imported")
"""


def test_nothing_of_ours_needs_fcntl():
    done = subprocess.run([sys.executable, "-c", WITHOUT_FCNTL], capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    first = Journal.open(tmp_path, {"asked": 1})
    with pytest.raises(BadInput, match="another run is writing"):
        Journal.open(tmp_path, {"asked": 1})
    # The writer may end in another thread than it began in.
    ending = threading.Thread(target=lambda: first.__exit__())
    ending.start()
    ending.join()
    with Journal.open(tmp_path, {"asked": 1}) as again:
        assert json.loads((again.folder / "run.json").read_text())["asked"] == {"asked": 1}


def test_a_run_that_is_killed_lets_go_of_its_folder(tmp_path):
    program = (
        "import os, sys, pathlib; from labelleak.records.journal import Journal;"
        "Journal.open(pathlib.Path(sys.argv[1]), {'asked': 1}); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == 9
    with Journal.open(tmp_path, {"asked": 1}) as journal:
        assert journal.done == set()


def test_a_lock_is_waited_for(tmp_path):
    order = []
    held = lock_of(tmp_path / "lock")
    held.acquire()

    def wait():
        with lock_of(tmp_path / "lock"):
            order.append("second")

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.05)
    order.append("first")
    held.release()
    waiting.join(5)
    assert order == ["first", "second"]


@pytest.fixture
def run(tmp_path):
    """Two units of four records each, and something kept beside."""
    with Journal.open(tmp_path, {"asked": 1}) as journal:
        for unit in (0, 1):
            rows = [replace(RECORD, initialisation=unit, trial=t) for t in range(4)]
            journal.write((0, unit, 0), rows)
        journal.keep("cost", {"loss": 0.5})
    return tmp_path


def lines_of(folder):
    return (folder / "records.jsonl").read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("change", "done", "said"),
    [
        (lambda lines: lines, {0, 1}, ""),
        (lambda lines: lines[:6], {0}, "2 records, 4 were written: run again"),
        (lambda lines: lines[4:], {1}, "0 records, 4 were written: run again"),
        (lambda lines: lines + lines, {0, 1}, "4 doubled records are dropped"),
        (lambda lines: [*lines, lines[0]], {0, 1}, "1 doubled records are dropped"),
        (lambda lines: [lines[0].replace("llg", "free"), *lines[1:]], {1}, "run again"),
        (lambda lines: [*lines, lines[0][:50]], {0, 1}, ""),
        (lambda lines: [line.replace("\n", "\r\n") for line in lines], {0, 1}, ""),
    ],
)
def test_a_journal_knows_which_lines_each_unit_has(run, caplog, change, done, said):
    before = lines_of(run)
    (run / "records.jsonl").write_text("".join(change(before)), newline="")
    with caplog.at_level(logging.WARNING), Journal.open(run, {"asked": 1}) as journal:
        assert {unit for _, unit, _ in journal.done} == done
        assert lines_of(run) == [
            line for line in before if RECORD.from_json(line).initialisation in done
        ]
    assert (said in caplog.text) if said else not caplog.text


def test_records_that_were_amended_still_count_as_written(run, caplog):
    with Journal.open(run, {"asked": 1}) as journal:
        journal.amend(lambda row: replace(row, extra={"wire_bytes": 7.0}))
    with Journal.open(run, {"asked": 1}) as journal:
        assert len(journal.done) == 2
    assert not caplog.text


@pytest.mark.parametrize(
    "state",
    [
        "[]",
        "3",
        '"x"',
        "null",
        "{}",
        "[" * 10**5,
        '{"asked": 1, "done": []}',
        '{"asked": {}, "done": 3}',
        '{"asked": {}, "done": [[1]]}',
        '{"asked": {}, "done": [[0, 0, "x"]]}',
        '{"asked": {}, "done": [[0, 0, null]]}',
        '{"asked": {}, "done": [[0, 0, 0]], "held": 7}',
        '{"asked": {}, "done": [[0, 0, 0]], "held": [[0, 0, 0, [], 1]]}',
        '{"asked": {}, "done": [], "found": [3]}',
        '{"asked": {}, "done": [], "found": {"cost": 3}}',
        '{"asked": {}, "done": [], "found": {"cost": 3}, "found_digest": "no"}',
        '{"asked": {}, "done": [[0, 0, ' + "9" * 5000 + "]]}",
    ],
)
def test_a_mark_of_odd_types_is_damaged(run, state):
    (run / "run.json").write_text(state)
    with pytest.raises(BadInput, match=r"run\.json is damaged"):
        Journal.open(run, {"asked": 1})
    with Journal.open(run, {"asked": 1}, overwrite=True) as journal:
        assert not journal.done


def test_a_link_in_place_of_the_lock_empties_nothing(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(BadInput, match="no plain file"):
        Journal.open(tmp_path / "out", {"asked": 1})
    assert (tmp_path / "precious").read_text() == "kept"


def test_another_run_is_named_by_a_few_keys(run):
    asked = {f"key{place}\x1b": 1 for place in range(1000)}
    with pytest.raises(BadInput, match="and 989 more") as refused:
        Journal.open(run, asked)
    assert str(refused.value).isprintable()


def test_a_run_that_stopped_says_so_until_it_has_finished(tmp_path):
    with Journal.open(tmp_path, {"asked": 1}, planned=2) as journal:
        journal.write((0, 0, 0), [])
    records = tmp_path / "records.jsonl"
    assert "1 of 2 models" in say_unfinished(records)
    with Journal.open(tmp_path, {"asked": 1}, planned=2) as journal:
        journal.write((0, 1, 0), [])
    assert say_unfinished(records) == ""
    assert say_unfinished(tmp_path / "elsewhere.jsonl") == ""
    (tmp_path / "run.json").write_text('{"done": 3}')
    assert "damaged" in say_unfinished(records)


def test_gate_and_page_say_that_a_run_has_not_finished(tmp_path):
    records, policy = tmp_path / "records.jsonl", tmp_path / "policy.toml"
    policy.write_text("min_trials = 2\n[max_advantage]\nupdate = 1.0\n")
    with Journal.open(tmp_path, {"asked": 1}, planned=2) as journal:
        journal.write((0, 0, 0), [RECORD])
    judged = CliRunner().invoke(app, ["gate", str(records), "--policy", str(policy)])
    assert judged.exit_code == 1
    assert "the run has not finished: 1 of 2 models" in " ".join(judged.output.split())
    shown = CliRunner().invoke(app, ["report", str(records)])
    assert "Note: the run has not finished" in shown.output
    assert "The run has not finished: 1 of 2" in (tmp_path / "report.html").read_text()
