"""What people write wrongly is refused with what to write, and what they give is taken."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak import LocalTraining, attack_update
from labelleak.attacks import AdaptiveLayerShadow, AdaptiveShadow, LayerShadow, Shadow
from labelleak.attacks.catalogue import FOR_STEPS
from labelleak.attacks.choice import going_beside
from labelleak.errors import BadInput
from labelleak.records.assumptions import Assumption


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: LocalTraining(batchsize=8), "batch_size"),
        (lambda: attack_update(gradeint={}), "gradient"),
        (lambda: labelleak.audit(trails=3), "trials"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_one_that_was_meant(call, meant):
    for kind in (BadInput, TypeError):
        with pytest.raises(kind, match=f"did you mean '{meant}'"):
            call()


def test_an_auditor_refuses_an_unknown_keyword_alike(tmp_path):
    flower = pytest.importorskip("labelleak.flower")
    with pytest.raises(TypeError, match="did you mean 'batch_size'"):
        flower.Auditor(folder=tmp_path, batchsize=8)


def test_the_command_name_says_what_the_function_is_called():
    with pytest.raises(AttributeError, match="did you mean 'attack_update'"):
        _ = labelleak.attack


def test_labels_as_a_binary_loss_needs_them_are_taken():
    torch.manual_seed(0)
    model, inputs = nn.Linear(6, 4), torch.rand(60, 6)
    labels = (torch.rand(60, 4) > 0.5).float()
    F.binary_cross_entropy_with_logits(model(inputs[:8]), labels[:8]).backward()
    gradient = {name: value.grad for name, value in model.named_parameters()}
    known = {"made": LocalTraining(batch_size=8), "task": "multilabel", "attacks": ["llbg"]}
    found = []
    for kind in (torch.float32, torch.float64, torch.int64, torch.bool):
        own = (inputs, labels.to(kind))
        told = attack_update(
            gradient=gradient, model=model, auxiliary=own, truth=own[1][:8], **known
        )
        found.append((told.results[0].counts, told.results[0].asr))
    assert len({*found}) == 1
    with pytest.raises(BadInput, match="whole numbers"):
        attack_update(gradient=gradient, model=model, auxiliary=(inputs, labels / 2), **known)


def test_only_labels_that_start_at_one_are_asked_whether_they_do():
    model = nn.Linear(6, 3)
    gradient = {name: torch.rand_like(value) for name, value in model.named_parameters()}
    for least, asked in ((0, False), (1, True)):
        own = (torch.rand(60, 6), torch.arange(60) % 5 + least)
        with pytest.raises(BadInput, match="the head has 3 rows") as refused:
            attack_update(
                gradient=gradient,
                model=model,
                auxiliary=labelleak.LabelledData(*own),
                made=LocalTraining(batch_size=8),
            )
        assert ("start at 1" in str(refused.value)) is asked


def test_several_steps_bring_attacks_that_follow_them_and_flag_those_that_learn_one_step():
    assert going_beside(None, 3) == FOR_STEPS
    assert Assumption.ONE_STEP in Shadow.card.assumes & LayerShadow.card.assumes
    for adaptive in (AdaptiveShadow, AdaptiveLayerShadow):
        assert Assumption.ONE_STEP not in adaptive.card.assumes
        assert adaptive.card.assumes == Shadow.card.assumes - {Assumption.ONE_STEP}
