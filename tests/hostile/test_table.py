"""Each kind of hostile or unlucky input that was found once, met by the command line again.

Where a kind has tests of its own they stand elsewhere, too: claims of clients in
`flower/test_claims.py` (a, b, c), values in `report/test_gate.py` and `records/` (d, f), resuming
in `records/test_journal.py` (e), files in `records/test_reading.py` and `test_files.py` (g, j, l).
"""

import json
import os
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file

from commands import command
from files.hostile import FILES, write
from hostile.corpus import ESCAPE, records, text_of
from hostile.readers import POLICY
from labelleak.core.head import locate_head
from labelleak.errors import BadInput
from labelleak.records.files import append_lines
from labelleak.records.record import read_records


@pytest.fixture
def policy(tmp_path):
    """A policy that records which leak do not meet."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def update():
    """A gradient of 3 classes."""
    bias = np.array([-0.4, 0.3, 0.1], np.float32)
    return {"fc.weight": np.outer(bias, np.ones(4, np.float32)), "fc.bias": bias}


def refused(*words):
    """Give the one sentence with which a command is refused."""
    status, _, said = command(*words)
    assert status == 2, said
    assert said.count("\n") == 1
    assert said.isascii() or said.strip().isprintable()
    assert len(said) < 1700
    return said


@pytest.mark.parametrize(
    "noted",
    [
        {"batch_size": 10**9, "local_steps": 1, "lr": 0.1},
        {"batch_size": 4, "local_steps": 10**9, "lr": 0.1},
        {"batch_size": 10**9, "local_steps": 10**9, "lr": 1e-9},
    ],
)
def test_a_numbers_that_a_file_claims_cost_nothing(tmp_path, update, noted):
    note = json.dumps({"part": "gradient", "head": "fc", **noted})
    (tmp_path / "u").write_bytes(save(update, metadata={"labelleak": note}))
    start = time.process_time()
    status, out, said = command("attack", "--update", tmp_path / "u", "--json")
    assert time.process_time() - start < 5
    found = json.loads(out)["results"] if status == 0 else said
    assert found or status == 2


def test_d_f_records_that_no_run_can_have_written_are_no_broken_policy(tmp_path, policy):
    changes = {"advantage": "-1e9", "asr": "-5", "asr_free": "7", "num_samples": "-3"}
    changes |= {"seed": "9" * 5000, "seconds": "9" * 400 + ".5", "flags": "[" * 200_000}
    for key, value in changes.items():
        (tmp_path / "r").write_text(text_of(records(), key, value, {2}))
        assert "line 3" in refused("gate", tmp_path / "r", "--policy", policy)
    policy.write_text("a = " + "[" * 900)
    (tmp_path / "r").write_text(text_of(records(), "trial", "0", set()))
    assert "nested" in refused("gate", tmp_path / "r", "--policy", policy)


def test_e_what_was_cut_off_an_audit_is_run_again_and_said(tmp_path):
    words = ["audit", "--model", "mlp", "--attacks", "llg,free", "--batch-sizes", "2"]
    words += ["--schemes", "iid", "--trials", "4", "--initialisations", "2"]
    words += ["--training-steps", "0", "--out", tmp_path]
    assert command(*words)[0] == 0
    path = tmp_path / "records.jsonl"
    whole = read_records(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    assert command(*words)[0] == 0
    again = read_records(path)
    assert len(again) == len(whole) == 8
    assert sorted((r.trial, r.attack, r.asr) for r in again) == sorted(
        (r.trial, r.attack, r.asr) for r in whole
    )


@pytest.mark.parametrize("odd", ["pipe", "/dev/zero", "/proc/kmsg"])
def test_g_nothing_but_files_is_waited_for(tmp_path, policy, odd):
    place, good = tmp_path / "odd", tmp_path / "r"
    os.mkfifo(place) if odd == "pipe" else place.symlink_to(odd)
    good.write_text(text_of(records(), "trial", "0", set()))
    start = time.monotonic()
    for words in (
        ["report", place, "--out", tmp_path / "page.html"],
        ["gate", place, "--policy", policy],
        ["gate", good, "--policy", place],
        ["watch", place, "--once", "--page", tmp_path / "page.html"],
    ):
        if odd == "/proc/kmsg":  # a regular file of no size, whose reading waits
            assert command(*words)[0] in (0, 1, 2)
        else:
            assert "not a regular file" in refused(*words)
    assert time.monotonic() - start < 60


def test_h_no_forged_file_is_a_traceback(tmp_path):
    forged = [name for name in FILES if name.startswith("torch")]
    assert len(forged) > 20
    for name in forged:
        write(name, tmp_path / name)
        refused("attack", "--gradient", tmp_path / name, "--batch-size", "2")


def test_i_finding_the_head_is_linear_in_the_layers():
    def seconds(layers):
        sizes = [8] * layers
        names = {f"l{n}": (a, b) for n, (a, b) in enumerate(pairwise(sizes))}
        arrays = {f"{n}.weight": torch.randn(b, a) for n, (a, b) in names.items()}
        arrays |= {f"{n}.bias": torch.randn(b) for n, (_, b) in names.items()}
        start = time.process_time()
        try:
            locate_head(arrays)
        except BadInput:  # they are all alike
            return time.process_time() - start
        return time.process_time() - start

    small, large = min(seconds(500) for _ in range(2)), min(seconds(2000) for _ in range(2))
    assert large < 8 * small + 0.05


def test_j_half_a_line_is_cut_off_before_the_next(tmp_path, update):
    saved, truth = tmp_path / "s.jsonl", tmp_path / "t.json"
    truth.write_text("[0, 0]")
    save_file(update, tmp_path / "u")
    saved.write_text('{"schema": 1, "tri')
    words = ["attack", "--gradient", tmp_path / "u", "--batch-size", "2", "--attacks", "llg"]
    assert command(*words, "--truth", truth, "--save", saved)[0] == 0
    append_lines(saved, "")
    assert [record.attack for record in read_records(saved)] == ["llg"]


@pytest.mark.parametrize("key", ["model", "scheme", "client", "data", "defense"])
def test_k_no_name_controls_the_terminal(tmp_path, policy, key):
    path = tmp_path / "r"
    path.write_text(text_of(records(), key, json.dumps(ESCAPE), set(range(6))))
    for words in (
        ["gate", path, "--policy", policy],
        ["report", path, "--out", tmp_path / "page.html"],
        ["watch", path, "--once", "--page", tmp_path / "page.html"],
        ["gate", tmp_path / "none\x1b[2J", "--policy", policy],
    ):
        _, out, err = command(*words)
        assert all(c.isprintable() or c in "\n\xa0" for c in out + err)


def test_l_messages_are_short_and_links_are_not_followed(tmp_path):
    arrays = {f"{'x' * 40}{n}": np.ones((2, 2), np.float32) for n in range(20_000)}
    np.savez(tmp_path / "many.npz", **arrays)
    start = time.process_time()
    refused("attack", "--gradient", tmp_path / "many.npz", "--batch-size", "2")
    assert time.process_time() - start < 10
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.lock").symlink_to(tmp_path / "precious")
    assert "no plain file" in refused("audit", "--trials", "1", "--out", tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "kept"


def test_m_a_file_that_is_not_there_is_waited_for_unless_it_is_to_be_read_once(tmp_path):
    assert "nothing.jsonl" in refused("watch", tmp_path / "nothing.jsonl", "--once")
