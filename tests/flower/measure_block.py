"""Hold what `block` lets leave against what leaks at the true head, over random models.

Run ``python tests/flower/measure_block.py 200 [FIRST]`` (``make block``). A third of the auditors
is told nothing, a third the head's name, a third the model. Clients take one to three steps, and
send weights, a difference or a gradient, which is declared or not. Most of them defend what they
send, which is never declared.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from labelleak import flower  # first: it keeps Flower from phoning home

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict  # isort: skip
from flwr.clientapp import ClientApp

from core.architectures import KINDS, draw
from labelleak.errors import BadInput
from labelleak.flower.findings import Sender
from labelleak.flower.mods import LIMIT

LR = 0.05
DOUBTS = ("UncertainForm", "AmbiguousHead")
# Noise is in units of the gradient, where the defense leaves a place for its size.
DEFENSES = (
    "", "gaussian:{0.03}", "gaussian:{1.0}", "laplace:{0.1}", "topk:0.1", "prune:0.8",
    "sign:scaled", "qsgd:16", "bits:8", "clip:{0.5}", "clip:{1.0}|gaussian:{0.3}",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What leaks at the true head of one update, and whether it left."""

    made: str
    told: str
    advantage: float
    left: bool
    why: str = ""


def measure(seed: int) -> Outcome:
    """Make a random client, measure its update at the true head, and send it through `block`."""
    rng = np.random.default_rng([seed, 1])
    case = draw(seed)
    steps = int(rng.integers(1, 4))
    form = str(rng.choice(["weights"] * 8 + ["difference", "gradient"]))
    form, steps = (form, 1) if form == "gradient" else (form, steps)
    declared, defense = bool(rng.random() < 0.5), str(rng.choice(DEFENSES))
    told = ("nothing", "head", "model")[seed // len(KINDS) % 3]
    if told == "model" and not case.x.is_floating_point():
        told = "nothing"  # a model of tokens cannot be traced by the shape of its inputs
    before, after = _train(case, steps)
    unit = 1.0 if form == "gradient" else LR
    text = re.sub(r"{(.*?)}", lambda size: f"{float(size[1]) * unit:g}", defense)
    reply = _defended(text, form, before, _reply(form, before, after), seed)
    options = {"folder": None, "lr": LR, "local_steps": steps}
    labels = tuple(case.y.tolist()) * steps
    if told == "model":
        options |= {"model": draw(seed).model, "input_shape": tuple(case.x.shape[1:])}
    truth = flower.Auditor(**options, head=case.head, returns=form)
    sender = Sender(1, "1", len(labels), steps, labels)
    advantage = truth.audit(before, reply, sender).worst
    if told == "head":
        options["head"] = case.head
    if declared:
        options["returns"] = form
    with tempfile.TemporaryDirectory() as folder:
        auditor = flower.Auditor(**{**options, "folder": folder})
        left = _sent(auditor, before, reply, [case.y.tolist()] * steps)
        why = "; ".join(_reasons(Path(folder)))
    said = f"{seed} {case.kind}, {steps} steps, {form}, declared {declared}, {defense or None}"
    return Outcome(said, told, advantage, left, why)


def _reasons(folder):
    """Say what the mod noted."""
    events = folder / "events.jsonl"
    for line in events.read_text().splitlines() if events.exists() else ():
        yield str(json.loads(line).get("reason"))[:100]
    records = folder / "records.jsonl"
    for line in records.read_text().splitlines() if records.exists() else ():
        row = json.loads(line)
        if row["threat_model"] != "none" and (row["advantage"] or 0) > LIMIT:
            yield f"{row['attack']} {row['advantage']} at {row['head']}"


def _train(case, steps):
    model = case.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(steps):
        optimiser.zero_grad()
        case.loss().backward()
        optimiser.step()
    after = {name: value.clone() for name, value in model.state_dict().items()}
    return before, after


def _defended(text, form, before, reply, seed):
    """Return what a client sends that defends its reply."""
    if not text:
        return reply
    mod = flower.defense_mod(text, seed=seed, returns=form)
    got = _through(mod, before, reply, [])
    return {name: torch.from_numpy(array.numpy()) for name, array in got.content["arrays"].items()}


def _reply(form, before, after):
    if form == "weights":
        return after
    factor = 1.0 if form == "difference" else -1 / LR
    return {
        name: (after[name] - before[name]) * (factor if after[name].is_floating_point() else 1)
        for name in before
    }


def _sent(auditor, before, reply, labels):
    """Return whether a reply leaves a client that blocks."""
    return not _through(flower.audit_mod(auditor, "block"), before, reply, labels).has_error()


def _through(mod, before, reply, labels):
    """Return the message that comes out of a client with a mod."""
    app = ClientApp(mods=[mod])

    @app.train()
    def train(message, context):
        for one in labels:
            flower.report_labels(context, one)
        metrics = MetricRecord({"num-examples": 16})
        content = RecordDict({"arrays": ArrayRecord(reply), "metrics": metrics})
        return Message(content, reply_to=message)

    config = ConfigRecord({"server-round": 1})
    content = RecordDict({"arrays": ArrayRecord(before), "config": config})
    (got,) = flower.InProcessGrid(app, 1).send_and_receive([Message(content, 1, "train")])
    return got


def run(seeds: range) -> list[Outcome]:
    """Measure many clients; where no attack applies at the true head there is nothing to hold."""
    found = []
    for seed in seeds:
        try:
            found.append(measure(seed))
        except BadInput as reason:
            print(seed, "not measured:", reason)
    return found


def leaked(found: list[Outcome]) -> list[Outcome]:
    """Return the updates above the limit that left."""
    return [one for one in found if one.left and one.advantage > LIMIT]


def summary(found: list[Outcome]) -> str:
    """Say how many left, above the limit and below it."""
    below = [one for one in found if one.advantage <= LIMIT]
    doubts = Counter(
        one.why.split(":")[0] if one.why.startswith(DOUBTS) else "a figure"
        for one in below
        if not one.left
    )
    return (
        f"{len(found)} updates, {len(found) - len(below)} above the limit of {LIMIT}, of which "
        f"{len(leaked(found))} left; of {len(below)} below it {_share(below)} left; held back by "
        f"{dict(doubts)}"
    )


def _share(some: list[Outcome]) -> str:
    return f"{sum(one.left for one in some) / max(1, len(some)):.1%}"


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    given = [int(word) for word in sys.argv[1:]]
    first = given[1] if len(given) > 1 else 0
    found = run(range(first, first + (given[0] if given else 200)))
    for one in found:
        if not one.left and one.advantage <= LIMIT:
            print(f"held back: {one.made}, {one.told} told: {one.why}")
    print(*(f"LEFT: {one}" for one in leaked(found)), sep="\n")
    print(summary(found))
    sys.exit(bool(leaked(found)))
