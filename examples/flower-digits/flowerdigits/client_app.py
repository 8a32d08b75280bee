"""The clients: train on digits, audit what is about to leave."""

from labelleak import flower  # isort: skip  # first: it keeps Flower from phoning home

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import LocalDpMod as OldLocalDpMod
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod

from flowerdigits.task import make_auditor, make_model, train

CLIP = 0.05


def audit(message, context, call_next):
    """Audit what leaves, by the run's policy; first of the mods, so it sees what really leaves."""
    options = context.run_config
    mod = flower.audit_mod(make_auditor("client", options), str(options["policy"]))
    return mod(message, context, call_next)


def local_dp(kind):
    """Make a mod that clips and adds noise on the client if the run asks for it."""

    def mod(message, context, call_next):
        epsilon = float(context.run_config["local-dp-epsilon"])
        if not epsilon:
            return call_next(message, context)
        return kind(CLIP, CLIP, epsilon, 1e-5)(message, context, call_next)

    return mod


plain = ClientApp(mods=[audit, local_dp(LocalDpMod)])


@plain.train()
def train_plain(message, context):
    """Train by Flower's message interface."""
    client, options = int(context.node_config["partition-id"]), context.run_config
    model = make_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    server_round = int(message.content["config"]["server-round"])
    loss, examples = train(
        model, client, server_round, options, lambda y: flower.report_labels(context, y)
    )
    metrics = MetricRecord({"num-examples": examples, "loss": loss, "partition-id": client})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


class Client(NumPyClient):
    """A client of Flower's old interface, which SecAgg+ still needs."""

    def __init__(self, context):
        self.context = context
        self.client = int(context.node_config["partition-id"])

    def fit(self, parameters, config):
        """Train from a plain list of arrays."""
        model = make_model()
        names = model.state_dict()
        state = {k: torch.tensor(v) for k, v in zip(names, parameters, strict=True)}
        model.load_state_dict(state)
        _, examples = train(
            model,
            self.client,
            int(config["server-round"]),
            self.context.run_config,
            lambda y: flower.report_labels(self.context, y),
        )
        arrays = [value.numpy() for value in model.state_dict().values()]
        return arrays, examples, {"partition-id": self.client}


# Masks come last, so the audit stands behind them: it sees what is put under the masks.
secure = ClientApp(
    client_fn=lambda context: Client(context).to_client(),
    mods=[secaggplus_mod, audit, local_dp(OldLocalDpMod)],
)


class EitherApp(ClientApp):
    """Hands a message to the plain or to the securely aggregating app, as the run says."""

    def __call__(self, message, context):
        """Choose, and let it answer."""
        chosen = secure if context.run_config["secure-aggregation"] else plain
        return chosen(message, context)


app = EitherApp()
