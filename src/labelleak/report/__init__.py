"""Turn records into tables, figures, one HTML page and a terminal table; needs no torch."""

from __future__ import annotations

from labelleak.records.cells import Cell, Setting, tabulate
from labelleak.records.strongest import strongest_records, worst_cases
from labelleak.report.figures import draw_panel
from labelleak.report.headlines import headline, headline_cells, verdict_cells
from labelleak.report.page import render, write_report
from labelleak.report.terminal import summary_table

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
