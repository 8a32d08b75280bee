"""How often own data see that a loss of sigmoids is no plain binary cross-entropy: a measurement.

    python tests/audits/measure_losses.py [UPDATES]

Prints, for one and six labels, before and after training, of 32 and 256 samples, how many updates
raise the flag `pos_weight`; of right ones eight times as many are drawn. See docs/tasks.md.
"""

import sys

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.pos_weight_fit import SIGMAS, look_for_weights
from labelleak.core.task import HeadForm, Task
from labelleak.core.white_box import WhiteBox, lift

WAYS = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))


def focal(z, y, power):
    each = binary_cross_entropy_with_logits(z, y, reduction="none")
    return ((1 - torch.exp(-each)) ** power * each).mean()


def dice(z, y):
    chance = z.sigmoid()
    return 1 - (2 * (chance * y).sum() + 1) / (chance.sum() + y.sum() + 1)


def smoothed(z, y, share):
    return binary_cross_entropy_with_logits(z, y * (1 - share) + share / 2)


LOSSES = {
    "plain": binary_cross_entropy_with_logits,
    "focal 1": lambda z, y: focal(z, y, 1.0),
    "focal 2": lambda z, y: focal(z, y, 2.0),
    "smoothed 0.1": lambda z, y: smoothed(z, y, 0.1),
    "smoothed 0.2": lambda z, y: smoothed(z, y, 0.2),
    "squares": lambda z, y: mse_loss(z.sigmoid(), y),
    "Dice": dice,
    "plain + Dice": lambda z, y: binary_cross_entropy_with_logits(z, y) + dice(z, y),
}


def people(count, seed, labels):
    """Draw inputs and their findings, the first common and the last rare."""
    x, noise = torch.randn(2, count, 20, generator=torch.Generator().manual_seed(seed))
    return x, (x @ WAYS + 2 * noise[:, :6] > torch.linspace(0, 6, 6)).long()[:, :labels]


def trained(labels, steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, labels))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    for step in range(steps):
        x, y = people(64, 10**6 + step, labels)
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(model(x), y.float()).backward()
        optimiser.step()
    return model


def flagged(model, known, task, size, loss, updates):
    """Count the updates that raise the flag."""
    labels, found = model[2].out_features, 0
    for seed in range(updates):
        x, y = people(size, 5000 + seed, labels)
        rows = torch.autograd.grad(loss(model(x), y.float()), list(model[2].parameters()))
        seen = Observation.from_gradient(*rows, num_samples=size, form=HeadForm(task, (labels, 32)))
        found += float(look_for_weights(seen, known)[0]) > SIGMAS
    return found


def main(updates):
    for labels in (1, 6):
        task = Task.binary if labels == 1 else Task.multilabel
        x, y = people(1000, 9, labels)
        own = LabelledData(x, y[:, 0] if labels == 1 else y)
        for steps in (0, 300):
            model = trained(labels, steps)
            known = Knowledge(WhiteBox(lift(model, task), "2"), (20,), own)
            for size in (32, 256):
                print(f"{labels} labels, {steps} training steps, {size} samples:", end="")
                for name, loss in LOSSES.items():
                    most = updates * (8 if name == "plain" else 1)
                    count = flagged(model, known, task, size, loss, most)
                    print(f" {name} {count}/{most}", end=";", flush=True)
                print()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
