"""`labelleak run`: a grid of audits from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.audits.executors import Executor
from labelleak.cli.options import OUT, FullPaths, Overwrite, Packed, command
from labelleak.cli.results import Shown, judge, print_json, say_verdict
from labelleak.cli.terminal import command_line, interruptible, progress_bar, say, settled
from labelleak.records.journal import records_in
from labelleak.records.options import Option, Options
from labelleak.studies.options import Asked

if TYPE_CHECKING:
    from labelleak.studies.study import Done, Study

_GRID = (
    "A TOML file; its lines are options of `labelleak audit`, underscores for dashes, such as "
    "batch_sizes = \\[1, 8]. A list multiplies. Tables named part are run one after the other; one "
    "named figure says what is drawn. examples/grid.toml in the source shows all of it."
)
_KINDS = {".svg": "figure", ".png": "figure", ".html": "page", ".md": "table"}


@dataclass(frozen=True, kw_only=True)
class StudyRun(Options):
    """Where records go, and all that is made of them."""

    out: Annotated[Path, Option("Folder for records, figures, tables and pages.")] = OUT
    overwrite: Overwrite = False
    gzip: Packed = False
    full_paths: FullPaths = False


@command
def run(
    grid: Annotated[Path, typer.Argument(help=_GRID)],
    place: StudyRun,
    where: Executor,
    shown: Shown,
) -> None:
    """Run a grid of audits; an interrupted one goes on where it stopped."""
    from labelleak.audits.grids import read_grid
    from labelleak.studies.study import study_of

    read = read_grid(grid)
    study = study_of(lambda asked: read)
    done = run_into(study, Asked(command=command_line(place.full_paths)), place, where)
    show_done(place.out, done, shown)


def run_into(study: Study, asked: Asked, place: StudyRun, where: Executor) -> Done:
    """Run a study into a folder, with a bar for its progress."""
    from labelleak.core.seeding import use_threads
    from labelleak.studies.study import run_study

    use_threads(1)
    with settled(), interruptible(records_in(place.out, packed=place.gzip)):
        return run_study(
            study,
            asked,
            place.out,
            bar=progress_bar,
            executor=where,
            overwrite=place.overwrite,
            packed=place.gzip,
        )


def show_done(out: Path, done: Done, shown: Shown) -> None:
    """Say where records lie, what was written, and what was found."""
    records = records_in(out)
    verdict = judge(done.found.records)
    if shown.json:
        files = [str(path) for path in done.files]
        there = str(records) if records.exists() else None
        print_json({"records": there, "files": files, "verdict": verdict.to_json()})
        return
    print()
    if records.exists():
        print(f"records  {records}")
    for path in done.files:
        print(f"{_KINDS.get(path.suffix, 'data'):8} {path}")
    if verdict.worst is not None:
        say(f"\nThe worst of all: {say_verdict(verdict)}")


__all__ = ["StudyRun", "run", "run_into", "show_done"]
