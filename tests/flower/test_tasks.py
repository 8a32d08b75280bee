"""Updates of other tasks than classes in a federation: one logit, and maps of classes."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn import functional as F

from labelleak import flower
from labelleak.core.knowledge import LabelledData
from labelleak.errors import BadInput
from labelleak.flower.findings import Sender
from labelleak.flower.readings import audit_readings
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
    told = {"task": name} if name == "multilabel" else {}
    make, loss, x, y = TASKS[name]

    def train(message, context):
        _, after = step(make(), loss, x, y)
        flower.report_labels(context, y if name == "dense" else y.float())
        found = {"arrays": ArrayRecord(after), "metrics": MetricRecord({"num-examples": len(x)})}
        return Message(RecordDict(found), reply_to=message)

    own = own_data(name)
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
    assert {"asr_image" in row for row in rows} == {name == "dense"}
    assert reply.has_error()


def test_masks_tell_the_counts_of_each_image_over_the_steps():
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    masks = torch.where(MASKS < 0, 255, MASKS)
    for rows in (slice(0, 2), slice(2, 3)):
        flower.report_labels(context, masks[rows], ignore_index=255)
    found = flower.labels.take_labels(context)
    assert found == replace(flower.labels.Reported.of(MASKS[:3]), steps=2)
    assert (found.images.sizes, found.images.axes) == ((24, 24, 24), 2)
    assert flower.labels.take_labels(context) is None
    before, after = step(maps(), F.cross_entropy, IMAGES[:3], MASKS[:3])
    auditor = flower.Auditor(folder=None, lr=0.1, local_steps=1, attacks=["free", "llbg"])
    for axes in (2, 1):  # rows of one mask are no images
        images = replace(found.images, axes=axes)
        sender = Sender(1, "0", labels=found.labels, images=images)
        truth = auditor.audit(before, after, sender).truth
        each = None if truth.images is None else truth.images[0]
        assert (each is None) == (axes == 1)
        assert each is None or each.sum(0).tolist() == truth.counts[0].tolist()
    flower.report_labels(context, masks[0])
    flower.report_labels(context, masks[:2])
    assert not flower.labels.take_labels(context).images.sizes


class Segmenter(nn.Module):
    """Deep supervision: a transposed head, an auxiliary one, and both in a mapping."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(1, 6, 2, padding=1)
        self.aux = nn.Conv2d(6, 3, 1)
        self.out = nn.ConvTranspose2d(6, 3, 2, padding=1)

    def forward(self, images):
        seen = self.body(images).relu()
        return {"aux": self.aux(seen), "out": self.out(seen)}


def test_a_transposed_head_in_a_mapping_is_blocked(tmp_path):
    def loss(outputs, masks):
        coarse = F.interpolate(outputs["aux"], masks.shape[1:])
        return F.cross_entropy(outputs["out"], masks) + 0.4 * F.cross_entropy(coarse, masks)

    def train(message, context):
        _, after = step(Segmenter(), loss, IMAGES[:4], MASKS[:4])
        flower.report_labels(context, MASKS[:4])
        found = {"arrays": ArrayRecord(after), "metrics": MetricRecord({"num-examples": 4})}
        return Message(RecordDict(found), reply_to=message)

    auditor = flower.Auditor(
        folder=tmp_path, lr=0.1, head="out", model=Segmenter, auxiliary=own_data("dense"),
        attacks=["llbg", "rlu", "zlg"], task="dense",
    )  # fmt: skip
    app = ClientApp(mods=[flower.audit_mod(auditor, "block")])
    app.train()(train)
    weights = ArrayRecord(Segmenter().state_dict())
    sent = {"arrays": weights, "config": ConfigRecord({"server-round": 1})}
    (reply,) = flower.InProcessGrid(app, 2).send_and_receive(
        [Message(RecordDict(sent), 1, "train")]
    )
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert reply.has_error()
    assert {row["attack"]: row["asr"] >= 0.95 for row in rows}["rlu"]
    assert {row["action"] for row in rows} == {"blocked"}
    assert {row["num_samples"] for row in rows} == {4 * 24}


@pytest.mark.parametrize("name", TASKS)
def test_class_frequencies_are_a_prior(name, tmp_path):
    make, loss, x, y = TASKS[name]
    before, after = step(make(), loss, x, y)
    told = {"binary": [1, 9], "multilabel": [0.5, 0.1, 0.0], "dense": [90, 5, 5]}[name]
    (tmp_path / "prior.json").write_text(json.dumps(told))
    sender = Sender(1, "0", labels=flower.labels.plain_labels(y))
    free = []
    for prior in (tmp_path / "prior.json", told):
        auditor = flower.Auditor(
            folder=None, lr=0.1, task=name, prior=prior, epochs=2, batch_size=len(x),
            attacks=["free", "llbg"],
        )  # fmt: skip
        free.append(auditor.audit(before, after, sender).answers[0].asr_free)
    plain = flower.Auditor(folder=None, lr=0.1, task=name, attacks=["free", "llbg"])
    assert free[0] == free[1] > plain.audit(before, after, sender).answers[0].asr_free
    wrong = flower.Auditor(folder=None, lr=0.1, task=name, prior=[1.0], attacks=["free", "llbg"])
    with pytest.raises(BadInput, match="the prior has 1 frequencies"):
        wrong.audit(before, after, sender)


def test_an_undeclared_weight_of_positives_is_said_and_seen():
    weights = torch.tensor([9.0, 9.0, 16.0])
    before, after = step(
        three_logits(),
        lambda z, y: F.binary_cross_entropy_with_logits(z, y.float(), pos_weight=weights),
        *TASKS["multilabel"][2:],
    )
    sender = Sender(1, "0", labels=flower.labels.plain_labels(FINDINGS[:32]))
    raised = []
    for told in (None, (9.0, 9.0, 16.0)):
        auditor = flower.Auditor(
            folder=None, lr=0.1, task="multilabel", pos_weight=told, model=three_logits,
            auxiliary=own_data("multilabel"), attacks=["rlu"],
        )  # fmt: skip
        finding = auditor.audit(before, after, sender)
        raised.append({flag.name for flag in finding.answers[0].flags if flag.raised.any()})
    assert {"pos_weight", "pos_weight_assumed"} <= raised[0]
    assert not {"pos_weight", "pos_weight_assumed"} & raised[1]
    assert finding.worst > 0.8


@pytest.mark.parametrize(
    ("told", "closed"),
    [({}, True), ({"pos_weight": (9.0, 9.0, 16.0)}, False), ({"defense": "gaussian:0.1"}, False)],
    ids=["untold", "told", "defended"],
)
def test_block_closes_on_a_weight_that_own_data_rule_out(told, closed, tmp_path):
    weights = torch.tensor([9.0, 9.0, 16.0])

    def train(message, context):
        loss = nn.BCEWithLogitsLoss(pos_weight=weights)
        _, after = step(three_logits(), lambda z, y: loss(z, y.float()), *TASKS["multilabel"][2:])
        flower.report_labels(context, FINDINGS[:32])
        found = {"arrays": ArrayRecord(after), "metrics": MetricRecord({"num-examples": 32})}
        return Message(RecordDict(found), reply_to=message)

    auditor = flower.Auditor(
        folder=tmp_path, lr=0.1, task="multilabel", attacks=["llbg"], model=three_logits,
        auxiliary=own_data("multilabel"), **told,
    )  # fmt: skip
    app = ClientApp(mods=[flower.audit_mod(auditor, "block", limit=0.999)])
    app.train()(train)
    weights_sent = ArrayRecord(three_logits().state_dict())
    sent = {"arrays": weights_sent, "config": ConfigRecord({"server-round": 1})}
    grid = flower.InProcessGrid(app, 1)
    (reply,) = grid.send_and_receive([Message(RecordDict(sent), 1, "train")])
    assert reply.has_error() == closed
    events = tmp_path / "events.jsonl"
    noted = [json.loads(line) for line in events.read_text().splitlines()] if closed else []
    refuted = {"labels_inconsistent", "pos_weight"} if closed else set()
    assert refuted <= {row["event"] for row in noted}


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_an_update_unlike_a_softmax_is_read_as_one_of_sigmoids_too(noise):
    """One-hot labels under a sigmoid a class leak more than the softmax's rules tell."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 6))
    kinds = (2 * PEOPLE[:, 0] + 3).long().clamp(0, 5)
    before, after = step(model, lambda z, y: each_loss(z, F.one_hot(y, 6)), PEOPLE[:32], kinds[:32])
    after = {name: value + noise * torch.randn(value.shape) for name, value in after.items()}
    sender = Sender(1, "0", labels=tuple(kinds[:32].tolist()))
    auditor = flower.Auditor(
        folder=None, lr=0.1, model=model, auxiliary=LabelledData(PEOPLE, kinds),
        attacks=["llbg", "rlu"],
    )  # fmt: skip
    plain = auditor.audit(before, after, sender)
    found = audit_readings(auditor, before, after, sender, 0.5)
    assert plain.raises("not_cross_entropy")
    assert (found.worst > 0.9 > plain.worst + 0.2) == (noise == 0)


@pytest.mark.parametrize("other", [1, 2, 3, 5])
@pytest.mark.parametrize("task", [None, "binary"])
def test_a_head_of_one_output_in_doubt_is_among_the_readings(other, task):
    """Of two layers that may be the head the client's labels, 0 and 1, do not rule out one row."""
    torch.manual_seed(1)
    body = nn.ModuleDict({n: nn.Linear(*s) for n, s in (("b", (9, 8)), ("right", (8, other)))})
    body["left"] = nn.Linear(8, 1)
    before = {name: value.clone() for name, value in body.state_dict().items()}
    hidden = body["b"](PEOPLE[:32]).relu()
    loss = binary_loss(body["left"](hidden), SICK[:32]) + body["right"](hidden).square().mean()
    loss.backward()
    torch.optim.SGD(body.parameters(), lr=0.1).step()
    auditor = flower.Auditor(folder=None, lr=0.1, local_steps=1, task=task, attacks=["llbg"])
    sender = Sender(1, "0", labels=tuple(SICK[:32].tolist()))
    after = dict(body.state_dict())
    found = audit_readings(auditor, before, after, sender, 1.0)
    told = flower.Auditor(folder=None, lr=0.1, task="binary", head="left", attacks=["llbg"])
    assert found.worst >= told.audit(before, after, sender).worst - 1e-9


def test_rows_of_labels_of_a_task_that_nobody_said_are_read_as_such():
    before, after = step(three_logits(), each_loss, *TASKS["multilabel"][2:])
    sender = Sender(1, "0", labels=flower.labels.plain_labels(FINDINGS[:32]))
    told = {"model": three_logits, "input_shape": (9,), "attacks": ["llbg", "zlg"]}
    found = audit_readings(flower.Auditor(folder=None, lr=0.1, **told), before, after, sender, 0.5)
    assert (found.task, found.observation.num_samples) == ("multilabel", 32)
    assert found.worst > 0.8
    own = flower.Auditor(folder=None, lr=0.1, auxiliary=own_data("multilabel"), **told)
    with pytest.raises(BadInput, match="say `task` multilabel"):
        audit_readings(own, before, after, sender, 0.5)


class Nests(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(9, 2)

    def forward(self, x):
        return {"heads": {"main": self.fc(x)}}


@pytest.mark.parametrize("last", ["nested", "softmax"])
def test_a_model_that_returns_no_logits_is_left_out_and_said_once(last, tmp_path):
    model = Nests() if last == "nested" else nn.Sequential(nn.Linear(9, 2), nn.Softmax(1))

    def loss(outputs, y):
        nested = isinstance(outputs, dict)
        logits = outputs["heads"]["main"] if nested else outputs.log()
        return F.cross_entropy(logits, y)

    sent, after = step(model, loss, PEOPLE[:8], SICK[:8])
    sender = Sender(1, "0", labels=tuple(SICK[:8].tolist()))
    for _ in range(2):
        auditor = flower.Auditor(
            folder=tmp_path, lr=0.1, local_steps=1, model=model, attacks=["llbg", "rlu"],
            auxiliary=LabelledData(PEOPLE, SICK),
        )  # fmt: skip
        found = audit_readings(auditor, sent, after, sender, 0.5)
        assert [one.attack for one in found.answers] == ["llbg"]
        assert "rlu" in found.not_applicable
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    event = json.loads(line)
    assert event["event"] == "model_left_out"
    assert "logits" in event["reason"]


@pytest.mark.parametrize(
    "told", [{}, {"defense": "dp-sgd:clip=1,noise=1"}, {"optimiser": "adam"}], ids=str
)
def test_maps_of_a_sigmoid_a_class_are_not_let_pass_undeclared(told):
    model = maps()
    rows = F.one_hot(MASKS[:4].clamp(min=0), 3).movedim(-1, 1).float()
    sent, after = step(model, F.binary_cross_entropy_with_logits, IMAGES[:4], rows)
    auditor = flower.Auditor(folder=None, lr=0.1, local_steps=1, attacks=["llg", "llbg"], **told)
    sender = Sender(1, "0", labels=tuple(MASKS[:4].clamp(min=0).ravel().tolist()))
    assert auditor.audit(sent, after, sender).raises("not_cross_entropy")
    if not told:
        with pytest.raises(BadInput, match="a sigmoid of its own, which is not read for maps"):
            audit_readings(auditor, sent, after, sender, 0.5)
    else:
        assert audit_readings(auditor, sent, after, sender, 0.5).raises("not_cross_entropy")


@pytest.mark.parametrize("told", [False, True])
def test_block_closes_on_class_weights_that_the_clients_labels_refute(told, tmp_path):
    """Weights of classes look like other counts, so the plain reading names the wrong ones."""
    kinds = (2 * PEOPLE[:, 0] + 3).long().clamp(0, 5)[:64]
    weights = 64 / torch.bincount(kinds, minlength=6).float().square()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 6))
    heavy = nn.CrossEntropyLoss(weight=weights)
    before, after = step(model, heavy, PEOPLE[:64], kinds)

    def train(message, context):
        flower.report_labels(context, kinds)
        found = {"arrays": ArrayRecord(after), "metrics": MetricRecord({"num-examples": 64})}
        return Message(RecordDict(found), reply_to=message)

    auditor = flower.Auditor(
        folder=tmp_path, lr=0.1, attacks=["llbg"],
        class_weights=tuple(weights.tolist()) if told else None,
        label_smoothing=0.0 if told else None,
    )  # fmt: skip
    app = ClientApp(mods=[flower.audit_mod(auditor, "block", limit=0.999)])
    app.train()(train)
    sent = {"arrays": ArrayRecord(before), "config": ConfigRecord({"server-round": 1})}
    (reply,) = flower.InProcessGrid(app, 1).send_and_receive(
        [Message(RecordDict(sent), 1, "train")]
    )
    assert reply.has_error() == (not told)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    events = {row["event"]: row.get("reason", "") for row in map(json.loads, lines)}
    assert ("class weights" in events.get("labels_inconsistent", "")) == (not told)
    assert ("loss_not_told" in events) == (not told)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("sigmoids", [True, False])
def test_adam_explains_maps_unlike_a_softmax_only_where_its_signs_may_be_ones(sigmoids, steps):
    """Rare findings under a sigmoid each all pull one way, which no softmax's rows do."""
    model = maps()
    rare = torch.rand(20, 3, 5, 5, generator=torch.Generator().manual_seed(2)) < 0.15
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in torch.arange(4 * steps).chunk(steps):
        adam.zero_grad()
        logits = model(IMAGES[batch])
        if sigmoids:
            F.binary_cross_entropy_with_logits(logits, rare[batch].float()).backward()
        else:
            F.cross_entropy(logits, rare[batch].long().argmax(1)).backward()
        adam.step()
    auditor = flower.Auditor(
        folder=None, lr=0.01, local_steps=steps, head="2", attacks=["llg", "llbg"],
        optimiser="adam", task="dense",
    )  # fmt: skip
    labels = rare[: 4 * steps].long().argmax(1)
    sender = Sender(1, "0", labels=tuple(labels.ravel().tolist()), local_steps=steps)
    after = dict(model.state_dict())
    assert auditor.audit(before, after, sender).raises("not_cross_entropy")
    if sigmoids:
        with pytest.raises(BadInput, match="a sigmoid of its own, which is not read for maps"):
            audit_readings(auditor, before, after, sender, 0.5)
    else:
        audit_readings(auditor, before, after, sender, 0.5)


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_an_ordinal_head_is_read_by_its_ranks_too(noise):
    """CORAL has a sigmoid a threshold: a label is a row of ones up to its rank."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 5))
    ranks = (2 * PEOPLE[:, 0] + 3).long().clamp(0, 4)

    def loss(logits, labels):
        return each_loss(logits, torch.arange(5) < labels[:, None])

    before, after = step(model, loss, PEOPLE[:32], ranks[:32])
    after = {name: value + noise * torch.randn(value.shape) for name, value in after.items()}
    sender = Sender(1, "0", labels=tuple(ranks[:32].tolist()))
    auditor = flower.Auditor(
        folder=None, lr=0.1, model=model, auxiliary=LabelledData(PEOPLE, ranks),
        attacks=["llbg", "rlu"],
    )  # fmt: skip
    found = audit_readings(auditor, before, after, sender, 0.5)
    assert (found.worst > 0.5) == (noise == 0)
    assert auditor.audit(before, after, sender).worst < 0


@pytest.mark.parametrize("missing", [-1, -100, float("nan")])
def test_rows_of_labels_with_some_missing_are_refused(missing):
    """Without three of twelve labels there would be three rows of others' labels."""
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    before, after = step(three_logits(), each_loss, *TASKS["multilabel"][2:])
    rows = FINDINGS[:4].float().numpy().copy()
    auditor = flower.Auditor(folder=None, lr=0.1, task="multilabel", attacks=["llbg"])
    flower.report_labels(context, rows)
    found = flower.labels.take_labels(context)
    sender = Sender(1, "0", labels=found.labels, images=found.images)
    auditor.audit(before, after, sender)
    rows[[0, 1, 2], [0, 1, 2]] = missing
    flower.report_labels(context, rows)
    found = flower.labels.take_labels(context)
    assert len(found.labels) == 9
    with pytest.raises(BadInput, match="some of the reported labels are missing"):
        auditor.audit(before, after, replace(sender, labels=found.labels, images=found.images))
