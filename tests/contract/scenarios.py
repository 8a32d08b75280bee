"""Small updates of every kind that an attack can meet, each with the truth behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.score import Truth
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import parse_defense
from labelleak.simulation.client import train_locally
from labelleak.simulation.gradients import HeadTable, autograd_gradients

FEATURES = 12
# What an adaptive attacker knows: no defense, which is true of most scenarios.
DEFENSE = parse_defense("none")
TRIALS = 6


@dataclass(frozen=True, eq=False)
class Scenario:
    """An update of many trials, what may be known of its model, and the truth."""

    name: str
    observation: Observation
    known: Knowledge
    truth: Truth

    def __repr__(self) -> str:
        return self.name


def network(
    activation: type[nn.Module] = nn.ReLU, *, classes: int = 5, bias: bool = True, seed: int = 0
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, 16), activation(), nn.Linear(16, classes, bias=bias)
        )


def blobs(classes: int, *, rows: int = 40, seed: int = 1) -> LabelledData:
    """Give data whose classes differ, so that models can learn them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).random((classes, FEATURES))
    labels = np.arange(rows * classes) % classes
    inputs = centres[labels] + 0.1 * rng.standard_normal((len(labels), FEATURES))
    return LabelledData(torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels))


def train(model: nn.Module, data: LabelledData, steps: int) -> nn.Module:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(data.inputs), data.labels))
        optimiser.step()
    return model


def one_step(
    name: str,
    model: nn.Module,
    *,
    classes: int = 5,
    rows: int = 40,
    size: int = 8,
    change: Callable[[Observation], Observation] = lambda seen: seen,
) -> Scenario:
    victims = blobs(classes, rows=rows, seed=2)
    rng = np.random.default_rng(3)
    batches = rng.integers(len(victims), size=(TRIALS, size))
    box = WhiteBox(model, "2")
    observation = change(autograd_gradients(box, victims, batches, full=True))
    known = Knowledge(
        box,
        (FEATURES,),
        blobs(classes, rows=rows),
        training=LocalTraining(lr=0.1, local_steps=1, batch_size=size),
        defense=DEFENSE,
    )
    truth = Truth.from_labels(victims.labels.numpy()[batches], classes)
    return Scenario(name, observation, known, truth)


def several_steps(name: str, *, steps: int = 4, size: int = 4, momentum: float = 0.0) -> Scenario:
    """Let each client take SGD steps of its own and share the weights."""
    model = network()
    victims = blobs(5, seed=2)
    rng = np.random.default_rng(4)
    batches = rng.integers(len(victims), size=(TRIALS, steps, size))
    after = []
    for trial in batches:
        client = copy.deepcopy(model)
        optimiser = torch.optim.SGD(client.parameters(), lr=0.05, momentum=momentum)
        for batch in torch.from_numpy(trial):
            optimiser.zero_grad()
            logits = client(victims.inputs[batch])
            torch.autograd.backward(F.cross_entropy(logits, victims.labels[batch]))
            optimiser.step()
        after.append(client.state_dict())
    before = model.state_dict()
    together = {key: torch.stack([state[key] for state in after]) for key in before}
    observation = Observation.from_update(
        before,
        together,
        head="2",
        lr=0.05,
        local_steps=steps,
        batch_size=size,
        momentum=momentum,
    )
    training = LocalTraining(lr=0.05, local_steps=steps, batch_size=size, momentum=momentum)
    known = Knowledge(
        WhiteBox(model, "2"), (FEATURES,), blobs(5), training=training, defense=DEFENSE
    )
    labels = victims.labels.numpy()[batches].reshape(TRIALS, -1)
    return Scenario(name, observation, known, Truth.from_labels(labels, 5))


def soft_labels(name: str) -> Scenario:
    """Smooth the labels: the gradient then is that of softened targets."""

    def smooth(seen: Observation) -> Observation:
        assert seen.weight is not None
        assert seen.bias is not None
        return replace(seen, weight=0.9 * seen.weight, bias=0.9 * seen.bias)

    return one_step(name, network(), change=smooth)


def pruned(seen: Observation) -> Observation:
    """Keep the largest fifth of the weight gradient."""
    assert seen.weight is not None
    size = seen.weight.abs().flatten(1)
    least = size.quantile(0.8, dim=1)[:, None, None]
    kept = torch.where(seen.weight.abs() >= least, seen.weight, torch.zeros_like(seen.weight))
    return replace(seen, weight=kept)


def noised(seen: Observation) -> Observation:
    """Add noise as large as the gradient."""
    assert seen.weight is not None
    assert seen.bias is not None
    generator = torch.Generator().manual_seed(0)
    return replace(
        seen,
        weight=seen.weight + torch.randn(seen.weight.shape, generator=generator),
        bias=seen.bias + torch.randn(seen.bias.shape, generator=generator),
    )


def zeros(seen: Observation) -> Observation:
    assert seen.weight is not None
    assert seen.bias is not None
    return replace(seen, weight=torch.zeros_like(seen.weight), bias=torch.zeros_like(seen.bias))


def halves(seen: Observation) -> Observation:
    assert seen.weight is not None
    assert seen.bias is not None
    return replace(seen, weight=seen.weight.half(), bias=seen.bias.half())


def all_scenarios() -> list[Scenario]:
    trained = train(network(nn.Tanh), blobs(5), 150)
    return [
        one_step("relu", network()),
        one_step("sigmoid", network(nn.Sigmoid)),
        one_step("tanh", network(nn.Tanh)),
        one_step("no_bias", network(bias=False)),
        one_step("trained", trained),
        one_step("two_classes", network(classes=2), classes=2),
        one_step("hundred_classes", network(classes=100), classes=100, rows=6),
        one_step("one_sample", network(), size=1),
        one_step("many_samples", network(), size=300),
        several_steps("local_steps"),
        several_steps("momentum", momentum=0.9),
        soft_labels("soft_labels"),
        one_step("pruned", network(), change=pruned),
        one_step("noised", network(), change=noised),
        one_step("zeros", network(), change=zeros),
        one_step("float16", network(), change=halves),
    ]


def head_table(scenario: Scenario, batches: np.ndarray, data: LabelledData) -> Observation:
    assert scenario.known.model is not None
    return HeadTable.build(scenario.known.model, data).gradients(batches)


def answer(attack, scenario: Scenario, observation: Observation | None = None, **changed):
    """Let an attack answer a scenario, with some of its knowledge changed."""
    known = replace(scenario.known, **changed)
    classes = scenario.truth.counts.shape[-1]
    ready = prepare(attack, known, classes, np.random.default_rng(0))
    return ready(observation or scenario.observation)


def check_any_learning_rate(attack, lr: float) -> None:
    """Assert that an attack gives whole counts whatever the learning rate that it is told."""
    scenario = several_steps("steps")
    found = answer(attack, scenario, training=replace(scenario.known.training, lr=lr))
    assert (found.counts.sum(-1) == scenario.observation.num_samples).all()
    assert np.isfinite(found.scores).all()


def trained_update(model, data, steps, training):
    """Train a client locally and return its update as a server that knows the training got it."""
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    after = train_locally(model, data, steps, training)
    total = sum(len(step) for step in steps)
    return ReceivedUpdate(before, after, training=training, num_samples=total)


def check_a_class_without_data(attack, missing: int) -> None:
    """Assert that an attack gives whole counts where its own data lack a class."""
    scenario = several_steps("steps")
    data = scenario.known.auxiliary
    kept = data.labels != missing
    part = LabelledData(data.inputs[kept], data.labels[kept])
    found = answer(attack, scenario, auxiliary=part)
    assert (found.counts.sum(-1) == scenario.observation.num_samples).all()
