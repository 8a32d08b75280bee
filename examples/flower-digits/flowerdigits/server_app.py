"""The server: runs the federation under an honest-but-curious eye and prints what it saw."""

from labelleak import flower  # isort: skip  # first: it keeps Flower from phoning home

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as OldFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from flowerdigits.task import LABELS, batches, describe_defense, make_auditor, make_model
from labelleak.records.record import read_records

app = ServerApp()


@app.main()
def main(grid, context):
    """Run the federation, then print the audit."""
    options = context.run_config
    auditor = make_auditor(
        "server", options, truth=lambda client, t: LABELS[batches(client, t, options)]
    )
    (run_securely if options["secure-aggregation"] else run_plainly)(grid, context, auditor)
    print_audit(options)


def run_plainly(grid, context, auditor):
    """Run FedAvg; observing is one line."""
    options = context.run_config
    clients = int(options["num-clients"])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    if options["server-clipping"]:
        strategy = DifferentialPrivacyServerSideFixedClipping(strategy, 1.0, 0.05, clients)
    strategy.start(
        grid=flower.observe(grid, auditor),
        initial_arrays=ArrayRecord(make_model().state_dict()),
        num_rounds=int(options["num-server-rounds"]),
    )


def run_securely(grid, context, auditor):
    """Run FedAvg under SecAgg+, which Flower has for its old interface only."""
    options = context.run_config
    clients = int(options["num-clients"])
    strategy = OldFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        on_fit_config_fn=lambda server_round: {"server-round": server_round},
        initial_parameters=ndarrays_to_parameters(
            [value.numpy() for value in make_model().state_dict().values()]
        ),
    )
    legacy = LegacyContext(
        context=context,
        config=ServerConfig(num_rounds=int(options["num-server-rounds"])),
        strategy=flower.AuditedLegacyStrategy(strategy, auditor),
    )
    masking = SecAggPlusWorkflow(
        num_shares=3, reconstruction_threshold=2, max_weight=1000, clipping_range=2.0
    )
    DefaultWorkflow(fit_workflow=masking)(grid, legacy)


def print_audit(options):
    """Print a line for each attack on what the server and the clients saw leave."""
    print(f"AUDIT defense: {describe_defense(options)}, policy: {options['policy']}")
    print(
        f"AUDIT {'seen by':8}{'attack':20}{'updates':>8}{'ASR':>7}{'free':>7}{'advantage':>11}"
        f"{'recall':>8}{'precision':>11}"
    )
    folder = Path(str(options["audit-folder"]))
    for side, path in (
        ("server", "server/records.jsonl"),
        ("average", "server/aggregates.jsonl"),
        ("client", "client/records.jsonl"),
    ):
        records = read_records(folder / path) if (folder / path).exists() else []
        for name in dict.fromkeys(record.attack for record in records):
            print_attack(side, name, [record for record in records if record.attack == name])
        if side == "server" and records:
            print_presence([record for record in records if record.attack == "llg"])


def print_attack(side, name, records):
    """Print the means of one attack."""
    keys = ("asr", "asr_free", "advantage", "presence_recall", "presence_precision")
    asr, free, advantage, recall, precision = (
        np.mean([getattr(record, key) for record in records]) for key in keys
    )
    print(
        f"AUDIT {side:8}{name:20}{len(records):8d}{asr:7.3f}{free:7.3f}{advantage:11.3f}"
        f"{recall:8.3f}{precision:11.3f}"
    )


def print_presence(records):
    """Print how many of the classes that a batch holds LLG names, by how often they are in it."""
    true, guess = (
        np.array([record.extra[key] for record in records]) for key in ("true_counts", "counts")
    )
    parts = [("once", true == 1), ("twice", true == 2), ("more often", true > 2)]
    named = [f"{np.sum(held & (guess > 0))} of {held.sum()} held {word}" for word, held in parts]
    print("AUDIT llg names, of the classes in a batch,", ", ".join(named))
