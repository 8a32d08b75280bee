"""`labelleak list`: what there is, a line each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from labelleak.cli.options import command
from labelleak.cli.results import Shown, print_json, print_wrapped
from labelleak.errors import BadInput, unknown_name


class Listing(StrEnum):
    """What `labelleak list` can list."""

    attacks = "attacks"
    defenses = "defenses"
    data = "data"
    models = "models"
    paper = "paper"
    schemes = "schemes"


@command
def list_names(
    what: Annotated[str, typer.Argument(help=f"One of: {', '.join(Listing)}.")], *, shown: Shown
) -> None:
    """List attacks, defenses, data sets, models, experiments or batch schemes."""
    from labelleak.cli.listings import describe

    if what not in list(Listing):
        if what == "experiments":
            raise BadInput("experiments are listed by `labelleak list paper`")
        raise unknown_name("list", what, [one.value for one in Listing])
    found = dict(describe(what))
    if shown.json:
        print_json(found)
        return
    for name, line in found.items():
        print_wrapped(name, line)


__all__ = ["Listing", "list_names"]
