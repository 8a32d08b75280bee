"""Several labels a sample: each class is a problem of its own, and scores add up over them."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.attacks import RLU
from labelleak.core.each_label import EachLabel
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.priors import PoolPrior, free_guess
from labelleak.core.score import Truth, pair_counts, score
from labelleak.core.task import Task
from labelleak.core.task_priors import EachPrior
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox, lift
from labelleak.errors import BadInput
from labelleak.records.record import Record
from labelleak.simulation.gradients import HeadTable, autograd_gradients

K, N = 4, 32
WAYS = torch.randn(9, K, generator=torch.Generator().manual_seed(5))


def patients(n, seed):
    x = torch.randn(n, 9, generator=torch.Generator().manual_seed(seed))
    return x, (x @ WAYS > torch.tensor([0.0, 2.0, 4.0, 20.0])).long()  # nobody has the last


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, K))


def gradient_of(module, x, y, **options):
    loss = F.binary_cross_entropy_with_logits(module(x), y.float(), **options)
    names = dict(module.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


@pytest.mark.parametrize("summed", [False, True])
def test_each_label_is_counted(summed):
    (x, y), own, module = patients(N, 1), patients(600, 2), model()
    gradient = gradient_of(module, x, y)
    if summed:  # over classes; the larger size tells it apart
        gradient = {name: K * t for name, t in gradient.items()}
    report = labelleak.attack_update(
        gradient=gradient,
        made=LocalTraining(batch_size=N),
        task="multilabel",
        model=module,
        auxiliary=LabelledData(*own),
        truth={"labels": y.tolist()},
        scheme="natural",
        attacks=["rlu", "llbg", "gradient_regression", "client_simulation", "free"],
    )
    told = report.to_json()
    assert (told["task"], told["num_classes"], told["num_samples"]) == ("multilabel", K, N)
    assert told["true_counts"] == y.sum(0).tolist()
    assert "client_simulation" in report.not_applicable or not summed
    if not summed:
        found = {result.attack: result for result in report.results}
        assert found["rlu"].asr >= 0.97
        assert len(found["rlu"].counts) == K
        assert found["rlu"].counts[3] == 0
        assert found["rlu"].asr > report.asr_free


def test_a_loss_summed_over_classes_is_told_by_its_size():
    x = torch.ones(8, 3)
    module = nn.Linear(3, 3)
    with torch.no_grad():
        module.bias.fill_(-6.0)  # all labels are there and none is expected: g near -1
    gradient = {n: 3 * t for n, t in gradient_of(module, x, torch.ones(8, 3)).items()}
    report = labelleak.attack_update(
        gradient=gradient,
        made=LocalTraining(batch_size=8),
        task="multilabel",
        truth=[8, 8, 8],
        attacks=["llbg"],
    )
    assert report.results[0].counts == (8, 8, 8)
    assert report.scale.state != "impossible"


def test_answers_are_those_of_each_class_alone():
    """The slow twin: a problem of two classes for every class, attacked by itself."""
    module, own = model(), LabelledData(*patients(300, 3))
    box = WhiteBox(lift(module, Task.multilabel), "2")
    batches = np.random.default_rng(0).integers(300, size=(5, N))
    seen = autograd_gradients(box, own, batches)
    prior = EachPrior((PoolPrior((150, 150)),) * K)
    known = Knowledge(box, (9,), own, prior)
    together = prepare(EachLabel(RLU()), known, 2 * K, np.random.default_rng(0))(seen)
    for number in range(K):
        one = nn.Sequential(*module[:2], nn.Linear(16, 1))
        with torch.no_grad():
            one[2].weight.copy_(module[2].weight[number : number + 1])
            one[2].bias.copy_(module[2].bias[number : number + 1])
        alone = WhiteBox(lift(one, Task.binary), "2")
        data = LabelledData(own.inputs, own.labels[:, number])
        told = prepare(RLU(), Knowledge(alone, (9,), data), 2, np.random.default_rng(0))(
            autograd_gradients(alone, data, batches)
        )
        assert np.array_equal(together.counts[:, 2 * number : 2 * number + 2], told.counts)


def test_counts_on_the_client_are_exact():
    from labelleak.attacks.losses import recover_multi_label

    rng = np.random.default_rng(1)
    for _ in range(1000):
        size = int(2 ** rng.uniform(0, 12))
        z = torch.from_numpy(2 * rng.standard_normal((size, 3))).requires_grad_()
        y = torch.from_numpy((rng.random((size, 3)) < rng.random(3)).astype(float))
        slope = torch.autograd.grad(3 * F.binary_cross_entropy_with_logits(z, y), z)[0].sum(0)
        counts = recover_multi_label(slope.numpy(), z.detach().sigmoid().mean(0).numpy(), size)
        assert np.array_equal(counts.round(6), y.sum(0).numpy())


def test_scores_are_pooled_over_classes_and_free_guesses_too():
    truth, guess = pair_counts([3, 0], 4), pair_counts([1, 0], 4)
    assert score(guess, Truth(truth)).asr == pytest.approx((2 + 4) / 8)
    prior = EachPrior((PoolPrior((10, 30)), PoolPrior((40, 0))))
    counts, asr = free_guess(prior, 8, 4)
    assert counts.tolist() == [1, 3, 4, 0]
    assert asr == pytest.approx((free_guess(prior.each[0], 4, 2)[1] + 1) / 2)


def test_records_say_each_class_and_are_checked(tmp_path):
    (x, y), module = patients(N, 1), model()
    report = labelleak.attack_update(
        gradient=gradient_of(module, x, y),
        made=LocalTraining(batch_size=N),
        task="multilabel",
        truth=y.sum(0).tolist(),
        attacks=["llbg"],
    )
    (record,) = report.records(keep_counts=True)
    row = json.loads(record.to_json())
    assert row["true_counts"] == y.sum(0).tolist()
    assert np.mean(row["class_asr"]) == pytest.approx(row["asr"], abs=1e-5)
    assert Record.from_json(json.dumps(row)).extra["task"] == "multilabel"
    for wrong in ([1.0] * 3, [0.1] * K, [2.0] * K):
        with pytest.raises(BadInput, match="class_asr"):
            Record.from_json(json.dumps({**row, "class_asr": wrong}))


def test_own_data_with_one_label_are_refused():
    (x, y), module = patients(N, 1), model()
    with pytest.raises(BadInput, match="rows of 0 and 1"):
        labelleak.attack_update(
            gradient=gradient_of(module, x, y),
            made=LocalTraining(batch_size=N),
            task="multilabel",
            model=module,
            auxiliary=LabelledData(x, y[:, 0]),
        )


def test_a_capture_tells_the_task_and_the_loss():
    for options, scale in (({}, 1.0), ({"reduction": "sum"}, N * K)):
        (x, y), module = patients(N, 4), model()
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        with labelleak.capture(module) as update:
            F.binary_cross_entropy_with_logits(module(x), y.float(), **options).backward()
            optimiser.step()
        assert (update.measured.loss, update.made.batch_size) == ("bce", N)
        assert update.measured.loss_scale == pytest.approx(scale, rel=1e-4)
        report = labelleak.attack_update(captured=update, truth=y.tolist(), attacks=["llbg"])
        assert report.task == "multilabel"
        assert report.scale.state != "impossible"
        assert report.results[0].asr > 0.8


def test_the_head_table_is_the_gradient():
    own = LabelledData(*patients(40, 6))
    box = WhiteBox(lift(model(), Task.multilabel), "2")
    batches = np.arange(40).reshape(2, 20)
    table, truth = HeadTable.build(box, own), autograd_gradients(box, own, batches)
    assert torch.allclose(table.gradients(batches).weight, truth.weight, atol=1e-6)


def test_a_loss_that_weighs_positives_is_told_by_own_data():
    weights = torch.tensor([1.0, 8.0, 20.0, 1.0])
    for options, off in (
        ({}, False),
        ({"pos_weight": weights}, True),
        ({"reduction": "sum"}, True),
    ):
        (x, y), module = patients(N, 4), model()
        report = labelleak.attack_update(
            gradient=gradient_of(module, x, y, **options),
            made=LocalTraining(batch_size=N),
            task="multilabel",
            model=module,
            auxiliary=LabelledData(*patients(400, 5)),
            attacks=["rlu"],
        )
        assert ("unlikely_scale" in report.results[0].flags) == off


def test_own_rows_of_labels_name_the_task_that_they_suit():
    (x, y), module = patients(N, 4), model()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    with labelleak.capture(module) as update:
        F.binary_cross_entropy_with_logits(
            module(x), y.float(), pos_weight=torch.tensor([1.0, 3.0, 8.0, 1.0])
        ).backward()
        optimiser.step()
    own = LabelledData(*patients(400, 5))
    known = {"model": module, "auxiliary": own, "attacks": ["rlu"], "truth": y.tolist()}
    plain = {"gradient": gradient_of(module, x, y), "num_samples": N}
    with pytest.raises(BadInput, match="say `task` multilabel"):
        labelleak.attack_update(**plain, **known)
    module.load_state_dict(update.before)
    report = labelleak.attack_update(captured=update, **known)  # whose loss tells the task
    assert (report.task, report.made.pos_weight) == ("multilabel", (1.0, 3.0, 8.0, 1.0))
    assert report.results[0].asr > 0.97
