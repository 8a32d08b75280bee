"""Render records as one HTML file that needs no network, no script and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from labelleak.errors import BadInput
from labelleak.records.cells import Cell, Setting, tabulate
from labelleak.records.files import write_whole
from labelleak.records.frame import RecordFrame
from labelleak.records.intervals import Interval
from labelleak.records.record import Record, read_records
from labelleak.records.repeats import count_once
from labelleak.records.rounds import follow_rounds
from labelleak.records.strongest import worst_cases
from labelleak.report import headlines, scope, wording
from labelleak.report.actions import ACTIONS, follow_actions, say_action_counts
from labelleak.report.defenses import compare_defenses
from labelleak.report.federation_figures import draw_clients, draw_rounds, name_course
from labelleak.report.federation_words import findings, most_informed
from labelleak.report.figures import Series, Style, assign_styles, draw_panel

_MOST_LINES = 8
# Drawn on one page at most; tables hold the rest.
MOST_FIGURES = 60
_MOST_CLIENTS = 5
_MOST_ROUNDS = 20


class Drawing(NamedTuple):
    """One figure, and whose attacks it shows if not everybody's."""

    server: str
    svg: Any


@dataclass(frozen=True)
class Panel:
    """The cells of one setting, stage and scheme, with their figures."""

    heading: str
    accuracy: float | None
    figures: list[Drawing]
    attacks: list[list[Cell]]


@dataclass(frozen=True)
class Section:
    """All panels of one setting."""

    heading: str
    panels: list[Panel]


@dataclass(frozen=True, eq=False)
class Tables:
    """Records, each trial once and in order, and what the page says of them.

    Attributes:
        records: sorted by seed, initialisation and trial.
        cells: one for each attack under each condition.
        worst: those of the strongest attackers.
    """

    records: RecordFrame
    cells: list[Cell]
    worst: list[Cell]

    @classmethod
    def of(cls, records: Iterable[Record] | Tables) -> Tables:
        """Make the tables of records; tables stay as they are.

        Raises:
            BadInput: if two records of the same trial disagree.
        """
        if isinstance(records, Tables):
            return records
        once = count_once(records)
        frame = RecordFrame(sorted(once, key=attrgetter("seed", "initialisation", "trial")))
        return cls(frame, tabulate(frame), worst_cases(frame))


def render(records: Sequence[Record] | Tables, *, source: str) -> str:
    """Return the report as one self-contained HTML text; the same records give the same bytes.

    Args:
        records: what was measured.
        source: where the records lie, as the reader should find them.

    Raises:
        BadInput: if there are no records, or two of the same trial disagree.
    """
    if not isinstance(records, Tables) and not records:
        raise BadInput("there are no records to report on; run `labelleak audit` first")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("labelleak.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.j2")
    return template.render(_context(Tables.of(records), source))


def _context(tables: Tables, source: str) -> dict[str, Any]:
    records, cells, worst = tables.records, tables.cells, tables.worst
    settings = wording.tell_apart(list(dict.fromkeys(cell.setting for cell in cells)))
    chosen = headlines.headline_cells(worst)
    stated = [(headlines.sentence_parts(c), headlines.detail(c, worst)) for c in chosen]
    return {
        "source": source,
        "headlines": stated,
        "no_attack": [] if stated else headlines.headline(worst),
        "verdicts": _by_server(headlines.verdict_cells(worst)),
        "settings": settings,
        "several_settings": len(settings) > 1,
        "sections": _sections(cells, settings),
        "setup": scope.setup(records),
        "assumptions": scope.assumptions(records),
        "untested": scope.untested(records),
        "repetition": scope.repetition(records),
        "commands": scope.commands(records),
        "flags": scope.flags(records),
        "federation": _federation(records),
        "defenses": compare_defenses(records),
        "expectations": any(cell.expected_asr is not None for cell in cells),
        "one_initialisation": all(cell.initialisations == 1 for cell in cells),
        "say": wording,
        "track": _track,
    }


def _federation(records: Sequence[Record]) -> dict[str, Any] | None:
    """Gather what the section on rounds and clients shows; None where records have no rounds."""
    from markupsafe import Markup

    courses = follow_rounds(records)
    if not courses:
        return None
    action_counts = follow_actions(records)
    return {
        "action_counts": action_counts[:1] + action_counts[1:][-_MOST_ROUNDS:],
        "earlier": max(0, len(action_counts) - 1 - _MOST_ROUNDS),
        "action_summary": say_action_counts(action_counts[0]) if action_counts else "",
        "actions": ACTIONS[::-1],
        "findings": findings(courses),
        "rounds": Markup(draw_rounds(courses, prefix="rounds")),
        "clients": Markup(draw_clients(courses, prefix="clients")),
        "both": len({course.defended for course in courses}) == 2,
        "tables": [
            (
                _capital(name_course(course, courses)),
                course.clients[:_MOST_CLIENTS],
                max(0, len(course.clients) - _MOST_CLIENTS),
            )
            for course in most_informed(courses)
        ],
        "courses": [(_capital(name_course(course, courses)), course) for course in courses],
    }


def _by_server(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Sort cells by what the attacker holds."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_capital(wording.SERVERS[cell.threat_model]), []).append(cell)
    return groups


def _sections(cells: Sequence[Cell], names: Mapping[Setting, str]) -> list[Section]:
    """Sort cells into settings and panels, and draw each panel."""
    styles = assign_styles(cells)
    numbers = iter(range(1, MOST_FIGURES + 1))
    settings: dict[Setting, dict[tuple[int, str, int], list[Cell]]] = {}
    for cell in cells:
        key = (cell.training_steps, cell.scheme, cell.num_classes)
        settings.setdefault(cell.setting, {}).setdefault(key, []).append(cell)
    return [
        Section(_capital(names[setting]), [_panel(g, styles, numbers) for g in groups.values()])
        for setting, groups in settings.items()
    ]


def _panel(
    members: Sequence[Cell], styles: Mapping[Series, Style], numbers: Iterator[int]
) -> Panel:
    attacks: dict[Series, list[Cell]] = {}
    for cell in members:
        attacks.setdefault(cell.series, []).append(cell)
    first = members[0]
    heading = f"{wording.name_stage(first.training_steps)}, scheme {first.scheme}"
    accuracies = [c.model_accuracy for c in members if c.model_accuracy is not None]
    accuracy = sum(accuracies) / len(accuracies) if accuracies else None
    figures = _draw(members, styles, numbers)
    return Panel(_capital(heading), accuracy, figures, list(attacks.values()))


def _draw(
    members: Sequence[Cell], styles: Mapping[Series, Style], numbers: Iterator[int]
) -> list[Drawing]:
    """Draw one figure, or one per threat model where the lines would be too many to tell apart."""
    from markupsafe import Markup

    held = dict.fromkeys(c.threat_model for c in members if c.threat_model != "none")
    groups = {"": list(members)}
    if len({cell.series for cell in members}) > _MOST_LINES and len(held) > 1:
        groups = {
            wording.SHORT_SERVERS[t]: [c for c in members if c.threat_model in (t, "none")]
            for t in held
        }
    # Only our own SVG passes unescaped; its title was escaped where it was made.
    return [
        Drawing(server, Markup(draw_panel(g, prefix=f"figure{number}", styles=styles)))
        for (server, g), number in zip(groups.items(), numbers, strict=False)
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _track(advantage: Interval) -> dict[str, str]:
    """Place an advantage and its interval on a line from 0 to 1, in per cent of its length."""
    low, mean, high = (
        min(max(value, 0.0), 1.0) for value in (advantage.low, advantage.mean, advantage.high)
    )
    return {
        "low": f"{100 * low:.1f}%",
        "width": f"{100 * (high - low):.1f}%",
        "mean": f"{100 * mean:.1f}%",
    }


def write_report(records_path: Path, out_path: Path) -> Tables:
    """Render a file of records to an HTML file, which appears whole or not at all.

    Args:
        records_path: JSON lines as `labelleak audit` writes them.
        out_path: the page to write; an older one is replaced.

    Returns:
        The records that were read, each trial once, and their tables.

    Raises:
        BadInput: if the records cannot be read or are none, or the page cannot be written.
    """
    tables = Tables.of(read_records(records_path))
    if not tables.records:
        raise BadInput(f"{records_path} holds no records; run `labelleak audit` first")
    write_whole(out_path, render(tables, source=records_path.name))
    return tables
