"""Batches, roles, gradients and training of simulated clients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labelleak.attacks import LLG
from labelleak.core import small_maps
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.seeding import stream
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput
from labelleak.simulation.batches import draw_batches, parse_scheme, pick_samples
from labelleak.simulation.gradients import HeadTable, autograd_gradients
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import divide
from labelleak.simulation.training import Training, accuracy, train_in_stages

POOL = np.repeat(np.arange(5), [40, 30, 20, 10, 3])


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(0, 10_000))
def test_picked_samples_have_the_wanted_labels_and_come_once(size, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=(4, size))
    picks = pick_samples(POOL, 5, labels, rng)
    assert (POOL[picks] == labels).all()
    for row, wanted in zip(picks, labels, strict=True):
        for label in range(5):
            chosen = row[wanted == label]
            held = int((label == POOL).sum())
            assert len(set(chosen)) == min(len(chosen), held)


def test_every_sample_of_a_class_is_as_likely():
    rng = np.random.default_rng(0)
    picks = pick_samples(POOL, 5, np.zeros((8000, 1), dtype=int), rng)
    times = np.bincount(picks.ravel(), minlength=40)[:40]
    assert times.min() > 130
    assert times.max() < 270


@pytest.mark.parametrize("size", [1, 2, 3, 8, 33])
def test_an_unbalanced_batch_is_half_and_a_quarter(size):
    rng = np.random.default_rng(0)
    pool = np.repeat(np.arange(10), 100)
    labels = pool[draw_batches(parse_scheme("unbalanced"), pool, 10, size, 200, rng)]
    counts = np.sort([np.bincount(row, minlength=10) for row in labels])[:, ::-1]
    assert (counts[:, 0] >= size // 2).all()
    if size >= 4:
        assert (counts[:, 1] >= size // 4).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("idd", "did you mean 'iid'"),
        ("dirichlet", "dirichlet:ALPHA"),
        ("dirichlet:0", "ALPHA above 0"),
        ("dirichlet:x", "dirichlet:ALPHA"),
        ("dirichlet:inf", "ALPHA above 0"),
    ],
)
def test_unknown_schemes_are_refused(text, sentence):
    with pytest.raises(BadInput, match=sentence):
        parse_scheme(text)


def test_a_tiny_concentration_gives_one_class():
    rng = np.random.default_rng(0)
    pool = np.repeat(np.arange(10), 100)
    picks = draw_batches(parse_scheme("dirichlet:1e-9"), pool, 10, 16, 50, rng)
    assert all(len(set(pool[row])) == 1 for row in picks)


def test_batches_larger_than_the_data_and_missing_classes_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match="larger than the victims' data"):
        draw_batches(parse_scheme("iid"), POOL, 5, 104, 1, rng)
    with pytest.raises(BadInput, match="no sample of class 5"):
        draw_batches(parse_scheme("iid"), POOL, 6, 50, 10, rng)


def test_roles_are_disjoint_complete_and_stratified():
    x, y = torch.arange(500.0)[:, None], torch.arange(500) % 10
    roles = divide(x, y, seed=0)
    parts = [
        set(part.inputs[:, 0].tolist()) for part in (roles.train, roles.auxiliary, roles.victims)
    ]
    assert [len(part) for part in parts] == [220, 100, 180]
    assert len(set.union(*parts)) == 500
    assert torch.equal(roles.victims.labels.bincount(), torch.full((10,), 18))
    seen = divide(x, y, seed=0, victims_seen=True)
    assert torch.equal(seen.victims.inputs, seen.train.inputs)
    assert torch.equal(seen.train.inputs, roles.train.inputs)


DATA = LabelledData(
    torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 10
)
BATCHES = np.random.default_rng(0).integers(60, size=(7, 12))


@pytest.mark.parametrize(
    "model",
    [
        build_model("cnn", input_shape=(1, 8, 8), num_classes=10, init="uniform", seed=0),
        build_model("lenet", input_shape=(1, 8, 8), num_classes=10, seed=0),
        build_model("mlp", input_shape=(1, 8, 8), num_classes=10, activation="tanh", seed=0),
        build_model("resnet20", input_shape=(1, 8, 8), num_classes=10, seed=0).eval(),
    ],
    ids=["cnn", "lenet", "mlp", "resnet20-eval"],
)
def test_head_table_and_autograd_give_the_same_gradient_and_counts(model):
    box = WhiteBox(model, "head")
    assert box.is_per_sample(DATA.inputs)
    fast = HeadTable.build(box, DATA).gradients(BATCHES)
    slow = autograd_gradients(box, DATA, BATCHES)
    assert torch.allclose(fast.weight, slow.weight, rtol=1e-4, atol=1e-6)
    assert torch.allclose(fast.bias, slow.bias, rtol=1e-4, atol=1e-6)
    answer = LLG().prepare(Knowledge(), 10, np.random.default_rng(0))
    assert (answer(fast).counts == answer(slow).counts).all()


def test_in_train_mode_batch_norm_needs_autograd():
    box = WhiteBox(build_model("resnet20", input_shape=(1, 8, 8), num_classes=10, seed=0), "head")
    assert not box.is_per_sample(DATA.inputs)
    table = HeadTable.build(box, DATA).gradients(BATCHES)
    true = autograd_gradients(box, DATA, BATCHES)
    assert not torch.allclose(table.weight, true.weight, rtol=1e-2, atol=1e-4)


def test_autograd_is_plain_backward_and_keeps_the_rest_if_asked():
    model = build_model("lenet", input_shape=(1, 8, 8), num_classes=10, seed=0)
    seen = autograd_gradients(WhiteBox(model, "head"), DATA, BATCHES, full=True)
    batch = torch.from_numpy(BATCHES[2])
    loss = nn.functional.cross_entropy(model(DATA.inputs[batch]), DATA.labels[batch])
    torch.autograd.backward(loss)
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert torch.allclose(seen.weight[2], wanted.pop("head.weight"), atol=1e-6)
    assert torch.allclose(seen.bias[2], wanted.pop("head.bias"), atol=1e-6)
    assert set(seen.rest) == set(wanted)
    assert all(torch.allclose(seen.rest[k][2], g, atol=1e-6) for k, g in wanted.items())


class Scaled(nn.Module):
    """Something follows the head, so the head's output is not the model's."""

    def __init__(self, after):
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.after = after

    def forward(self, x):
        return self.after(self.head(x.flatten(1)))


@pytest.mark.parametrize("after", [lambda z: 4 * z, lambda z: z.softmax(-1)])
def test_the_loss_is_taken_on_what_the_model_returns(after):
    model = Scaled(after)
    box = WhiteBox(model, "head")
    assert not box.is_per_sample(DATA.inputs)
    seen = autograd_gradients(box, DATA, BATCHES)
    batch = torch.from_numpy(BATCHES[0])
    loss = nn.functional.cross_entropy(model(DATA.inputs[batch]), DATA.labels[batch])
    torch.autograd.backward(loss)
    assert torch.allclose(seen.weight[0], model.head.weight.grad, atol=1e-6)


def test_a_frozen_bias_is_not_shared():
    model = Scaled(nn.Identity())
    model.head.bias.requires_grad_(False)
    box = WhiteBox(model, "head")
    assert autograd_gradients(box, DATA, BATCHES).bias is None
    assert HeadTable.build(box, DATA).gradients(BATCHES).bias is None


def test_rare_dropout_never_passes_for_none():
    box = WhiteBox(Scaled(nn.Identity()), "head")
    assert box.is_per_sample(DATA.inputs)
    assert not WhiteBox(Scaled(nn.Dropout(1e-6)), "head").is_per_sample(DATA.inputs)


def test_training_in_stages_is_training_at_once():
    def run(stages):
        model = build_model("mlp", input_shape=(1, 8, 8), num_classes=10, seed=0)
        reached = list(train_in_stages(model, DATA, stages, Training(), rng=stream(0, "t")))
        return model, reached

    together, reached = run([40, 0, 10])
    assert reached == [0, 10, 40]
    before = run([0])[0]
    assert accuracy(together, DATA) > accuracy(before, DATA) + 0.2
    again, _ = run([40, 0, 10])
    for one, other in zip(together.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_with_small_maps_is_training_all_the_same(monkeypatch):
    def run():
        model = build_model("cnn", input_shape=(1, 8, 8), num_classes=10, seed=0)
        passed.clear()
        list(train_in_stages(model, DATA, [20], Training(), rng=stream(0, "t")))
        return torch.cat([value.detach().flatten() for value in model.parameters()])

    monkeypatch.setattr("labelleak.simulation.training.PlainSteps.of", lambda *asked: None)
    passed, plain = [], small_maps.pass_small
    monkeypatch.setattr(
        small_maps, "pass_small", lambda *a, **k: passed.append(1) or plain(*a, **k)
    )
    quick = run()
    assert len(passed) == 60  # three convolutions a step
    monkeypatch.setattr(small_maps.SmallMaps, "serves", staticmethod(lambda model: False))
    assert torch.allclose(run(), quick, atol=1e-5)
    assert not passed


def test_training_that_diverges_says_so():
    model = build_model("mlp", input_shape=(1, 8, 8), num_classes=10, seed=0)
    with pytest.raises(BadInput, match="lower `train_lr`"):
        list(train_in_stages(model, DATA, [60], Training(lr=1e6), rng=stream(0, "t")))
