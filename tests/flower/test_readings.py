"""In doubt every reading is audited: what leaks in none of them may leave, and only that."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("flwr")
from labelleak import flower  # first: it keeps Flower from phoning home

from labelleak.core.head import AmbiguousHead  # isort: skip
from labelleak.flower.findings import Sender
from labelleak.flower.forms import Returns, UncertainForm
from labelleak.flower.readings import audit_readings

LR, LABELS = 0.05, (3, 3, 3, 3, 0, 0, 4, 4)
AUDITOR = flower.Auditor(folder=None, lr=LR, local_steps=1)
SENDER = Sender(1, "1", len(LABELS), 1, LABELS)


class Twins(nn.Module):
    """Two layers that no other follows; only the second gives the output."""

    def __init__(self, side_rows=6):
        super().__init__()
        self.q = nn.Linear(6, side_rows)
        self.p = nn.Linear(6, 6)

    def forward(self, x):
        return self.p(x) + self.q(x).square().mean()


def trained(model, noise=0.0, times=1.0):
    """Return the weights before and after one step, with noise in units of the gradient."""
    torch.manual_seed(4)
    inputs = next(model.parameters()).shape[1]
    x, y = torch.randn(len(LABELS), inputs), torch.tensor(LABELS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = F.cross_entropy(model(x), y)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    moves = {n: -LR * times * (g + noise * torch.randn(g.shape)) for n, g in found.items()}
    return before, {name: before[name] + move for name, move in moves.items()}


def one_head():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 6))


def as_difference(before, after):
    return {name: after[name] - before[name] for name in before}


@pytest.mark.parametrize("factor", [1.0, -1 / LR], ids=["difference", "gradient"])
def test_a_reply_of_doubtful_form_leaves_only_if_it_leaks_in_none(factor):
    for noise in (0.0, 1.0):
        sent, after = trained(one_head(), noise)
        reply = {n: t * factor for n, t in as_difference(sent, after).items()}
        with pytest.raises(UncertainForm):
            AUDITOR.audit(sent, reply, SENDER, strict=True)
        if not noise:
            with pytest.raises(UncertainForm):
                audit_readings(AUDITOR, sent, reply, SENDER, 0.5)
            continue
        found = audit_readings(AUDITOR, sent, reply, SENDER, 0.9)
        assert found.trained.form.doubt
        assert "reply_form_uncertain" in dict(found.doubts())
        every = [
            flower.Auditor(folder=None, lr=LR, local_steps=1, returns=kind, head="2")
            .audit(sent, reply, SENDER)
            .worst
            for kind in Returns
        ]
        assert found.worst <= 0.9
        with pytest.raises(UncertainForm):  # one reading above the limit is enough
            audit_readings(AUDITOR, sent, reply, SENDER, max(every) - 0.01)


def test_a_doubtful_head_is_refused_with_its_candidates_only_if_one_of_them_leaks():
    sent, after = trained(Twins(), noise=30.0)
    every = {
        head: flower.Auditor(folder=None, lr=LR, local_steps=1, head=head)
        .audit(sent, after, SENDER)
        .worst
        for head in ("p", "q")
    }
    found = audit_readings(AUDITOR, sent, after, SENDER, 0.95)
    assert found.head.how == "uncertain"
    assert found.worst == max(every.values())
    assert {found.head.name, *found.head.rivals} == {"p", "q"}
    with pytest.raises(AmbiguousHead) as doubt:
        audit_readings(AUDITOR, sent, after, SENDER, max(every.values()) - 0.01)
    assert set(doubt.value.candidates) == {"p", "q"}


def test_a_layer_of_too_few_rows_for_the_labels_is_no_head():
    sent, after = trained(Twins(side_rows=3), noise=30.0)
    with pytest.raises(AmbiguousHead):
        AUDITOR.audit(sent, after, SENDER, strict=True)
    found = audit_readings(AUDITOR, sent, after, SENDER, 1.0)
    assert (found.head.name, found.head.rivals) == ("p", ())


def test_what_is_impossible_in_every_reading_is_refused():
    sent, after = trained(one_head(), times=1e5)
    with pytest.raises(UncertainForm):
        audit_readings(AUDITOR, sent, as_difference(sent, after), SENDER, 2.0)


class Deep(nn.Module):
    """Two heads on two layers, as deep supervision has them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 14)
        self.main, self.early = nn.Linear(14, 5), nn.Linear(16, 5)

    def forward(self, x):
        first = self.first(x).relu()
        return self.main(self.second(first).relu()), self.early(first)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_shares_of_the_loss_that_nobody_told_are_tried(sigmoid):
    torch.manual_seed(0)
    model, inputs = Deep(), torch.rand(16, 12)
    labels = torch.tensor([0] * 9 + [1] * 5 + [2, 4])
    rows = F.one_hot(labels, 5)
    loss = F.binary_cross_entropy_with_logits if sigmoid else F.cross_entropy
    main, early = (loss(out, rows.float() if sigmoid else labels) for out in model(inputs))
    (0.3 * main + 0.7 * early).backward()
    before = {name: t.detach().clone() for name, t in model.named_parameters()}
    after = {name: before[name] - LR * p.grad for name, p in model.named_parameters()}
    sender = Sender(1, "0", labels=tuple((rows.flatten() if sigmoid else labels).tolist()))
    options = {"lr": LR, "local_steps": 1, "task": "multilabel" if sigmoid else None}
    auditor = flower.Auditor(folder=None, head="main", attacks=["llbg", "zlg"], **options)
    plain = auditor.audit(before, after, sender)
    assert plain.raises("loss_share_unknown")
    tried = audit_readings(auditor, before, after, sender, 0.5)
    assert tried.worst > plain.worst + 0.3
    assert 0.2 < tried.trained.training.loss_share < 0.4
    assert tried.raises("loss_share_unknown")
    told = flower.Auditor(folder=None, head="main", attacks=["llbg"], loss_share=0.3, **options)
    assert not told.audit(before, after, sender).raises("loss_share_unknown")
    unnamed = flower.Auditor(folder=None, attacks=["llbg"], **options)
    with pytest.raises(AmbiguousHead):
        audit_readings(unnamed, before, after, sender, 0.5)
    with pytest.raises(AmbiguousHead):
        audit_readings(flower.Auditor(folder=None, **options), before, after, sender, 0.5)
