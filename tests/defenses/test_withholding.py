"""Withholding: which parts stay with the client, and in which rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelleak.core.update import SharedTensors
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput

NAMES = ("conv.weight", "conv.bias", "norm.weight", "body.0.weight", "body.0.bias", "fc.weight")
NAMES += ("fc.bias",)
UPDATE = SharedTensors(
    {name: torch.ones(1, 2, 3) for name in NAMES} | {"norm.running_mean": torch.ones(1, 2)},
    "fc",
    frozenset({"norm.running_mean"}),
)


def sent_by(text, memory=None):
    sent, kept = parse_defense(text).apply(UPDATE, np.random.default_rng(0), memory)
    return [name for name in sent.tensors if "running" not in name], kept


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("withhold:head", NAMES[:5]),
        ("withhold:head:others", NAMES[5:]),
        ("withhold:conv", NAMES[2:]),
        ("withhold:body.0:others", NAMES[3:5]),
        ("withhold:body", (*NAMES[:3], *NAMES[5:])),
        ("withhold:last_1", NAMES[:5]),
        ("withhold:last_2", NAMES[:3]),
        ("withhold:last_3", NAMES[:2]),
        ("withhold:bias:others", NAMES[6:]),
        ("withhold:conv|withhold:head", NAMES[2:5]),
    ],
)
def test_a_part_is_left_out(text, left):
    assert sent_by(text)[0] == list(left)
    parse_defense(text).check_names(NAMES, "fc")


def test_a_round_that_shows_the_head_comes_first_so_that_it_is_judged():
    shown, memory = [], None
    for _ in range(6):
        names, memory = sent_by("withhold:head:3", memory)
        shown.append("fc.weight" in names)
    assert shown == [True, False, False, True, False, False]
    assert not parse_defense("withhold:head:3").hides_head
    assert parse_defense("withhold:head").hides_head


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("withhold:convs", "unknown part to withhold 'convs'; did you mean 'conv'"),
        ("clip:1|withhold:fc2:others", "unknown part to withhold 'fc2'"),
        ("withhold:last_4", "withhold:last_4 withholds all of this model"),
        ("withhold:last_0", "unknown part"),
    ],
)
def test_a_part_that_the_model_lacks_is_named(text, sentence):
    with pytest.raises(BadInput, match=sentence):
        parse_defense(text).check_names(NAMES, "fc")
