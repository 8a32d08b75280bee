"""Several heads share a loss: the others are named, the share is told, tried or in doubt."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import labelleak
from labelleak.core.head import locate_head
from labelleak.core.knowledge import LabelledData
from labelleak.core.local_steps import bend_gradients, make_optimiser
from labelleak.core.training import LocalTraining

torch.manual_seed(0)
INPUTS, LABELS = torch.rand(16, 12), torch.tensor([0] * 9 + [1] * 5 + [2, 4])
BATCH = LocalTraining(lr=0.1, batch_size=16, local_steps=1)


class Deep(nn.Module):
    """Three heads on two layers, as deep supervision has them."""

    def __init__(self, classes=5, other=5):
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 14)
        self.main, self.early = nn.Linear(14, classes), nn.Linear(16, other)
        self.late = nn.Linear(14, other)

    def forward(self, x):
        first = self.first(x).relu()
        second = self.second(first).relu()
        return self.main(second), self.early(first), self.late(second)


class Maps(nn.Module):
    """Two heads of maps."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 6, 3, padding=1)
        self.main, self.aside = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        body = self.body(x).relu()
        return self.main(body), self.aside(body)


class Mixed(nn.Module):
    """Layers mixed by a softmax of their own, whose change is balanced like a head's."""

    def __init__(self):
        super().__init__()
        self.body, self.gate, self.alpha = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.parts = nn.ModuleList(nn.Linear(8, 7) for _ in range(3))
        self.last = nn.Linear(7, 5)

    def forward(self, x):
        body = self.body(x).relu()
        shares = self.gate(body).softmax(1) + self.alpha(body).softmax(1)
        return self.last(sum(shares[:, i : i + 1] * p(body) for i, p in enumerate(self.parts)))


def each_loss(outputs, labels, sigmoid=False):
    """Give the loss of each head."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    if not sigmoid:
        return [functional.cross_entropy(out, labels) for out in outputs]
    rows = functional.one_hot(labels, 5).float()
    return [functional.binary_cross_entropy_with_logits(out, rows) for out in outputs]


def gradient_of(model, shares=(1.0,), inputs=INPUTS, labels=LABELS, sigmoid=False):
    losses = each_loss(model(inputs), labels, sigmoid)
    sum(share * loss for share, loss in zip(shares, losses, strict=True)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def update_of(model, shares, sigmoid=False):
    """Take one step; give the weights before and after."""
    before = {name: t.clone() for name, t in model.state_dict().items()}
    gradient = gradient_of(model, shares, sigmoid=sigmoid)
    return before, {name: t - 0.1 * gradient[name] for name, t in before.items()}


@pytest.mark.parametrize("other", [5, 3])
def test_heads_that_share_a_softmax_loss_are_named(other):
    labels = LABELS.clamp(max=2)
    gradient = gradient_of(Deep(other=other), (0.5, 0.3, 0.2), labels=labels)
    assert locate_head(gradient, name="main").beside == ("early", "late")


def test_heads_of_sigmoids_and_of_maps_are_named():
    gradient = gradient_of(Deep(), (1.0, 1.0, 1.0), sigmoid=True)
    assert locate_head(gradient, name="main", task="multilabel").beside == ("early", "late")
    maps = gradient_of(Maps(), (1.0, 0.4), torch.rand(4, 1, 6, 6), torch.ones(4, 6, 6).long())
    assert locate_head(maps, name="main", task="dense").beside == ("aside",)


def test_a_head_alone_and_layers_below_it_are_not():
    gradient = gradient_of(Deep(), (1.0, 0.0, 0.0))
    assert locate_head(gradient, name="main").beside == ()
    model = Mixed()
    gradient = gradient_of(model)
    assert locate_head(gradient, name="last").beside == ("alpha",)  # `gate` by its name
    found = locate_head(gradient, model=model)
    assert (found.how, found.name, found.beside) == ("traced", "last", ())


@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_a_scaled_loss_moves_a_head_as_the_plain_one_does_with_other_options(scale):
    def trained(training, factor):
        torch.manual_seed(1)
        model = Deep()
        own = list(model.parameters())
        start = [p.detach().clone() for p in own]
        optimiser = make_optimiser(own, training)
        for _ in range(3):
            optimiser.zero_grad()
            (factor * sum(each_loss(model(INPUTS), LABELS))).backward()
            bend_gradients(own, start, training)
            optimiser.step()
        return model.main.weight

    told = LocalTraining(
        lr=0.2, weight_decay=0.01, momentum=0.5, proximal=0.1, clip_norm=0.5, loss_share=scale
    )
    assert torch.allclose(trained(told, scale), trained(told.unscaled, 1.0), atol=1e-6)
    adam = LocalTraining(lr=0.2, optimiser="adam", loss_share=scale)
    assert adam.unscaled == LocalTraining(lr=0.2, optimiser="adam", loss_share=1.0)
    assert LocalTraining(lr=0.2).unscaled == LocalTraining(lr=0.2)


@pytest.mark.parametrize("form", ["pair", "gradient"])
def test_an_untold_share_is_in_doubt_and_a_told_one_is_undone(form):
    model = Deep()
    before, after = update_of(model, (0.25, 0.5, 0.25))
    given = {"before": before, "after": after}
    if form == "gradient":
        given = {"gradient": {n: p.grad for n, p in model.named_parameters()}}
    reports = [
        labelleak.attack_update(
            **given,
            made=LocalTraining(lr=0.1, local_steps=1, batch_size=16, loss_share=share),
            head="main",
            truth=LABELS.tolist(),
            attacks=["llbg"],
        )
        for share in (None, 0.25)
    ]
    flags = ["loss_share_unknown" in report.results[0].flags for report in reports]
    assert flags == [True, False]
    assert any("'early', 'late' learnt beside the head 'main'" in note for note in reports[0].notes)
    assert reports[0].results[0].asr + 0.1 < reports[1].results[0].asr
    assert [len(report.doubts) for report in reports] == [1, 0]


def test_attacks_on_all_layers_are_left_out_where_other_losses_moved_them():
    class Main(Deep):
        def forward(self, x):
            return super().forward(x)[0]

    model = Main()
    losses = each_loss(Deep.forward(model, INPUTS), LABELS)
    sum(losses).backward()
    report = labelleak.attack_update(
        gradient={n: p.grad for n, p in model.named_parameters()}, made=BATCH, model=model,
        auxiliary=LabelledData(torch.rand(60, 12), torch.arange(60) % 5),
        attacks=["gdbr", "llbg"],
    )  # fmt: skip
    assert [result.attack for result in report.results] == ["llbg"]


@pytest.mark.parametrize("named", [None, "main"])
def test_a_head_of_another_loss_shows_by_the_model(named):
    class Rebuilt(Deep):
        """An auxiliary head that rebuilds the inputs, whose loss is a squared error."""

        def __init__(self):
            super().__init__()
            self.early, self.late = nn.Linear(16, 12), None

        def forward(self, x):
            first = self.first(x).relu()
            return self.main(self.second(first).relu()), self.early(first)

    torch.manual_seed(0)
    model = Rebuilt()
    main, early = model(INPUTS)
    loss = 0.25 * functional.cross_entropy(main, LABELS) + functional.mse_loss(early, INPUTS)
    loss.backward()
    gradient = {name: p.grad for name, p in model.named_parameters()}
    found = locate_head(gradient, model=model, name=named, num_classes=5)
    assert (found.name, found.beside) == ("main", ("early",))
    report = labelleak.attack_update(
        gradient=gradient, made=BATCH, model=model, head="main", attacks=["llbg"]
    )
    assert "loss_share_unknown" in report.doubts


@pytest.mark.parametrize("stepped", [False, True])
def test_a_share_that_a_capture_measured_is_not_divided_out_again(stepped):
    torch.manual_seed(0)
    model = Deep()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with labelleak.capture(model, head="main") as update:
        sum(0.25 * loss for loss in each_loss(model(INPUTS), LABELS)).backward()
        if stepped:
            optimiser.step()
    answers = [
        labelleak.attack_update(update, made=made, attacks=["llbg"]).results[0].counts
        for made in (None, LocalTraining(loss_share=0.25))
    ]
    assert answers[0] == answers[1]
