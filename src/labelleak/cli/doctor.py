"""`labelleak doctor`: what is installed, what is not, and whether it works."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import typer

from labelleak.cli.options import command
from labelleak.cli.results import Shown, print_json, print_wrapped
from labelleak.records.provenance import VERSION

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "typer")
_EXTRAS = {
    "data": "datasets",
    "dp": "opacus",
    "flower": "flwr",
    "keras": "h5py",
    "ray": "ray",
}


@command
def doctor(shown: Shown) -> None:
    """Say what is installed and whether it works; ends with 1 if it does not."""
    found = dict(_look())
    if shown.json:
        print_json(found)
    else:
        for name, line in found.items():
            print_wrapped(name, line)
    if found["self-test"] != "works":
        raise typer.Exit(1)


def _look() -> Iterator[tuple[str, str]]:
    yield "labelleak", VERSION
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in _PACKAGES:
        yield package, _installed(package) or "missing"
    for extra, package in _EXTRAS.items():
        there = _installed(package)
        missing = f'not installed; pip install "labelleak[{extra}]"'
        yield f"extra {extra}", f"{package} {there}" if there else missing
    yield from _try()


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _try() -> Iterator[tuple[str, str]]:
    """Load data and attack an update whose labels are known."""
    import torch

    from labelleak.audits.one_update import attack_update
    from labelleak.core.training import LocalTraining
    from labelleak.simulation.data.datasets import load_dataset

    gpu = "a GPU is there" if torch.cuda.is_available() else "no GPU"
    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors; {gpu}"
    data = load_dataset("digits")
    yield "data", f"digits: {len(data.x_train) + len(data.x_test):,} images"
    weight = torch.tensor([[-0.5, -0.5], [0.25, 0.25], [0.25, 0.25]])
    report = attack_update(
        gradient={"fc.weight": weight}, made=LocalTraining(batch_size=1), truth=[0], attacks=["llg"]
    )
    yield "self-test", "works" if report.results[0].counts == (1, 0, 0) else "fails"


__all__ = ["doctor"]
