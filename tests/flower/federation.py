"""A small federation on digits that runs in one process: client app, server app, its labels."""

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits
from torch import nn

from labelleak import flower

CLIENTS, BATCH, LR = 4, 16, 0.1
PIXELS, LABELS = load_digits(return_X_y=True)


def make_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
        ).eval()


def labels_of(client, server_round, steps=1):
    """Give the labels of the batch that a client uses in a round: 3 of 10 classes each."""
    return LABELS[indices_of(client, server_round, steps)]


def indices_of(client, server_round, steps=1):
    own = np.flatnonzero(np.isin(LABELS, [(3 * int(client) + k) % 10 for k in range(3)]))
    return np.random.default_rng([int(client), server_round]).permutation(own)[: BATCH * steps]


def train_step(model, client, server_round):
    picked = indices_of(client, server_round)
    x = torch.tensor(PIXELS[picked] / 16, dtype=torch.float32)
    y = torch.tensor(LABELS[picked])
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    nn.functional.cross_entropy(model(x), y).backward()
    optimiser.step()
    return y


def train(message, context):
    model = make_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    client = int(context.node_config["partition-id"])
    y = train_step(model, client, int(message.content["config"]["server-round"]))
    flower.report_labels(context, y)
    metrics = MetricRecord({"num-examples": len(y), "partition-id": client})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


def make_app(*mods, function=train):
    app = ClientApp(mods=list(mods))
    app.train()(function)
    return app


def make_auditor(folder, **options):
    given = {"lr": LR, "attacks": ["free", "llg", "ebi"], "truth": labels_of, **options}
    return flower.Auditor(folder=folder, **given)


def make_strategy(kind=FedAvg, **options):
    return kind(fraction_evaluate=0.0, min_available_nodes=CLIENTS, **options)


def run(app, rounds=2, *, strategy=None, wrap=None):
    """Run a federation and give its result."""
    found = []
    server = ServerApp()

    @server.main()
    def main(grid, context):
        found.append(
            (strategy or make_strategy()).start(
                grid=wrap(grid) if wrap else grid,
                initial_arrays=ArrayRecord(make_model().state_dict()),
                num_rounds=rounds,
                train_config=ConfigRecord({"lr": LR}),
            )
        )

    server(flower.InProcessGrid(app, CLIENTS), empty_context())
    return found[0]


def empty_context(**state):
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(state), run_config={})


def train_message(model=None, server_round=1, kind="train"):
    arrays = ArrayRecord((model or make_model()).state_dict())
    config = ConfigRecord({"server-round": server_round})
    return Message(RecordDict({"arrays": arrays, "config": config}), 1, kind)
