"""Read files in a process of its own and say how far its memory grew: python memory.py FILE ..."""

import gc
import sys
from pathlib import Path

import torch

from labelleak.errors import BadInput
from labelleak.files.tensors import read_tensors


def resident(which):
    """Resident memory in bytes, pages of mapped files included: VmRSS now, VmHWM the peak.

    getrusage's peak would not do: a process starts with that of the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024


def forget_peak():
    """Let the peak start anew from here."""
    Path("/proc/self/clear_refs").write_text("5")


def warm_up(folder):
    """Load once what reading loads, so that only the files count."""
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2, 2)}, folder / "small.safetensors")
    torch.save({"w": torch.zeros(2, 2)}, folder / "small.pt")
    for name in ("small.safetensors", "small.pt"):
        read_tensors(folder / name)


def main(folder, *paths):
    """Print of each file its name, how far memory grew, and how many numbers were read."""
    torch.set_num_threads(1)
    warm_up(Path(folder))
    for path in paths:
        gc.collect()
        forget_peak()
        start = resident("VmRSS")
        try:
            tensors = read_tensors(path).tensors.values()
            found = sum(tensor.numel() for tensor in tensors)
            for tensor in tensors:  # what is mapped takes memory when it is looked at
                if tensor.numel() and tensor.is_floating_point():
                    torch.aminmax(tensor)
        except BadInput:
            found = 0
        print(Path(path).name, resident("VmHWM") - start, found)


if __name__ == "__main__":
    main(*sys.argv[1:])
