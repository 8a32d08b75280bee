"""Data, model, training and audit that the server's and the clients' apps share."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from labelleak import flower

PIXELS, LABELS = load_digits(return_X_y=True)
CLASSES = 10


def make_model():
    """Make the model; the same weights each time, beside torch's random state."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, CLASSES),
        )


def partition(client, options):
    """Give a client's samples: some classes only, or a Dirichlet draw's share of each class."""
    few = int(options["classes-per-client"])
    if few:
        own = [(few * int(client) + place) % CLASSES for place in range(few)]
        return np.flatnonzero(np.isin(LABELS, own))
    rng = np.random.default_rng(0)
    clients, own = int(options["num-clients"]), []
    for label in range(CLASSES):
        samples = rng.permutation(np.flatnonzero(label == LABELS))
        shares = rng.dirichlet([float(options["dirichlet-alpha"])] * clients)
        edges = (np.cumsum(shares)[:-1] * len(samples)).astype(int)
        own.append(np.split(samples, edges)[client])
    return np.concatenate(own)


def batches(client, server_round, options):
    """Give the samples of each local step of a client in a round, one row a step."""
    rng = np.random.default_rng([int(client), server_round])
    steps, size = int(options["local-steps"]), int(options["batch-size"])
    return rng.choice(partition(int(client), options), (steps, size))


def train(model, client, server_round, options, report=None):
    """Take the local steps, and report each step's labels to the audit on the client."""
    optimiser = torch.optim.SGD(model.parameters(), lr=float(options["lr"]))
    model.train()
    for picked in batches(client, server_round, options):
        x = torch.tensor(PIXELS[picked] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
        y = torch.tensor(LABELS[picked])
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if report is not None:
            report(y)
    return loss.item(), int(options["local-steps"]) * int(options["batch-size"])


def make_auditor(side, options, *, truth=None):
    """Make the auditor of one side: server or client."""
    if not options["audit-folder"]:
        raise ValueError("name a folder: --run-config \"audit-folder='/absolute/path'\"")
    return flower.Auditor(
        folder=Path(str(options["audit-folder"])) / side,
        lr=float(options["lr"]),
        local_steps=int(options["local-steps"]),
        model=make_model,
        input_shape=(1, 8, 8),
        truth=truth,
        keep_counts=side == "server",  # an experiment; in earnest counts are private
        data="digits",
        model_name="small CNN",
        defense=describe_defense(options),
    )


def describe_defense(options):
    """Name what stands between the clients and the server."""
    parts = []
    if float(options["local-dp-epsilon"]):
        parts.append(f"LocalDpMod(epsilon={options['local-dp-epsilon']})")
    if options["secure-aggregation"]:
        parts.append("SecAgg+")
    if options["server-clipping"]:
        parts.append("server-side clipping")
    return " and ".join(parts) or "none"
