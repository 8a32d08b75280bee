"""Set our recovery of soft labels beside the figures of its paper (Wang et al., ICLR 2024).

Run as ``python tests/reference/compare_soft_labels.py SET.npz [SAMPLES]``: one sample at a time,
its label smoothed by up to 0.3 or mixed with another's, on untrained ResNet-20, from the gradient
of the head's weight with and without that of its bias. The truth is used for scoring alone.
"""

import sys

import numpy as np
import torch

from labelleak.attacks.soft_labels import recover_soft_label
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.models import build_model

SMOOTHED, MIXED, CLOSE = "smoothing", "mixup of two", 0.01


def draw_label(kind, label, other, classes, rng):
    """Return a smoothed label, or a mixture of two."""
    hard = np.eye(classes)
    if kind == SMOOTHED:
        amount = rng.uniform(0, 0.3)
        return (1 - amount) * hard[label] + amount / classes
    share = rng.uniform(0.5, 1)
    return share * hard[label] + (1 - share) * hard[other]


def measure(data, samples, kind, seed=0):
    """Return how many labels come out to within 0.01 in each entry, with a bias and without."""
    held, rng = load_dataset(data), np.random.default_rng(seed)
    classes = held.num_classes
    found = {True: 0, False: 0}
    for start in range(0, samples, 100):
        model = build_model(
            "resnet20", input_shape=held.input_shape, num_classes=classes, seed=seed + start
        ).eval()
        head = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
        for _ in range(min(100, samples - start)):
            one, two = rng.choice(len(held.y_train), 2, replace=False)
            label = draw_label(kind, *held.y_train[[one, two]].tolist(), classes, rng)
            loss = -(torch.as_tensor(label) * model(held.x_train[[one]])[0].double().log_softmax(0))
            weight, bias = torch.autograd.grad(loss.sum(), [head.weight, head.bias])
            for has_bias in (True, False):
                answer = recover_soft_label(
                    weight.double().numpy(),
                    bias.double().numpy() if has_bias else None,
                    head.weight.detach().double().numpy(),
                    head.bias.detach().double().numpy(),
                    mixed=1 if kind == SMOOTHED else 2,
                )
                found[has_bias] += bool(np.abs(answer.label - label).max() < CLOSE)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    many = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    print("| label | samples | with the bias | from the weight alone |\n|---|---|---|---|")
    for sort in (SMOOTHED, MIXED):
        right = measure(sys.argv[1], many, sort)
        print(
            f"| {sort} | {many:,} | {right[True] / many:.3f} | {right[False] / many:.3f} |",
            flush=True,
        )
