"""How often the server's 95 % interval for counts holds them, untrained and trained: a measurement.

    python tests/audits/measure_coverage.py

The estimate is N (q - g), with q the mean posterior of own data; see docs/tasks.md.
"""

import numpy as np
import torch

from labelleak.core.task import Task
from labelleak.core.white_box import lift
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import divide
from labelleak.simulation.training import Training, train_in_stages

BATCHES = 1000
CASES = (
    ("breast_cancer", "mlp", Task.binary, 32),
    ("digit_sets", "mlp", Task.multilabel, 32),
    ("digit_maps", "fcn", Task.dense, 8),
)


def shares(module, data, task):
    """Return each input's posterior, and its labels: 0 and 1, or the share of pixels of a class."""
    with torch.no_grad():
        parts = [module(inputs).softmax(1) for inputs in torch.split(data.inputs, 128)]
    posterior, labels = torch.cat(parts).double().numpy(), data.labels.numpy()
    if task is Task.binary:
        return posterior[:, 1:], labels[:, None]
    if task is Task.multilabel:
        return posterior[:, 1], labels
    there = [(labels == one).mean(axis=(1, 2)) for one in range(posterior.shape[1])]
    return posterior.mean(axis=(2, 3)), np.stack(there, axis=1)


def coverage(own, victims, labels, size, rng):
    """Return the share of counts that their interval holds, the bias and the spread per input."""
    error = 1.96 * own.std(axis=0) * np.sqrt(1 / size + 1 / len(own))
    missed = []
    for _ in range(BATCHES):
        batch = rng.choice(len(victims), size, replace=False)
        gradient = (victims[batch] - labels[batch]).mean(axis=0)
        missed.append(own.mean(axis=0) - gradient - labels[batch].mean(axis=0))
    missed = np.array(missed)
    held = float((np.abs(missed) <= error).mean())
    return held, np.abs(missed.mean(axis=0)).max(), missed.std(axis=0).max()


def main():
    """Print a line for each data set and stage."""
    for name, model, task, size in CASES:
        data, rng = load_dataset(name), np.random.default_rng(0)
        roles = divide(data.x_train, data.y_train, seed=0)
        rows = 1 if task is Task.binary else data.num_classes
        module = build_model(
            model, input_shape=data.input_shape, num_classes=rows, init="default", seed=0
        )
        module = lift(module, task)
        for steps in train_in_stages(module, roles.train, [0, 300], Training(), rng=rng):
            module.eval()
            own, _ = shares(module, roles.auxiliary, task)
            held, bias, spread = coverage(own, *shares(module, roles.victims, task), size, rng)
            total = size * (256 if task is Task.dense else 1)
            print(f"{name} {steps}: {held:.3f} held, bias {total * bias:.3f}", end=" ")
            print(f"and deviation {total * spread:.2f} of {total}")
            module.train()


if __name__ == "__main__":
    main()
