"""A weight of positives in a binary cross-entropy: undone where told, looked for where not."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.core.assumptions import check_update
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.limits import check_limits
from labelleak.core.observation import Observation
from labelleak.core.pos_weight import PositiveWeight
from labelleak.core.task import HeadForm, Task
from labelleak.core.training import LocalTraining, weight_each
from labelleak.core.white_box import WhiteBox, lift
from labelleak.errors import BadInput, NotApplicable

K, N = 6, 32
WAYS = torch.randn(20, K, generator=torch.Generator().manual_seed(3))
HEAVY = (1.0, 3.0, 4.0, 6.0, 9.0, 16.0)


def people(n, seed):
    x, noise = torch.randn(2, n, 20, generator=torch.Generator().manual_seed(seed))
    return x, (x @ WAYS + 2 * noise[:, :K] > torch.linspace(0, 6, K)).long()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, K))


OWN = LabelledData(*people(600, 9))


def head_gradient(model, x, y, weights):
    loss = F.binary_cross_entropy_with_logits(model(x), y.float(), pos_weight=torch.tensor(weights))
    return torch.autograd.grad(loss, list(model[2].parameters()))


def seen(model, seed, weights, size=N):
    rows = head_gradient(model, *people(size, seed), weights)
    form = HeadForm(Task.multilabel, (K, 32))
    return Observation.from_gradient(*rows, num_samples=size, form=form)


def known(model, **told):
    return Knowledge(
        WhiteBox(lift(model, Task.multilabel), "2"),
        (20,),
        OWN,
        training=(told and LocalTraining(**told)) or None,
    )


def states(observation, held):
    found = {flag.name: flag for flag in check_update(observation, held)}
    return {name: str(found[name].state) for name in ("pos_weight", "pos_weight_assumed")}


@pytest.mark.parametrize("seed", range(100, 106))
def test_own_data_rule_out_a_plain_loss_and_no_right_one(model, seed):
    held = known(model)
    assert states(seen(model, seed, HEAVY), held)["pos_weight"] == "failed"
    right = states(seen(model, seed, (1.0,) * K), held)
    assert right == {"pos_weight": "not_known", "pos_weight_assumed": "failed"}


def focal(z, y):
    each = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


@pytest.mark.parametrize(
    "loss", [focal, lambda z, y: F.mse_loss(z.sigmoid(), y)], ids=["focal", "squares"]
)
def test_another_loss_of_many_samples_is_ruled_out(model, loss):
    """Its gradients are shorter than those of a plain one; of 32 samples that cannot be told."""
    held, form = known(model), HeadForm(Task.multilabel, (K, 32))
    for size, off in ((32, False), (400, True)):
        x, y = people(size, 77)
        rows = torch.autograd.grad(loss(model(x), y.float()), list(model[2].parameters()))
        found = states(Observation.from_gradient(*rows, num_samples=size, form=form), held)
        assert (found["pos_weight"] == "failed") == off


def test_what_was_told_is_held_against_own_data(model):
    heavy = seen(model, 1, HEAVY)
    assert states(heavy, known(model, pos_weight=HEAVY)) == {
        "pos_weight": "repaired",
        "pos_weight_assumed": "held",
    }
    for wrong in ((), (1.0,)):
        assert states(heavy, known(model, pos_weight=wrong))["pos_weight"] == "failed"
    assert states(seen(model, 1, (1.0,) * K), known(model, pos_weight=()))["pos_weight"] == "held"


def test_many_samples_leave_no_doubt(model):
    """With one common label, 16,384 samples bound the weight, and nothing is assumed any more."""
    head = nn.Sequential(model[0], nn.ReLU(), nn.Linear(32, 1))
    x, y = people(16384, 4)
    loss = F.binary_cross_entropy_with_logits(head(x)[:, 0], y[:, 0].float())
    rows = torch.autograd.grad(loss, list(head[2].parameters()))
    form = HeadForm(Task.binary, (1, 32))
    observation = Observation.from_gradient(*rows, num_samples=16384, form=form)
    x, y = people(2048, 5)
    held = Knowledge(WhiteBox(lift(head, Task.binary), "2"), (20,), LabelledData(x, y[:, 0]))
    assert states(observation, held) == {"pos_weight": "held", "pos_weight_assumed": "held"}


def test_without_model_or_data_it_is_said_to_be_assumed(model):
    plain = seen(model, 1, (1.0,) * K)
    assert states(plain, Knowledge()) == {"pos_weight": "not_known", "pos_weight_assumed": "failed"}
    softmax = Observation.from_gradient(torch.randn(3, 4), torch.randn(3), num_samples=4)
    assert "pos_weight" not in {flag.name for flag in check_update(softmax, Knowledge())}


def attacked(client, weights, told, **options):
    x, y = people(N, 2)
    rows = dict(zip(("2.weight", "2.bias"), head_gradient(client, x, y, weights), strict=True))
    return labelleak.attack_update(
        gradient=rows,
        made=LocalTraining(batch_size=N, **told),
        task="multilabel",
        truth=y.tolist(),
        attacks=["rlu", "zlg", "llbg", "gradient_regression", "llg"],
        **options,
    )


def test_declared_weights_are_undone(model):
    granted = {"model": model, "auxiliary": OWN}
    plain = {r.attack: r.asr for r in attacked(model, (1.0,) * K, {}, **granted).results}
    told = attacked(model, HEAVY, {"pos_weight": HEAVY}, **granted)
    mended = {r.attack: r.asr for r in told.results}
    assert told.checked["pos_weight"]["state"] == "repaired"
    assert not {"pos_weight", "pos_weight_assumed"} & set(told.results[0].flags)
    for name in ("rlu", "zlg", "llbg"):
        assert mended[name] >= plain[name] - 0.05, name
    untold = attacked(model, HEAVY, {}, **granted)
    assert {"pos_weight", "pos_weight_assumed"} <= set(untold.results[0].flags)
    assert untold.results[0].asr < mended["rlu"] - 0.1
    alone = attacked(model, HEAVY, {"pos_weight": HEAVY})
    assert {r.attack for r in alone.results} == {"llbg", "llg"}
    assert alone.results[0].asr > 0.9


def test_weights_of_labels_are_divided_out(model):
    weights = (1.0, 2.0, 0.5, 4.0, 1.0, 3.0)
    x, y = people(N, 2)
    loss = F.binary_cross_entropy_with_logits(model(x), y.float(), weight=torch.tensor(weights))
    rows = dict(
        zip(
            ("2.weight", "2.bias"),
            torch.autograd.grad(loss, list(model[2].parameters())),
            strict=True,
        )
    )
    plain = attacked(model, (1.0,) * K, {}, model=model, auxiliary=OWN)
    told = labelleak.attack_update(
        gradient=rows,
        made=LocalTraining(batch_size=N, class_weights=weights),
        task="multilabel",
        model=model,
        auxiliary=OWN,
        attacks=["rlu", "llbg"],
    )
    known_of = {r.attack: r.counts for r in plain.results}
    assert all(r.counts == known_of[r.attack] for r in told.results)
    assert not told.checked["class_weights"]["failed"]


def test_the_rows_of_a_weighted_loss_come_out_plain():
    """With the samples' own means the undone gradient is that of the plain loss, exactly."""
    generator = torch.Generator().manual_seed(0)
    h, z = torch.rand(40, 5, generator=generator).double(), torch.randn(40, generator=generator)
    y, p = (z > 0.3).double(), torch.sigmoid(torch.randn(40, generator=generator)).double()
    own = [((p - c)[y == c].mean(), ((p - c)[:, None] * h)[y == c].mean(0)) for c in (0, 1)]
    weight = PositiveWeight(
        7.0, float(own[0][0]), float(own[1][0]), torch.stack([own[0][1], own[1][1]])
    )
    for pull, twin in ((7.0, 1.0),):
        e, plain = (p - y) * (1 + (pull - 1) * y), (p - y) * twin
        rows = [torch.stack((-g, g)) for g in ((e @ h) / 40, (plain @ h) / 40)]
        bias = [torch.stack((-e.mean(), e.mean())) for e in (e, plain)]
        given = Observation(rows[0], bias[0], 40, paired=True)
        found = weight.undo(given)
        assert torch.allclose(found.weight, rows[1])
        assert torch.allclose(found.bias, bias[1])
        without = weight.undo(Observation(rows[0], None, 40, paired=True))
        assert torch.allclose(without.weight, rows[1])


def test_what_cannot_be_is_refused():
    rows = torch.stack((-torch.ones(3), torch.ones(3)))
    with pytest.raises(NotApplicable, match="without the bias or the model"):
        PositiveWeight(2.0).undo(Observation(rows, None, 4, paired=True))
    with pytest.raises(BadInput, match="has 2 numbers, the head has 3 labels"):
        weight_each((1.0, 2.0), 3)
    softmax = {"fc.weight": torch.randn(3, 4), "fc.bias": torch.randn(3)}
    with pytest.raises(BadInput, match="of a binary cross-entropy"):
        labelleak.attack_update(
            gradient=softmax, made=LocalTraining(batch_size=4, pos_weight=(2.0,))
        )


def test_heavy_positives_are_no_impossible_scale():
    bias = torch.tensor([4.0, -4.0])
    observation = Observation.from_gradient(torch.outer(bias, torch.rand(5)), bias, num_samples=8)
    observation = Observation(observation.weight, observation.bias, 8, paired=True)
    assert bool(check_limits(observation, LocalTraining()).scale)
    assert not bool(check_limits(observation, LocalTraining(pos_weight=(10.0,))).scale)
    assert np.isclose(check_limits(observation, LocalTraining(pos_weight=(10.0,))).times, 0.4)
