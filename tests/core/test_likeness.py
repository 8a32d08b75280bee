"""Weights are told from gradients and differences, wherever the one is given for the other."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core import likeness
from labelleak.core.likeness import (
    Laid,
    _handfuls,
    doubt_weights,
    refuse_weights,
    weights_instead,
)
from labelleak.errors import BadInput


def trained(seed, steps, *layers):
    """Train a random network; give its weights before and after, and a gradient after."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 80), *layers, nn.ReLU(), nn.Linear(80, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    how = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps + 1):
        after = {name: value.clone() for name, value in model.state_dict().items()}
        how.zero_grad()
        F.cross_entropy(model(torch.randn(16, 12)), torch.randint(0, 5, (16,))).backward()
        how.step()
    return before, after, {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_told_by_the_model_and_gradients_and_differences_are_not(seed):
    before, after, gradient = trained(seed, 1 + seed)
    moved = {name: after[name] - before[name] for name in before}
    assert weights_instead(after, before)
    assert weights_instead({name: -3 * t for name, t in after.items()}, before) == ""
    assert weights_instead({name: 3 * t.half() for name, t in after.items()}, before)
    assert weights_instead(gradient, after) == ""
    assert weights_instead(moved, before) == ""
    noised = {name: t + torch.randn_like(t) for name, t in gradient.items()}
    assert weights_instead(noised, after) == ""


def test_without_a_model_the_scales_of_norm_layers_tell():
    _, after, gradient = trained(0, 3, nn.BatchNorm1d(80))
    with pytest.raises(BadInput, match="`gradient` holds weights, not a gradient: the scales"):
        refuse_weights("gradient", after, None)
    assert weights_instead(gradient, None) == ""


def test_a_head_alone_that_began_at_zero_may_move_on_the_way_that_it_went():
    own = {"fc.weight": torch.randn(10, 200)}
    on = {"fc.weight": own["fc.weight"] + 0.1 * torch.randn(10, 200)}
    assert weights_instead(on, own) == ""
    assert weights_instead(own, own)


def test_weights_of_several_clients_added_up_are_not_those_of_one():
    before, after, _ = trained(1, 1)
    assert doubt_weights(before, after) == ""
    assert "times" in doubt_weights(before, {name: 2 * t for name, t in after.items()})


def test_many_small_tensors_are_looked_at_together_and_large_ones_by_themselves(monkeypatch):
    monkeypatch.setattr("labelleak.core.likeness.LOOK", 100)
    sizes = [30, 30, 50, 400, 10]
    sent = {f"layer{n}.weight": torch.rand(size) + 0.5 for n, size in enumerate(sizes)}
    assert [len(some) for some in _handfuls(sent, list(sent))] == [2, 1, 1, 1]
    moved = {name: value + 0.01 * torch.randn_like(value) for name, value in sent.items()}
    assert doubt_weights(sent, moved) == ""
    twice = {name: 2 * value for name, value in sent.items()}
    assert doubt_weights(sent, twice) == "it is the weights sent 2 times"
    apart = {name: moved[name] - sent[name] for name in sent}
    assert "projection" in doubt_weights(sent, apart)
    assert doubt_weights({}, {}) == ""


class Elsewhere(torch.Tensor):
    """A tensor on a device of its own."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.cat:
            raise RuntimeError("Expected all tensors to be on the same device")
        with torch._C.DisableTorchFunctionSubclass():
            plain = args[0].as_subclass(torch.Tensor)
        if func is torch.Tensor.cpu:
            return plain
        return super().__torch_function__(func, types, args, kwargs)


def test_a_model_may_be_spread_over_devices():
    sent = {"a": torch.rand(3) + 1, "b": (torch.rand(3) + 1).as_subclass(Elsewhere)}
    moved = {name: value + 0.01 for name, value in sent.items()}
    assert doubt_weights(sent, moved) == ""


def test_weights_sent_are_laid_out_once_for_all_replies_and_for_no_others(monkeypatch):
    monkeypatch.setattr(likeness, "LOOK", 40)
    sent = {f"layer{n}.weight": torch.rand(30) + 0.5 for n in range(6)}
    replies = [{n: t + 0.01 * torch.randn(30) for n, t in sent.items()} for _ in range(3)]
    replies.append({n: 2 * t for n, t in sent.items()})
    replies.append({n: t for n, t in replies[0].items() if n != "layer0.weight"})
    replies.append({n: 0.01 * t for n, t in sent.items()})
    wanted = [doubt_weights(sent, reply) for reply in replies]
    asked, plain = [], likeness._laid_out
    monkeypatch.setattr(
        likeness, "_laid_out", lambda of, names: asked.append(of is sent) or plain(of, names)
    )
    laid = Laid(sent)
    assert [doubt_weights(sent, reply, laid) for reply in replies] == wanted
    # Six handfuls, of which four are kept for the five replies that follow.
    assert sum(asked) == 6 + 2 * 5
    next_round = {name: 2 * tensor for name, tensor in sent.items()}
    assert doubt_weights(next_round, replies[3], laid) == ""
    assert "projection" not in wanted[3]
    assert "projection" in doubt_weights(next_round, replies[5], laid)


@pytest.mark.parametrize("kinds", [("float16", "bfloat16"), ("float32", "float64"), ("float16",)])
def test_entries_of_any_precision_are_looked_at_as_they_are(kinds):
    sent = {str(n): (torch.rand(9) + 1).to(getattr(torch, kind)) for n, kind in enumerate(kinds)}
    found = likeness._laid_out(sent, list(sent))
    assert found.dtype == torch.float64
    assert found.tolist() == [value for tensor in sent.values() for value in tensor.tolist()]
