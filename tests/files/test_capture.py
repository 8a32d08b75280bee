"""A capture sees what the optimiser did, whatever the loop, and says so in its files."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.errors import BadInput
from labelleak.files.update import gather_update

X, Y = (
    torch.rand(6, 4, generator=torch.Generator().manual_seed(1)),
    torch.tensor([0, 1, 1, 2, 2, 2]),
)


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5), nn.Sequential(nn.BatchNorm1d(5), nn.ReLU()), nn.Linear(5, 3)
    )


def train(model, optimiser, steps):
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimiser.step()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_capture_of_sgd_is_what_happened(options, steps):
    model = build()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with labelleak.capture(model) as update:
        train(model, torch.optim.SGD(model.parameters(), lr=1e-4, **options), steps)
    made = update.made
    assert (made.lr, made.batch_size, made.local_steps) == (1e-4, 6, steps)
    assert (made.optimiser, made.momentum) == ("sgd", options.get("momentum", 0.0))
    assert all(torch.equal(update.before[name], start[name]) for name in start)
    assert all(torch.equal(update.after[n], v) for n, v in model.state_dict().items())
    assert update.gradient.keys() == dict(model.named_parameters()).keys()
    found = gather_update(before=update.before, after=update.after, made=made)
    seen = found.observe("2")
    # The mean gradient and the weights' change agree once momentum is taken out.
    assert torch.allclose(seen.bias.float(), update.gradient["2.bias"], atol=2e-2)


def test_batch_norm_buffers_come_along_and_are_no_gradient(tmp_path):
    model = build()
    with labelleak.capture(model, head="2") as update:
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
    assert not torch.equal(update.before["1.0.running_mean"], update.after["1.0.running_mean"])
    assert "1.0.running_mean" not in update.gradient
    found = gather_update(update=update.save(tmp_path / "u.safetensors"))
    assert found.after.keys() == model.state_dict().keys()
    assert found.head == "2"


def test_adam_is_said_and_flagged():
    model = build()
    with labelleak.capture(model) as update:
        train(model, torch.optim.Adam(model.parameters(), lr=0.1), 1)
    assert update.made.optimiser == "adam"
    report = labelleak.attack_update(update, head="2", attacks=["llg"])
    assert report.checked["adaptive_optimiser"]["failed"]
    assert "adaptive_optimiser" in report.results[0].flags


def test_an_exception_leaves_no_update_and_no_hook(tmp_path):
    model = build()
    catching = labelleak.capture(model)
    update = catching.__enter__()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
    assert not catching.__exit__(ZeroDivisionError, ZeroDivisionError(), None), "swallowed"
    assert not update.after
    with pytest.raises(BadInput, match="not complete"):
        update.save(tmp_path / "u")
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
    assert update.made.local_steps == 1
    assert not model._forward_pre_hooks


def test_a_learning_rate_that_varies_is_averaged_and_other_models_are_not_seen():
    model, other = build(), build()
    with labelleak.capture(model) as update:
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
        train(model, torch.optim.SGD(model.parameters(), lr=0.2), 1)
        train(other, torch.optim.SGD(other.parameters(), lr=0.3), 5)
    assert update.made.local_steps == 2
    assert update.made.lr == pytest.approx(0.15)
    assert any("learning rate varies" in note for note in update.notes)


def test_without_a_step_there_is_no_gradient_to_save(tmp_path):
    with labelleak.capture(build()) as update:
        pass
    with pytest.raises(BadInput, match="no optimiser step"):
        update.save_gradient(tmp_path / "g")
