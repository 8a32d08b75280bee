"""A pass shows the head, changes nothing, and knows when samples are tied together."""

import copy

import pytest
import torch
from torch import nn

from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput


def net(*middle):
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.ReLU(), nn.Linear(6, 3))


def test_a_pass_shows_head_inputs_and_logits():
    model, x = net(), torch.rand(5, 4)
    seen = WhiteBox(model, "2").run(x)
    assert torch.allclose(seen.inputs, model[:2](x))
    assert torch.allclose(seen.logits, model(x))
    assert torch.allclose(seen.probabilities.sum(1), torch.ones(5))
    assert torch.allclose(WhiteBox(model, "2").run_all(x).logits, seen.logits)


def test_batch_norm_and_dropout_leave_no_trace():
    model = net(nn.BatchNorm1d(6), nn.Dropout(0.5))
    before = copy.deepcopy(model.state_dict())
    box = WhiteBox(model, "4")
    x = torch.rand(8, 4)
    state = torch.random.get_rng_state()
    box.run(x, seed=1)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not model[0]._forward_hooks


def test_the_seed_decides_dropout():
    box, x = WhiteBox(net(nn.Dropout(0.5)), "3"), torch.rand(8, 4)
    assert torch.equal(box.run(x, seed=1).logits, box.run(x, seed=1).logits)
    assert not torch.equal(box.run(x, seed=1).logits, box.run(x, seed=2).logits)


@pytest.mark.parametrize(
    ("model", "head", "per_sample"),
    [
        (net(), "2", True),
        (net(nn.Dropout(0.5)), "3", False),
        (net(nn.Dropout(0.5)).eval(), "3", True),
        (net(nn.BatchNorm1d(6)), "3", False),
        (net(nn.BatchNorm1d(6)).eval(), "3", True),
        (net(nn.LayerNorm(6)), "3", True),
    ],
)
def test_ties_between_samples_are_noticed(model, head, per_sample):
    assert WhiteBox(model, head).is_per_sample(torch.rand(6, 4)) == per_sample


def test_inputs_and_heads_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match=r"\(3, 1, 2, 2\): .*begin .* with nn.Flatten\(\)"):
        WhiteBox(nn.Sequential(nn.Linear(4, 3)), "0").run(torch.rand(3, 1, 2, 2))
    with pytest.raises(BadInput, match=r"cannot take inputs of shape \(2, 5\)"):
        WhiteBox(net(), "2").run(torch.rand(2, 5))
    with pytest.raises(BadInput, match="one vector per input"):
        WhiteBox(net(), "2").run(torch.rand(2, 3, 4))
    with pytest.raises(BadInput, match="no linear layer"):
        WhiteBox(net(), "1").run(torch.rand(2, 4))
    unused = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
    unused.forward = lambda x: unused["a"](x)
    with pytest.raises(BadInput, match=r"ran 0 time\(s\)"):
        WhiteBox(unused, "b").run(torch.rand(2, 4))


def test_inputs_are_taken_in_the_models_precision():
    seen = WhiteBox(net().double(), "2").run(torch.rand(2, 4))
    assert seen.logits.dtype == torch.float64
