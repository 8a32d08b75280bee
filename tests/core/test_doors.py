"""Every door tells the same of the same weights: what was true of one and not of another, once."""

import pytest
import torch
from torch import nn

from labelleak.core.interfaces import LabelledData
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.files.update import gather_update, observe
from labelleak.simulation.client import Update

BEFORE = {"fc.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])}
BEFORE["fc.bias"] = torch.tensor([0.4, 0.8, 0.3])
AFTER = {name: value - 0.02 * (1 + value) for name, value in BEFORE.items()}


def by_file(how):
    return observe(gather_update(before=BEFORE, after=AFTER, made=how), "fc", None)


def by_simulation(how):
    return Update(BEFORE, AFTER).observe("fc", how)


def by_observation(how):
    return Observation.from_update(BEFORE, AFTER, head="fc", training=how)


def by_flower(how):
    auditors = pytest.importorskip("labelleak.flower.auditor")
    told = {name: value for name, value in how.known.items() if name != "batch_size"}
    auditor = auditors.Auditor(folder=None, attacks=["row_min"], **told)
    sender = auditors.Sender(round=1, client="0", num_samples=4)
    return auditor.audit(BEFORE, AFTER, sender).observation


DOORS = [by_file, by_simulation, by_observation, by_flower]
# What each optimiser does linearly, and what is left of the movement when that is undone.
CASES = {
    "adam": ({"optimiser": "adam", "momentum": 0.9, "weight_decay": 0.1, "proximal": 0.5}, 0.0),
    "rmsprop": ({"optimiser": "rmsprop", "momentum": 0.9, "weight_decay": 0.1}, 0.0),
    "adamw": ({"optimiser": "adamw", "momentum": 0.9, "weight_decay": 0.1}, 0.1),
    "sgd": ({"optimiser": "sgd", "weight_decay": 0.1}, 0.1),
    "not told": ({"weight_decay": 0.1}, 0.1),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_undone_that_the_optimiser_did_not_do_linearly(door, case):
    told, decay = CASES[case]
    seen = door(LocalTraining(lr=0.1, batch_size=4, **told))
    for name, gradient in (("fc.weight", seen.weight), ("fc.bias", seen.bias)):
        expected = (BEFORE[name] - AFTER[name]) / 0.1 - decay * BEFORE[name]
        assert gradient.reshape(expected.shape) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("door", DOORS)
def test_the_momentum_of_sgd_is_undone_and_that_of_adam_is_not(door):
    by_sgd, by_adam = (
        door(LocalTraining(lr=0.1, local_steps=3, batch_size=4, momentum=0.9, optimiser=name))
        for name in ("sgd", "adam")
    )
    # 1 + 1.9 + 2.71 replays against three steps.
    assert by_adam.row_sums == pytest.approx(by_sgd.row_sums * 5.61 / 3, rel=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_attackers_that_follow_the_head_know_what_was_undone(name):
    from labelleak.core.scale import StepPath

    how = LocalTraining(
        lr=0.1, local_steps=3, momentum=0.5, weight_decay=0.2, proximal=0.3, optimiser=name
    )
    path = StepPath.of(how)
    start, end = BEFORE["fc.weight"].double(), AFTER["fc.weight"].double()
    gradient = path.mean_gradient(start, end)
    assert path.movement(gradient, start) == pytest.approx(end - start, abs=1e-9)


def test_decoupled_decay_leaves_the_direction_of_adam():
    torch.manual_seed(3)
    data = LabelledData(torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 1]))
    plain, decayed = (
        _trained(nn.Linear(4, 3), data, LocalTraining(lr=0.01, optimiser=name, weight_decay=decay))
        for name, decay in (("adam", 0.0), ("adamw", 0.5))
    )
    assert decayed.weight == pytest.approx(plain.weight, abs=1e-4)


def _trained(model, data, how):
    from labelleak.simulation.client import train_locally

    torch.manual_seed(5)
    nn.init.normal_(model.weight)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    after = train_locally(model, data, [torch.arange(6).numpy()], how)
    return Observation.from_update(before, after, head="", training=how)
