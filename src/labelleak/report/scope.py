"""Say what a set of records assumed, what it left untested and how to make it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from labelleak.attacks import ATTACKS
from labelleak.records.flags import FLAGS
from labelleak.records.frame import TITLED, RecordFrame, name_titles
from labelleak.records.intervals import LEVEL, RESAMPLES
from labelleak.records.record import THREAT_MODELS, Record
from labelleak.records.rounds import client_of, is_federated
from labelleak.report import wording

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
    "train_size": "Samples kept for training the model",
    "auxiliary_size": "Samples that the attacker holds",
    "victim_size": "Samples that batches are drawn from",
    "shadow_batches": "Batches that the shadow attack learns from",
    "normalisation": "Scaling of the data",
    "weights": "File of weights",
    "task": "What labels are",
    "tokens": "How texts become tokens",
    "sequence_length": "Tokens of a text",
    "own_text": "The attacker's text",
    "lora": "Adapters that clients train, all else frozen",
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


def said(records: RecordFrame, key: str) -> set[str]:
    """Return what the records hold under a key, as text."""
    return set(map(str, records.distinct(key)))


def setup(records: Iterable[Record]) -> list[Fact]:
    """List what was run: data, model, sizes and whatever more the records say of themselves."""
    frame = RecordFrame.of(records)
    accuracies = frame.distinct("model_accuracy")
    facts = [
        Fact("Data", list_values(frame.distinct("data"))),
        Fact("Classes", list_values(frame.distinct("num_classes"))),
        Fact("Model", list_values(frame.distinct("model"))),
        *_stages(frame),
        Fact("How batches are drawn", list_values(frame.distinct("scheme"))),
        Fact("Batch sizes", list_values(frame.distinct("batch_size"), shown=20)),
        Fact("Local steps", list_values(frame.distinct("local_steps"))),
        Fact("Defenses", list_values(frame.distinct("defense"))),
    ]
    if accuracies:
        ends = list(dict.fromkeys(wording.share(f(accuracies)) for f in (min, max)))
        facts.append(Fact("Accuracy of the models", " to ".join(ends)))
    for key, name in _NAMES.items():
        values = said(frame, key)
        if values:
            facts.append(Fact(name, _of_given(frame, key) or list_values(values)))
    return facts


def _of_given(records: RecordFrame, key: str) -> str:
    """Say what is not known of models whose weights were given; empty where nothing is to say."""
    if wording.AS_GIVEN not in said(records, "init"):
        return ""
    if key == "init":
        others = said(records, "init") - {wording.AS_GIVEN}
        return ", ".join([*sorted(others), wording.TRAINING_UNKNOWN])
    if key == "victims" and said(records, key) != {"seen"}:
        return "no part of the training in this audit; of the training before nothing is known"
    return ""


def _stages(records: RecordFrame) -> list[Fact]:
    """Say how far models were trained: by rounds in a federation, by steps elsewhere."""
    steps = records.distinct("training_steps")
    if not records.distinct("round"):
        return [Fact("Training steps before the update", list_values(steps))] if steps else []
    rounds = [r.extra["round"] for r in records if is_federated(r)]
    alone = [r.training_steps for r in records if not is_federated(r)]
    facts = [Fact("Training steps before the update", list_values(alone))] if alone else []
    if rounds:
        facts.append(Fact("Rounds", f"{min(rounds)} to {max(rounds)}"))
        clients = {client_of(r) for r in records if is_federated(r)}
        facts.append(Fact("Clients", f"{len(clients):,}"))
    return facts


def assumptions(records: Iterable[Record]) -> list[str]:
    """List what must hold for the numbers to mean what the page says."""
    frame = RecordFrame.of(records)
    steps = sorted(frame.distinct("local_steps"))
    one = steps == [1]
    update = "one gradient step" if one else f"{list_values(steps)} local steps"
    return [
        "The server is honest but curious: it follows the protocol and reads what it is sent. "
        "It sees the update of this one client by itself.",
        "The attacker knows how many labels the update was computed from, and how many "
        "classes there are.",
        f"The client trains with {_loss(frame)} on hard labels and shares {update}.",
        "The best guess without the update knows how batches are drawn (the prior of the "
        "scheme), and nothing of the batch itself.",
        _sampling(frame),
        _intervals(frame),
        "Headline and verdict speak of the strongest attack that each server could run. It is "
        "chosen on other models than it is measured on, so the choice flatters no "
        "one; where it came out weaker than that of a server that holds less, it is that server's. "
        "Headline and verdict speak of one case: the one whose upper end is highest, at the batch "
        "size nearest to 32.",
    ]


_LOSSES = {
    "binary": "binary cross-entropy of one output",
    "multilabel": "binary cross-entropy of an output for each label, averaged over the labels,",
    "dense": "softmax cross-entropy of every pixel",
    "tokens": "softmax cross-entropy of every next token",
}


def _loss(records: RecordFrame) -> str:
    tasks = {"classes" if task is None else str(task) for task in records.values("task")}
    return " or ".join(sorted(_LOSSES.get(task, "softmax cross-entropy") for task in tasks))


def _sampling(records: RecordFrame) -> str:
    models = records.count("data", "model", "seed", "initialisation")
    trials = records.count("trial", "seed", "initialisation")
    return (
        f"{wording.count(len(records), 'record')} from "
        f"{wording.count(models, 'initialisation')} of a model; every combination of batch size, "
        f"scheme and training was tried on {wording.count(trials, 'trial')}. A trial is one batch "
        "and its update."
    )


def _intervals(records: RecordFrame) -> str:
    made = (
        f"Intervals cover {LEVEL:.0%} by a bootstrap of {RESAMPLES:,} draws: initialisations "
        "are drawn first, then trials within them, since trials on one initialisation "
        "resemble each other. Where all trials agree the interval has no width; that is not "
        "certainty."
    )
    if records.count("seed", "initialisation") == 1:
        made += " There is a single initialisation here, so the intervals speak of that model only."
    if records.count("trial") == 1:
        made += " There is a single trial per condition, which no interval can make up for."
    return made.replace("%", "\xa0%")


def attacks(records: Iterable[Record]) -> list[Run]:
    """List the attacks that read updates, weaker servers first, each with a plain sentence."""
    frame = RecordFrame.of(records)
    titles = frame.titles
    found = {run for run in frame.attackers if run[0]}
    return [
        Run(
            wording.name_attack(name, adaptive, titles),
            THREAT_MODELS[held],
            ATTACKS[name].card.plain if name in ATTACKS else "",
        )
        for held, name, adaptive in sorted(found)
    ]


def repetition(records: Iterable[Record]) -> list[Fact]:
    """List seeds, releases and fingerprints that identify the run."""
    frame = RecordFrame.of(records)
    facts = [
        Fact("Seeds", list_values(frame.distinct("seed"))),
        Fact("labelleak", list_values(frame.distinct("labelleak"))),
        Fact("torch", list_values(frame.distinct("torch"))),
    ]
    for key, name in (("data_fingerprint", "Data"), ("model_fingerprint", "Models")):
        values = said(frame, key)
        if values:
            facts.append(Fact(f"{name} (fingerprint)", list_values(values)))
    return facts


def commands(records: Iterable[Record]) -> list[str]:
    """List the distinct commands that made the records, in the order of first use."""
    return [command for command in RecordFrame.of(records).distinct("command") if command]


def not_applicable(records: Iterable[Record]) -> dict[str, str]:
    """Return why each attack that was asked for could not answer."""
    reasons: dict[str, str] = {}
    for missing in RecordFrame.of(records).distinct("not_applicable"):
        if isinstance(missing, dict):
            reasons.update({str(name): str(reason) for name, reason in missing.items()})
    return reasons


def flags(records: Sequence[Record]) -> list[Flag]:
    """Count each flag over the runs of the attacks that it concerns, most frequent first."""
    frame = RecordFrame.of(records)
    codes, held = frame.coded(("flags",))
    raised = {flag for (flags,) in held for flag in flags}
    runs = Counter(zip(frame.values("attack"), frame.values("adaptive"), strict=True))
    found = []
    for name in raised:
        times = np.array([flags.count(name) for (flags,) in held], dtype=np.int64)[codes]
        found.append(_flag(name, frame, np.repeat(np.arange(len(frame)), times), runs))
    return sorted(found, key=lambda flag: (-flag.trials / flag.of, flag.name))


def _flag(
    name: str, frame: RecordFrame, places: np.ndarray, runs: Counter[tuple[str, bool]]
) -> Flag:
    """Say of a flag what the records at these places do, which raised it."""
    own = places.tolist()

    def held(key: str) -> list[Any]:
        values = frame.values(key)
        return [values[place] for place in own]

    attacks = sorted(set(zip(held("attack"), held("adaptive"), strict=True)))
    titles = name_titles(*map(held, TITLED))
    meaning = FLAGS.get(name)
    figures = [one.get(name) for one in held("flag_figures") if one is not None]
    numbers = sorted(f for f in figures if isinstance(f, (int, float)))
    return Flag(
        name,
        meaning.says if meaning else "",
        meaning.advice if meaning else "",
        ", ".join(wording.name_attack(*attack, titles) for attack in attacks),
        len(own),
        sum(runs[attack] for attack in attacks),
        " to ".join(dict.fromkeys(f"{n:.3g}" for n in (numbers[0], numbers[-1])))
        if numbers
        else "",
    )
