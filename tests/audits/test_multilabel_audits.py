"""Audits of data whose inputs may have several labels, and all that follows from their records."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from labelleak import audit
from labelleak.audits.costs import Cohort, measure_cost, refuse_unlearnt
from labelleak.audits.options import AuditOptions
from labelleak.audits.plan import plan_audit
from labelleak.audits.sample_update import write_client_step
from labelleak.audits.stage import train_stages
from labelleak.audits.update_options import ClientStep
from labelleak.core.knowledge import LabelledData
from labelleak.core.priors import SummedPrior
from labelleak.core.task import Task
from labelleak.core.task_priors import EachPrior
from labelleak.core.white_box import WhiteBox, lift
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.records.record import read_records
from labelleak.records.strongest import worst_cases
from labelleak.report.gate import judge
from labelleak.report.page import render
from labelleak.report.policy import Policy
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.data.given import dataset_of
from labelleak.simulation.training import constant_accuracy

NAMES = ["nodule", "mass", "fracture", "nobody has it"]
SMALL = {"model": "mlp", "initialisations": 2, "training_steps": (0,), "seed": 1, "trials": 20}


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((900, 8)).astype(np.float32)
    scores = x @ rng.standard_normal((8, 4)) + rng.standard_normal((900, 4))
    y = (scores > [0.0, 2.0, 3.0, 99.0]).astype(np.int64)
    path = tmp_path_factory.mktemp("data") / "patients.npz"
    np.savez(
        path, x_train=x[:700], y_train=y[:700], x_test=x[700:], y_test=y[700:], class_names=NAMES
    )
    return path


@pytest.fixture(scope="module")
def audited(patients, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    audit(
        out=out,
        data=str(patients),
        **SMALL,
        batch_sizes=16,
        clients=(1, 2),
        attacks=("free", "llbg", "rlu", "llg_plus", "gdbr"),
        keep_counts=True,
    )
    return out / "records.jsonl"


def test_each_label_is_counted_and_the_free_guess_is_right_about_itself(audited):
    rows = [json.loads(line) for line in audited.read_text().splitlines()]
    plain = [r for r in rows if r["clients"] == 1]
    of = {name: [r for r in plain if r["attack"] == name] for name in ("free", "llbg", "rlu")}
    assert np.mean([r["asr"] for r in of["rlu"]]) >= 0.99
    assert {(r["task"], r["num_classes"], r["num_samples"]) for r in plain} == {
        ("multilabel", 4, 16)
    }
    free = of["free"]
    assert np.mean([r["asr"] for r in free]) == pytest.approx(free[0]["asr_free"], abs=0.02)
    for row in rows:
        right = np.minimum(row["counts"], row["true_counts"]) + np.minimum(
            row["num_samples"] - np.array(row["counts"]),
            row["num_samples"] - np.array(row["true_counts"]),
        )
        assert row["asr"] == pytest.approx(right.mean() / row["num_samples"], abs=1e-5)
        assert np.mean(row["class_asr_free"]) == pytest.approx(row["asr_free"], abs=1e-5)
        assert row["class_asr_free"][3] == 1.0  # nobody has it, and the score says so
    assert {r["num_samples"] for r in rows if r["clients"] == 2} == {32}
    assert "own_data_one_sided" in next(r["flags"] for r in rows if r["attack"] == "llg_plus")
    assert "gdbr" in rows[0]["not_applicable"]


def test_records_that_contradict_themselves_are_refused_in_bulk_too(audited, tmp_path):
    lines = audited.read_text().splitlines()
    wrong = json.loads(lines[1])
    for change in ({"class_asr": [1.0, 0.0, 0.0, 0.0]}, {"class_asr_free": [0.0] * 4}, None):
        row = {**wrong, **(change or {})}
        if change is None:
            del row["class_asr"]
        path = tmp_path / "records.jsonl"
        path.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n")
        with pytest.raises(BadInput, match="class_asr"):
            read_records(path)


def test_the_page_says_how_many_have_each_label(audited):
    records = [replace(r, command="labelleak audit") for r in read_records(audited)]
    page = " ".join(render(records, source="records.jsonl").split())
    assert "how many of the 16 people behind it have each label (nodule, mass, fracture" in page
    assert "labels (4 classes, with or without, of 16 samples)" in page
    assert "Label by label" in page
    assert "binary cross-entropy of an output for each label" in page
    assert ">--scheme</span> natural" in page
    cell = next(one for one in worst_cases(records) if one.threat_model == "auxiliary")
    assert np.mean([asr for asr, _ in cell.by_class]) == pytest.approx(cell.asr.mean, abs=1e-5)


def test_a_gate_judges_an_audit_of_several_labels(audited):
    records = read_records(audited)
    strict = judge(records, Policy(max_advantage={"auxiliary": 0.2}, min_trials=10))
    assert not all(finding.passed for finding in strict)
    assert all(f.passed for f in judge(records, Policy(max_advantage={"auxiliary": 1.0})))


def test_what_an_attacker_learns_before_is_told_apart_by_clients(patients):
    options = AuditOptions(data=str(patients), **SMALL, batch_sizes=(8,), clients=(3,))
    stage = next(train_stages(plan_audit(options), 0, (0,)))
    shared = stage.clients.share(stage.plan.cells[0])
    assert isinstance(shared.prior, EachPrior)
    assert all(isinstance(one, SummedPrior) for one in shared.prior.each)
    assert (shared.truth.counts.reshape(10, 4, 2).sum(axis=2) == 24).all()


def test_local_steps_and_defenses_leave_the_labels_where_they_are(patients):
    rows = audit(
        data=str(patients),
        **{**SMALL, "trials": 4},
        batch_sizes=16,
        local_steps=(1, 2),
        defenses=("none", "clip:1"),
        attacks=("zlg", "pplr"),
    ).records
    sizes = {(r.local_steps, r.num_samples) for r in rows}
    assert sizes == {(1, 16), (2, 32)}
    for row in rows:
        assert row.asr > (0.97 if (row.local_steps, row.defense) == (1, "none") else 0.8)


def test_training_defenses_change_the_loss_of_each_label():
    """A slow twin: binary cross-entropy with the targets that the defense makes."""
    module = torch.nn.Linear(5, 3)
    x, y = torch.randn(7, 5), torch.randint(2, (7, 3))
    box, batch = WhiteBox(lift(module, Task.multilabel), ""), LabelledData(x, y)
    rng = np.random.default_rng(0)
    smooth = parse_defense("label_smoothing:0.2").gradients(box, [batch], rng)
    loss = functional.binary_cross_entropy_with_logits(module(x), 0.8 * y + 0.1)
    (grad,) = torch.autograd.grad(loss, [module.bias])
    assert torch.allclose(smooth.tensors["bias"][0], grad, atol=1e-6)
    clipped = parse_defense("dpsgd:0.05:0").gradients(box, [batch], rng)
    each = []
    for one, own in zip(x, y, strict=True):
        loss = functional.binary_cross_entropy_with_logits(module(one), own.float())
        parts = torch.autograd.grad(loss, [module.weight, module.bias])
        norm = torch.cat([part.flatten() for part in parts]).norm()
        each.append(parts[1] * min(1.0, 0.05 / float(norm)))
    assert torch.allclose(clipped.tensors["bias"][0], torch.stack(each).mean(0), atol=1e-6)
    kept = parse_defense("randomised_response:50").gradients(box, [batch], rng)
    plain = functional.binary_cross_entropy_with_logits(module(x), y.float())
    (grad,) = torch.autograd.grad(plain, [module.bias])
    assert torch.allclose(kept.tensors["bias"][0], grad, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"schemes": "iid"}, "use `schemes` natural"),
        ({"task": "classes"}, "0 or 1 for each class, so its task is not classes"),
        ({"users": 4, "partition": "shards:2"}, "use `partition` iid"),
    ],
)
def test_what_several_labels_do_not_allow_is_refused(patients, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        plan_audit(AuditOptions(data=str(patients), **SMALL, **options))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.full((20, 3), 2), "must hold 0 or 1"),
        (np.full((20, 3), 0.5), "whole numbers"),
        (np.zeros((20, 1), int), "only one class"),
        (np.zeros((20, 2, 2, 2), int), "labels are one a row"),
    ],
)
def test_labels_of_no_kind_are_refused(labels, sentence):
    with pytest.raises(BadInput, match=sentence):
        dataset_of((np.random.default_rng(0).random((20, 4)), labels))


def test_costs_and_a_simulated_client_know_several_labels(patients, tmp_path):
    data = load_dataset(str(patients))
    cost = measure_cost(
        data, Cohort(model="mlp", users=3, rounds=12, lr=0.5), parse_defense("clip:1")
    )
    constant = constant_accuracy(data.y_test, data.task)
    assert 0.6 < constant < 1
    assert cost.accuracy > 0.5
    with pytest.raises(BadInput, match="constant answer"):
        refuse_unlearnt(constant, data, 12)
    step = ClientStep(data=str(patients), model="mlp", batch_size=8)
    files = write_client_step(step, tmp_path)
    labels = json.loads(files[-1].read_text())["labels"]
    assert np.shape(labels) == (8, 4)
