"""Updates of other tasks than classes in a federation: one logit, and maps of classes."""

import copy
import json

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn import functional as F

from labelleak import flower
from labelleak.core.knowledge import LabelledData
from labelleak.errors import BadInput
from labelleak.flower.findings import Sender
from labelleak.flower.rows import write_finding

PEOPLE = torch.randn(200, 9, generator=torch.Generator().manual_seed(0))
SICK = (PEOPLE[:, 0] > -1.5).long()
IMAGES = torch.rand(20, 1, 5, 5, generator=torch.Generator().manual_seed(1))
MASKS = (IMAGES[:, 0] > 0.9).long() + (IMAGES[:, 0] > 0.95).long()
MASKS[:, 0, 0] = -100


def one_logit():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 1))


def maps():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))


def binary_loss(z, y):
    return F.binary_cross_entropy_with_logits(z[:, 0], y.float())


FINDINGS = (PEOPLE[:, :3] > torch.tensor([0.0, 1.5, 4.0])).long()


def three_logits():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))


def each_loss(z, y):
    return F.binary_cross_entropy_with_logits(z, y.float())


TASKS = {
    "binary": (one_logit, binary_loss, PEOPLE[:32], SICK[:32]),
    "multilabel": (three_logits, each_loss, PEOPLE[:32], FINDINGS[:32]),
    "dense": (maps, F.cross_entropy, IMAGES[:4], MASKS[:4]),
}


def own_data(name):
    data = {
        "binary": (PEOPLE, SICK),
        "multilabel": (PEOPLE, FINDINGS),
        "dense": (IMAGES, MASKS),
    }
    return LabelledData(*data[name])


def step(model, loss, x, y):
    """Take one step and return the weights before and after it."""
    client = copy.deepcopy(model)
    optimiser = torch.optim.SGD(client.parameters(), lr=0.1)
    loss(client(x), y).backward()
    optimiser.step()
    return dict(model.state_dict()), dict(client.state_dict())


@pytest.mark.parametrize("name", TASKS)
def test_updates_of_a_task_are_audited(name, tmp_path):
    make, loss, x, y = TASKS[name]
    labels = flower.labels.plain_labels(y)
    before, after = step(make(), loss, x, y)
    rest = own_data(name)
    auditor = flower.Auditor(
        folder=tmp_path, lr=0.1, task=name, model=make(), auxiliary=rest, attacks=["rlu", "llbg"]
    )
    finding = auditor.audit(before, after, Sender(1, "0", labels=labels))
    assert finding.worst >= 0.9
    assert finding.task == name
    write_finding(auditor, finding)
    row = json.loads((tmp_path / "records.jsonl").read_text().splitlines()[0])
    each = 3 if name == "multilabel" else 1
    assert (row["task"], row["num_samples"]) == (name, len(labels) // each)


def test_one_output_is_asked_for_where_no_labels_tell():
    before, after = step(one_logit(), binary_loss, *TASKS["binary"][2:])
    auditor = flower.Auditor(folder=None, lr=0.1, attacks=["llbg"])
    with pytest.raises(BadInput, match="say `task` binary"):
        auditor.audit(before, after, Sender(1, "0", num_samples=32))
    told = auditor.audit(before, after, Sender(1, "0", labels=tuple(SICK[:32].tolist())))
    raised = {flag.name for answer in told.answers for flag in answer.flags if flag.raised.any()}
    assert "task_assumed" in raised
    assert told.worst > 0.5
    with pytest.raises(BadInput, match="unknown task"):
        flower.Auditor(folder=None, task="ranking")


def test_estimates_say_how_many_have_each_label(tmp_path):
    before, after = step(three_logits(), each_loss, *TASKS["multilabel"][2:])
    auditor = flower.Auditor(folder=tmp_path, lr=0.1, task="multilabel", attacks=["llbg"])
    write_finding(auditor, auditor.audit(before, after, Sender(1, "0", num_samples=32)))
    row = json.loads((tmp_path / "estimates.jsonl").read_text())
    assert len(row["counts"]) == 3
    for labels, sentence in (((0, 1), "no rows of 3"), ((0, 1, 2), "rows of 0 and 1")):
        with pytest.raises(BadInput, match=sentence):
            auditor.audit(before, after, Sender(1, "0", labels=labels))


@pytest.mark.parametrize("name", TASKS)
def test_block_withholds_an_update_of_any_task(name, tmp_path):
    make, loss, x, y = TASKS[name]

    def train(message, context):
        _, after = step(make(), loss, x, y)
        flower.report_labels(context, y if name == "dense" else y.float())
        found = {"arrays": ArrayRecord(after), "metrics": MetricRecord({"num-examples": len(x)})}
        return Message(RecordDict(found), reply_to=message)

    own = own_data(name)
    told = {"task": name} if name == "multilabel" else {}
    auditor = flower.Auditor(
        folder=tmp_path, lr=0.1, attacks=["llbg", "rlu"], model=make, auxiliary=own, **told
    )
    app = ClientApp(mods=[flower.audit_mod(auditor, "block")])
    app.train()(train)
    sent = {"arrays": ArrayRecord(make().state_dict()), "config": ConfigRecord({"server-round": 1})}
    grid = flower.InProcessGrid(app, 2)
    (reply,) = grid.send_and_receive([Message(RecordDict(sent), 1, "train")])
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert {row["action"] for row in rows} == {"blocked"}
    assert {row["task"] for row in rows} == {name}
    assert reply.has_error()
