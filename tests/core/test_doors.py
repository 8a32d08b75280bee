"""Every door tells the same of the same weights: what was true of one and not of another, once."""

import pytest
import torch
from torch import nn

from labelleak.core.knowledge import LabelledData
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.files.update import gather_update

BEFORE = {"fc.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])}
BEFORE["fc.bias"] = torch.tensor([0.4, 0.8, 0.3])
AFTER = {name: value - 0.02 * (1 + value) for name, value in BEFORE.items()}


def by_file(how):
    return gather_update(before=BEFORE, after=AFTER, made=how).observe("fc")


def by_received_update(how):
    return ReceivedUpdate(BEFORE, AFTER, training=how).observe("fc")


def by_observation(how):
    return Observation.from_update(BEFORE, AFTER, head="fc", training=how)


def by_flower(how):
    auditors = pytest.importorskip("labelleak.flower.auditor")
    told = {name: value for name, value in how.known.items() if name != "batch_size"}
    auditor = auditors.Auditor(folder=None, attacks=["row_min"], **told)
    sender = auditors.Sender(round=1, client="0", num_samples=4)
    return auditor.audit(BEFORE, AFTER, sender).observation


DOORS = [by_file, by_received_update, by_observation, by_flower]
# What each optimiser does linearly, and what is left of the movement when that is undone.
CASES = {
    "adam": ({"optimiser": "adam", "momentum": 0.9, "weight_decay": 0.1, "proximal": 0.5}, 0.0),
    "rmsprop": ({"optimiser": "rmsprop", "momentum": 0.9, "weight_decay": 0.1}, 0.0),
    "adamw": ({"optimiser": "adamw", "momentum": 0.9, "weight_decay": 0.1}, 0.1),
    "sgd": ({"optimiser": "sgd", "weight_decay": 0.1}, 0.1),
    "not told": ({"weight_decay": 0.1}, 0.1),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_undone_that_the_optimiser_did_not_do_linearly(door, case):
    told, decay = CASES[case]
    seen = door(LocalTraining(lr=0.1, batch_size=4, **told))
    for name, gradient in (("fc.weight", seen.weight), ("fc.bias", seen.bias)):
        expected = (BEFORE[name] - AFTER[name]) / 0.1 - decay * BEFORE[name]
        assert gradient.reshape(expected.shape) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("door", DOORS)
def test_the_momentum_of_sgd_is_undone_and_that_of_adam_is_not(door):
    by_sgd, by_adam = (
        door(LocalTraining(lr=0.1, local_steps=3, batch_size=4, momentum=0.9, optimiser=name))
        for name in ("sgd", "adam")
    )
    # 1 + 1.9 + 2.71 replays against three steps.
    assert by_adam.row_sums == pytest.approx(by_sgd.row_sums * 5.61 / 3, rel=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_attackers_that_follow_the_head_know_what_was_undone(name):
    from labelleak.core.scale import StepPath

    how = LocalTraining(
        lr=0.1, local_steps=3, momentum=0.5, weight_decay=0.2, proximal=0.3, optimiser=name
    )
    path = StepPath.of(how)
    start, end = BEFORE["fc.weight"].double(), AFTER["fc.weight"].double()
    gradient = path.mean_gradient(start, end)
    assert path.movement(gradient, start) == pytest.approx(end - start, abs=1e-9)


def test_decoupled_decay_leaves_the_direction_of_adam():
    torch.manual_seed(3)
    data = LabelledData(torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 1]))
    plain, decayed = (
        _trained(nn.Linear(4, 3), data, LocalTraining(lr=0.01, optimiser=name, weight_decay=decay))
        for name, decay in (("adam", 0.0), ("adamw", 0.5))
    )
    assert decayed.weight == pytest.approx(plain.weight, abs=1e-4)


def _trained(model, data, how):
    from labelleak.simulation.client import train_locally

    torch.manual_seed(5)
    nn.init.normal_(model.weight)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    after = train_locally(model, data, [torch.arange(6).numpy()], how)
    return Observation.from_update(before, after, head="", training=how)


MANY = 300
WIDE = {"fc.weight": torch.randn(MANY, 4, generator=torch.Generator().manual_seed(0))}


def left_out_by_attack():
    from labelleak.audits.one_update import attack_update

    gradient = {"fc.weight": WIDE["fc.weight"] - WIDE["fc.weight"].mean(0)}
    report = attack_update(gradient=gradient, made=LocalTraining(batch_size=3))
    return report.not_applicable


def left_out_by_audit():
    from labelleak.audits.options import AuditOptions
    from labelleak.audits.plan import plan_audit

    options = AuditOptions(data=f"synthetic:{MANY}", model="mlp", batch_sizes=(2,), trials=2)
    return plan_audit(options).left_out


def left_out_by_flower():
    auditors = pytest.importorskip("labelleak.flower.auditor")
    auditor = auditors.Auditor(folder=None, lr=0.1)
    after = {"fc.weight": WIDE["fc.weight"] * 0.9}
    sender = auditors.Sender(round=1, client="0", num_samples=3)
    return auditor.audit(WIDE, after, sender).not_applicable


@pytest.mark.parametrize("door", [left_out_by_attack, left_out_by_audit, left_out_by_flower])
def test_what_is_too_slow_for_many_classes_is_left_out_with_its_reason(door):
    said = door()
    slow = {"gdbr", "layer_regression", "gradient_regression"}
    reason = "is left out of the standard battery above 256 classes; name it in `attacks` to run it"
    assert {said[name] for name in slow} == {f"{name} {reason}" for name in slow}


def test_every_door_calls_the_same_tensors_buffers():
    from labelleak.core.weights import buffer_names

    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(3, 2))
    names = list(model.state_dict())
    assert buffer_names(names) == buffer_names(names, model)
    assert buffer_names(names) == {name for name, _ in model.named_buffers()}


def test_weights_that_do_not_fit_are_refused_in_the_same_words():
    from labelleak.core.weights import load_weights
    from labelleak.errors import BadInput

    with pytest.raises(BadInput, match=r"the weights sent do not fit the model: size mismatch"):
        load_weights(
            nn.Linear(2, 3), {"weight": torch.ones(2, 2), "bias": torch.ones(3)}, "the weights sent"
        )


def test_every_record_says_what_it_is_of_in_the_same_keys(tmp_path):
    from labelleak.audits.one_update import attack_update
    from labelleak.records.provenance import origin, software

    keys = set(origin(seed=0, data="", model="", command="", num_classes=2))
    gradient = {"fc.weight": torch.tensor([[-0.5, -0.5], [0.25, 0.25], [0.25, 0.25]])}
    report = attack_update(
        gradient=gradient, made=LocalTraining(batch_size=1), truth=[0], attacks=["llg"]
    )
    records = report.records()
    auditors = pytest.importorskip("labelleak.flower.auditor")
    from labelleak.flower.rows import write_finding
    from labelleak.records.record import read_records

    auditor = auditors.Auditor(folder=tmp_path, lr=0.1, attacks=["row_min"])
    sender = auditors.Sender(round=1, client="0", labels=(0, 1))
    write_finding(auditor, auditor.audit(BEFORE, AFTER, sender))
    records += read_records(tmp_path / "records.jsonl")
    assert len(records) == 2
    for record in records:
        told = {**vars(record), **record.extra}
        assert keys <= set(told)
        assert {name: told[name] for name in software()} == software()


def test_an_answer_is_scored_or_not_and_is_one_type():
    from labelleak.core.answers import Answer
    from labelleak.errors import BadInput

    auditors = pytest.importorskip("labelleak.flower.auditor")
    auditor = auditors.Auditor(folder=None, lr=0.1, attacks=["row_min"])
    for labels in (None, (0, 1)):
        sender = auditors.Sender(round=1, client="0", num_samples=2, labels=labels)
        (answer,) = auditor.audit(BEFORE, AFTER, sender).answers
        assert isinstance(answer, Answer)
        assert (answer.result is None) == (labels is None)
        assert (answer.at(0).asr is None) == (labels is None)
        if labels is None:
            with pytest.raises(BadInput, match="was not scored"):
                _ = answer.score
