"""Weights before and after, without the learning rate: observed up to a factor, and flagged."""

from dataclasses import replace

import pytest
import torch

from labelleak.core.assumptions import check_update
from labelleak.core.knowledge import Knowledge
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.files.update import gather_update

BEFORE = {"fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3)}
AFTER = {"fc.weight": torch.tensor([[2.0] * 4, [-1.0] * 4, [-1.0] * 4]), "fc.bias": torch.zeros(3)}


def seen(**made):
    update = gather_update(before=BEFORE, after=AFTER, made=LocalTraining(batch_size=2, **made))
    return update.observe("fc")


def test_the_gradient_stands_up_to_a_factor_and_a_flag_says_so():
    unknown, known = seen(), seen(lr=0.5)
    assert torch.equal(unknown.weight, 0.5 * known.weight)
    assert (unknown.lr_known, known.lr_known) == (False, True)
    for observation, wanted in ((unknown, True), (known, False), (replace(unknown), True)):
        flags = {flag.name: flag.raised for flag in check_update(observation, Knowledge())}
        assert flags["learning_rate_unknown"] == wanted


@pytest.mark.parametrize("term", ["weight_decay", "proximal"])
def test_what_can_only_be_undone_with_the_rate_asks_for_it(term):
    with pytest.raises(BadInput, match="give `lr`"):
        seen(**{term: 0.1})
    assert seen(lr=0.5, **{term: 0.1}).lr_known
