"""Files of updates: good ones of three formats are read as they were, bad ones refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from files import hostile
from labelleak.cli import main
from labelleak.errors import BadInput
from labelleak.files import tensors as files
from labelleak.files.tensors import read_tensors

GOOD = {"fc.weight": torch.rand(3, 4), "fc.bias": torch.rand(3), "seen": torch.tensor(7)}


def write_good(kind, path):
    hostile.save(kind, GOOD, path)


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


@pytest.mark.parametrize("length", range(120, 700, 8))
def test_a_safetensors_file_is_told_whatever_the_length_of_its_header(tmp_path, length):
    save_file({"fc.weight": torch.ones(5, 8)}, tmp_path / "short", metadata={"note": ""})
    missing = length - int.from_bytes((tmp_path / "short").read_bytes()[:8], "little")
    save_file({"fc.weight": torch.ones(5, 8)}, tmp_path / "good", metadata={"note": "x" * missing})
    assert int.from_bytes((tmp_path / "good").read_bytes()[:8], "little") == length
    assert torch.equal(read_tensors(tmp_path / "good").tensors["fc.weight"], torch.ones(5, 8))


def test_the_corpus_is_large():
    assert len(hostile.FILES) >= 40


@pytest.mark.parametrize("name", hostile.FILES)
def test_a_bad_file_ends_the_command_in_one_line_and_status_2(tmp_path, name, monkeypatch, capsys):
    path = tmp_path / "bad"
    hostile.write(name, path)
    command = ["labelleak", "attack", "--gradient", str(path), "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("Error: ")
    assert line.isprintable()
    assert len(line) < 700
    assert hostile.REASONS[name] in line
    assert [p.name for p in tmp_path.iterdir()] == ["bad"], "the file ran code"


def test_a_bad_file_ends_a_process_in_one_line_and_status_2(tmp_path):
    path = tmp_path / "bad"
    hostile.write("torch_runs_code", path)
    command = [sys.executable, "-m", "labelleak", "attack", "--gradient", path, "--batch-size", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt"])
def test_a_file_replaced_between_check_and_read_is_refused(tmp_path, kind, monkeypatch):
    path = tmp_path / "good"
    write_good(kind, path)
    check = files._check_tensors

    def replace(*given):
        other = tmp_path / "other"
        write_good(kind, other)
        other.replace(path)
        check(*given)

    monkeypatch.setattr(files, "_check_tensors", replace)
    with pytest.raises(BadInput, match="changed while it was read"):
        read_tensors(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no paths of open files here")
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_the_library_maps_the_file_that_was_checked(tmp_path, kind, monkeypatch):
    path = tmp_path / "good"
    write_good(kind, path)
    name = "read_torch" if kind == "pt" else "read_safetensors"
    reader, seen = getattr(files, name), {}

    def replace(*given):
        hostile.write("torch_byte_array_bomb", tmp_path / "other")
        (tmp_path / "other").replace(path)
        found = reader(*given)
        seen.update(found if kind == "pt" else found[0])
        return found

    monkeypatch.setattr(files, name, replace)
    with pytest.raises(BadInput, match="changed while it was read"):
        read_tensors(path)
    assert torch.equal(seen["fc.bias"], GOOD["fc.bias"])
