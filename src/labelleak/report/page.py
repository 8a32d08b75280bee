"""Render records as one HTML file that needs no network, no script and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from labelleak.errors import BadInput
from labelleak.records.cells import Cell, Setting, tabulate
from labelleak.records.events import read_failures
from labelleak.records.files import write_whole
from labelleak.records.frame import RecordFrame
from labelleak.records.intervals import Interval
from labelleak.records.journal import say_unfinished
from labelleak.records.record import THREAT_MODELS, Record
from labelleak.records.repeats import count_once
from labelleak.records.rounds import federated, outside_rounds
from labelleak.records.strongest import worst_cases
from labelleak.records.values import CERTAIN
from labelleak.records.whole import read_frame
from labelleak.report import federation, headlines, opening, scope, wording
from labelleak.report.about import NOBODY, About
from labelleak.report.defenses import compare_defenses
from labelleak.report.figures import Panels, Series, assign_styles
from labelleak.report.layer_leaks import LayerLeaks, split_layers
from labelleak.report.next_steps import next_steps
from labelleak.report.picture import draw
from labelleak.report.unread import say_unread
from labelleak.report.untested import untested
from labelleak.report.verdict import GRADES, Verdict, reach_verdict
from labelleak.report.words import rare_words

_MOST_LINES = 8
# Drawn on one page at most; tables hold the rest.
MOST_FIGURES = 60


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
        layers: what each layer alone gives away, where that was audited; such records are of no
            client's update, and stand nowhere else.
        repeats: records that were left out, since they repeat others.
    """

    records: RecordFrame
    cells: list[Cell]
    worst: list[Cell]
    layers: LayerLeaks | None = None
    repeats: int = 0

    @classmethod
    def of(cls, records: Iterable[Record] | Tables) -> Tables:
        """Make the tables of records; tables stay as they are.

        Raises:
            BadInput: if two records of the same trial disagree.
        """
        if isinstance(records, Tables):
            return records
        rows = RecordFrame.of(records)
        counted = count_once(rows)
        once, layers = split_layers(counted)
        frame = RecordFrame.of(once).ordered("seed", "initialisation", "trial")
        repeats = len(rows) - len(counted)
        return cls(frame, tabulate(frame), worst_cases(frame), layers, repeats)

    def say_repeats(self) -> str:
        """Say in a clause that records repeat others; nothing where none does."""
        if not self.repeats:
            return ""
        twice = bool(federated(self.records))
        ran = ": the same run may stand there twice" if twice else ""
        return f"{wording.count(self.repeats, 'record')} that repeat others count once{ran}"

    @cached_property
    def verdict(self) -> Verdict:
        """What the page judges."""
        return reach_verdict(self.records, self.worst)

    @cached_property
    def flags(self) -> list[scope.Flag]:
        """What was raised, the most frequent first."""
        return scope.flags(self.records)


def render(
    records: Sequence[Record] | Tables,
    *,
    source: str,
    about: About = NOBODY,
    when: str = "",
    unfinished: str = "",
) -> str:
    """Return the report as one self-contained HTML text; the same input gives the same bytes.

    Args:
        records: what was measured.
        source: where the records lie, as the reader should find them.
        about: title, system and contact, which stand at the top.
        when: the day of the records.
        unfinished: that the run has not finished, in a clause; see `records.journal`.

    Raises:
        BadInput: if there are no records, or two of the same trial disagree.
    """
    if not isinstance(records, Tables) and not records:
        raise BadInput("there are no records to report on; run `labelleak audit` first")
    context = _context(Tables.of(records), source)
    context["left_out"] = " ".join(filter(None, (_sentence(unfinished), context["left_out"])))
    return fill("report.html.j2", {"about": about, "when": when, **context})


def _sentence(clause: str) -> str:
    return f"{wording.capital(clause)}." if clause else ""


def fill(template: str, context: Mapping[str, Any]) -> str:
    """Return a template filled in; every value that comes from outside is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("labelleak.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["server"] = lambda held: wording.capital(wording.SHORT_SERVERS[held])
    return environment.get_template(template).render({"say": wording, **context})


def opening_of(records: Sequence[Record], verdict: Verdict) -> dict[str, Any]:
    """Gather the sentences and the picture that a page opens with."""
    worst, comparisons = verdict.worst, compare_defenses(records)
    return {
        "grade": verdict.grade,
        "grades": GRADES,
        "place": GRADES.index(verdict.grade) if verdict.grade in GRADES else -1,
        "worst": worst,
        "fates": verdict.fates,
        "exposures": verdict.exposures,
        "named": opening.verdict_parts(worst) if worst else None,
        "gained": opening.say_advantage(worst) if worst else "",
        "tested": opening.say_tested(records, verdict),
        "meaning": opening.say_meaning(records, verdict),
        "evidence": opening.say_evidence(verdict),
        "beside": f"{opening.say_defended(verdict)} {opening.say_smaller(verdict)}".strip(),
        "unread": say_unread(verdict.unread),
        "left_out": opening.say_untested(records),
        "steps": next_steps(records, verdict, comparisons),
        "drawn": draw(verdict.exposures),
        "track": _track,
        "defenses": comparisons,
        "versions": scope.list_values(RecordFrame.of(records).distinct("labelleak")),
    }


def _context(tables: Tables, source: str) -> dict[str, Any]:
    records, cells = tables.records, tables.cells
    verdict = tables.verdict
    if verdict.courses:
        cells = tabulate(outside_rounds(records))
    settings = wording.tell_apart(list(dict.fromkeys(cell.setting for cell in cells)))
    cases = _by_case(headlines.verdict_cells(verdict.cells))
    return {
        **opening_of(records, verdict),
        "source": source,
        "cases": cases if len(cases) > 1 or verdict.courses else [],
        "labels": _by_label(records, verdict),
        "servers": [name for name in THREAT_MODELS if any(name in case for case in cases)],
        "settings": settings,
        "several_settings": len(settings) > 1,
        "sections": _sections(cells, settings),
        "setup": scope.setup(records),
        "assumptions": scope.assumptions(records),
        "untested": untested(records),
        "attacks": scope.attacks(records),
        "repetition": scope.repetition(records),
        "commands": scope.commands(records),
        "flags": tables.flags,
        "layers": tables.layers,
        "words": rare_words(records),
        "federation": federation.section(verdict.courses, records),
        "expectations": any(cell.expected_asr is not None for cell in cells),
    }


def _by_label(records: Sequence[Record], verdict: Verdict) -> list[tuple[str, float, float, str]]:
    """Return name, share named, guess and advantage of each label, where an input has several."""
    judged = verdict.judged
    if judged is None or not judged.by_class:
        return []
    names = opening.class_names(records) or [f"class {n}" for n in range(judged.num_classes)]
    if len(names) != judged.num_classes:
        return []
    return [
        (name, asr, free, wording.number((asr - free) / (1 - free)) if free < CERTAIN else "none")
        for name, (asr, free) in zip(names, judged.by_class, strict=True)
    ]


def _by_case(cells: Sequence[Cell]) -> list[dict[str, Cell]]:
    """Put the servers of a case side by side, each with its strongest attack."""
    groups: dict[Any, dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.sort_key[:3] + cell.sort_key[4:], {})[cell.threat_model] = cell
    return [groups[case] for case in sorted(groups)]


def _sections(cells: Sequence[Cell], names: Mapping[Setting, str]) -> list[Section]:
    """Sort cells into settings and panels, and draw each panel."""
    numbers = iter(range(1, MOST_FIGURES + 1))
    settings: dict[Setting, dict[tuple[int, str, int], list[Cell]]] = {}
    for cell in cells:
        key = (cell.training_steps, cell.scheme, cell.num_classes)
        settings.setdefault(cell.setting, {}).setdefault(key, []).append(cell)
    with Panels(assign_styles(cells)) as panels:
        return [
            Section(
                wording.capital(names[setting]),
                [_panel(group, panels, numbers) for group in groups.values()],
            )
            for setting, groups in settings.items()
        ]


def _panel(members: Sequence[Cell], panels: Panels, numbers: Iterator[int]) -> Panel:
    attacks: dict[Series, list[Cell]] = {}
    for cell in members:
        if cell.attack != "free":  # a guess without the update is no attack; it has a column
            attacks.setdefault(cell.series, []).append(cell)
    first = members[0]
    heading = f"{wording.name_stage(first.training_steps, first.init)}, scheme {first.scheme}"
    accuracies = [c.model_accuracy for c in members if c.model_accuracy is not None]
    accuracy = sum(accuracies) / len(accuracies) if accuracies else None
    figures = _draw(members, panels, numbers)
    return Panel(wording.capital(heading), accuracy, figures, list(attacks.values()))


def _draw(members: Sequence[Cell], panels: Panels, numbers: Iterator[int]) -> list[Drawing]:
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
        Drawing(server, Markup(panels.draw(g, prefix=f"figure{number}")))
        for (server, g), number in zip(groups.items(), numbers, strict=False)
    ]


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


def write_report(
    records_path: Path,
    out_path: Path,
    about: About = NOBODY,
    held: Sequence[Record] | None = None,
) -> Tables:
    """Render a file of records to an HTML file, which appears whole or not at all.

    Args:
        records_path: JSON lines as `labelleak audit` writes them.
        out_path: the page to write; an older one is replaced.
        about: title, system and contact.
        held: all that the file holds, where whoever wrote it still has them; else it is read.

    Returns:
        The records that were read, each trial once, and their tables.

    Raises:
        BadInput: if the records cannot be read or are none, or the page cannot be written.
    """
    tables = Tables.of(read_frame(records_path) if held is None else held)
    if not tables.records:
        raise BadInput(f"{records_path} holds no records; run `labelleak audit` first")
    page = render(
        tables,
        source=records_path.name,
        about=about,
        when=day_of(records_path),
        unfinished=say_beside(tables, records_path, reasons=False),
    )
    write_whole(out_path, page)
    return tables


def say_beside(tables: Tables, records: Path, *, reasons: bool = True) -> str:
    """Say in a clause what figures do not show: a run that goes on, failed audits, repeats.

    Args:
        tables: the records.
        records: the file that they are of.
        reasons: whether to say why audits failed, which may name labels and is for no page.
    """
    failed = read_failures(records.parent)
    failed = failed if reasons else replace(failed, reason="")
    missing = f"not in these records: {failed}" if str(failed) else ""
    return "; ".join(filter(None, (say_unfinished(records), missing, tables.say_repeats())))


def day_of(path: Path) -> str:
    """Return the day, in UTC, on which a file was written last."""
    return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d}"
