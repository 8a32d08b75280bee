"""What passes a model follows its device: shapes are told without data, and data are asked for."""

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.attacks import make_attack
from labelleak.audits.one_update import attack_update
from labelleak.core.head import locate_head
from labelleak.core.head_sums import row_sums_of
from labelleak.core.head_table import HeadTable
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput

LABELS = torch.tensor([0, 1, 2, 0])


def network():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.ReLU(), nn.Linear(5, 3))


def test_a_pass_and_its_table_tell_their_shapes_without_data():
    model, inputs = network().to("meta"), torch.zeros(4, 6, device="meta")
    box = WhiteBox(model, "3")
    seen = box.run_all(inputs)
    assert (seen.inputs.shape, seen.logits.shape) == ((4, 5), (4, 3))
    assert seen.probabilities.is_meta
    table = HeadTable.of_pass(seen, LABELS, has_bias=True)
    assert (table.inputs.shape, table.errors.shape) == ((4, 5), (4, 3))
    passes, labels = Knowledge(box, (6,), LabelledData(inputs, LABELS)).stream_own()
    assert [part.logits.shape for part in passes] == [(4, 3)]
    assert labels is LABELS or torch.equal(labels, LABELS)


def test_a_head_is_found_by_shapes_alone():
    with torch.device("meta"):
        model = network()
    gradient = {name: torch.zeros(p.shape) for name, p in model.named_parameters()}
    assert locate_head(gradient, model=model).name == "3"


@pytest.mark.parametrize(
    ("weight", "bias", "name"),
    [(True, False, "weight"), (False, True, "bias"), (True, True, "weight")],
)
def test_a_gradient_without_data_is_refused(weight, bias, name):
    parts = {"weight": torch.zeros(3, 5, device="meta"), "bias": torch.zeros(3, device="meta")}
    given = {
        part: parts[part] if asked else None
        for part, asked in zip(parts, (weight, bias), strict=True)
    }
    with pytest.raises(BadInput, match=f"the {name} gradient has a shape and no data"):
        Observation.from_gradient(**given, num_samples=2)


def test_an_update_or_a_model_without_data_is_refused():
    made, gradient = LocalTraining(batch_size=2), {"3.weight": torch.randn(3, 5)}
    with pytest.raises(BadInput, match=r"'?3.weight'? has a shape and no data"):
        attack_update(gradient={"3.weight": torch.zeros(3, 5, device="meta")}, made=made)
    with pytest.raises(BadInput, match=r"the model's '?0.weight'? has a shape and no data"):
        attack_update(gradient=gradient, made=made, model=network().to("meta"))


@pytest.mark.parametrize("name", ["llg", "llg_star", "llg_plus", "zlg", "ilrg", "rlu", "pplr"])
def test_the_cpu_named_outright_answers_as_the_default(name):
    device = torch.device("cpu", 0)
    generator = torch.Generator().manual_seed(0)
    data = LabelledData(torch.rand(8, 6, generator=generator), torch.arange(8) % 3)
    model = network().eval()
    weight, bias = torch.randn(3, 5, generator=generator), torch.randn(3, generator=generator)
    answers = []
    for place in ("cpu", device):
        own = LabelledData(data.inputs.to(place), data.labels.to(place))
        known = Knowledge(WhiteBox(model.to(place), "3"), (6,), own)
        seen = Observation.from_gradient(weight.to(place), bias.to(place), num_samples=4)
        ready = prepare(make_attack(name), known, 3, np.random.default_rng(0))
        answers.append(ready(seen).counts.tolist())
        assert np.array_equal(row_sums_of(weight.to(place)), row_sums_of(weight))
    assert answers[0] == answers[1]
