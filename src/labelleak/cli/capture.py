"""The command `capture`: write the files of a simulated client's update, to try `attack` on."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from labelleak.audits.update_options import ClientStep
from labelleak.cli.options import command
from labelleak.cli.results import Shown, print_json
from labelleak.records.options import Option, Options


@dataclass(frozen=True, kw_only=True)
class CaptureRun(Options):
    """Where the files go."""

    out: Annotated[Path, Option("Folder for the files.")] = Path("captured")


@command
def capture(step: ClientStep, place: CaptureRun, shown: Shown) -> None:
    """Simulate one client and write its update and true labels, to try `labelleak attack` on.

    For your own training loop use the Python form: with labelleak.capture(model) as update: ...
    """
    from labelleak.audits.run import load_once
    from labelleak.audits.sample_update import write_client_step
    from labelleak.core.seeding import use_threads

    use_threads(1)
    files = write_client_step(step, place.out)
    if shown.json:
        print_json([str(path) for path in files])
        return
    for path in files:
        print(f"wrote {path}")
    before, after, gradient, _, truth = (str(path) for path in files)
    rates = ["--lr", f"{step.lr:g}", "--batch-size", str(step.batch_size)]
    # The guess without the update must know how the labels came; natural needs data to draw from.
    drawn = [] if step.scheme == "iid" else ["--scheme", step.scheme]
    alone = [] if step.scheme.startswith("natural") else drawn
    known = [*drawn, "--model", step.model, "--auxiliary", step.data, "--truth", truth]
    known += ["--tables", "standardised"] if load_once(step.data).given is not None else []
    print("\nTry:")
    for given in (
        ("--before", before, "--after", after, *rates, *alone),
        ("--gradient", gradient, "--truth", truth, *alone),
        ("--before", before, "--after", after, *known),
    ):
        print(f"  {shlex.join(['labelleak', 'attack', *given])}")
