"""An auditor goes to other processes with what it was told, not with what it has worked out."""

import copy
import pickle

import pytest
import torch
from torch import nn

pytest.importorskip("flwr")
from labelleak import flower  # first: it keeps Flower from phoning home

from labelleak.flower.findings import Sender  # isort: skip


def head():
    return nn.Linear(3, 2)


@pytest.mark.parametrize("model", [None, head], ids=["no model", "model"])
@pytest.mark.parametrize(
    "sent",
    [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy],  # noqa: S301 - our own
    ids=["pickle", "copy"],
)
def test_an_auditor_that_has_audited_can_be_sent(tmp_path, model, sent):
    before = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    after = {"weight": torch.tensor([[0.2] * 3, [-0.2] * 3]), "bias": torch.tensor([0.2, -0.2])}
    told = {"model": model, "input_shape": (3,)} if model else {}
    auditor = flower.Auditor(folder=tmp_path, lr=0.1, local_steps=1, attacks=["ebi"], **told)
    found = auditor.audit(before, after, Sender(1, "1", 2, 1, (0, 0)))
    size = len(pickle.dumps(flower.Auditor(folder=tmp_path, lr=0.1, local_steps=1, **told)))
    assert len(pickle.dumps(auditor)) < size + 100
    there = sent(auditor)
    assert there.audit(before, after, Sender(1, "2", 2, 1, (0, 0))).worst == found.worst
    auditor.note_once("tried", reason="once")
    sent(auditor).note_once("tried", reason="twice")
    assert (tmp_path / "events.jsonl").read_text().count("tried") == 1
