"""An attack that cannot be fed is left out with the reason; a fault of its own is raised."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.attacks.bias import EBI
from labelleak.core.battery import Battery
from labelleak.core.interfaces import Estimate
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput

INPUTS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long() + (INPUTS[:, 1] > 0).long()
OWN = LabelledData(INPUTS[8:], LABELS[8:])
SEEN = Observation.from_gradient(None, torch.tensor([0.5, -0.3, -0.2])[None], num_samples=8)
KNOWN = Knowledge(WhiteBox(nn.Linear(5, 3), ""), (5,), OWN)


@dataclass(frozen=True)
class Breaks(EBI):
    """Fails where it is told to."""

    error: type[Exception]
    where: str
    needs = EBI.needs | {Need.MODEL}
    name = "breaks"

    def prepare(self, known, num_classes, rng):
        if self.where == "preparing":
            raise self.error("no\nmore")
        return self.answer

    def answer(self, observation):
        raise self.error("no\nmore")


@dataclass(frozen=True)
class Blind(Breaks):
    """Holds nothing that could be fed to it."""

    needs = EBI.needs


def answer(attack, *, lenient):
    battery = Battery.prepare([EBI(), attack], KNOWN, 3, lenient=lenient)
    answers = [one.attack for one in battery.answer(SEEN)]
    return answers, battery.not_applicable(SEEN)


@pytest.mark.parametrize("where", ["preparing", "answering"])
@pytest.mark.parametrize("error", [BadInput, ValueError, IndexError, RuntimeError, TypeError])
def test_what_cannot_be_fed_is_left_out_and_ends_no_other(error, where):
    said = "no\nmore" if error is BadInput else f"{error.__name__}: no"
    found = answer(Breaks(error, where), lenient=True)
    assert found == (["ebi"], {"breaks": f"it cannot be fed: {said}"})
    with pytest.raises(error):
        answer(Breaks(error, where), lenient=False)


@pytest.mark.parametrize("fault", [Breaks(ZeroDivisionError, "answering"), Blind(ValueError, "")])
def test_an_attack_s_own_fault_is_raised(fault):
    with pytest.raises((ZeroDivisionError, ValueError)):
        answer(fault, lenient=True)


class Stacked(nn.Module):
    """Two heads in one tensor, which no loss takes as it is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.fc, self.aux = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = self.body(inputs).relu()
        return torch.stack([self.fc(hidden), self.aux(hidden)])


def test_a_stack_of_heads_ends_the_attacks_that_feed_it_and_is_withheld(tmp_path):
    auditors = pytest.importorskip("labelleak.flower.auditor")
    readings = pytest.importorskip("labelleak.flower.readings")
    model, truth = Stacked(), LABELS[:8].tolist()
    F.cross_entropy(model(INPUTS[:8])[0], LABELS[:8]).backward()
    after = copy.deepcopy(model)
    with torch.no_grad():
        for moved, own in zip(after.parameters(), model.parameters(), strict=True):
            moved -= 0.1 * (torch.zeros_like(own) if own.grad is None else own.grad)
    weights = model.state_dict(), after.state_dict()
    attacks = ["llbg", "layer_regression"]
    found = labelleak.attack_update(
        before=weights[0], after=weights[1], made=LocalTraining(lr=0.1, batch_size=8),
        model=model, auxiliary=OWN, head="fc", truth=truth, attacks=attacks,
    )  # fmt: skip
    assert [one.attack for one in found.results] == ["llbg"]
    assert found.not_applicable["layer_regression"].startswith("it cannot be fed: ValueError: ")
    auditor = auditors.Auditor(
        folder=tmp_path, lr=0.1, local_steps=1, model=model, auxiliary=OWN, head="fc",
        attacks=attacks,
    )  # fmt: skip
    sender = auditors.Sender(1, "0", labels=tuple(truth))
    assert dict(auditor.audit(*weights, sender).doubts())["not_fed"]["reasons"].keys() == {
        "layer_regression"
    }
    with pytest.raises(BadInput, match="layer_regression could not answer: it cannot be fed"):
        readings.audit_readings(auditor, *weights, sender, 2.0)


class OfSinglePrecision(EBI):
    """An attack of one's own: a plain set of needs, whole numbers as floats, float32 scores."""

    name = "of_single_precision"
    needs: ClassVar = set(EBI.needs)

    def answer(self, observation):
        found = super().answer(observation)
        scores = np.float32(found.scores / 3)
        told = np.ones(len(scores))
        return Estimate(found.counts.astype(np.float64), scores, expected_asr=told)


def test_an_attack_of_ones_own_may_answer_in_other_kinds_of_numbers():
    battery = Battery.prepare([OfSinglePrecision()], KNOWN, 3, lenient=False)
    (answer,) = battery.answer(SEEN)
    told = answer.at(0)
    assert {type(count) for count in told.counts} == {int}
    assert all(len(repr(abs(one))) <= 8 for one in told.confidence)
