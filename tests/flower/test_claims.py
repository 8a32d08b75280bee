"""What clients say of themselves: node ids are keys, claims are short, events for all else."""

import json
import logging
import resource
import time

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")
from labelleak import flower  # first: it keeps Flower from phoning home

from flower import federation  # isort: skip
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord

from labelleak.core.priors import UniformPrior, free_guess
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.flower.claims import controls_named, lr_said, num_examples, partition_of, steps_in


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ask(auditor, function, *, rounds=1, **config):
    """Let every client train for some rounds, watched by the server."""
    grid = flower.InProcessGrid(federation.make_app(function=function), federation.CLIENTS)
    watched = flower.observe(grid, auditor)
    for number in range(1, rounds + 1):
        messages = []
        for node in watched.get_node_ids():
            message = federation.train_message(server_round=number)
            message.content["config"].update(config)
            message.metadata.__dict__["_dst_node_id"] = node
            messages.append(message)
        watched.send_and_receive(messages)


def observe(folder, change, *, rounds=1, **options):
    """Watch clients whose replies are changed; give events and records."""

    def train(message, context):
        reply = federation.train(message, context)
        change(reply, context.node_id)
        return reply

    ask(federation.make_auditor(folder, **options), train, rounds=rounds)
    return rows(folder / "events.jsonl"), rows(folder / "records.jsonl")


def claim(**metrics):
    """Let the second node claim something; texts travel as the old interface packs them."""

    def change(reply, node):
        if node != 2:
            return
        texts = {k: v for k, v in metrics.items() if isinstance(v, (str, bytes))}
        numbers = {k: v for k, v in metrics.items() if k not in texts}
        reply.content["metrics"] = MetricRecord({**reply.content["metrics"], **numbers})
        if texts:
            reply.content["fitres.metrics"] = ConfigRecord(texts)

    return change


def test_a_claimed_partition_is_shown_and_a_clash_is_an_event(tmp_path):
    events, records = observe(tmp_path, claim(**{"partition-id": 2}))
    clashing = [event for event in events if event["event"] == "partition_clash"]
    assert [(event["client"], event["clients"]) for event in clashing] == [
        ("2", ["2", "3"]),
        ("3", ["2", "3"]),
    ]
    assert {row["client"] for row in records} == {"1", "4"}
    estimates = rows(tmp_path / "estimates.jsonl")
    assert {row["client"] for row in estimates} == {"2", "3"}
    read = [row for row in estimates if row["threat_model"] != "none"]
    assert all("partition_clash" in row["flags"] for row in read)


@pytest.mark.parametrize(
    "said", [[1] * 300_000, "\x1b[2J" + "x" * 40, "y" * 10_000, b"\x00\xff", 2**64 - 1, ""]
)
def test_hostile_partition_ids_stay_short_and_printable(tmp_path, said):
    partition, refused = partition_of(said)
    assert partition is None
    assert refused.isprintable()
    assert len(refused) < 400
    if isinstance(said, (list, str)) and said:

        def labels(known_as, server_round):  # asked by node where nothing can be claimed
            return federation.labels_of(1 if known_as == "2" else known_as, server_round)

        events, records = observe(tmp_path, claim(**{"partition-id": said}), truth=labels)
        assert [e["client"] for e in events if e["event"] == "partition_refused"] == ["2"]
        assert {row["client"] for row in records} == {"1", "2", "3", "4"}
        assert all(len(json.dumps(event)) < 600 for event in events)


@pytest.mark.parametrize("said", [-5, 0, 10**9 + 1, 2**62, float("nan"), 0.5])
def test_an_absurd_number_of_examples_is_an_event_and_a_flag(tmp_path, said):
    assert num_examples({"num-examples": said}).value is None
    options = {"truth": None, "epochs": 1, "batch_size": 16}
    events, _ = observe(tmp_path, claim(**{"num-examples": said}), **options)
    assert [(e["event"], e["client"]) for e in events if "said" in e] == [
        ("num_examples_refused", "2")
    ]
    estimates = rows(tmp_path / "estimates.jsonl")
    own = [r for r in estimates if r["client"] == "2" and r["threat_model"] != "none"]
    assert own or any(e["event"] == "not_attacked" and e["client"] == "2" for e in events)
    assert all({"samples_unknown", "steps_unknown"} <= set(row["flags"]) for row in own)


@pytest.mark.parametrize("said", [20_000_000, 10**9])
def test_a_number_of_examples_that_may_be_costs_nothing(tmp_path, said):
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    events, _ = observe(tmp_path, claim(**{"num-examples": said}), truth=None)
    assert not events
    own = [row for row in rows(tmp_path / "estimates.jsonl") if row["client"] == "2"]
    assert {row["attack"]: sum(row["counts"]) for row in own} == dict.fromkeys(
        ("free", "llg", "ebi"), said
    )
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_missing_number_of_examples_is_an_event_too(tmp_path):
    def change(reply, node):
        if node == 2:
            reply.content["metrics"] = MetricRecord({"num_examples_seen": 16})

    events, _ = observe(tmp_path, change, truth=None)
    assert ("num_examples_refused", "2") in [(e["event"], e["client"]) for e in events]


def make_trainer(steps):
    """Make clients that train for an epoch of so many batches, and report it."""

    def train(message, context):
        client = int(context.node_config["partition-id"])
        model = federation.make_model()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        lr = float(message.content["config"]["lr"])
        optimiser = torch.optim.SGD(model.parameters(), lr=lr)
        own = federation.indices_of(client, 1, steps=steps)
        for picked in np.array_split(own, steps):
            x = torch.tensor(federation.PIXELS[picked] / 16, dtype=torch.float32)
            optimiser.zero_grad()
            y = torch.tensor(federation.LABELS[picked])
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
        reply = federation.train(message, context)
        reply.content["arrays"] = ArrayRecord(model.state_dict())
        metrics = {"num-examples": len(own), "partition-id": client, "steps-taken": steps}
        reply.content["metrics"] = MetricRecord(metrics)
        return reply

    return train


@pytest.mark.parametrize(
    ("told", "steps"),
    [
        ({"epochs": 1, "batch_size": 16}, 5),
        ({"steps_metric": "steps-taken"}, 5),
        ({"local_steps": 5}, 5),
        ({}, None),
    ],
)
def test_steps_are_told_by_epochs_or_a_metric_or_are_not_known(tmp_path, told, steps):
    def labels(client, server_round):
        return federation.labels_of(client, server_round, steps=5)

    auditor = federation.make_auditor(tmp_path, lr=7.0, truth=labels, **told)
    ask(auditor, make_trainer(5), lr=federation.LR)
    found = rows(tmp_path / "records.jsonl")
    assert {row["steps"] for row in found} == {steps}
    assert {row["num_samples"] for row in found} == {80}
    assert {row["lr"] for row in found} == {federation.LR}  # as it was sent, not the option
    assert {row["optimiser"] for row in found} == {None}  # nobody told it
    flagged = ["steps_unknown" in r["flags"] for r in found if r["threat_model"] != "none"]
    assert set(flagged) == {steps is None}
    if steps:
        llg = [row["presence_recall"] for row in found if row["attack"] == "llg"]
        assert np.mean(llg) > 0.9


@pytest.mark.parametrize("said", [0, -1, 10**12, "many", [3]])
def test_steps_that_a_client_cannot_have_taken_are_an_event(tmp_path, said):
    events, _ = observe(
        tmp_path,
        claim(**{"steps-taken": said} if said != "many" else {}),
        steps_metric="steps-taken",
    )
    assert "2" in [e["client"] for e in events if e["event"] == "steps_refused"]


def test_epochs_count_every_sample_again(tmp_path):
    options = {"truth": None, "epochs": 2, "batch_size": 8}
    observe(tmp_path, lambda reply, node: None, **options)
    found = rows(tmp_path / "estimates.jsonl")
    assert {(row["num_samples"], row["steps"]) for row in found} == {(32, 4)}
    twice = {**options, "truth": lambda *which: np.tile(federation.labels_of(*which), 2)}
    _, records = observe(tmp_path, lambda reply, node: None, **twice)
    _, once = free_guess(UniformPrior(), 16, 10)
    assert [row["asr_free"] for row in records] == pytest.approx([once] * len(records), abs=1e-6)
    assert num_examples({"num-examples": 6 * 10**8}, epochs=2).value is None


def test_steps_of_epochs_are_capped_and_learning_rates_are_numbers():
    assert steps_in(160, 32, 2) == 10
    assert steps_in(10**9, 1, 1) is None
    assert lr_said([{"lr": "high"}, {"lr": 0.5}], "lr") == 0.5
    assert lr_said([{"lr": -1.0}, {"lr": True}, {"lr": float("inf")}], "lr") is None
    assert not controls_named(["encoder.weight", "fc.bias"])


def test_control_variates_that_nobody_told_of_are_flagged(tmp_path):
    def change(reply, node):
        zeros = {"3.bias": torch.zeros(10)}
        if node == 2:
            reply.content["control_variates"] = ArrayRecord(zeros)
        if node == 3:
            reply.content["told"] = ConfigRecord({"scaffold": True})

    _, records = observe(tmp_path, change)
    read = [row for row in records if row["threat_model"] != "none"]
    flagged = {row["client"] for row in read if "control_terms" in row["flags"]}
    assert flagged == {"2", "3"}


def test_a_line_a_round_says_what_was_attacked_and_where_it_went(tmp_path):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("flwr.labelleak")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        observe(tmp_path, lambda reply, node: None, rounds=2)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert len(said) == 2
    assert said[0].startswith("labelleak: round 1, 4 of 4 updates attacked at '3'; written to ")
    assert said[0].endswith("(records.jsonl)")


BAD = {
    "unknown form": {"returns": "weight"},
    "above 0": {"lr": -1},
    "one of sgd, adam, adamw": {"optimiser": "adamax"},
    "did you mean 'llg'": {"attacks": ["llgg"]},
    "not both": {"local_steps": 2, "epochs": 1, "batch_size": 8},
    "epochs need batch_size": {"epochs": 1},
    "`momentum` must": {"momentum": 1.5},
    "`local_steps` must": {"local_steps": 0},
}


@pytest.mark.parametrize("said", BAD)
def test_options_are_checked_when_the_auditor_is_made(said):
    with pytest.raises(BadInput, match=said):
        flower.Auditor(**{"folder": None, "lr": 0.1, **BAD[said]})


def test_optimisers_that_are_known_are_taken():
    for name in ("sgd", "adam", "adamw", "rmsprop"):
        assert flower.Auditor(folder=None, lr=0.1, optimiser=name).told.optimiser == name


def test_an_auditor_takes_every_fact_of_a_training():
    facts = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "class_weights": (1.0, 2.0)}
    auditor = flower.Auditor(folder=None, **facts, clip_norm=1.0, label_smoothing=0.1)
    assert auditor.told == LocalTraining(**facts, clip_norm=1.0, label_smoothing=0.1)
    before = {"fc.weight": torch.zeros(3, 2)}
    after = {"fc.weight": torch.ones(3, 2)}
    with pytest.raises(BadInput, match="names 2 classes, the head has 3"):
        auditor.audit(before, after, flower.auditor.Sender(1, "a", labels=(0,)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "defend", "defense": "clipp:1"}, "did you mean"),
        ({"policy": "defend", "defense": "none"}, "none is no defense"),
        ({"policy": "defend", "defense": 3}, "is no defense"),
        ({"policy": "warn", "limit": "half"}, "`limit` must be a number"),
    ],
)
def test_options_are_checked_when_the_mod_is_made(options, said):
    with pytest.raises(BadInput, match=said):
        flower.audit_mod(flower.Auditor(folder=None, lr=0.1), **options)
    if said == "did you mean":
        with pytest.raises(BadInput, match=said):
            flower.defense_mod("clipp:1")


def test_a_defense_may_be_given_as_text_and_is_recorded_after_it_has_succeeded(tmp_path):
    def failing(update):
        raise RuntimeError("no")

    def actions(folder, defense):
        auditor = federation.make_auditor(folder, truth=None)
        app = federation.make_app(flower.audit_mod(auditor, "defend", defense=defense))
        flower.InProcessGrid(app, 1).send_and_receive([federation.train_message()])
        return [r["action"] for r in rows(folder / "records.jsonl") if r["attack"] == "llg"]

    assert actions(tmp_path / "text", "clip:1|gaussian:5") == ["defended", "sent"]
    assert actions(tmp_path / "failing", failing) == []


def test_a_client_that_reports_no_labels_is_one_line(tmp_path, caplog):
    def silent(message, context):
        reply = federation.train(message, context)
        context.state.clear()
        return reply

    auditor = federation.make_auditor(tmp_path, truth=None)
    app = federation.make_app(flower.audit_mod(auditor, "record"), function=silent)
    flower.InProcessGrid(app, 1).send_and_receive([federation.train_message()])
    (line,) = [r for r in caplog.records if r.name == "labelleak.flower"]
    assert line.exc_info is None
    assert "call report_labels" in line.getMessage()


def test_where_sums_do_not_vanish_adaptive_optimisers_are_named():
    from labelleak.records.flags import FLAGS

    meaning = FLAGS["not_cross_entropy"]
    assert all(name in meaning.says for name in ("Adam", "AdamW", "RMSprop"))
