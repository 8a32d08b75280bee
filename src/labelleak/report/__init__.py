"""Turn records into tables, figures, one HTML page and a terminal table; needs no torch.

The names below are loaded when first used, so that a command line that only asks for a page's
title stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelleak.records.cells import Cell, Setting, tabulate
    from labelleak.records.strongest import strongest_records, worst_cases
    from labelleak.report.figures import draw_panel
    from labelleak.report.headlines import headline, headline_cells, verdict_cells
    from labelleak.report.page import render, write_report
    from labelleak.report.terminal import summary_table

_HOMES = {
    "Cell": "records.cells",
    "Setting": "records.cells",
    "draw_panel": "report.figures",
    "headline": "report.headlines",
    "headline_cells": "report.headlines",
    "render": "report.page",
    "strongest_records": "records.strongest",
    "summary_table": "report.terminal",
    "tabulate": "records.cells",
    "verdict_cells": "report.headlines",
    "worst_cases": "records.strongest",
    "write_report": "report.page",
}

__all__ = [
    "Cell",
    "Setting",
    "draw_panel",
    "headline",
    "headline_cells",
    "render",
    "strongest_records",
    "summary_table",
    "tabulate",
    "verdict_cells",
    "worst_cases",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"labelleak.{_HOMES[name]}"), name)
