"""Simulate one client's local training under capture, and write its update as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.audits.data_rules import choose_schemes, task_of
from labelleak.audits.run import load_once
from labelleak.audits.update_options import ClientStep
from labelleak.core.head import locate_head
from labelleak.core.knowledge import LabelledData
from labelleak.core.local_steps import make_optimiser
from labelleak.core.outputs import as_tensor_model
from labelleak.core.seeding import stream, torch_seeded, whole_number
from labelleak.core.task import Task, check_rows, lift_outputs
from labelleak.core.white_box import lift
from labelleak.errors import BadInput
from labelleak.files.capture import CapturedUpdate, capture
from labelleak.records.files import write_whole
from labelleak.simulation.batches import draw_batches
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.designs import own_init
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import divide
from labelleak.simulation.training import Training, train_in_stages


def write_client_step(step: ClientStep, out: Path) -> list[Path]:
    """Train as one client does, on the data set's test part, and write the update and the truth.

    Args:
        step: what to simulate.
        out: folder, made if it is not there.

    Returns:
        The files: before, after, gradient, update (safetensors) and labels.json.

    Raises:
        BadInput: for unknown names, batches larger than the data, or a folder that cannot be
            written.
    """
    data, own = load_once(step.data), step.training
    task = task_of(step.task, data)
    (scheme,) = choose_schemes((step.scheme,), (ClientStep.scheme,), data)
    rows = check_rows(task, data.num_classes)
    roles = divide(data.x_train, data.y_train, seed=step.seed)
    # The client holds the test part: the training part is what an attacker has as auxiliary data.
    client = LabelledData(data.x_test, data.y_test)
    model = build_model(
        step.model,
        input_shape=data.input_shape,
        num_classes=rows,
        init=step.init or own_init(step.model, None),
        seed=whole_number(step.seed, "model", 0),
    )
    head = _head_of(model, data, rows, task)
    rng = stream(step.seed, "training", 0)
    told = as_tensor_model(model, head, data.x_train[:2])
    lifted = lift(told, task, data.y_train)
    for _ in train_in_stages(lifted, roles.train, [step.training_steps], Training(), rng=rng):
        model.train()
    batches = draw_batches(
        scheme,
        client.labels.numpy(),
        data.num_classes,
        own.batch_size,
        own.local_steps,
        stream(step.seed, "client"),
    )
    optimiser = make_optimiser(model.parameters(), own)
    seed = whole_number(step.seed, "forward")
    with torch_seeded(seed), capture(model, head=head) as update:
        for batch in torch.from_numpy(batches):
            outputs = lift_outputs(told(client.inputs[batch]), task)
            loss = F.cross_entropy(outputs, client.labels[batch])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    used = client.labels.numpy()[np.ravel(batches)]
    return _write(update, used[used >= 0] if task is Task.dense else used, out)


def _write(update: CapturedUpdate, labels: np.ndarray, out: Path) -> list[Path]:
    """Write an update in all its forms, and the labels behind it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror or error}") from error
    truth = out / "labels.json"
    _write_labels(truth, labels)
    return [
        update.save_before(out / "before.safetensors"),
        update.save_after(out / "after.safetensors"),
        update.save_gradient(out / "gradient.safetensors"),
        update.save(out / "update.safetensors"),
        truth,
    ]


def _head_of(model: nn.Module, data: Dataset, rows: int, task: Task) -> str:
    example = data.x_train[:2]
    return locate_head(model=model, name=None, example=example, num_classes=rows, task=task).name


def _write_labels(path: Path, labels: np.ndarray) -> None:
    write_whole(path, json.dumps({"labels": labels.tolist()}) + "\n", private=True)
