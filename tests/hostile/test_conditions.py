"""Unlucky conditions: folders that vanish, clocks that go back, notes that were altered."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

import labelleak
from commands import command
from hostile.corpus import records
from labelleak.errors import BadInput
from labelleak.records.files import append_lines, lock_of
from labelleak.records.record import read_records

SMALL = {
    "model": "mlp",
    "batch_sizes": 2,
    "schemes": "iid",
    "attacks": ("llg", "shadow"),
    "trials": 4,
    "initialisations": 2,
    "training_steps": 0,
    "shadow_batches": 20,
}


def plain(found):
    return [replace(record, seconds=0.0, command="") for record in found]


@pytest.fixture(scope="module")
def undisturbed():
    return plain(labelleak.audit(**SMALL).records)


def test_a_folder_that_vanishes_in_a_run_is_one_sentence(tmp_path, undisturbed):
    out = tmp_path / "out"

    def vanish(done, total):
        if done == 1:
            shutil.rmtree(out)
            out.write_text("")  # so that nothing can be made there again

    with pytest.raises(BadInput, match="cannot write"):
        labelleak.audit(**SMALL, out=out, progress=vanish)
    out.unlink()
    assert plain(labelleak.audit(**SMALL, out=out).records) == undisturbed


def as_anybody():
    """Return what takes the right to write anywhere from a command that root starts."""
    if os.geteuid():
        return []
    words = ["setpriv", "--bounding-set=-dac_override"]
    if shutil.which("setpriv") is None or subprocess.run([*words, "true"]).returncode:
        pytest.skip("root may write anywhere, and setpriv may not change that here")
    return words


READ_ONLY = """
import json, pathlib, sys
import labelleak
out = pathlib.Path(sys.argv[1])
try:
    labelleak.audit(**json.loads(sys.argv[2]), out=out, progress=lambda *_: out.chmod(0o500))
except labelleak.BadInput as error:
    print(error)
"""


def test_a_folder_that_turns_read_only_in_a_run_is_one_sentence(tmp_path, undisturbed):
    words = [sys.executable, "-c", READ_ONLY, str(tmp_path), json.dumps(SMALL)]
    done = subprocess.run([*as_anybody(), *words], capture_output=True, text=True)
    tmp_path.chmod(0o700)
    assert "cannot write" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert plain(labelleak.audit(**SMALL, out=tmp_path).records) == undisturbed


def test_a_clock_that_goes_back_changes_nothing(tmp_path, undisturbed, monkeypatch):
    now = [2e9]

    def back():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", back)
    assert plain(labelleak.audit(**SMALL, out=tmp_path).records) == undisturbed
    assert plain(labelleak.audit(**SMALL, out=tmp_path).records) == undisturbed


@pytest.mark.parametrize("how", ["truncated", "altered", "another", "no tensors"])
def test_notes_that_were_altered_are_learnt_again(tmp_path, undisturbed, how):
    assert plain(labelleak.audit(**SMALL, learnt=tmp_path).records) == undisturbed
    notes = sorted(tmp_path.glob("*.safetensors"))
    assert notes
    for path, other in zip(notes, [*notes[1:], notes[0]], strict=True):
        if how == "truncated":
            path.write_bytes(path.read_bytes()[:-5])
        elif how == "altered":
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 64]))
        elif how == "another" and other != path:
            path.write_bytes(other.read_bytes()[:100])
        else:
            path.write_bytes(b"not tensors at all")
    assert plain(labelleak.audit(**SMALL, learnt=tmp_path).records) == undisturbed


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [1, 7, 10**7])
@pytest.mark.parametrize("kind", ["one class", "ties", "zero"])
def test_batches_at_the_edge_are_answered_or_refused(tmp_path, classes, size, kind):
    bias = np.full(classes, 1 / classes, np.float32)
    bias[0] -= {"one class": 1, "ties": 0.5, "zero": 0}[kind]
    bias[-1] -= {"one class": 0, "ties": 0.5, "zero": 0}[kind]
    weight = np.outer(bias, np.ones(4, np.float32))
    scale = 0 if kind == "zero" else 1
    save_file({"fc.weight": scale * weight, "fc.bias": scale * bias}, tmp_path / "u")
    words = ["attack", "--gradient", tmp_path / "u", "--batch-size", str(size), "--json"]
    start = time.process_time()
    status, out, said = command(*words)
    assert time.process_time() - start < 10
    assert status in (0, 2), said
    for result in json.loads(out)["results"] if status == 0 else []:
        assert sum(result["counts"]) == size
        assert min(result["counts"]) >= 0
        if (kind, result["attack"]) == ("one class", "llg"):
            assert result["counts"][0] == size


def test_fifty_writers_at_once_leave_whole_records(tmp_path):
    path, row = tmp_path / "records.jsonl", json.dumps(records(1)[0])

    def write(client):
        for trial in range(4):
            line = row.replace('"trial": 0', f'"trial": {100 * client + trial}')
            with lock_of(tmp_path / ".lock"):
                append_lines(path, line + "\n", durable=False)

    threads = [threading.Thread(target=write, args=(client,)) for client in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.trial for r in read_records(path)) == sorted(
        100 * client + trial for client in range(50) for trial in range(4)
    )


def write_an_audit(out):
    labelleak.audit(**SMALL, out=out)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_the_users_own_change_no_record(tmp_path, undisturbed, method):
    process = multiprocessing.get_context(method).Process(target=write_an_audit, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert plain(read_records(tmp_path / "records.jsonl")) == undisturbed


@pytest.mark.slow
def test_hash_seeds_and_threads_change_no_record(tmp_path, undisturbed):
    words = ["audit", "--model", "mlp", "--batch-sizes", "2", "--schemes", "iid", "--trials", "4"]
    words += ["--attacks", "llg,shadow", "--initialisations", "2", "--training-steps", "0"]
    words += ["--shadow-batches", "20"]
    for seed, threads in (("1", "1"), ("2", "1"), ("3", "2")):
        out = tmp_path / seed
        subprocess.run(
            [sys.executable, "-m", "labelleak", *words, "--threads", threads, "--out", out],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        assert plain(read_records(out / "records.jsonl")) == undisturbed
