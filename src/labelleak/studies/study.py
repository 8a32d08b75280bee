"""Studies: what is audited or measured, and what is made of it; one runner for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from labelleak.audits.executors import Executor
from labelleak.audits.grids import Grid
from labelleak.audits.run import Bar, Part, Progress, open_run, run_parts
from labelleak.errors import BadInput
from labelleak.records.files import write_whole
from labelleak.records.journal import Journal
from labelleak.records.record import Record, read_records
from labelleak.records.repeats import count_once
from labelleak.report import render
from labelleak.report.curve_figures import curve_files
from labelleak.report.curves import CurveOptions, describe_ends, trace
from labelleak.report.gallery import Exhibit
from labelleak.studies.options import Asked

Files = Mapping[str, str | bytes]


@dataclass(frozen=True)
class Measurement:
    """Something measured beside the records, kept as JSON under its name.

    Attributes:
        name: says all that it depends on.
        make: measures it.
    """

    name: str
    make: Callable[[], Any]


@dataclass(frozen=True)
class Found:
    """What a study found.

    Attributes:
        asked: what was asked.
        records: all records.
        measured: what was measured beside them, in order.
    """

    asked: Asked
    records: Sequence[Record] = ()
    measured: Sequence[Any] = ()


def _none(asked: Asked) -> Sequence[Any]:
    """Give nothing to do."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """One experiment of `labelleak paper`.

    Attributes:
        report: makes files, by name, of what was found.
        parts: the audits.
        measurements: what is measured beside them.
        takes: which of the options model, quick and defenses mean something to it.
        claim: what the literature claims, in our words; what claims stands on the page of all.
        picture: the file that is shown there; empty for a study that draws none.
        figure: what is drawn of the records, where curves are.
        name: its name; the registry's.
        title: what it is, in a line; the registry's.
    """

    report: Callable[[Found], Files]
    parts: Callable[[Asked], Sequence[Part]] = _none
    measurements: Callable[[Asked], Sequence[Measurement]] = _none
    takes: frozenset[str] = frozenset()
    claim: str = ""
    picture: str = ""
    figure: CurveOptions | None = None
    name: str = ""
    title: str = ""

    def refuse_all_but_own(self, given: Mapping[str, object]) -> None:
        """Refuse options that mean nothing to this study.

        Raises:
            BadInput: naming the first one.
        """
        own = set(self.takes)
        if self.parts is not _none or self.measurements is not _none:
            own.add("overwrite")
        if self.parts is not _none:
            own.add("kind")
        for option in ("model", "quick", "defenses", "overwrite", "kind"):
            if given.get(option) and option not in own:
                raise BadInput(f"the experiment {self.name!r} takes no `{option}`; leave it out")

    def exhibit(self, found: Found, out: Path, command: str) -> Exhibit:
        """Return what stands on the page of all figures."""
        said: tuple[str, ...] = ()
        if self.figure:
            points = trace(count_once(found.records), self.figure)
            said = tuple(describe_ends(points, self.figure))
        picture = (out / self.picture).read_text(encoding="utf-8") if self.picture else ""
        return Exhibit(self.name, self.title, self.claim, out.name, picture, command, said)


@dataclass(frozen=True)
class Done:
    """A study that has run.

    Attributes:
        found: what it found.
        files: what it wrote.
    """

    found: Found
    files: Sequence[Path] = field(default=())


def run_study(
    study: Study,
    asked: Asked,
    out: Path,
    *,
    bar: Bar,
    executor: Executor | None = None,
    overwrite: bool = False,
    packed: bool = False,
) -> Done:
    """Run a study into a folder; an interrupted one goes on where it stopped.

    Args:
        study: what to run.
        asked: on what data, from which seed, how coarsely.
        out: folder of records and of all files that are made of them.
        bar: shows progress.
        executor: where audits run; serial if None.
        overwrite: drop another run that lies there.
        packed: pack the records by gzip.

    Raises:
        BadInput: for what the study refuses, or a folder that cannot be written or holds another
            run.
    """
    parts = [replace(part, command=asked.command) for part in study.parts(asked)]
    work = study.measurements(asked)
    if not parts and not work:
        return _write(study, Found(asked), out)
    about = {"experiment": study.name, **asdict(replace(asked, command=""))}
    with open_run(parts, out, overwrite=overwrite, more=about, packed=packed) as journal:
        if parts:
            with bar(study.name, "cells") as advance:
                run_parts(parts, journal, executor=executor, progress=advance)
        if work:
            with bar(f"{study.name}, beside", "measurements") as advance:
                _measure(work, journal, advance)
        rows = read_records(journal.records) if parts else ()
        return _write(study, Found(asked, rows, [journal.found[one.name] for one in work]), out)


def _measure(work: Sequence[Measurement], journal: Journal, progress: Progress) -> None:
    """Measure what the journal does not hold."""
    for number, one in enumerate(work):
        progress(number, len(work))
        if one.name not in journal.found:
            journal.keep(one.name, json.loads(json.dumps(one.make())))
    progress(len(work), len(work))


def _write(study: Study, found: Found, out: Path) -> Done:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror or error}") from error
    files = study.report(found)
    for name, content in files.items():
        write_whole(out / name, content)
    return Done(found, [out / name for name in files])


def study_of(grid: Callable[[Asked], Grid], **more: Any) -> Study:
    """Make a study of a grid: its curves, their table, and the page.

    Args:
        grid: reads the grid as it is asked for.
        more: other fields of the study, a report among them that adds files.
    """
    plain = grid(Asked())
    add = more.pop("report", lambda found: {})

    def report(found: Found) -> Files:
        rows = count_once(found.records)
        return {
            "report.html": render(rows, source="records.jsonl"),
            **curve_files(rows, title=plain.title, figure=plain.figure),
            **add(found),
        }

    return Study(
        report=report,
        parts=lambda asked: [Part(options=options) for options in grid(asked).audits],
        claim=plain.claim,
        picture="curves.svg",
        figure=plain.figure,
        name=plain.name,
        title=plain.title,
        **more,
    )


__all__ = ["Asked", "Done", "Files", "Found", "Measurement", "Study", "run_study", "study_of"]
