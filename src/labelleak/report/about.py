"""What a reader is told of an audit beside its figures: title, system, whom to ask, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from labelleak.records.options import Option, Options


@dataclass(frozen=True, kw_only=True)
class About(Options):
    """Who asked for a page, and of what; none of it changes a figure.

    >>> About(system="triage model 4").heading
    'Labels that an update gives away: triage model 4'
    """

    title: Annotated[str | None, Option("Heading of the page.")] = None
    system: Annotated[str | None, Option("The system that was audited, for the page.")] = None
    contact: Annotated[str | None, Option("Whom to ask about the audit, for the page.")] = None

    @property
    def heading(self) -> str:
        """The heading of the page: the title, or what every page of this kind is about."""
        plain = "Labels that an update gives away"
        return self.title or (f"{plain}: {self.system}" if self.system else plain)


NOBODY = About()

__all__ = ["NOBODY", "About"]
