"""Ordinary clients, drawn at random: their models, data, optimisers and defenses."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.limits import LARGEST
from labelleak.core.observation import Observation
from labelleak.core.scale import StepPath
from labelleak.core.training import LocalTraining
from labelleak.core.update import SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import parse_defense

CLASSES, SIZES = (2, 3, 5, 10, 30, 100), (1, 2, 8, 32, 128, 512)
OPTIMISERS = ("sgd", "momentum", "nesterov", "decay", "adam", "adamw", "rmsprop")
DEFENSES = (
    "none", "gaussian:0.001", "gaussian:0.1", "gaussian:3", "laplace:0.05", "exponential:0.02",
    "head_noise:0.2", "clip:0.05", "clip_layers:0.02", "topk:0.1", "randomk:0.1:rescale",
    "randomk:0.3",
    "prune:0.8", "threshold:0.01", "dgc:0.1", "sign", "sign:scaled", "qsgd:1", "qsgd:16", "bits:2",
    "bits:8", "float16", "historical_dp:1", "historical_compression:0.5", "topk:0.2:feedback",
    "clip:1|gaussian:0.01", "server_noise:1",
)  # fmt: skip
WIDTH = 20


@dataclass(frozen=True, eq=False)
class Client:
    """One right update as the server sees it, what it holds, and how it was made."""

    seen: Observation
    known: Knowledge
    made: str
    training: LocalTraining


def blobs(classes: int, number: int, rng: np.random.Generator, labels=None) -> LabelledData:
    """Draw samples around the classes' own centres."""
    centres = np.random.default_rng(classes).standard_normal((classes, WIDTH)) * 1.5
    labels = rng.integers(0, classes, number) if labels is None else labels
    inputs = centres[labels] + rng.standard_normal((number, WIDTH))
    return LabelledData(torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels))


def model_of(classes: int, steps: int, rng: np.random.Generator) -> nn.Sequential:
    """Make a small network, trained for some steps."""
    torch.manual_seed(int(rng.integers(2**31)))
    body = nn.ReLU() if rng.random() < 0.6 else nn.Tanh()
    model = nn.Sequential(nn.Linear(WIDTH, 32), body, nn.Linear(32, classes))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(steps):
        data = blobs(classes, 64, rng)
        optimiser.zero_grad()
        F.cross_entropy(model(data.inputs), data.labels).backward()
        optimiser.step()
    return model


def training_of(name: str, lr: float, steps: int, size: int) -> LocalTraining:
    """Write down how a client trained, as it would tell."""
    kind = name if name in ("adam", "adamw", "rmsprop") else "sgd"
    momentum = 0.9 if name in ("momentum", "nesterov") else 0.0
    return LocalTraining(
        lr=lr,
        local_steps=steps,
        batch_size=size,
        optimiser=kind,
        momentum=momentum,
        nesterov=name == "nesterov",
        weight_decay=0.01 if name == "decay" else 0.0,
    )


def optimiser_of(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Make torch's own optimiser of that name."""
    more = {
        "momentum": {"momentum": 0.9},
        "nesterov": {"momentum": 0.9, "nesterov": True},
        "decay": {"weight_decay": 0.01},
    }
    kinds = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    kind = kinds.get(name, torch.optim.SGD)
    decay = {"weight_decay": 0.0} if name == "adamw" else {}
    return kind(model.parameters(), lr=lr, **more.get(name, {}), **decay)


def draw_client(seed: int) -> Client:
    """Draw one ordinary client and its right update."""
    rng = np.random.default_rng([11, seed])
    classes, size = int(rng.choice(CLASSES)), int(rng.choice(SIZES))
    name, defense = OPTIMISERS[seed % len(OPTIMISERS)], DEFENSES[seed % len(DEFENSES)]
    steps = 1 if rng.random() < 0.6 else int(rng.integers(2, 6))
    trained = int(rng.choice([0, 0, 30, 150]))
    smoothing = float(rng.choice([0.0, 0.0, 0.0, 0.1, 0.3]))
    declared = bool(rng.random() < 0.5)
    lr = 0.001 if name in ("adam", "adamw", "rmsprop") else 0.05
    model = model_of(classes, trained, rng)
    few = rng.choice(classes, min(classes, 1 + int(rng.integers(3))), replace=False)
    labels = rng.choice(few, size * steps) if rng.random() < 0.5 else None
    data = blobs(classes, size * steps, rng, labels)
    client = copy.deepcopy(model)
    optimiser = optimiser_of(name, client, lr)
    for step in range(steps):
        part = slice(step * size, (step + 1) * size)
        optimiser.zero_grad()
        logits = client(data.inputs[part])
        F.cross_entropy(logits, data.labels[part], label_smoothing=smoothing).backward()
        optimiser.step()
    training = training_of(name, lr, steps, size)
    if seed % 3:  # these tell all of it
        training = replace(training, label_smoothing=smoothing, class_weights=())
    seen = Observation.from_update(
        model.state_dict(), client.state_dict(), head="2", training=training
    )
    seen = _defend(replace(seen, num_samples=size * steps), defense, declared, training, rng)
    own = blobs(classes, max(300, 8 * classes), rng, np.arange(max(300, 8 * classes)) % classes)
    made = (
        f"seed {seed}: {name}, {steps} steps of {size}, {classes} classes, trained {trained}, "
        f"smoothing {smoothing}, {defense}{' declared' if declared else ''}"
    )
    known = Knowledge(WhiteBox(model, "2"), (WIDTH,), own, training=training)
    return Client(seen, known, made, training)


def _defend(
    seen: Observation,
    defense: str,
    declared: bool,
    training: LocalTraining,
    rng: np.random.Generator,
) -> Observation:
    """Defend what moved, as the client does who shares weights."""
    chain, rate = parse_defense(defense), StepPath.of(training).rate
    unit = rate if rng.random() < 0.5 else 1.0
    shared = {"2.weight": seen.weight[None] * unit, "2.bias": seen.bias[None] * unit}
    sent, memory = chain.apply(SharedTensors(shared, "2"), rng)
    for _ in range(2 if "feedback" in defense or "dgc" in defense else 0):
        sent, memory = chain.apply(SharedTensors(shared, "2"), rng, memory)
    largest = None
    if declared:
        size = training.batch_size or 1
        largest = chain.largest_after(LARGEST, seen.num_classes, batch_size=size, unit=1 / unit)
    weight, bias = sent.tensors["2.weight"][0] / unit, sent.tensors["2.bias"][0] / unit
    return replace(seen, weight=weight, bias=bias, largest=largest)
