"""Reading takes at most twice the file's size and 64 MiB, whatever the file declares."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from files import hostile

PROGRAM = Path(__file__).with_name("memory.py")
MEBI = 2**20
# What reading any file may take beside its own size: a header's objects, allocator's slack.
CONSTANT = 64 * MEBI
BOMBS = (
    *("huge_header", "shape_lies", "shape_overflows", "header_huge_number", "npz_bomb"),
    *("npz_shape_lies", "npz_directory_lies_about_size", "npz_directory_too_long"),
    *("npz_overlapping", "torch_byte_array_bomb", "torch_expanded_view", "torch_shape_lies"),
    *("torch_storage_lies", "torch_tuples_in_tuples", "torch_huge_pickle", "endless_device"),
    *("header_of_many_lists", "npz_of_many_entries"),
    *("torch_pickle_of_many_nones", "torch_pickle_of_many_lists"),
)


def growth(folder, paths):
    """Give by how much each file raised the process's peak, and how many numbers were read."""
    done = subprocess.run(
        [sys.executable, PROGRAM, folder, *paths], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: (int(peak), int(found)) for name, peak, found in lines}


def write_large(kind, path):
    state = {f"{place}.weight": torch.rand(2**10, 2**12) for place in range(4)}  # 4 x 16 MiB
    hostile.save(kind, state, path)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak")
@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt"])
def test_a_large_file_takes_less_than_twice_its_size(tmp_path, kind):
    path = tmp_path / "large"
    write_large(kind, path)
    ((taken, found),) = growth(tmp_path, [path]).values()
    assert found == 2**24
    assert taken < 2 * path.stat().st_size + CONSTANT
    assert taken > path.stat().st_size // 2, "the measurement sees nothing"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak")
def test_bombs_take_next_to_nothing(tmp_path):
    for name in BOMBS:
        hostile.write(name, tmp_path / name)
    taken = growth(tmp_path, [tmp_path / name for name in BOMBS])
    assert taken.keys() == set(BOMBS)
    for name, (peak, found) in taken.items():
        path = tmp_path / name
        size = path.stat().st_size if path.is_file() else 0
        assert peak < 2 * size + CONSTANT, f"{name} took {peak / MEBI:.0f} MiB"
        assert not found
