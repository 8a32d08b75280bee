"""Every reader takes time and memory in proportion to what it reads."""

import gzip
import json
import time
import timeit
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_noted

from commands import command
from files.hostile import save
from hostile.corpus import evidence, records
from labelleak.audits.grids import read_grid
from labelleak.files.tensors import read_tensors
from labelleak.files.truth import read_truth
from labelleak.records.follow import Follower
from labelleak.records.journal import Journal
from labelleak.records.record import read_records
from labelleak.report.evidence_form import read_evidence
from labelleak.report.policy import read_policy
from labelleak.simulation.data.datasets import load_dataset

# Proportion is 4, and up to 6.4 where the larger input no longer fits a busy machine's caches; a
# reader that goes with the square has 16.
MOST = 8
# Below this the clock and the caches are measured, not the reader.
SECONDS, BYTES = 0.02, 2**18


def write_records(path, size):
    row = json.dumps(records(1)[0])
    path.write_text("".join(row.replace('"trial": 0', f'"trial": {n}') + "\n" for n in range(size)))


def write_layers(kind, path, size):
    save(kind, {f"layer{n}.weight": torch.ones(2, 2) for n in range(size)}, path)


def write_index(path, size):
    save(
        "safetensors",
        {f"l{n}": torch.ones(2) for n in range(size)},
        path.with_name("s.safetensors"),
    )
    names = {f"l{n}": "s.safetensors" for n in range(size)}
    path.write_text(json.dumps({"weight_map": names}))


def write_data(path, size):
    x, y = np.ones((16 * size, 8), np.float32), np.arange(16 * size) % 3
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)


def write_mark(path, size):
    path.mkdir()
    state = {"asked": {}, "done": [[0, n, 0] for n in range(size)], "found": {}, "held": []}
    (path / "run.json").write_text(json.dumps(state))
    write_records(path / "records.jsonl", 1)


def write_h5(path, size):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for layer in range(size):
            file[f"layers/d{layer}/vars/0"] = np.ones((2, 2), np.float32)


def write_note(path, size):
    arrays = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
    note = json.dumps({"part": "gradient", "class_weights": [1.0] * size})
    save_noted(arrays, path, metadata={"labelleak": note})


def read_noted(path):
    status, _, said = command("attack", "--gradient", path, "--batch-size", "4")
    assert (status, "the head has 3" in said) == (2, True), said  # more weights than classes


def write_evidence(path, size):
    held = {**evidence(), "commands": ["labelleak audit"] * size}
    path.write_text(json.dumps(held))


def pack_records(path, size):
    write_records(path, size)
    path.write_bytes(gzip.compress(path.read_bytes()))


def gate(path):
    policy = path.with_suffix(".toml")
    policy.write_text("min_trials = 2\n[max_advantage]\nupdate = 0.1\n")
    status, _, said = command("gate", path, "--policy", policy)
    assert status == 1, said


def open_mark(path):
    (path / "records.jsonl").touch()
    with Journal.open(path, {}):
        pass


def follow(path):
    assert Follower(path).read_new()


READERS = {
    "records": (write_records, read_records, 150),
    "packed records": (pack_records, read_records, 150),
    "gate": (write_records, gate, 120),
    "evidence": (write_evidence, read_evidence, 2000),
    "note": (write_note, read_noted, 2000),
    "h5": (write_h5, read_tensors, 40),
    "watch": (write_records, follow, 150),
    "mark": (write_mark, open_mark, 800),
    "truth": (lambda p, n: p.write_text(json.dumps([0, 1] * n)), None, 20_000),
    "policy": (
        lambda p, n: p.write_text(
            "[max_advantage]\nupdate = 0.1\n[cells]\nschemes = [" + '"iid",' * n + "]\n"
        ),
        read_policy,
        1500,
    ),
    "grid": (
        lambda p, n: p.write_text(f"seed = 0\nbatch_sizes = [{','.join(map(str, range(1, n)))}]\n"),
        read_grid,
        400,
    ),
    "safetensors": (partial(write_layers, "safetensors"), read_tensors, 320),
    "npz": (partial(write_layers, "npz"), read_tensors, 80),
    "torch": (partial(write_layers, "pt"), read_tensors, 120),
    "index": (write_index, read_tensors, 200),
    "data": (write_data, lambda p: load_dataset(str(p)), 1500),
}


def least_seconds(reads):
    """Return each reading's least process time of three, taken by turns.

    The garbage of other tests is not collected meanwhile, which would take longer than the reader.
    """
    turns = [
        [timeit.timeit(read, timer=time.process_time, number=1) for read in reads] for _ in range(3)
    ]
    return [max(min(taken), SECONDS) for taken in zip(*turns, strict=True)]


def peak(read):
    tracemalloc.start()
    try:
        read()
        return max(tracemalloc.get_traced_memory()[1], BYTES)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", READERS)
def test_four_times_as_much_takes_about_four_times_as_long(tmp_path, name):
    write, read, size = READERS[name]
    reads = []
    for place, times in enumerate((1, 4)):
        path = tmp_path / f"{place}.npz"
        path.parent.mkdir(exist_ok=True)
        write(path, size * times)
        reader = read or partial(read_truth, num_samples=2 * size * times, num_classes=2)
        reads.append(partial(reader, path))
    seconds = least_seconds(reads)
    if seconds[1] > MOST * seconds[0]:  # a machine that was busy just then, or a slow reader?
        seconds = least_seconds(reads)
    memory = [peak(read) for read in reads]
    assert seconds[1] <= MOST * seconds[0], seconds
    assert memory[1] <= MOST * memory[0], memory
