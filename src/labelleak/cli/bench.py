"""`labelleak bench`: how fast it is on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from labelleak.cli.options import command
from labelleak.cli.results import Shown, print_json
from labelleak.records.options import Option, Options


@dataclass(frozen=True, kw_only=True)
class BenchRun(Options):
    """Where the ratios are written."""

    out: Annotated[Path | None, Option("Folder for the ratios as speed.md and speed.png.")] = None


@command
def bench(asked: BenchRun, shown: Shown) -> None:
    """Measure speed on this machine: ratios and times, each taken in this one run."""
    from labelleak.studies.bench import run_bench

    lines = run_bench(asked.out)
    if shown.json:
        print_json(list(lines))
        return
    for line in lines:
        print(line)
