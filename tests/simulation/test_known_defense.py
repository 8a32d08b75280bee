"""Gradients that several defenses share are those that each would have computed by itself."""

import numpy as np
import pytest
import torch

from labelleak.attacks import make_attack
from labelleak.core.battery import Battery
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.priors import UnbalancedPrior, UniformPrior
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import parse_defense, soteria
from labelleak.simulation import known_defense
from labelleak.simulation.defended import defended_gradients
from labelleak.simulation.gradients import HeadTable
from labelleak.simulation.known_defense import Gradients, KnownDefense

torch.manual_seed(0)
NET = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
MODEL = WhiteBox(NET, "2")
DATA = LabelledData(torch.rand(40, 6), torch.arange(40) % 4)
BATCHES = [LabelledData(DATA.inputs[i : i + 5], DATA.labels[i : i + 5]) for i in range(0, 40, 5)]


@pytest.mark.parametrize("order", [(False, True), (True, False)])
@pytest.mark.parametrize("text", ["prune:0.5", "topk:0.3", "dpsgd:1:1", "label_smoothing:0.2",
    "soteria:0.4", "soteria:0.4|clip:1", "label_smoothing:0.2|soteria:0.4"])  # fmt: skip
def test_gradients_are_the_defense_s_own(text, order):
    known = KnownDefense(parse_defense(text), Gradients())
    for full in order:
        shared = known.gradients(MODEL, BATCHES, np.random.default_rng(1), full=full)
        own = known.defense.gradients(MODEL, BATCHES, np.random.default_rng(1), full=full)
        assert set(shared.tensors) == set(own.tensors)
        for name, tensor in own.tensors.items():
            torch.testing.assert_close(shared.tensors[name], tensor)


def test_a_costly_defense_alters_each_sample_once_whatever_the_batches(monkeypatch):
    met = []

    def counted(model, inputs):
        met.append(len(inputs))
        return scores(model, inputs)

    scores = soteria.representation_scores
    monkeypatch.setattr(soteria, "representation_scores", counted)
    known = KnownDefense(parse_defense("soteria:0.4"), Gradients())
    for batches in (BATCHES[:3], BATCHES, BATCHES[::-1]):
        known.gradients(MODEL, batches, np.random.default_rng(0))
    assert met == [15, 25]
    # Of the victims, only samples in use are scored.
    met.clear()
    few = np.array([[3, 3, 8], [8, 30, 3]])
    one = defended_gradients(MODEL, DATA, few, known.defense)
    assert met == [3]
    own = [LabelledData(DATA.inputs[row], DATA.labels[row]) for row in torch.from_numpy(few)]
    naive = known.defense.gradients(MODEL, own, np.random.default_rng(0))
    torch.testing.assert_close(one.weight, naive.tensors["2.weight"])


def test_the_oldest_go_when_there_are_too_many(monkeypatch):
    plain, chain = Gradients(), parse_defense("topk:0.5")
    monkeypatch.setattr(known_defense, "_KEPT_BYTES", 1)
    for part in (BATCHES[:4], BATCHES[4:]):
        KnownDefense(chain, plain).gradients(MODEL, part, np.random.default_rng(0), full=True)
    assert len(plain.kept) == 1


def test_adaptive_attacks_are_prepared_once_for_a_defense_and_anew_for_another():
    attacks = [make_attack("llg_plus_adaptive"), make_attack("free")]
    battery = Battery.prepare(attacks, Knowledge(MODEL, (6,), DATA), 4)
    known, training = KnownDefense(parse_defense("prune:0.5"), Gradients()), LocalTraining(lr=1.0)
    first = battery.with_batches(UniformPrior(), training, known)
    second = first.with_batches(UnbalancedPrior(), training, known)
    third = second.with_batches(UnbalancedPrior(), training, None)
    assert first.ready["llg_plus_adaptive"] is second.ready["llg_plus_adaptive"]
    assert first.ready["free"] is not second.ready["free"]
    assert "llg_plus_adaptive" in third.refused
    other = KnownDefense(parse_defense("prune:0.9"), known.plain)
    fourth = first.with_batches(UniformPrior(), training, other)
    assert fourth.ready["llg_plus_adaptive"] is not first.ready["llg_plus_adaptive"]


def test_a_table_built_before_gives_the_same_updates():
    batches = np.arange(40).reshape(8, 5)
    table, chain = (
        HeadTable.build(MODEL, DATA),
        parse_defense("label_smoothing:0.1|clip_layers:0.1"),
    )
    fresh = defended_gradients(MODEL, DATA, batches, chain, seed=2)
    again = defended_gradients(MODEL, DATA, batches, chain, seed=2, table=table)
    assert torch.equal(fresh.weight, again.weight)
