"""Language models that ship: shapes, ties, causality, and gradients sample by sample."""

import pytest
import torch
from torch.nn import functional as F

from labelleak.core.task import Task
from labelleak.core.white_box import WhiteBox, lift
from labelleak.defenses.dp_sgd import sample_norms
from labelleak.errors import BadInput
from labelleak.simulation.designs import DESIGNS
from labelleak.simulation.language_models import turn_by_place
from labelleak.simulation.models import build_model

NAMES = [name for name, design in DESIGNS.items() if design.takes_tokens]
IDS = torch.randint(40, (3, 9), generator=torch.Generator().manual_seed(0))


def build(name, **choices):
    return build_model(
        name, input_shape=(9,), num_classes=40, seed=1, task=Task.tokens, **choices
    ).eval()


@pytest.mark.parametrize("name", NAMES)
def test_a_position_sees_none_after_it(name):
    model, other = build(name), IDS.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 40
    first, second = model(IDS), model(other)
    assert first.shape == (3, 9, 40)
    assert torch.allclose(first[:, :5], second[:, :5], atol=1e-6)
    assert not torch.allclose(first[:, 5:], second[:, 5:], atol=1e-6)


def test_heads_are_tied_as_in_gpt2_only():
    assert {n for n in NAMES if (m := build(n)).lm_head.weight is m.embedding.weight} == {
        "gpt2-small"
    }


@pytest.mark.parametrize("name", ["gpt2-small", "llama-small"])
def test_a_tied_head_goes_by_its_name_and_has_a_gradient_of_its_own(name):
    box = WhiteBox(lift(build(name), Task.tokens), "lm_head")
    assert "lm_head.weight" in box.trained
    assert len(box.trained) == len(list(box.module.parameters()))
    targets = F.one_hot(IDS, 40).movedim(-1, 1).float()
    norms = sample_norms(box, IDS, targets)
    for number in range(3):
        loss = F.cross_entropy(box.module(IDS[number][None]), IDS[number][None])
        found = torch.autograd.grad(loss, list(box.trained.values()))
        length = torch.stack([one.norm() for one in found]).norm()
        assert float(norms[number]) == pytest.approx(float(length), rel=1e-4)


def test_turning_keeps_what_two_positions_have_in_common():
    left, right = torch.randn(2, 1, 8)
    places = torch.zeros(6, 8)
    a, b = turn_by_place(places + left), turn_by_place(places + right)
    assert torch.allclose(a[0] @ b[2], a[3] @ b[5], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "choices", "sentence"),
    [("lstm", {"activation": "relu"}, "own activation"), ("mlp", {}, "mlp is no model of tokens")],
)
def test_what_cannot_be_built_is_refused(name, choices, sentence):
    with pytest.raises(BadInput, match=sentence):
        build(name, **choices)
