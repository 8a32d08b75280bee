"""`labelleak tune`: the cheapest defense that works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from labelleak.audits.executors import Executor, ExecutorKind
from labelleak.cli.options import OUT, FullPaths, Overwrite, command
from labelleak.cli.results import Shown, print_json
from labelleak.cli.terminal import command_line, interruptible, progress_bar, say, settled
from labelleak.records.options import Option, Options
from labelleak.records.reading import read_json
from labelleak.tune.options import TuneOptions


@dataclass(frozen=True, kw_only=True)
class TuneRun(Options):
    """Where a search writes."""

    out: Annotated[Path, Option("Folder for tune.md, .svg, .json and records.")] = OUT
    overwrite: Overwrite = False
    full_paths: FullPaths = False


@dataclass(frozen=True, kw_only=True)
class TuneExecutor(Executor):
    """Where the measurements run: on processes unless said."""

    kind: ExecutorKind = "joblib"


@command
def tune(options: TuneOptions, place: TuneRun, where: TuneExecutor, shown: Shown) -> None:
    """Search the cheapest defense that keeps leakage below a target, or within a loss of accuracy.

    An interrupted search goes on where it stopped.
    """
    from labelleak.core.seeding import use_threads
    from labelleak.tune.files import write_answer
    from labelleak.tune.measurements import Measurements
    from labelleak.tune.search import Search
    from labelleak.tune.words import audit_command, caveats, say_answer

    use_threads(1)
    typed, out = command_line(place.full_paths), place.out
    with (
        progress_bar("searching", "measurements") as advance,
        Measurements.open(
            options,
            out,
            command=typed,
            overwrite=place.overwrite,
            executor=where,
            progress=advance,
        ) as measured,
        settled(),
        interruptible(measured.journal.records),
    ):
        answer = Search(measured).run()
        measured.finish()
        write_answer(answer, measured, out, command=typed, full_paths=place.full_paths)
    if shown.json:
        print_json(read_json(out / "tune.json"))
        return
    chosen = answer.recommended
    if chosen is not None:
        print(f"{audit_command(chosen.point.label, options, chosen.seed, out)}")
        for said in caveats(chosen.point.label, options):
            say(f"- {said}")
    print(f"page     {out / 'tune.md'}\npicture  {out / 'tune.svg'}")
    print(f"answer   {out / 'tune.json'}\nrecords  {out / 'records.jsonl'}\n")
    say(say_answer(answer, options))


__all__ = ["tune"]
