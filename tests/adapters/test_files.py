"""Files of updates: good ones of three formats are read as they were, bad ones refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adapters import hostile
from labelleak.adapters.files import read_tensors
from labelleak.errors import BadInput

GOOD = {"fc.weight": torch.rand(3, 4), "fc.bias": torch.rand(3), "seen": torch.tensor(7)}


def write_good(kind, path):
    if kind == "safetensors":
        save_file(GOOD, path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **{name: t.numpy() for name, t in GOOD.items()})
    else:
        torch.save(GOOD, path)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt"])
def test_a_good_file_is_read_as_it_was_written(tmp_path, kind):
    path = tmp_path / "good"
    write_good(kind, path)
    found = read_tensors(path).tensors
    assert found.keys() == GOOD.keys()
    assert all(torch.equal(found[name], GOOD[name]) for name in GOOD)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt"])
def test_a_file_above_the_cap_is_refused(tmp_path, kind):
    path = tmp_path / "good"
    write_good(kind, path)
    with pytest.raises(BadInput, match="more than the 10 that are read"):
        read_tensors(path, max_bytes=10)


def test_the_corpus_is_large():
    assert len(hostile.FILES) >= 40


@pytest.mark.parametrize("name", hostile.FILES)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / "bad"
    hostile.write(name, path)
    with pytest.raises(BadInput) as caught:
        read_tensors(path)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 700
    assert not path.with_name("bad.ran").exists(), "the file ran code"


CLI = """
import resource, sys
from labelleak.cli import main
sys.argv = ["labelleak", "attack", "--gradient", sys.argv[1], "--batch-size", "2"]
main()
"""


@pytest.mark.parametrize("name", ["npz_bomb", "torch_runs_code", "control_characters", "pipe"])
def test_the_command_refuses_with_one_line_and_status_2(tmp_path, name):
    path = tmp_path / "bad"
    hostile.write(name, path)
    done = subprocess.run(
        [sys.executable, "-c", CLI, path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]
