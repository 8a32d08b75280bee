"""The Flower auditor attacks the right layer, or says that it is in doubt."""

import json

import pytest
import torch
from torch import nn

from labelleak import flower
from labelleak.core.head import AmbiguousHead
from labelleak.errors import BadInput
from labelleak.flower.findings import Sender
from labelleak.flower.rows import write_finding

LABELS = (0, 0, 0, 1, 1, 2, 4, 4)


class TwoTops(nn.Module):
    """Two layers of the same shape on one body, defined before it; the loss has both."""

    def __init__(self, names=("a", "b")):
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Linear(8, 5))
        self.body = nn.Linear(6, 8)

    def forward(self, x):
        h = self.body(x).relu()
        first, second = (getattr(self, name)(h) for name in self.names)
        self.second = second
        return first


def train(model):
    torch.manual_seed(0)
    x, y = torch.rand(len(LABELS), 6), torch.tensor(LABELS)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(model(x), y)
    if model.second is not None:
        loss = loss + nn.functional.cross_entropy(model.second, 4 - y)
    loss.backward()
    optimiser.step()
    return before, model.state_dict()


def sender():
    return Sender(1, "0", labels=LABELS)


def test_a_head_in_doubt_is_flagged_noted_or_refused(tmp_path):
    before, after = train(TwoTops())
    auditor = flower.Auditor(folder=tmp_path, lr=0.1, attacks=["llbg"])
    finding = auditor.audit(before, after, sender())
    assert finding.head.how == "uncertain"
    write_finding(auditor, finding, action="sent")
    (event,) = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert event["event"] == "head_uncertain"
    assert {event["attacked"], *event["rivals"]} == {"a", "b"}
    (record,) = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    assert "head_uncertain" in record["flags"]
    assert record["head_found"] == "uncertain"
    with pytest.raises(AmbiguousHead) as doubt:
        auditor.audit(before, after, sender(), strict=True)
    assert set(doubt.value.candidates) == {"a", "b"}


@pytest.mark.parametrize(
    ("names", "options", "how"),
    [
        (("a", "b"), {"model": TwoTops, "input_shape": (6,)}, "traced"),
        (("a", "b"), {"model": TwoTops}, "traced"),
        (("a", "b"), {"head": "a"}, "named"),
        (("classifier", "domain"), {}, "names"),
    ],
)
def test_model_or_names_tell_the_head(names, options, how):
    before, after = train(TwoTops(names))
    auditor = flower.Auditor(folder=None, lr=0.1, attacks=["llbg"], **options)
    finding = auditor.audit(before, after, sender(), strict=True)
    assert (finding.head.name, finding.head.how) == (names[0], how)
    assert finding.worst > 0.5


def test_updates_with_several_heads_are_not_audited_together():
    class One(TwoTops):
        def forward(self, x):
            self.second = None
            return getattr(self, self.names[0])(self.body(x).relu())

    start = TwoTops().state_dict()
    afters = []
    for names in (("a", "b"), ("b", "a")):
        model = One(names)
        model.load_state_dict(start)
        before, after = train(model)
        afters.append(after)
    auditor = flower.Auditor(folder=None, lr=0.1, attacks=["llbg"])
    with pytest.raises(BadInput, match="several heads"):
        auditor.audit_together(before, afters, [sender(), Sender(1, "1", labels=LABELS)])


@pytest.mark.parametrize("turn", [False, True])
def test_lists_of_arrays_are_audited_whichever_framework_sent_them(turn):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    before = [p.detach().clone() for p in model.parameters()]
    x, y = torch.rand(len(LABELS), 6), torch.tensor(LABELS)
    nn.functional.cross_entropy(model(x), y).backward()
    after = [b - 0.1 * p.grad for b, p in zip(before, model.parameters(), strict=True)]
    sides = [[t.numpy().T if turn else t.numpy() for t in side] for side in (before, after)]
    finding = flower.Auditor(folder=None, lr=0.1, attacks=["llbg"]).audit(*sides, sender())
    assert finding.head.name == "2"
    expected = model[2].weight.grad.sum(1).numpy()
    assert finding.observation.row_sums[0] == pytest.approx(expected, abs=1e-5)
    assert finding.worst == 1.0


def test_a_list_without_biases_is_asked_for_its_layout():
    before, after = [torch.rand(4, 6).numpy()], [torch.rand(4, 6).numpy()]
    with pytest.raises(BadInput, match="say it with `layout`"):
        flower.Auditor(folder=None, lr=0.1).audit(before, after, sender())
    auditor = flower.Auditor(folder=None, lr=0.1, attacks=["llg"], layout="keras")
    assert auditor.audit(before, after, sender()).observation.num_classes == 6
