"""`labelleak run`: a grid of audits from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.audits.executors import Executor
from labelleak.cli.options import OUT, Overwrite, command
from labelleak.cli.terminal import command_line, interruptible, progress_bar
from labelleak.records.options import Option, Options

if TYPE_CHECKING:
    from labelleak.audits.grids import Grid
    from labelleak.records.record import Record


@dataclass(frozen=True, kw_only=True)
class GridRun(Options):
    """Where a grid's records go."""

    out: Annotated[Path, Option("Folder for records, page, figure and table.")] = OUT
    overwrite: Overwrite = False


@command
def run(
    grid: Annotated[Path, typer.Argument(help="A TOML file of options; every list multiplies.")],
    place: GridRun,
    where: Executor,
) -> None:
    """Run a grid of audits; an interrupted one goes on where it stopped."""
    from labelleak.audits.grids import read_grid

    out = place.out
    run_into(read_grid(grid), out, where, overwrite=place.overwrite)
    print(f"\nrecords  {out / 'records.jsonl'}\npage     {out / 'report.html'}")


def run_into(grid: Grid, out: Path, executor: Executor, *, overwrite: bool = False) -> list[Record]:
    """Run a grid into a folder, draw what came of it, and give the records."""
    import torch

    from labelleak.audits.run import open_grid, run_grid
    from labelleak.report import write_report
    from labelleak.report.curve_figures import write_curves

    torch.set_num_threads(1)
    with (
        open_grid(grid, out, overwrite=overwrite) as journal,
        interruptible(journal.records),
        progress_bar(grid.name) as advance,
    ):
        run_grid(grid, journal, command=command_line(), executor=executor, progress=advance)
    rows = write_report(out / "records.jsonl", out / "report.html")
    write_curves(rows, out, title=grid.title, figure=grid.figure)
    return rows


__all__ = ["run", "run_into"]
