"""`labelleak run`: a grid of audits from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.cli.terminal import command_line, interruptible, progress_bar

if TYPE_CHECKING:
    from labelleak.audits.executors import Executor
    from labelleak.audits.grids import Grid
    from labelleak.records.record import Record

ExecutorOption = Annotated[str, typer.Option(help="serial, joblib (processes) or ray.")]
WorkersOption = Annotated[
    int | None, typer.Option(help="Processes at a time; all cores if left out.", min=1)
]
AddressOption = Annotated[
    str | None, typer.Option(help="Address of a running Ray cluster; auto finds a local one.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Drop another run that lies in --out.")
]


def run(
    grid: Annotated[Path, typer.Argument(help="A TOML file of options; every list multiplies.")],
    out: Annotated[Path, typer.Option(help="Folder for records, page, figure and table.")] = Path(
        "out"
    ),
    executor: ExecutorOption = "serial",
    workers: WorkersOption = None,
    address: AddressOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Run a grid of audits; an interrupted one goes on where it stopped."""
    from labelleak.audits.executors import make_executor
    from labelleak.audits.grids import read_grid

    where = make_executor(executor, workers, address)
    run_into(read_grid(grid), out, where, overwrite=overwrite)
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
