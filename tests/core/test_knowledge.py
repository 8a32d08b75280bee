"""What an attacker holds: shown need by need, and hidden where it is not asked for."""

import numpy as np
import pytest
import torch

from labelleak.core import knowledge, white_box
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.needs import Need
from labelleak.core.priors import PoolPrior, UniformPrior, free_guess
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import parse_defense

HELD = {
    Need.MODEL: ("model", WhiteBox(torch.nn.Linear(3, 2), "")),
    Need.AUXILIARY: ("auxiliary", LabelledData(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))),
    Need.PRIOR: ("prior", PoolPrior((3, 1))),
    Need.TRAINING: ("training", LocalTraining(lr=0.1)),
    Need.DEFENSE: ("defense", parse_defense("sign")),
}
EVERYTHING = Knowledge(**dict(HELD.values()), input_shape=(3,))


@pytest.mark.parametrize("need", HELD, ids=lambda need: need.name)
def test_only_what_is_needed_is_granted(need):
    granted = EVERYTHING.granted(frozenset({need}))
    for other, (name, value) in HELD.items():
        hidden = UniformPrior() if other is Need.PRIOR else None
        assert getattr(granted, name) == (value if other is need else hidden)
    assert (granted.input_shape is None) == (need is not Need.MODEL)


def test_what_is_held_is_told_and_what_an_update_carries_is_no_part_of_it():
    assert all(EVERYTHING.holds(need) for need in Need)
    missing = {need for need in Need if not Knowledge().holds(need)}
    assert missing == HELD.keys() - {Need.PRIOR}


def test_a_prior_that_knows_its_best_guess_is_asked_for_it():
    class Known(UniformPrior):
        def best_guess(self, num_samples, num_classes):
            return np.array([num_samples, *[0] * (num_classes - 1)]), 0.75

    counts, asr = free_guess(Known(), 5, 3)
    assert (counts.tolist(), asr) == ([5, 0, 0], 0.75)


@pytest.mark.parametrize(("entries", "sizes"), [(2**22, [7]), (12, [5, 2]), (1, [3, 2, 2])])
def test_own_data_come_in_parts_that_are_the_whole_pass(monkeypatch, entries, sizes):
    monkeypatch.setattr(white_box, "CHUNK", 3)
    monkeypatch.setattr(knowledge, "CHUNK", 3)
    monkeypatch.setattr(knowledge, "PART_ENTRIES", entries)
    data = LabelledData(torch.rand(7, 3), torch.arange(7) % 2)
    dropping = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 2))
    known, order = Knowledge(WhiteBox(dropping, "1"), auxiliary=data), torch.arange(6, -1, -1)
    whole, labels = known.pass_own(5, order=order)
    passes, told = known.stream_own(5, order=order)
    parts = list(passes)
    assert [len(part.logits) for part in parts] == sizes
    assert torch.equal(white_box.HeadPass.joined(parts).logits, whole.logits)
    assert torch.equal(told, labels)
    assert torch.equal(told, data.labels.flip(0))
