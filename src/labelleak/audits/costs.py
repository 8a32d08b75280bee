"""What a defense costs: accuracy after the same rounds, bytes on the wire, time of a client."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from labelleak.audits.data_rules import task_of
from labelleak.core.head import locate_head
from labelleak.core.knowledge import Defense, LabelledData
from labelleak.core.seeding import stream, whole_number
from labelleak.core.task import Task, check_rows
from labelleak.core.training import FullTraining
from labelleak.core.update import SharedTensors
from labelleak.core.white_box import lift
from labelleak.defenses import Chain, DeepGradientCompression, as_part, wire_bytes
from labelleak.errors import BadInput, Diverged
from labelleak.simulation.cohort import Federation, run_rounds
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.defended_rounds import DefendedClients, noise_of_server
from labelleak.simulation.models import build_model
from labelleak.simulation.partitions import parse_partition, partition_samples
from labelleak.simulation.training import accuracy, constant_accuracy


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The federation that a defense's cost is measured in; every client uses the defense.

    Attributes:
        model: name of the model, or ``package.module:factory``.
        init: how it is initialised.
        activation: activation of a named model; None for its own.
        users: clients in all.
        rounds: rounds.
        per_round: clients drawn for a round; None for all.
        lr: clients' learning rate.
        local_steps: steps of a client in a round.
        batch_size: samples of a step.
        server_momentum: momentum of the server.
        partition: how the training data are parted among the clients.
        task: what the labels are, where the data do not show it.
    """

    model: str
    init: str = "default"
    activation: str | None = None
    users: int = 10
    rounds: int = 100
    per_round: int | None = None
    lr: float = 0.5
    local_steps: int = 1
    batch_size: int = 32
    server_momentum: float = 0.9
    partition: str = "iid"
    task: str | None = None

    @property
    def federation(self) -> Federation:
        """The rounds as `run_rounds` takes them."""
        training = FullTraining(self.lr, self.local_steps, self.batch_size)
        return Federation(
            training,
            rounds=self.rounds,
            per_round=self.per_round or self.users,
            server_momentum=self.server_momentum,
            evaluate_every=0,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a defense cost one federation.

    Attributes:
        accuracy: test accuracy after the rounds; that of a constant answer where training diverged.
        wire_bytes: bytes of one shared update, on average.
        seconds_ratio: time of a client's round over its time without the defense, in the same run.
        diverged: whether training led to weights that are no numbers.
    """

    accuracy: float
    wire_bytes: float
    seconds_ratio: float
    diverged: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields, rounded to what they are good for."""
        row = asdict(self)
        row["accuracy"] = round(self.accuracy, 6)
        row["wire_bytes"] = round(self.wire_bytes, 1)
        row["seconds_ratio"] = round(self.seconds_ratio, 3)
        return row


def measure_cost(data: Dataset, cohort: Cohort, defense: Defense, *, seed: int = 0) -> Cost:
    """Train the model by federated rounds in which every client uses a defense.

    Costs of one seed compare in pairs: partition, initial weights, sampled clients and batches
    depend on the seed alone, not on the defense. No defense (an empty chain) goes through the
    same rounds and costs nothing by definition of time. Deep Gradient Compression brings
    momentum of its own, so the server then applies none; nothing else is tuned to a defense.

    Args:
        data: what clients hold, and the test data.
        cohort: the federation.
        defense: what every client does to every update.
        seed: seed of everything random.

    Raises:
        BadInput: for a model or partition that cannot be, or a defense that cannot act on the model
            (DP-SGD on batch normalisation).
    """
    part = as_part(defense)
    if any(isinstance(one, DeepGradientCompression) and not one.is_off for one in part.parts):
        cohort = replace(cohort, server_momentum=0.0)
    task = task_of(cohort.task, data)
    model, head = _build(data, cohort, task, seed)
    train = LabelledData(data.x_train, data.y_train)
    test = LabelledData(data.x_test, data.y_test)
    parts = partition_samples(
        parse_partition(cohort.partition),
        train.labels.numpy(),
        cohort.users,
        stream(seed, "partition", 0),
    )
    clients = DefendedClients(part, head)
    plain = isinstance(part, Chain) and not part.links
    number = whole_number(seed, "rounds", 0)
    how = cohort.federation
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    fixed = frozenset(model.state_dict()) - trained
    rounds = run_rounds(
        model,
        train,
        parts,
        how,
        seed=number,
        train=None if plain else clients.train,
        change_mean=noise_of_server(part, head, fixed, how.training, number),
    )
    try:
        for done in rounds:
            last = done
    except Diverged:
        most = constant_accuracy(test.labels, task)
        if plain:
            return _undefended(most, model, head, diverged=True)
        return _cost(most, clients, diverged=True)
    model.load_state_dict(dict(last.aggregated))
    if plain:
        return _undefended(accuracy(model, test), model, head)
    return _cost(clients.accuracy(model, test), clients)


def _build(data: Dataset, cohort: Cohort, task: Task, seed: int) -> tuple[nn.Module, str]:
    """Return the federation's model, and the name of its head."""
    rows = check_rows(task, data.num_classes)
    built = build_model(
        cohort.model,
        input_shape=data.input_shape,
        num_classes=rows,
        activation=cohort.activation,
        init=cohort.init,
        seed=whole_number(seed, "model", 0),
    )
    model = lift(built, task)
    found = locate_head(
        model=model, name=None, example=data.x_train[:2], num_classes=rows, task=task
    )
    return model, found.name


def _undefended(
    accuracy_after: float, model: nn.Module, head: str, *, diverged: bool = False
) -> Cost:
    """Return the cost of no defense: every update is the whole model, in no more time."""
    state = {name: value[None] for name, value in model.state_dict().items()}
    return Cost(
        accuracy=accuracy_after,
        wire_bytes=wire_bytes(Chain(), SharedTensors(state, head)),
        seconds_ratio=1.0,
        diverged=diverged,
    )


def _cost(accuracy_after: float, clients: DefendedClients, *, diverged: bool = False) -> Cost:
    return Cost(
        accuracy=accuracy_after,
        wire_bytes=sum(clients.sent_bytes) / len(clients.sent_bytes),
        seconds_ratio=clients.seconds / max(clients.plain_seconds, 1e-9),
        diverged=diverged,
    )


def answer_accuracy(data: Dataset) -> float:
    """Return the accuracy of the best constant answer."""
    return constant_accuracy(data.y_test, data.task or Task.classes)


def refuse_unlearnt(without: float, data: Dataset, rounds: int) -> None:
    """Refuse to speak of a loss of accuracy where the model learns nothing without a defense.

    Raises:
        BadInput: if accuracy without a defense is not well above a constant answer's.
    """
    constant = answer_accuracy(data)
    if without < constant + 0.5 * (1 - constant):
        raise BadInput(
            f"without a defense the model reaches an accuracy of {without:.2f} after {rounds} "
            f"rounds, where a constant answer has {constant:.2f}; raise `rounds` or change `lr`, "
            "so that there is something to lose"
        )


__all__ = ["Cohort", "Cost", "answer_accuracy", "measure_cost", "refuse_unlearnt"]
