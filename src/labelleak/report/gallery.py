"""One page that shows the figures of several experiments, each beside what is claimed of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelleak.records.files import write_whole


@dataclass(frozen=True)
class Exhibit:
    """One experiment on the page.

    Attributes:
        name: its name, as `labelleak paper` takes it.
        title: its heading.
        claim: what the literature claims, in our words.
        folder: where ``curves.svg`` or another SVG and the records lie, beside the page.
        picture: the SVG, as text; empty where the experiment draws none.
        command: the command that made it.
        found: where its curves end, sentence by sentence.
    """

    name: str
    title: str
    claim: str
    folder: str
    picture: str
    command: str
    found: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The picture as an address that needs no second file; apart, its ids cannot clash."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.picture.encode()).decode()


def write_gallery(exhibits: Sequence[Exhibit], page: Path) -> None:
    """Write the page, one self-contained HTML file.

    Raises:
        BadInput: if it cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    rooms: Any = Environment(
        loader=PackageLoader("labelleak.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_whole(page, rooms.get_template("gallery.html.j2").render(exhibits=exhibits))


__all__ = ["Exhibit", "write_gallery"]
