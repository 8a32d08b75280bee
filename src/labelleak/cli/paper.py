"""`labelleak paper`: the experiments of the literature, each by one command, or all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from labelleak.audits.executors import Executor
from labelleak.cli.options import command
from labelleak.cli.run import StudyRun, run_into, show_files
from labelleak.cli.terminal import command_line, say_remarks
from labelleak.records.provenance import command_of
from labelleak.studies.options import Asked
from labelleak.studies.registry import STUDIES, load_study


@command
def paper(
    name: Annotated[
        str | None,
        typer.Argument(help="See `labelleak list paper`; all with a claim if left out."),
    ] = None,
    *,
    asked: Asked,
    place: StudyRun,
    where: Executor,
) -> None:
    """Repeat an experiment of the literature, or all: figure, table and records."""
    asked = replace(asked, command=command_line(place.full_paths))
    if name is None:
        _show_all(asked, place, where)
        return
    study, out = load_study(name), place.out
    kept = {"overwrite": place.overwrite, "kind": where.kind != "serial"}
    study.refuse_all_but_own({**vars(asked), **kept})
    say_remarks(asked.defenses or ())
    done = run_into(study, asked, out, where, place.overwrite)
    for path in done.files:
        if path.suffix == ".md" and path.name != "curves.md":
            print(path.read_text(encoding="utf-8"))
    show_files(out, done.files)


def _show_all(asked: Asked, place: StudyRun, where: Executor) -> None:
    """Run every study of a claim into a folder of its own, and show them on one page."""
    from labelleak.report.gallery import write_gallery

    exhibits = []
    for study in filter(lambda one: one.claim, map(load_study, STUDIES)):
        study.refuse_all_but_own({**vars(asked), "quick": False})
        out = place.out / study.name
        done = run_into(study, asked, out, where, place.overwrite)
        typed = ["labelleak", "paper", study.name, "--data", asked.data, "--seed", str(asked.seed)]
        typed += ["--quick"] if asked.quick and "quick" in study.takes else []
        said = command_of(typed, full_paths=place.full_paths)
        exhibits.append(study.exhibit(done.found, out, said))
    write_gallery(exhibits, place.out / "paper.html")
    print(f"\npage     {place.out / 'paper.html'}")


__all__ = ["paper"]
