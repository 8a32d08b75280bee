"""Running grids: the same records everywhere, nothing done twice, nothing lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from labelleak.audits.executors import Executor
from labelleak.audits.grids import make_grid
from labelleak.audits.run import Part, open_run, run_parts
from labelleak.errors import BadInput
from labelleak.records.record import read_records

TREE = {
    "model": ["mlp", "lenet"],
    "batch_sizes": [1, 4],
    "schemes": ["iid"],
    "attacks": ["free", "random", "llg", "llg_plus"],
    "trials": 6,
    "initialisations": 3,
    "training_steps": [0, 4],
}


def plain(folder):
    rows = read_records(folder / "records.jsonl")
    return [replace(row, seconds=0.0, command="") for row in rows]


def run(folder, tree=TREE, executor=None, progress=lambda done, total: None):
    parts = [Part(options=options) for options in make_grid("g", tree, override={}).audits]
    with open_run(parts, folder) as journal:
        run_parts(parts, journal, executor=executor, progress=progress)
    return plain(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("serial"))


def test_a_grid_writes_every_trial_of_every_part_once(undisturbed):
    assert len(undisturbed) == 2 * 2 * 6 * 2 * 4
    keys = [
        (r.extra["part"], r.model, r.training_steps, r.batch_size, r.trial, r.attack)
        for r in undisturbed
    ]
    assert len(set(keys)) == len(keys)
    assert {(r.extra["part"], r.model) for r in undisturbed} == {(0, "mlp"), (1, "lenet")}


def test_processes_give_the_same_records_in_the_same_order(tmp_path, undisturbed):
    assert run(tmp_path, executor=Executor(kind="joblib", workers=2)) == undisturbed


# Of Ray's own processes, when it ends.
UNRAISABLE = "ignore::pytest.PytestUnraisableExceptionWarning"


@pytest.mark.slow
@pytest.mark.filterwarnings(UNRAISABLE)
def test_ray_gives_the_same_records_in_the_same_order(tmp_path, undisturbed):
    ray = pytest.importorskip("ray")
    try:
        assert run(tmp_path, executor=Executor(kind="ray", workers=2)) == undisturbed
    finally:
        ray.shutdown()


def die(place):
    """Measure nothing, and take the worker down at the second place."""
    if place == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return place


def kill_a_worker(kind):
    with pytest.raises(BadInput, match="a worker process has died"):
        list(Executor(kind=kind, workers=2).map(die, range(4)))


def test_a_worker_that_is_killed_is_one_sentence_and_the_next_run_goes_on(tmp_path, undisturbed):
    kill_a_worker("joblib")
    assert run(tmp_path, executor=Executor(kind="joblib", workers=2)) == undisturbed


@pytest.mark.slow
@pytest.mark.filterwarnings(UNRAISABLE)
def test_a_worker_of_ray_that_is_killed_is_one_sentence(tmp_path, undisturbed):
    ray = pytest.importorskip("ray")
    try:
        kill_a_worker("ray")
        assert run(tmp_path, executor=Executor(kind="ray", workers=2)) == undisturbed
    finally:
        ray.shutdown()


class Stop(Exception):
    """Stands for Ctrl-C at some moment."""


@pytest.mark.parametrize("moment", [0, 1, 4, 7, 11])
def test_a_stopped_grid_goes_on_to_the_same_records(tmp_path, undisturbed, moment):
    def stop(done, total):
        assert total == 24
        if done >= moment:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path, progress=stop)
    seen = []
    assert run(tmp_path, progress=lambda done, total: seen.append(done)) == undisturbed
    assert seen[0] == 2 * max(0, -(-moment // 2) - 1)  # two cells a stage, kept when it is whole
    assert run(tmp_path) == undisturbed


def test_a_measure_of_its_own_is_counted_whole_when_it_is_done_and_not_before():
    """Some give more lists of records than anybody told: the end is not near before it is."""
    finished = []

    def measure(stage):
        for _ in range(5):
            yield []
        finished.append(stage.steps)

    asked = make_grid("g", {**TREE, "model": ["mlp"]}, override={}).audits[0]
    for lists, total in ((1, 6), (5, 30), (9, 54)):
        finished.clear()
        seen = []
        run_parts(
            [Part(options=asked, measure=measure, lists=lists)],
            None,
            progress=lambda done, total, seen=seen: seen.append((done, total, len(finished))),
        )
        assert seen[-1] == (total, total, 6)
        assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
        assert all(done // lists <= ended for done, _, ended in seen)


GRID = """
model = ["mlp", "lenet"]
batch_sizes = [1, 4]
schemes = ["iid"]
attacks = ["free", "random", "llg", "llg_plus"]
trials = 6
initialisations = 3
training_steps = [0, 4]
"""


def test_a_killed_grid_goes_on_to_the_same_records(tmp_path, undisturbed):
    (tmp_path / "g.toml").write_text(GRID)
    words = [sys.executable, "-m", "labelleak", "run", "g.toml", "--out", "out"]
    for _ in range(2):
        started = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL)
        before = lines(tmp_path)
        while lines(tmp_path) == before and started.poll() is None:
            time.sleep(0.005)
        started.send_signal(signal.SIGKILL)
        started.wait()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert plain(tmp_path / "out") == undisturbed


def lines(folder):
    path = folder / "out" / "records.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_a_changed_grid_is_not_gone_on_with(tmp_path):
    small = {**TREE, "model": "mlp", "initialisations": 1}
    run(tmp_path, small)
    kept = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(BadInput, match=r"differs in: trials.*`overwrite`"):
        run(tmp_path, {**small, "trials": 7})
    assert (tmp_path / "records.jsonl").read_bytes() == kept


def test_a_part_that_cannot_run_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match="part 2 of 2: unknown model 'cnnn'"):
        run(tmp_path / "out", {**TREE, "model": ["mlp", "cnnn"]})
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_in_a_sentence_and_keeps_whole_records(tmp_path, monkeypatch):
    import labelleak.records.journal as journal

    calls = 0
    append = journal.append_records

    def fill(path, records):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise BadInput("cannot write records.jsonl: No space left on device")
        return append(path, records)

    with monkeypatch.context() as patched:
        patched.setattr(journal, "append_records", fill)
        with pytest.raises(BadInput, match="No space left"):
            run(tmp_path)
    assert len(read_records(tmp_path / "records.jsonl")) == 3 * 2 * 2 * 4


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="needs a mount")
def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        with pytest.raises(BadInput, match=r"No space left on device"):
            run(disk / "out")
        assert all(row.schema == 1 for row in read_records(disk / "out" / "records.jsonl"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write to the folder"):
        run(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({"kind": "rya"}, "did you mean 'ray'"),
        ({"kind": "joblib", "workers": 2, "address": "auto"}, "add `kind` ray"),
        ({"kind": "joblib", "workers": 0}, "`workers` 0: must be at least 1"),
    ],
)
def test_executors_that_cannot_be_are_refused(where, sentence):
    with pytest.raises(BadInput, match=sentence):
        Executor(**where)


def test_an_executor_answers_in_the_order_of_the_tasks():
    tasks = list(range(-5, 0))
    for kind in ("serial", "joblib"):
        assert list(Executor(kind=kind, workers=2).map(abs, tasks)) == [5, 4, 3, 2, 1]
