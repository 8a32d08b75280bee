"""What holds for every attack on every task: one logit, several labels, and maps of classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contract.test_attacks import CHEAP, handed_in
from labelleak.attacks import ATTACKS
from labelleak.core.battery import Battery
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.priors import UniformPrior
from labelleak.core.score import Truth, count_labels
from labelleak.core.task import HeadForm, Task
from labelleak.core.task_priors import EachPrior
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox, lift
from labelleak.defenses import parse_defense
from labelleak.simulation.client import train_locally
from labelleak.simulation.gradients import autograd_gradients

TRIALS, SIZE, LABELS, WIDTH = 3, 8, 3, 6
WAYS = torch.randn(WIDTH, LABELS, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Case:
    """A task with the head that goes with it.

    Attributes:
        task: what labels are.
        bias: whether the head has one.
        steps: local steps of the client.
        turned: whether the head is a transposed convolution.
        heavy: weight of labels that are there.
    """

    task: Task
    bias: bool = True
    steps: int = 1
    turned: bool = False
    heavy: float = 1.0

    def __repr__(self) -> str:
        more = f"{'-turned' * self.turned}{f'-{self.heavy:g}' * (self.heavy != 1)}"
        return f"{self.task}-{'bias' if self.bias else 'plain'}-{self.steps}{more}"

    def data(self, rows: int, seed: int) -> LabelledData:
        generator = torch.Generator().manual_seed(seed)
        if self.task is Task.dense:
            images = torch.rand(rows, 1, 4, 4, generator=generator)
            return LabelledData(images, (images[:, 0] * LABELS).long())
        inputs = torch.randn(rows, WIDTH, generator=generator)
        several = (inputs @ WAYS > torch.tensor([0.0, 1.0, 99.0])).long()  # nobody has the last
        return LabelledData(inputs, several if self.task is Task.multilabel else several[:, 0])

    def model(self) -> nn.Module:
        rows = 1 if self.task is Task.binary else LABELS
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            if self.task is Task.dense:
                head = nn.Conv2d(5, LABELS, 1, bias=self.bias)
                if self.turned:
                    head = nn.ConvTranspose2d(5, LABELS, 2, stride=2, bias=self.bias)
                body = nn.Conv2d(1, 5, 3, stride=1 + self.turned, padding=1)
                return nn.Sequential(body, nn.ReLU(), head)
            return nn.Sequential(nn.Linear(WIDTH, 5), nn.ReLU(), nn.Linear(5, rows, bias=self.bias))


CASES = [
    *(Case(task) for task in (Task.binary, Task.multilabel, Task.dense)),
    *(Case(task, bias=False) for task in (Task.binary, Task.multilabel, Task.dense)),
    *(Case(task, steps=2) for task in (Task.binary, Task.multilabel)),
    Case(Task.dense, steps=2, turned=True),
    Case(Task.multilabel, heavy=4.0),
]


@dataclass(frozen=True, eq=False)
class Scenario:
    """As `contract.scenarios.Scenario`, with the battery that was prepared for it."""

    case: Case
    observation: object
    known: Knowledge
    truth: Truth
    rows: int

    def battery(self) -> Battery:
        attacks = [make(**CHEAP.get(name, {})) for name, make in ATTACKS.items()]
        return Battery.prepare(attacks, self.known, self.rows)


def make(case: Case) -> Scenario:
    box = WhiteBox(lift(case.model(), case.task), "2")
    own, victims = case.data(60, 1), case.data(50, 2)
    drawn = np.random.default_rng(3).integers(50, size=(TRIALS, case.steps * SIZE))
    rows = box.form.num_rows
    labels = victims.labels.numpy()[drawn]
    flat = labels if case.task is Task.multilabel else labels.reshape(TRIALS, -1)
    truth = count_labels(flat, case.task, LABELS if case.task is Task.multilabel else rows)
    heavy = (case.heavy,) if case.heavy != 1 else ()
    training = LocalTraining(lr=0.1, local_steps=case.steps, batch_size=SIZE, pos_weight=heavy)
    if heavy:
        seen = weighed_gradients(case, victims, drawn)
    elif case.steps == 1:
        seen = autograd_gradients(box, victims, drawn, full=True)
    else:
        before = {name: value.clone() for name, value in box.module.state_dict().items()}
        after = [
            train_locally(box.module, victims, one.reshape(case.steps, SIZE), training)
            for one in drawn
        ]
        states = {name: torch.stack([one[name] for one in after]) for name in before}
        total = int(truth.counts[0].sum()) // (LABELS if case.task is Task.multilabel else 1)
        received = ReceivedUpdate(
            before, states, training=training, num_samples=total, task=case.task
        )
        seen = received.observe("2")
    several = case.task is Task.multilabel
    prior = EachPrior((UniformPrior(),) * LABELS) if several else UniformPrior()
    known = Knowledge(
        box,
        tuple(own.inputs.shape[1:]),
        own,
        prior,
        training=training,
        defense=parse_defense("none"),
    )
    return Scenario(case, seen, known, truth, rows)


def weighed_gradients(case: Case, data: LabelledData, drawn: np.ndarray) -> object:
    """Return the head's gradients of a loss that weighs labels that are there."""
    model, weight = case.model(), torch.full((LABELS,), case.heavy)
    rows = []
    for one in drawn:
        outputs, labels = model(data.inputs[one]), data.labels[one].float()
        loss = F.binary_cross_entropy_with_logits(outputs, labels, pos_weight=weight)
        rows.append(torch.autograd.grad(loss, list(model[2].parameters())))
    form = HeadForm(case.task, (LABELS, 5))
    parts = [torch.stack(part) for part in zip(*rows, strict=True)]
    return Observation.from_gradient(*parts, num_samples=SIZE, form=form)


@pytest.fixture(params=CASES, ids=repr, scope="module")
def scenario(request):
    return make(request.param)


def test_every_attack_counts_wholly_or_says_why_not(scenario):
    battery, seen = scenario.battery(), scenario.observation
    before = [one.clone() for one in handed_in(scenario)]
    answers = {one.attack: one.estimate for one in battery.run(seen, scenario.truth)}
    missing = battery.not_applicable(seen)
    assert all(map(torch.equal, before, handed_in(scenario)))
    assert set(answers) | set(missing) == set(ATTACKS)
    assert not set(answers) & set(missing)
    assert {"rlu", "random", "free"} - {"rlu" if not scenario.case.bias else ""} <= set(answers)
    for name, found in answers.items():
        assert found.counts.shape == scenario.truth.counts.shape, name
        assert (found.counts >= 0).all(), name
        pairs = found.counts.reshape(TRIALS, seen.problems, -1)
        assert (pairs.sum(axis=2) == seen.num_samples).all(), name
        assert np.isfinite(found.scores).all(), name
    if not scenario.case.bias or scenario.case.steps > 1:
        return  # once a task is enough
    again = {one.attack: one.estimate for one in scenario.battery().answer(seen)}
    assert all((again[name].counts == found.counts).all() for name, found in answers.items())


def test_the_order_of_labels_does_not_matter():
    first = make(Case(Task.multilabel))
    order = np.array([2, 0, 1])
    model = first.known.model.module
    turned = Case(Task.multilabel).model()
    turned.load_state_dict(model.state_dict())
    with torch.no_grad():
        turned[2].weight.copy_(turned[2].weight[order])
        turned[2].bias.copy_(turned[2].bias[order])
    rows = (2 * order[:, None] + np.arange(2)).ravel()
    own = first.known.auxiliary
    known = replace(
        first.known,
        model=WhiteBox(lift(turned, Task.multilabel), "2"),
        auxiliary=LabelledData(own.inputs, own.labels[:, order]),
    )
    seen = replace(
        first.observation,
        weight=first.observation.weight[:, rows],
        bias=first.observation.bias[:, rows],
        rest=None,
    )
    plain = {a.attack: a.estimate.counts for a in first.battery().answer(first.observation)}
    renamed = replace(first, known=known).battery().answer(seen)
    for answer in renamed:
        if answer.attack != "free":
            moved = np.abs(answer.estimate.counts - plain[answer.attack][:, rows]).sum(-1)
            assert (moved <= 2).all(), answer.attack


def test_losses_over_labels_and_over_pixels_are_torchs():
    """The definition: what a client's own loss gives, row by row."""
    for task, loss in (
        (Task.binary, lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float())),
        (Task.multilabel, lambda z, y: F.binary_cross_entropy_with_logits(z, y.float())),
        (Task.dense, F.cross_entropy),
    ):
        case = Case(task)
        box, data = WhiteBox(lift(case.model(), task), "2"), case.data(SIZE, 5)
        plain = case.model()
        (grad,) = torch.autograd.grad(loss(plain(data.inputs), data.labels), [plain[2].bias])
        seen = autograd_gradients(box, data, np.arange(SIZE)[None])
        assert torch.allclose(box.form.raw(seen.weight, seen.bias)[1][0], grad, atol=1e-6)
