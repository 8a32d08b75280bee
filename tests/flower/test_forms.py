"""Replies that are differences or gradients: declared, recognised, never audited as weights."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")
from labelleak import flower  # first: it keeps Flower from phoning home

from flower import federation  # isort: skip
from flwr.app import ArrayRecord

from labelleak.core.likeness import doubt_weights
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.flower.findings import Sender
from labelleak.flower.forms import AsWeights, Returns
from labelleak.flower.rows import write_finding


def make_update(seed, *, width=24, classes=7, lr=0.05, steps=1, optimiser="SGD"):
    """Train a random model; give weights before and after, the last gradient and the labels."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(12, width), torch.nn.ReLU(), torch.nn.Linear(width, classes)
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    how = getattr(torch.optim, optimiser)(model.parameters(), lr=lr)
    labels = torch.randint(0, classes, (steps, 16))
    for y in labels:
        how.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.randn(16, 12)), y).backward()
        how.step()
    after = {name: value.clone() for name, value in model.state_dict().items()}
    gradient = {name: value.grad.clone() for name, value in model.named_parameters()}
    return before, after, gradient, tuple(labels.flatten().tolist())


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def difference(before, after):
    return {name: after[name] - before[name] for name in before}


@pytest.mark.parametrize("seed", range(20))
def test_weights_are_told_from_differences_and_gradients(seed):
    more = {"lr": [0.01, 0.3][seed % 2], "steps": 1 + seed % 5}
    more["optimiser"] = ["SGD", "Adam", "AdamW", "RMSprop"][seed % 4]
    if more["optimiser"] != "SGD":
        more["lr"] /= 10
    before, after, gradient, _ = make_update(seed, **more)
    assert doubt_weights(before, after) == ""
    assert doubt_weights(before, gradient)
    assert doubt_weights(before, difference(before, after))


@pytest.mark.parametrize(
    "text", ["clip:0.01", "gaussian:0.1", "gaussian:3", "topk:0.1", "sign", "clip:1|gaussian:1"]
)
def test_a_defended_update_still_looks_like_weights(text):
    from labelleak.core.update import SharedTensors

    for seed in range(10):
        before, after, _, _ = make_update(seed)
        update = SharedTensors({n: t[None] for n, t in difference(before, after).items()}, "2")
        shared, _ = parse_defense(text).apply(update, np.random.default_rng(seed + 99), None)
        sent = {n: before[n] + shared.tensors.get(n, torch.zeros(1))[0] for n in before}
        assert doubt_weights(before, sent) == ""


def test_weights_that_start_at_zero_are_weights():
    before, after, _, _ = make_update(0)
    moved = difference(before, after)
    assert doubt_weights({n: torch.zeros_like(t) for n, t in before.items()}, moved) == ""
    before["2.weight"], after["2.weight"] = torch.zeros(7, 24), moved["2.weight"]
    assert doubt_weights(before, after) == ""


def test_what_looks_like_weights_in_a_noised_gradient_is_not_taken_for_them():
    before, _, gradient, _ = make_update(1)
    noised = {n: g + 0.02 * torch.randn_like(g) for n, g in gradient.items()}
    assert "projection" in doubt_weights(before, noised)


def by_attack(auditor, before, reply, labels, **options):
    found = auditor.audit(before, reply, Sender(1, "1", labels=labels), **options)
    return {one.attack: one.result.score.asr[0] for one in found.answers}, found


@pytest.mark.parametrize("steps", [1, 3])
def test_a_declared_form_is_read_as_what_it_is(steps):
    before, after, gradient, labels = make_update(2, steps=steps)
    options = {"folder": None, "lr": 0.05, "local_steps": steps}
    options["attacks"] = ["free", "llg", "llbg"]
    right, _ = by_attack(flower.Auditor(**options), before, after, labels)
    told = flower.Auditor(**options, returns="difference")
    assert by_attack(told, before, difference(before, after), labels)[0] == right
    if steps == 1:
        told = flower.Auditor(**options, returns="gradient")
        assert by_attack(told, before, gradient, labels)[0] == right


@pytest.mark.parametrize("kind", ["difference", "gradient"])
def test_an_undeclared_form_is_refused_or_flagged_and_read_as_the_likelier(tmp_path, kind):
    before, after, gradient, labels = make_update(3)
    auditor = flower.Auditor(folder=tmp_path, lr=0.05, attacks=["llg", "llbg"])
    right, _ = by_attack(auditor, before, after, labels)
    reply = gradient if kind == "gradient" else difference(before, after)
    with pytest.raises(BadInput, match="returns='difference'"):
        by_attack(auditor, before, reply, labels, strict=True)
    found, finding = by_attack(auditor, before, reply, labels)
    assert found == right
    write_finding(auditor, finding)
    (event,) = rows(tmp_path / "events.jsonl")
    assert (event["event"], event["read_as"]) == ("reply_form_uncertain", kind)
    for row in rows(tmp_path / "records.jsonl"):
        assert "reply_form_uncertain" in row["flags"]


def answers(kind):
    def train(message, context):
        sent = message.content["arrays"].to_torch_state_dict()
        reply = federation.train(message, context)
        got = reply.content["arrays"].to_torch_state_dict()
        moved = {n: got[n] - sent[n] for n in got}
        if kind == "gradient":
            moved = {
                n: -v / federation.LR if v.is_floating_point() else v for n, v in moved.items()
            }
        reply.content["arrays"] = ArrayRecord(moved)
        return reply

    return train


@pytest.mark.parametrize("kind", ["difference", "gradient"])
@pytest.mark.parametrize("told", [True, False])
def test_block_withholds_it_declared_or_not(tmp_path, kind, told):
    auditor = federation.make_auditor(tmp_path, returns=kind if told else None, truth=None)
    app = federation.make_app(flower.audit_mod(auditor, "block"), function=answers(kind))
    (reply,) = flower.InProcessGrid(app, 1).send_and_receive([federation.train_message()])
    assert reply.has_error()
    if told:
        found = rows(tmp_path / "records.jsonl")
        assert {row["action"] for row in found} == {"blocked"}
        assert max(row["advantage"] for row in found) > 0.5
    else:
        (event,) = rows(tmp_path / "events.jsonl")
        assert event["event"] == "audit_failed"
        assert "does not look like weights" in event["reason"]


def test_block_withholds_weights_that_were_declared_to_be_a_gradient(tmp_path):
    auditor = federation.make_auditor(tmp_path, returns="gradient", truth=None)
    app = federation.make_app(flower.audit_mod(auditor, "block"))
    (reply,) = flower.InProcessGrid(app, 1).send_and_receive([federation.train_message()])
    assert reply.has_error()
    (event,) = rows(tmp_path / "events.jsonl")
    assert "looks like weights, not like the gradient it was said" in event["reason"]


def test_a_defense_changes_a_declared_difference_as_it_stands():
    def halve(update):
        return {name: value / 2 for name, value in update.items()}

    def reply_of(*mods):
        app = federation.make_app(*mods, function=answers("difference"))
        return flower.InProcessGrid(app, 1).send_and_receive([federation.train_message()])[0]

    bare = reply_of().content["arrays"].to_torch_state_dict()
    halved = reply_of(flower.defense_mod(halve, returns="difference"))
    for name, value in halved.content["arrays"].to_torch_state_dict().items():
        if name.endswith("weight"):
            torch.testing.assert_close(value, bare[name] / 2)
    assert reply_of(flower.defense_mod(halve)).has_error()


def test_control_terms_are_subtracted_whatever_the_steps():
    before, after, _, labels = make_update(4, steps=3)
    term = {name: torch.randn_like(value) for name, value in before.items()}
    drifted = {n: after[n] - 0.05 * 3 * term[n] for n in after}
    read = AsWeights(before, drifted, Returns.weights, 0.05 * 3, term)
    for name in before:
        torch.testing.assert_close(read[name].float(), after[name], atol=1e-6, rtol=1e-5)
    options = {"folder": None, "lr": 0.05, "local_steps": 3, "attacks": ["llg", "llbg"]}
    right, _ = by_attack(flower.Auditor(**options), before, after, labels)
    asked = []

    def control(client, server_round):
        asked.append((client, server_round))
        return term

    told = flower.Auditor(**options, control=control)
    assert by_attack(told, before, drifted, labels)[0] == right
    assert asked == [("1", 1)]
    assert by_attack(flower.Auditor(**options), before, drifted, labels)[0] != right
