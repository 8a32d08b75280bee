"""Loops that people write around a capture are measured right, or said not to be known."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import labelleak
from labelleak.core.measured import Measured
from labelleak.errors import BadInput
from labelleak.files.notes import read_note
from labelleak.files.update import gather_update

X = torch.rand(12, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 0, 1])


class Twin(nn.Module):
    """A model whose head is neither the last layer defined nor the only one of its shape."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(5, 4)
        self.body = nn.Linear(4, 5)
        self.projection = nn.Linear(5, 4)

    def forward(self, x):
        h = self.body(x).relu()
        return {"logits": self.fc(h), "features": h, "projected": self.projection(h)}


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def loss_of(model, rows=slice(None), **options):
    return F.cross_entropy(model(X[rows])["logits"], Y[rows], **options)


def head_gradient(model, rows=slice(None)):
    """The mean head gradient, computed apart."""
    loss = loss_of(model, rows)
    return dict(zip("wb", torch.autograd.grad(loss, list(model.fc.parameters())), strict=True))


def check(update, expected):
    """Both what was measured and what the weights say is the mean head gradient."""
    found = gather_update(before=update.before, after=update.after, made=update.made)
    seen = found.observe("fc")
    scale = update.measured.gradient_scale or 1.0
    for part, name in (("w", "weight"), ("b", "bias")):
        size = expected[part].abs().max()
        measured, moved = update.gradient[f"fc.{name}"], getattr(seen, name) / scale
        assert float((measured - expected[part]).abs().max()) < 1e-4 * size
        assert float((moved - expected[part]).abs().max()) < 1e-4 * size


def accumulate(model, optimiser):
    for i in range(3):
        (loss_of(model, slice(4 * i, 4 * i + 4)) / 3).backward()
    optimiser.step()


def sum_up(model, optimiser):
    loss_of(model, reduction="sum").backward()
    optimiser.step()


def backward_twice(model, optimiser):
    loss = loss_of(model)
    (0.5 * loss).backward(retain_graph=True)
    (0.5 * loss).backward()
    optimiser.step()


def checkpointed(model, optimiser):
    h = model.body(X).relu()
    F.cross_entropy(checkpoint(model.fc, h, use_reentrant=False), Y).backward()
    optimiser.step()


def clip(model, optimiser):
    loss_of(model).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimiser.step()


def skip_a_step(model, optimiser):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    for factor in (float("inf"), 1.0):
        optimiser.zero_grad()
        scaler.scale(factor * loss_of(model)).backward()
        scaler.step(optimiser)
        scaler.update()


def look_aside(model, optimiser):
    loss_of(model).backward()
    optimiser.step()
    model(torch.rand(50, 4))
    with torch.no_grad():
        model(torch.rand(70, 4))


def step_by_hand(model, _):
    loss_of(model).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.data = parameter.data - 0.1 * parameter.grad


def step_by_functional_gradients(model, _):
    own = list(model.fc.parameters())
    with torch.no_grad():
        for p, g in zip(own, torch.autograd.grad(loss_of_in_grad(model), own), strict=True):
            p -= 0.1 * g


def loss_of_in_grad(model):
    with torch.enable_grad():
        return loss_of(model)


def step_with_a_closure(model, optimiser):
    def closure():
        optimiser.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    optimiser.step(closure)


@pytest.mark.parametrize(
    "loop",
    [
        accumulate,
        sum_up,
        backward_twice,
        checkpointed,
        clip,
        skip_a_step,
        look_aside,
        step_by_hand,
        step_by_functional_gradients,
        step_with_a_closure,
    ],
)
def test_one_step_is_measured_whatever_the_loop(loop, tmp_path):
    model = Twin()
    expected = head_gradient(model)
    with labelleak.capture(model) as update:
        loop(model, sgd(model))
    assert (update.head, update.made.local_steps, update.made.batch_size) == ("fc", 1, 12)
    assert update.made.lr == pytest.approx(0.1, rel=1e-4)
    assert update.measured.loss == "cross_entropy"
    assert not update.measured.doubtful
    check(update, expected)
    truth = json.loads(update.save_truth(tmp_path / "truth.json").read_text())
    assert sorted(truth["labels"]) == sorted(Y.tolist())


def test_scales_are_said():
    for loop, scale, word in ((sum_up, 12, "summed"), (skip_a_step, 2.0**13, "times")):
        model = Twin()
        with labelleak.capture(model) as update:
            loop(model, sgd(model))
        assert update.measured.loss_scale == scale
        assert any(word in note for note in update.notes)
    assert update.measured.gradient_scale is None, "the scaler divides before the step"


def test_what_is_given_wins_and_what_was_measured_is_said(tmp_path):
    model = Twin()
    expected = head_gradient(model)
    with labelleak.capture(model, lr=0.4, batch_size=3) as update:
        look_aside(model, sgd(model))
    assert (update.made.lr, update.made.batch_size) == (0.4, 3)
    assert sum("that was given is" in note for note in update.notes) == 2
    check(update, expected)


def test_the_batch_sizes_of_steps_may_differ(tmp_path):
    model = Twin()
    with labelleak.capture(model) as update:
        for rows in (slice(0, 5), slice(5, 10), slice(10, 12)):
            optimiser = sgd(model)
            optimiser.zero_grad()
            loss_of(model, rows).backward()
            optimiser.step()
    assert (update.made.batch_size, update.measured.num_samples) == (None, 12)
    report = labelleak.attack_update(update=update.save(tmp_path / "u"), attacks=["llg"])
    assert report.num_samples == 12
    assert any("12 labels in all" in note for note in report.notes)


def test_an_optimiser_that_does_not_hold_the_head_takes_no_step_of_it():
    model = Twin()
    with labelleak.capture(model) as update:
        loss_of(model).backward()
        torch.optim.SGD(model.body.parameters(), lr=0.1).step()
    assert update.made.local_steps is None
    assert any("did not move" in note for note in update.notes)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_a_client_that_shares_its_gradient_takes_no_step(factor, tmp_path):
    model = Twin()
    expected = head_gradient(model)
    with labelleak.capture(model) as update:
        (factor * loss_of(model)).backward()
    assert torch.allclose(update.gradient["fc.weight"], expected["w"], rtol=1e-4, atol=1e-7)
    assert any("no step was taken" in note for note in update.notes)
    kept = update.save(tmp_path / "u.safetensors")
    forms = ({"captured": update}, {"update": kept}, {"gradient": update.gradient})
    seen = [gather_update(**form).observe("fc").weight for form in forms]
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[2])
    found = labelleak.attack_update(update, attacks=["llg"])
    told = labelleak.attack_update(
        gradient=update.gradient, num_samples=found.num_samples, attacks=["llg"]
    )
    assert found.results[0].counts == told.results[0].counts
    assert found.scale.state == ("held" if factor == 1 else "not_known")
    with pytest.raises(BadInput, match="`save_gradient`"):
        update.save_after(tmp_path / "after.safetensors")


def adagrad(model):
    loss_of(model).backward()
    torch.optim.Adagrad(model.parameters()).step()


def lbfgs(model):
    step_with_a_closure(model, torch.optim.LBFGS(model.parameters(), max_iter=3))


def rmsprop(model):
    loss_of(model).backward()
    torch.optim.RMSprop(model.parameters()).step()


@pytest.mark.parametrize(
    ("loop", "known", "unknown"),
    [(adagrad, None, "Adagrad"), (lbfgs, None, "LBFGS"), (rmsprop, "rmsprop", None)],
)
def test_optimisers_are_named_and_never_taken_for_sgd(loop, known, unknown, tmp_path):
    model = Twin()
    with labelleak.capture(model) as update:
        loop(model)
    assert update.made.optimiser == known
    assert unknown is None or unknown in update.measured.optimiser
    report = labelleak.attack_update(update=update.save(tmp_path / "u"), attacks=["llg"])
    assert report.checked["adaptive_optimiser"]["failed"]
    assert "adaptive_optimiser" in report.results[0].flags
    assert update.made.batch_size == 12


def keep_momentum(model, optimiser):
    optimiser.zero_grad()
    loss_of(model).backward()
    optimiser.step()


def add_noise(model, optimiser):
    loss_of(model).backward()
    for parameter in model.fc.parameters():
        parameter.grad += torch.rand_like(parameter)
    optimiser.step()


def penalise(model, optimiser):
    (loss_of(model) + (model.fc.weight**2).sum()).backward()
    optimiser.step()


def pull_back(model, optimiser):
    loss_of(model).backward()
    optimiser.step()
    with torch.no_grad():
        model.fc.weight.mul_(0.9)


def square(model, optimiser):
    F.mse_loss(model(X)["logits"], F.one_hot(Y, 4).float()).backward()
    optimiser.step()


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (keep_momentum, "earlier rounds"),
        (add_noise, "not that of the loss"),
        (penalise, "not that of the loss"),
        (pull_back, "without a gradient"),
        (square, "no softmax cross-entropy (mse)"),
    ],
)
def test_what_cannot_be_explained_is_said_and_flagged(loop, said, tmp_path):
    model = Twin()
    optimiser = sgd(model, momentum=0.9)
    if loop is keep_momentum:
        keep_momentum(model, optimiser)
    with labelleak.capture(model) as update:
        loop(model, optimiser)
    assert any(said in note for note in update.notes)
    report = labelleak.attack_update(update=update.save(tmp_path / "u"), attacks=["llg"])
    assert report.checked["capture_doubtful"]["failed"]
    assert any(said in note for note in report.notes)


def test_two_heads_are_two_candidates_until_one_is_named():
    def train(model):
        out = model(X)
        (F.cross_entropy(out["logits"], Y) + F.cross_entropy(out["projected"], Y)).backward()
        sgd(model).step()

    model = Twin()
    with labelleak.capture(model) as update:
        train(model)
    assert update.head is None
    assert "'fc'" in update.notes[0]
    assert "'projection'" in update.notes[0]
    assert (update.made.batch_size, update.made.lr) == (12, 0.1)
    model = Twin()
    with labelleak.capture(model, head="projection") as update:
        train(model)
    assert (update.head, update.measured.doubtful) == ("projection", None)


def test_a_name_that_is_no_layer_is_refused():
    with (
        pytest.raises(BadInput, match="'fx' is no linear layer"),
        labelleak.capture(Twin(), head="fx"),
    ):
        pass


def test_lazy_layers_layers_made_inside_and_other_state_are_captured():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.LazyLinear(5), None

        def get_extra_state(self):
            return {"round": 3}

        def set_extra_state(self, state):
            pass

        def forward(self, *, inputs):
            h = self.body(inputs).relu()
            if self.fc is None:
                self.fc = nn.Linear(5, 4)
            return (self.fc(h),)

    torch.manual_seed(0)
    model = Odd()
    with labelleak.capture(model) as update:
        loss = F.cross_entropy(model(inputs=X)[0], Y)
        loss.backward()
        sgd(model).step()
    assert (update.head, update.made.batch_size, update.made.lr) == ("fc", 12, 0.1)
    assert update.before.keys() == update.after.keys()
    assert not torch.equal(update.before["fc.weight"], update.after["fc.weight"])


def test_a_compiled_model_is_captured_under_its_own_names():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4))
    compiled = torch.compile(model, backend="eager")
    with labelleak.capture(compiled) as update:
        F.cross_entropy(compiled(X), Y).backward()
        sgd(model).step()
    assert (update.head, update.made.batch_size) == ("2", 12)
    assert update.before.keys() == model.state_dict().keys()


def test_weight_decay_that_spares_the_bias_is_undone_for_the_weight_alone(tmp_path):
    model = Twin()
    expected = head_gradient(model)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.3},
        {"params": [p for p in model.parameters() if p.dim() == 1]},
    ]
    with labelleak.capture(model) as update:
        loss_of(model).backward()
        torch.optim.SGD(groups, lr=0.1).step()
    assert (update.made.weight_decay, update.measured.decays_bias) == (0.3, False)
    seen = gather_update(update=update.save(tmp_path / "u")).observe("fc")
    assert torch.allclose(seen.weight.float(), expected["w"], atol=1e-5)
    assert torch.allclose(seen.bias.float(), expected["b"], atol=1e-5)


@pytest.mark.parametrize(
    "told",
    [
        {"num_samples": 0},
        {"num_samples": True},
        {"gradient_scale": 0},
        {"gradient_scale": float("nan")},
        {"gradient_scale": "2"},
        {"doubtful": 1},
        {"loss": ["x"]},
        {"notes": "x"},
        {"notes": [1]},
        {"notes": ["x"] * 101},
        {"notes": ["x" * 1001]},
        {"unknown_optimiser": 3},
    ],
)
def test_a_file_cannot_claim_what_cannot_be_measured(told, tmp_path):
    with pytest.raises(BadInput, match=r"cannot be|holds NaN"):
        read_note({"labelleak": json.dumps(told)}, tmp_path)


def test_what_was_measured_survives_the_file(tmp_path):
    measured = Measured(num_samples=3, weighted=True, optimiser="unknown (X)", notes=("a", "b"))
    note = read_note({"labelleak": json.dumps(measured.to_json())}, tmp_path)
    assert note.measured == measured
    assert read_note({"labelleak": "{}"}, tmp_path).measured == Measured()


def test_a_head_whose_inputs_are_zero_steps_without_moving():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4, bias=False))
    optimiser = sgd(model)
    with labelleak.capture(model) as update:
        for sign in (-1, 1):
            optimiser.zero_grad()
            nn.init.constant_(model[0].weight, float(sign))
            nn.init.zeros_(model[0].bias)
            for part in (slice(0, 6), slice(6, 12)):
                F.cross_entropy(model(X[part]), Y[part]).backward()
            optimiser.step()
    assert (update.made.local_steps, update.made.batch_size) == (2, 12)


def one_step(reduction="mean"):
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    inputs, labels = torch.rand(5, 6), torch.tensor([0, 1, 1, 3, 2])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with labelleak.capture(model) as update:
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), labels, reduction=reduction).backward()
        optimiser.step()
    return update


def test_a_scale_that_was_measured_is_held_and_still_held_against_the_limits():
    update = one_step()
    report = labelleak.attack_update(update, attacks=["llg"])
    assert (report.scale.state, report.sign.state) == ("held", "held")
    assert "measured" in report.scale.says
    far = {name: 40 * tensor - 39 * update.before[name] for name, tensor in update.after.items()}
    update.after = far
    assert labelleak.attack_update(update, attacks=["llg"]).scale.state == "impossible"


def test_a_summed_loss_is_not_taken_for_a_mean():
    update = one_step("sum")
    assert update.measured.loss_scale == pytest.approx(5)
    assert not update.measured.holds_scale
