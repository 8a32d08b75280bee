"""Rounds of federated training over clients, each client's update kept for an auditor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from labelleak.core.copies import copy_model
from labelleak.core.counts import Ints
from labelleak.core.knowledge import LabelledData
from labelleak.core.observation import Observation
from labelleak.core.seeding import stream, whole_number
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import task_of
from labelleak.errors import BadInput, Diverged
from labelleak.simulation.aggregation import average_states, server_step
from labelleak.simulation.client import (
    Last,
    WorkingCopy,
    consumed_labels,
    draw_steps,
    train_locally,
)
from labelleak.simulation.training import accuracy

# (client, model that was sent, data, indices of each step, training, seed) -> weights to share.
ClientTraining = Callable[
    [int, nn.Module, LabelledData, Sequence[Ints], LocalTraining, int], dict[str, Tensor]
]
# (state dict that was sent, mean of those that came back, round) -> mean that the server takes.
MeanChange = Callable[[Mapping[str, Tensor], dict[str, Tensor], int], dict[str, Tensor]]


@dataclass(frozen=True)
class Federation:
    """How a cohort trains.

    Attributes:
        training: how each client trains; its local_steps hold unless epochs are given.
        rounds: rounds in all.
        per_round: clients of a round: a share of all (float, at most 1; at least one client) or
            a number (int).
        epochs: passes of a client over its own samples in a round, in place of local steps.
        last: what becomes of an epoch's short last batch; see `draw_steps`.
        aggregation: ``fedavg`` weighs clients by their samples (McMahan et al., 2017); ``fedsgd``
            weighs one plain SGD step of each by the labels behind it, which is a step
            on their mean gradient.
        server_lr: factor on the mean update.
        server_momentum: FedAvgM's momentum, in [0, 1).
        evaluate_every: rounds from one evaluation to the next; 0 never evaluates.

    Raises:
        BadInput: for a number out of its range, or fedsgd with more than one plain step.
    """

    training: LocalTraining
    rounds: int = 1
    per_round: float | int = 1.0
    epochs: int | None = None
    last: Last = "keep"
    aggregation: Literal["fedavg", "fedsgd"] = "fedavg"
    server_lr: float = 1.0
    server_momentum: float = 0.0
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        whole = isinstance(self.per_round, int)
        for name, fits, range_ in (
            ("rounds", self.rounds >= 1, "at least 1"),
            ("per_round", self.per_round > 0 and (whole or self.per_round <= 1), "above 0"),
            ("epochs", self.epochs is None or self.epochs >= 1, "at least 1"),
            ("last", self.last in ("keep", "drop"), "keep or drop"),
            ("aggregation", self.aggregation in ("fedavg", "fedsgd"), "fedavg or fedsgd"),
            ("server_lr", self.server_lr > 0, "above 0"),
            ("server_momentum", 0 <= self.server_momentum < 1, "in [0, 1)"),
            ("evaluate_every", self.evaluate_every >= 0, "at least 0"),
        ):
            if not fits:
                hint = "; a share is at most 1.0, a number of clients is whole"
                more = hint if name == "per_round" else ""
                raise BadInput(f"{name} must be {range_}, not {getattr(self, name)!r}{more}")
        how = self.training.filled()
        plain = how.optimiser == "sgd" and how.momentum == 0 and self.epochs is None
        if self.aggregation == "fedsgd" and not (plain and how.local_steps == 1):
            raise BadInput("fedsgd averages gradients: clients take one step of plain SGD each")


@dataclass(frozen=True, eq=False)
class ClientRound:
    """One client's part in a round.

    Attributes:
        client: its number.
        update: what it was sent and what it returned.
        labels: the truth, aside: the labels that each step consumed.
        samples: how many samples it holds.
    """

    client: int
    update: ReceivedUpdate
    labels: tuple[Ints, ...]
    samples: int

    @property
    def num_labels(self) -> int:
        """N, the labels behind the update."""
        return sum(len(step) for step in self.labels)

    @property
    def consumed(self) -> Ints:
        """Every label that the client consumed, step after step."""
        return np.concatenate(self.labels)

    def observe(self, head: str, *, rest: Sequence[str] | None = None) -> Observation:
        """Observe the update as a server does that knows the training and N."""
        return self.update.observe(head, rest=rest)


@dataclass(frozen=True, eq=False)
class Round:
    """A round of training, as an auditor may look at it.

    Attributes:
        number: from 1.
        accuracy: test accuracy of the model that was sent; None where it was not evaluated.
        sent: state dict of the global model that the clients were sent.
        clients: what each sampled client did.
        aggregated: state dict of the global model after the round.
    """

    number: int
    accuracy: float | None
    sent: Mapping[str, Tensor]
    clients: tuple[ClientRound, ...]
    aggregated: Mapping[str, Tensor] = field(repr=False)


def run_rounds(
    model: nn.Module,
    data: LabelledData,
    parts: Sequence[Ints],
    how: Federation,
    *,
    test: LabelledData | None = None,
    seed: int = 0,
    train: ClientTraining | None = None,
    change_mean: MeanChange | None = None,
) -> Iterator[Round]:
    """Train a model over clients, round by round; the model passed in is left as it is.

    Each round sends the global model to a sample of clients, trains each on batches of its own
    samples, and aggregates. A client trains in the mode (train or eval) that the model is in. All
    randomness is drawn from the seed by round and client, so round and client numbers
    decide everything, not what ran before.

    Args:
        model: where training starts.
        data: all clients' samples.
        parts: each client's indices into the data; see `partitions.partition_samples`.
        how: the federation.
        test: what accuracy is measured on; None measures none.
        seed: decides sampling, batches and dropout.
        train: what a client does in place of `train_locally`, such as defending its update.
        change_mean: what the server does to the clients' mean before its step: adding noise, say.

    Yields:
        Each round, when it is aggregated.

    Raises:
        BadInput: if more clients are asked for than there are.
        Diverged: if weights become NaN or infinite.

    >>> data = LabelledData(torch.rand(12, 3), torch.arange(12) % 2)
    >>> parts = [np.arange(0, 6), np.arange(6, 12)]
    >>> how = Federation(LocalTraining(lr=0.1, local_steps=2, batch_size=3), rounds=2)
    >>> rounds = list(run_rounds(nn.Linear(3, 2), data, parts, how))
    >>> [(one.number, [c.num_labels for c in one.clients]) for one in rounds]
    [(1, [6, 6]), (2, [6, 6])]
    """
    current = copy_model(model)
    trained = frozenset(name for name, one in current.named_parameters() if one.requires_grad)
    velocity: dict[str, Tensor] = {}
    serve = train or _plainly(WorkingCopy())
    for number in range(1, how.rounds + 1):
        sent = {name: value.detach().clone() for name, value in current.state_dict().items()}
        due = how.evaluate_every and (number - 1) % how.evaluate_every == 0
        measured = accuracy(current, test) if test is not None and due else None
        chosen = sample_clients(len(parts), how.per_round, stream(seed, "sampling", number))
        clients = tuple(
            _serve(current, sent, data, parts[client], how, (seed, number, client), serve)
            for client in chosen
        )
        weights = [c.num_labels if how.aggregation == "fedsgd" else c.samples for c in clients]
        mean = average_states([client.update.tensors for client in clients], weights)
        if change_mean is not None:
            mean = change_mean(sent, mean, number)
        after, velocity = server_step(
            sent, mean, velocity, trained=trained, lr=how.server_lr, momentum=how.server_momentum
        )
        if not all(bool(torch.isfinite(value).all()) for value in after.values()):
            raise Diverged(f"training diverged in round {number}; lower the learning rate")
        current.load_state_dict(after)
        yield Round(number, measured, sent, clients, after)


def sample_clients(clients: int, per_round: float | int, rng: np.random.Generator) -> list[int]:
    """Draw the clients of a round, in rising order.

    Args:
        clients: clients in all.
        per_round: a share (float; at least one client comes) or a number (int).
        rng: source of the draw.

    Raises:
        BadInput: if more are asked for than there are.

    >>> sample_clients(10, 0.3, np.random.default_rng(0))
    [5, 6, 9]
    """
    number = per_round if isinstance(per_round, int) else max(1, round(per_round * clients))
    if not 1 <= number <= clients:
        raise BadInput(f"a round cannot have {per_round} of {clients} clients")
    return sorted(int(one) for one in rng.choice(clients, number, replace=False))


def _plainly(own: WorkingCopy) -> ClientTraining:
    return lambda _, model, data, steps, training, seed: train_locally(
        model, data, steps, training, seed=seed, on=own
    )


def _serve(
    model: nn.Module,
    sent: Mapping[str, Tensor],
    data: LabelledData,
    own: Ints,
    how: Federation,
    who: tuple[int, int, int],
    train: ClientTraining,
) -> ClientRound:
    """Let one client take its local steps."""
    seed, number, client = who
    training = how.training.filled()
    steps = draw_steps(
        own,
        training.batch_size,
        stream(seed, "steps", number, client),
        steps=None if how.epochs else training.local_steps,
        epochs=how.epochs,
        last=how.last,
    )
    count, size = len(steps), len(steps[0])
    if (count, size) != (training.local_steps, training.batch_size):  # else it is checked already
        training = replace(training, local_steps=count, batch_size=size)
    draw = whole_number(seed, "client", number, client)
    after = train(client, model, data, steps, training, draw)
    labels = consumed_labels(data, steps)
    total = sum(len(step) for step in labels)
    task = task_of(model)
    update = ReceivedUpdate(sent, after, training=training, num_samples=total, task=task)
    return ClientRound(client, update, labels, len(own))


__all__ = [
    "ClientRound",
    "ClientTraining",
    "Federation",
    "MeanChange",
    "Round",
    "run_rounds",
    "sample_clients",
]
