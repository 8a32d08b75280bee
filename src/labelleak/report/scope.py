"""Say what a set of records assumed, what it left untested and how to make it again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from labelleak.attacks import ATTACKS
from labelleak.records.cells import titles_of
from labelleak.records.flags import FLAGS
from labelleak.records.intervals import LEVEL, RESAMPLES
from labelleak.records.record import THREAT_MODELS, Record
from labelleak.records.rounds import client_of, is_federated
from labelleak.report import wording
from labelleak.report.remedies import group_reasons
from labelleak.report.wording import capital

_SHOWN_VALUES = 6
# Extra keys that say how the clients and models were made; others are figures or doubles.
_NAMES = {
    "init": "Initial weights",
    "activation": "Activation",
    "mode": "Mode of the model",
    "victims": "Victims' data",
    "optimizer": "Optimiser of the local steps",
    "lr": "Learning rate of the local steps",
    "clients": "Clients averaged into one update",
    "users": "Users that trained the model",
    "partition": "How data are spread over users",
    "per_round": "Users drawn for a round",
    "round_steps": "Local steps of a user in a round",
    "train_lr": "Learning rate of the training before",
    "train_size": "Samples that the model was trained on",
    "auxiliary_size": "Samples that the attacker holds",
    "victim_size": "Samples that batches are drawn from",
    "shadow_batches": "Batches that the shadow attack learns from",
    "normalisation": "Scaling of the data",
    "weights": "File of weights",
    "task": "What labels are",
    "head": "Last layer",
    "head_found": "How the last layer was found",
}


class Fact(NamedTuple):
    """One line of a description list."""

    name: str
    value: str


class Run(NamedTuple):
    """An attack that was run, with what its server holds and what it does."""

    title: str
    server: str
    plain: str


class Flag(NamedTuple):
    """A flag with what it says, the attacks it weakens, how often and by what figures it rose."""

    name: str
    says: str
    advice: str
    attacks: str
    trials: int
    of: int
    figures: str


def list_values(values: Iterable[object], shown: int = _SHOWN_VALUES) -> str:
    """List distinct values, numbers in order, the first few of many.

    >>> list_values([8, 1, 8]), list_values(range(9), shown=2)
    ('1, 8', '0, 1 and 7 more')
    """
    distinct = sorted(set(values), key=lambda v: (isinstance(v, str), v))
    said = ", ".join(str(value) for value in distinct[:shown])
    more = len(distinct) - shown
    return f"{said} and {more:,} more" if more > 0 else said


def _extra(records: Sequence[Record], key: str) -> set[str]:
    """Return what the records hold under an extra key, as text."""
    found = [record.extra.get(key) for record in records]
    try:
        distinct = [value for _, value in {(type(value), value) for value in found}]
    except TypeError:  # a list or dict cannot be hashed
        distinct = found
    return {str(value) for value in distinct if value is not None}


def setup(records: Sequence[Record]) -> list[Fact]:
    """List what was run: data, model, sizes and whatever more the records say of themselves."""
    accuracies = {r.model_accuracy for r in records if r.model_accuracy is not None}
    facts = [
        Fact("Data", list_values(r.data for r in records)),
        Fact("Classes", list_values(r.num_classes for r in records)),
        Fact("Model", list_values(r.model for r in records)),
        *_stages(records),
        Fact("How batches are drawn", list_values(r.scheme for r in records)),
        Fact("Batch sizes", list_values((r.batch_size for r in records), shown=20)),
        Fact("Local steps", list_values(r.local_steps for r in records)),
        Fact("Defenses", list_values(r.defense for r in records)),
    ]
    if accuracies:
        ends = list(dict.fromkeys(wording.share(f(accuracies)) for f in (min, max)))
        facts.append(Fact("Accuracy of the models", " to ".join(ends)))
    for key, name in _NAMES.items():
        values = _extra(records, key)
        if values:
            facts.append(Fact(name, list_values(values)))
    return facts


def _stages(records: Sequence[Record]) -> list[Fact]:
    """Say how far models were trained: by rounds in a federation, by steps elsewhere."""
    rounds = [r.extra["round"] for r in records if is_federated(r)]
    alone = [r.training_steps for r in records if not is_federated(r)]
    facts = [Fact("Training steps before the update", list_values(alone))] if alone else []
    if rounds:
        facts.append(Fact("Rounds", f"{min(rounds)} to {max(rounds)}"))
        clients = {client_of(r) for r in records if is_federated(r)}
        facts.append(Fact("Clients", f"{len(clients):,}"))
    return facts


def assumptions(records: Sequence[Record]) -> list[str]:
    """List what must hold for the numbers to mean what the page says."""
    steps = sorted({record.local_steps for record in records})
    one = steps == [1]
    update = "one gradient step" if one else f"{list_values(steps)} local steps"
    return [
        "The server is honest but curious: it follows the protocol and reads what it is sent. "
        "It sees the update of this one client by itself.",
        "The attacker knows how many labels the update was computed from, and how many "
        "classes there are.",
        f"The client trains with {_loss(records)} on hard labels and shares {update}.",
        "The best guess without the update knows how batches are drawn (the prior of the "
        "scheme), and nothing of the batch itself.",
        _sampling(records),
        _intervals(records),
        "Headline and verdict speak of the strongest attack that each server could run. It is "
        "chosen on other models than it is measured on, so the choice flatters no "
        "one. The headline's stage and scheme are the worst that were tested.",
    ]


_LOSSES = {
    "binary": "binary cross-entropy of one output",
    "multilabel": "binary cross-entropy of an output for each label, averaged over the labels,",
    "dense": "softmax cross-entropy of every pixel",
}


def _loss(records: Sequence[Record]) -> str:
    tasks = {str(record.extra.get("task", "classes")) for record in records}
    return " or ".join(sorted(_LOSSES.get(task, "softmax cross-entropy") for task in tasks))


def _sampling(records: Sequence[Record]) -> str:
    models = len({(r.data, r.model, r.seed, r.initialisation) for r in records})
    trials = len({(r.trial, r.seed, r.initialisation) for r in records})
    return (
        f"{wording.count(len(records), 'record')} from "
        f"{wording.count(models, 'initialisation')} of a model; every combination of batch size, "
        f"scheme and training was tried on {wording.count(trials, 'trial')}. A trial is one batch "
        "and its update."
    )


def _intervals(records: Sequence[Record]) -> str:
    made = (
        f"Intervals cover {LEVEL:.0%} by a bootstrap of {RESAMPLES:,} draws: initialisations "
        "are drawn first, then trials within them, since trials on one initialisation "
        "resemble each other. Where all trials agree the interval has no width; that is not "
        "certainty."
    )
    if len({(record.seed, record.initialisation) for record in records}) == 1:
        made += " There is a single initialisation here, so the intervals speak of that model only."
    if len({record.trial for record in records}) == 1:
        made += " There is a single trial per condition, which no interval can make up for."
    return made.replace("%", "\xa0%")


def attacks(records: Sequence[Record]) -> list[Run]:
    """List the attacks that read updates, weaker servers first, each with a plain sentence."""
    titles = titles_of(records)
    found = {(r.threat_model, r.attack, r.adaptive) for r in records if r.threat_model != "none"}
    ordered = sorted(found, key=lambda run: (THREAT_MODELS.index(run[0]), *run[1:]))
    return [
        Run(
            wording.name_attack(name, adaptive, titles),
            server,
            ATTACKS[name].card.plain if name in ATTACKS else "",
        )
        for server, name, adaptive in ordered
    ]


def untested(records: Sequence[Record]) -> list[str]:
    """List what the records do not cover, from what is absent in them."""
    return [
        *_untested_attackers(records),
        *_untested_clients(records),
        *(f"{capital(reason)}." for reason in group_reasons(not_applicable(records))),
        f"Other data and models than {list_values(r.data for r in records)} on "
        f"{list_values(r.model for r in records)}, and other ways to draw batches than "
        f"{list_values(r.scheme for r in records)}.",
        "Anything but label counts: which sample has which label, the samples themselves, "
        "or who took part.",
    ]


def _untested_attackers(records: Sequence[Record]) -> list[str]:
    run = {record.attack for record in records}
    absent = [wording.name_attack(a) for a in ATTACKS if a not in run | {"free", "random"}]
    held = {record.threat_model for record in records}
    found = [f"{wording.SERVERS[t].capitalize()}." for t in THREAT_MODELS[1:] if t not in held]
    if absent:
        found.append(f"Other attacks of the field: {', '.join(absent)}.")
    if not any(record.adaptive for record in records):
        found.append("Adaptive attackers, which know the client's defense and model it.")
    found.append("A server that alters the model before it sends it, and one that combines rounds.")
    return found


def _untested_clients(records: Sequence[Record]) -> list[str]:
    found = []
    if {record.local_steps for record in records} == {1}:
        found.append("Several local steps before the update is shared (federated averaging).")
    if {record.defense for record in records} == {"none"}:
        found.append("Defenses such as noise, clipping, compression or secure aggregation.")
    stages = {record.training_steps for record in records}
    if stages == {0}:
        found.append("Trained models: every model here is untrained.")
    elif 0 not in stages:
        found.append("Untrained models, on which such attacks are usually strongest.")
    if "seen" not in _extra(records, "victims"):
        found.append("Batches that the model has already been trained on.")
    modes = _extra(records, "mode")
    if modes and "train" not in modes:
        found.append("Updates computed in training mode (batch statistics, dropout).")
    if not any(record.extra.get("clients", 1) > 1 for record in records):
        found.append("Updates of several clients added up before the server sees them.")
    return found


def repetition(records: Sequence[Record]) -> list[Fact]:
    """List seeds, releases and fingerprints that identify the run."""
    facts = [
        Fact("Seeds", list_values(record.seed for record in records)),
        Fact("labelleak", list_values(record.labelleak for record in records)),
        Fact("torch", list_values(record.torch for record in records)),
    ]
    for key, name in (("data_fingerprint", "Data"), ("model_fingerprint", "Models")):
        values = _extra(records, key)
        if values:
            facts.append(Fact(f"{name} (fingerprint)", list_values(values)))
    return facts


def commands(records: Sequence[Record]) -> list[str]:
    """List the distinct commands that made the records, in the order of first use."""
    return list(dict.fromkeys(record.command for record in records if record.command))


def not_applicable(records: Sequence[Record]) -> dict[str, str]:
    """Return why each attack that was asked for could not answer."""
    reasons: dict[str, str] = {}
    for record in records:
        missing = record.extra.get("not_applicable")
        if isinstance(missing, dict):
            reasons.update({str(name): str(reason) for name, reason in missing.items()})
    return reasons


def flags(records: Sequence[Record]) -> list[Flag]:
    """Count each flag over the runs of the attacks that it concerns, most frequent first."""
    raised: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        for flag in record.flags:
            raised[flag].append(record)
    runs = Counter((record.attack, record.adaptive) for record in records)
    found = [_flag(name, rows, runs) for name, rows in raised.items()]
    return sorted(found, key=lambda flag: (-flag.trials / flag.of, flag.name))


def _flag(name: str, rows: Sequence[Record], runs: Counter[tuple[str, bool]]) -> Flag:
    attacks = sorted({(row.attack, row.adaptive) for row in rows})
    titles = titles_of(rows)
    meaning = FLAGS.get(name)
    figures = [row.extra["flag_figures"].get(name) for row in rows if "flag_figures" in row.extra]
    numbers = sorted(f for f in figures if isinstance(f, (int, float)))
    return Flag(
        name,
        meaning.says if meaning else "",
        meaning.advice if meaning else "",
        ", ".join(wording.name_attack(*attack, titles) for attack in attacks),
        len(rows),
        sum(runs[attack] for attack in attacks),
        " to ".join(dict.fromkeys(f"{n:.3g}" for n in (numbers[0], numbers[-1])))
        if numbers
        else "",
    )
