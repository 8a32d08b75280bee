import math

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.core.knowledge import Knowledge
from labelleak.core.local_steps import make_optimiser
from labelleak.core.training import OPTIMISERS, FullTraining, LocalTraining
from labelleak.core.training_checks import check_training
from labelleak.errors import BadInput
from labelleak.files.notes import KEY, Note, read_note, write_tensors
from labelleak.files.tensors import read_tensors


def test_nothing_is_known_unless_it_is_told():
    assert LocalTraining().known == {}
    full = LocalTraining().filled()
    assert set(full.unknown) == set(vars(LocalTraining()))
    assert full == FullTraining()


@pytest.mark.parametrize("order", [1, -1])
def test_a_training_that_is_filled_in_holds_the_numbers_that_were_told(order):
    """Not equal ones of another kind, which someone else told in this process before."""
    for one in (1, 1.0, np.float32(1), np.float64(1))[::order]:
        full = LocalTraining(lr=one, class_weights=(one, 0.5)).filled()
        assert type(full.lr) is type(full.class_weights[0]) is type(one)


def test_what_is_told_wins_over_what_is_found():
    told = LocalTraining(lr=0.2, momentum=0.0)
    found = LocalTraining(lr=0.1, momentum=0.9, batch_size=4)
    assert told.over(found).known == {"lr": 0.2, "momentum": 0.0, "batch_size": 4}


def test_absence_is_told_apart_from_not_knowing():
    absent = LocalTraining(clip_norm=math.inf, class_weights=(), weight_decay=0.0)
    assert set(absent.known) == {"clip_norm", "class_weights", "weight_decay"}
    assert not {"clip_norm", "class_weights", "weight_decay"} & set(absent.filled().unknown)
    raised = [flag.name for flag in check_training(Knowledge(training=absent)) if flag.raised]
    assert raised == []


def test_a_full_training_keeps_what_it_was_told_when_it_is_laid_over():
    full = LocalTraining(lr=0.3).filled()
    assert full.over(LocalTraining(momentum=0.5)).known == {"lr": 0.3, "momentum": 0.5}
    assert FullTraining(lr=0.3).over(LocalTraining(momentum=0.5)).momentum == 0.0


@pytest.mark.parametrize(
    "told",
    [
        {"lr": 0},
        {"lr": math.nan},
        {"lr": "0.1"},
        {"lr": 10**40},
        {"batch_size": 10**12},
        {"local_steps": 0},
        {"batch_size": 2.5},
        {"batch_size": True},
        {"momentum": 1.0},
        {"weight_decay": -1},
        {"optimiser": "sgdd"},
        {"nesterov": 1},
        {"clip_norm": 0},
        {"label_smoothing": 1.0},
        {"class_weights": (1.0, 0.0)},
        {"class_weights": [1.0]},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(told):
    (name,) = told
    with pytest.raises(BadInput, match=name):
        LocalTraining(**told)
    with pytest.raises(BadInput, match=name):
        FullTraining(**told)


def test_nesterov_needs_momentum_where_both_are_known():
    assert LocalTraining(nesterov=True).nesterov
    with pytest.raises(BadInput, match="Nesterov"):
        LocalTraining(nesterov=True, momentum=0.0)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_that_can_be_told_can_take_steps(name):
    layer = nn.Linear(2, 2)
    optimiser = make_optimiser(layer.parameters(), LocalTraining(lr=0.1, optimiser=name))
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert type(optimiser).__name__.lower() == name
    assert not torch.equal(layer.weight, before)


def test_a_note_keeps_all_that_is_known(tmp_path):
    path = tmp_path / "update.safetensors"
    how = LocalTraining(lr=0.1, clip_norm=math.inf, class_weights=(1.0, 2.0), nesterov=False)
    write_tensors(path, {"fc.weight": torch.zeros(2, 3)}, Note(how, "fc", "gradient"))
    assert read_note(read_tensors(path).metadata, path) == Note(how, "fc", "gradient")


def test_notes_of_older_files_are_read(tmp_path):
    old = '{"labelleak": "0.1.0", "part": "after", "lr": 0.1, "batch_size": 8, "head": "fc"}'
    note = read_note({KEY: old}, tmp_path)
    assert note == Note(LocalTraining(lr=0.1, batch_size=8), "fc", "after")
