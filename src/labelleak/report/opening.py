"""The sentences of a page's first screen: what was tested, how bad it is, and for whom."""

from __future__ import annotations

from collections.abc import Sequence

from labelleak.records.cells import Cell
from labelleak.records.frame import RecordFrame
from labelleak.records.record import THREAT_MODELS, Record
from labelleak.records.rounds import client_of, federated
from labelleak.report import wording
from labelleak.report.federation_words import say_untried
from labelleak.report.headlines import harm, near_zero, say_images, say_named, verdict_cells
from labelleak.report.unread import say_unread
from labelleak.report.verdict import ENOUGH_TRIALS, GRADES, UNDECIDED, Exposure, Verdict
from labelleak.report.wording import capital, count, list_words, number, span

_FIRM_TRIALS, _FIRM_GROUPS = 100, 10
_MOST_NAMES = 12


def verdict_parts(worst: Exposure) -> tuple[str, str, str, str]:
    """Return the sentence of the verdict; the second and fourth piece are its numbers."""
    return say_named(worst.server, worst.what, worst.asr.mean, worst.free, worst.labels)


def say_advantage(worst: Exposure) -> str:
    """Say how much of what a guess leaves open the update gave away."""
    if worst.advantage is None:
        return "The labels are certain without any update here, so no leak can be measured."
    said = span(worst.advantage, worst.trials, wording.INTERVAL)
    return (
        f"Advantage {said}, where 0 means that the update told nothing beyond that guess and 1 "
        "that it told everything."
    )


def say_verdict(verdict: Verdict) -> str:
    """Say a verdict in a line or two, as the terminal and the page do.

    >>> from labelleak.report.verdict import reach_verdict
    >>> say_verdict(reach_verdict([]))
    'Not decided: no attack that reads the update was run, so no leak was measured.'
    """
    worst = verdict.worst
    unread = say_unread(verdict.unread)
    if worst is None:
        nobody = "no attack that reads the update was run, so no leak was measured."
        return f"{verdict.grade.word}: {unread[:1].lower() + unread[1:] or nobody}"
    said = [verdict.grade.word, verdict.mixed, verdict.fates, "".join(verdict_parts(worst))]
    found = [f"{part}." for part in said if part]
    doubt = worst.doubt if verdict.grade is UNDECIDED else ""
    more = (say_advantage(worst), doubt, say_defended(verdict), unread)
    return " ".join([*found, *filter(None, more)])


def say_tested(records: Sequence[Record], verdict: Verdict) -> str:
    """Say what was audited, and by how many attacks."""
    judged = verdict.judged
    attacks = {name for held, name, _ in RecordFrame.of(records).answerers[1] if held}
    attackers = f"{count(len(attacks), 'attack')} tried to read the labels"
    rows = federated(records)
    if judged is None and rows:
        rounds = len({row.extra["round"] for row in rows})
        clients = len({client_of(row) for row in rows})
        untried = say_untried(rows)
        return (
            f"A federation: the updates of {count(clients, 'client')} over "
            f"{count(rounds, 'round')}, {_named(rows)}{rows[0].num_classes} classes. "
            f"{attackers}.{untried and f' {untried}.'}"
        )
    if judged is None:
        met = "read: no attack that was asked can read one" if verdict.unread else "attacked"
        return f"No update was {met}; the records hold guesses without the update only."
    steps = "one gradient step" if judged.local_steps == 1 else f"{judged.local_steps} local steps"
    defense = "no defense" if judged.defense == "none" else f"the defense {judged.defense}"
    return (
        f"Simulated clients that share {steps} of the model {judged.model} "
        f"({wording.name_training(judged.training_steps, judged.init)}) on {judged.data}, "
        f"{count(judged.num_classes, 'class')}, "
        f"{wording.name_scheme(judged.scheme)}, with {defense}. {attackers}.{_say_rest(verdict)}"
    )


def _named(rows: Sequence[Record]) -> str:
    """Say a federation's model, data, policy, batch size and steps, as its auditor was told."""
    row = rows[0]
    policies = sorted({str(one.extra["policy"]) for one in rows if "policy" in one.extra})
    sizes, steps = (
        sorted({getattr(one, key) for one in rows}) for key in ("batch_size", "local_steps")
    )
    said = [
        f"model {'not named' if row.model == 'unknown' else row.model}",
        "" if row.data == "federation" else f"data {row.data}",
        f"policy {list_words(policies, 4)}" if policies else "",
        f"batches of {list_words(map(str, sizes), 4)}",
        "one local step" if steps == [1] else f"{list_words(map(str, steps), 4)} local steps",
    ]
    return "".join(f"{part}, " for part in said if part)


def _say_rest(verdict: Verdict) -> str:
    """Say of how many cases this is the worst, and how far the best lies below it."""
    tested = [cell for cell in verdict_cells(verdict.cells) if cell.advantage]
    cases = {(cell.sort_key[:3], cell.sort_key[4]) for cell in tested}
    if len(cases) < 2 or verdict.worst is None:
        return ""
    same = [
        cell.advantage.mean
        for cell in tested
        if cell.threat_model == verdict.worst.server and cell.advantage
    ]
    least = f"; the best has advantage {number(min(same))}" if same else ""
    return f" This is the worst of {len(cases)} cases{least}."


def say_meaning(records: Sequence[Record], verdict: Verdict) -> str:
    """Say what the verdict means for the people whose data a client holds."""
    worst, word = verdict.worst, verdict.grade
    if worst is None or worst.advantage is None or word not in GRADES:
        return (
            "Not known yet. At worst, whoever receives an update can tell how many people in a "
            "client's batch have each label, such as each diagnosis."
        )
    if word is GRADES[0]:
        return (
            "These attackers could not tell the labels behind an update better than someone who "
            "never saw it. Another attacker may."
        )
    much = {1: "can tell a little of", 2: "can partly tell", 3: "can largely tell"}
    can = much.get(GRADES.index(word), "can tell")
    names = _examples(records)
    whoever = "Whoever receives an update"
    if verdict.no_update_left:
        whoever = "No update left its client. Without the policy, whoever receives one"
    tasks = RecordFrame.of(records).distinct("task")
    if "dense" in tasks:
        return (
            f"{whoever} {can} how many pixels of the images behind it have each "
            f"class{names}: how large a tumour is, say, and whether there is one."
            f"{say_images(verdict.judged)}"
        )
    if "tokens" in tasks:
        return (
            f"{whoever} {can} which words stand in the text behind it, and how "
            "often: names, places, diagnoses. The words that hardly anybody else uses tell whose "
            "text it is."
        )
    single = (
        "if it is computed from one person's data, that person's label" if worst.labels != 1 else ""
    )
    of = _people(verdict)
    return (
        f"{whoever} {can} how many of {of} have each label"
        f"{names}: if labels are diagnoses, how many patients have which"
        f"{'; ' + single if single else ''}."
    )


def _people(verdict: Verdict) -> str:
    """Say whose labels they are; of how many where each may have several."""
    judged = verdict.judged
    if judged is None or judged.task != "multilabel" or judged.num_samples == 1:
        return "the people behind it"
    return f"the {judged.num_samples} people behind it"


def class_names(records: Sequence[Record]) -> list[str]:
    """Return the names of the classes, where records hold them."""
    names = next(iter(RecordFrame.of(records).distinct("class_names")), None)
    return list(map(str, names)) if isinstance(names, list) else []


def _examples(records: Sequence[Record]) -> str:
    names = class_names(records)
    return f" ({list_words(names, _MOST_NAMES)})" if names else ""


def say_evidence(verdict: Verdict) -> list[str]:
    """Say how strong the evidence of the verdict is, and what weakens it."""
    worst = verdict.worst
    if verdict.mixed:
        return [f"None: {verdict.mixed[:1].lower()}{verdict.mixed[1:]}."]
    if worst is None:
        why = (
            "no attack could read an update"
            if verdict.unread
            else "no attack that reads an update was run"
        )
        return [f"None: {why}."]
    federated = worst.labels is None
    group = "client" if federated else "independent model"
    firm = worst.trials >= _FIRM_TRIALS and worst.groups >= _FIRM_GROUPS
    word = "Thin" if worst.thin else "Firm" if firm else "Fair"
    of = count(worst.trials, "update")
    said = [
        f"{word}: {of} of {count(worst.groups, group)}, against the best guess that knows "
        "how batches are drawn and nothing of the batch."
    ]
    if worst.thin:
        said.append(f"Fewer than {ENOUGH_TRIALS} updates cannot show that little leaks.")
    if worst.groups == 1 and not federated:
        said.append("There is one model only; others may leak more or less.")
    if worst.trials == 1:
        said.append("A single update has no interval.")
    said += filter(None, (near_zero(worst.advantage, worst.trials), worst.doubt))
    return said


def say_smaller(verdict: Verdict) -> str:
    """Say of smaller batches in the same case that they leak more, where they do."""
    judged = verdict.judged
    if judged is None or judged.advantage is None:
        return ""
    same = [
        cell
        for cell in verdict.cells
        if cell.threat_model == judged.threat_model
        and cell.sort_key[:3] == judged.sort_key[:3]
        and cell.batch_size < judged.batch_size
        and cell.advantage is not None
        and cell.advantage.mean > judged.advantage.mean
    ]
    if not same:
        return ""
    each = [
        f"{number(c.advantage.mean)} for batches of {c.batch_size}" for c in same if c.advantage
    ]
    return f"Smaller batches leak more: advantage {list_words(each, 6)}."


def say_defended(verdict: Verdict) -> str:
    """Say what the best defense leaves, where the verdict is on clients without one."""
    judged, reach = verdict.judged, dict[str, Cell]()
    if judged is None or judged.defense != "none":
        return ""
    for cell in verdict.cells:
        if cell.defense != "none" and harm(cell.advantage) >= harm(
            reach[cell.defense].advantage if cell.defense in reach else None
        ):
            reach[cell.defense] = cell
    if not reach:
        return ""
    least = min(reach.values(), key=lambda cell: harm(cell.advantage))
    if least.advantage is None:
        return ""
    left = span(least.advantage, least.trials, wording.INTERVAL)
    return f"That is without a defense; with {least.defense} the worst case has advantage {left}."


def say_untested(records: Sequence[Record]) -> str:
    """Say in a sentence or two what the verdict does not cover."""
    frame = RecordFrame.of(records)
    held = frame.distinct("threat_model")
    servers = [wording.SERVERS[t] for t in THREAT_MODELS[1:] if t not in held]
    left = [*servers, "attacks that are not listed below"]
    if not any(frame.distinct("adaptive")):
        left.append("attackers who know a defense")
    left += ["a server that alters the model"]
    left += ["anything but label counts, such as the samples themselves"]
    return f"{capital(list_words(left, 9))}."


__all__ = [
    "class_names",
    "say_advantage",
    "say_evidence",
    "say_meaning",
    "say_smaller",
    "say_tested",
    "say_untested",
    "say_verdict",
    "verdict_parts",
]
