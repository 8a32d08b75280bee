"""Clients that defend every update they share, over the rounds of a federation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from labelleak.core.counts import Ints
from labelleak.core.knowledge import LabelledData
from labelleak.core.seeding import stream
from labelleak.core.training import LocalTraining
from labelleak.core.update import Memory, SharedTensors
from labelleak.core.weights import buffer_names
from labelleak.core.white_box import WhiteBox
from labelleak.defenses.aggregation import ServerNoise
from labelleak.defenses.composition import Part
from labelleak.defenses.flower import ServerClipping
from labelleak.defenses.wire import wire_bytes
from labelleak.defenses.withholding import Withholding
from labelleak.simulation.client import WorkingCopy, train_defended, train_locally
from labelleak.simulation.cohort import MeanChange
from labelleak.simulation.defended import moved_by, movement
from labelleak.simulation.training import accuracy


@dataclass(eq=False)
class DefendedClients:
    """What every client of a cohort does with a defense, to be handed to `run_rounds`.

    A client that takes one plain step shares its gradient, and the defense acts on that; after
    several steps it acts on the difference of the weights. A training-time defense changes each
    step. What a defense keeps from round to round (error feedback) is kept per client. What it
    withholds stays with its client, who goes on with its own value in its next round, as in
    FedPer (Arivazhagan et al., 2019).

    Attributes:
        defense: what each client does.
        head: module name of the head.
        memories: what each client keeps on behalf of the defense.
        clipped: what the server keeps on behalf of its own clipping.
        own: the withheld weights of each client.
        sent_bytes: bytes of every update that was shared.
        plain_seconds: time that plain training took, over the clients that were timed.
        seconds: time that the same clients took with the defense.
    """

    defense: Part
    head: str
    memories: dict[int, Memory | None] = field(default_factory=dict)
    clipped: dict[int, Memory | None] = field(default_factory=dict)
    own: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    sent_bytes: list[float] = field(default_factory=list)
    plain_seconds: float = 0.0
    seconds: float = 0.0
    _copy: WorkingCopy = field(default_factory=WorkingCopy)
    _personal: WorkingCopy = field(default_factory=WorkingCopy)

    def train(
        self,
        client: int,
        model: nn.Module,
        data: LabelledData,
        steps: Sequence[Ints],
        training: LocalTraining,
        seed: int,
    ) -> dict[str, Tensor]:
        """Train a client and give the weights that it shares."""
        started = self._as_client_has_it(client, model)
        before = {name: value.detach().clone() for name, value in started.state_dict().items()}
        begin = time.perf_counter()
        if self.defense.changes_training:
            white = WhiteBox(started, self.head)
            stacked = np.stack(steps)
            after = train_defended(white, data, stacked, training, self.defense, seed=seed)
        else:
            after = train_locally(started, data, steps, training, seed=seed, on=self._copy)
        trained = time.perf_counter()
        sent, shared = self._share(client, before, after, training, seed, model)
        end = time.perf_counter()
        if not self.defense.changes_training:
            self._note_times(trained - begin, end - begin)
        elif len(self.sent_bytes) % _TIMED == 0:
            again = time.perf_counter()
            train_locally(started, data, steps, training, seed=seed, on=self._copy)
            self._note_times(time.perf_counter() - again, end - begin)
        self.sent_bytes.append(wire_bytes(self.defense, sent))
        return shared

    def accuracy(self, model: nn.Module, test: LabelledData) -> float:
        """Return the test accuracy of the global model, or the clients' mean with their own."""
        if not self.own:
            return accuracy(model, test)
        each = [accuracy(self._as_client_has_it(client, model), test) for client in self.own]
        return float(np.mean(each))

    def _as_client_has_it(self, client: int, model: nn.Module) -> nn.Module:
        """Put a client's own weights into a copy of the global model, where it has some.

        The copy is good until the next client is asked for.
        """
        if client not in self.own:
            return model
        personal = self._personal.of(model)
        personal.load_state_dict(self.own[client], strict=False)
        return personal

    def _share(
        self,
        client: int,
        before: dict[str, Tensor],
        after: dict[str, Tensor],
        training: LocalTraining,
        seed: int,
        model: nn.Module,
    ) -> tuple[SharedTensors, dict[str, Tensor]]:
        unit = _unit(training)
        buffers = buffer_names(before, model)
        moved = movement(before, after, head=self.head, buffers=buffers, unit=unit)
        rng = stream(seed, "defense", self.defense.label)
        sent, self.memories[client] = self.defense.apply(moved, rng, self.memories.get(client))
        used = sent
        for part in self.defense.parts:
            if isinstance(part, ServerClipping):  # a chain holds at most one
                used, self.clipped[client] = part.on_update(sent, rng, self.clipped.get(client))
        withheld = {name: after[name].clone() for name in after if name not in sent.tensors}
        if withheld:
            self.own[client] = withheld
        state = model.state_dict()
        kept = {name: state[name].detach().clone() for name in withheld}
        return sent, {**moved_by(before, used, unit=unit), **kept}

    def _note_times(self, plain: float, defended: float) -> None:
        self.plain_seconds += plain
        self.seconds += defended


def noise_of_server(
    defense: Part, head: str, buffers: frozenset[str], training: LocalTraining, seed: int
) -> MeanChange | None:
    """Return what a server that adds noise does to the mean of each round, for `run_rounds`.

    Args:
        defense: may hold `ServerNoise`; the noise is in the units of what clients share.
        head: module name of the head.
        buffers: names of what is not trained and gets no noise.
        training: how clients train.
        seed: seed of the noise.

    Returns:
        None where the server adds none.
    """
    noises = [part for part in defense.parts if isinstance(part, ServerNoise) and not part.is_off]
    if not noises:
        return None
    (noise,) = noises  # a chain holds at most one
    kept = [part for part in defense.parts if isinstance(part, Withholding)]
    unit = _unit(training)

    def change(
        sent: Mapping[str, Tensor], mean: dict[str, Tensor], number: int
    ) -> dict[str, Tensor]:
        rng = stream(seed, "server noise", number)
        moved = movement(sent, mean, head=head, buffers=buffers, unit=unit)
        for part in kept:  # the server has no value of what stays with clients
            moved, _ = part.apply(moved, rng)
        return moved_by(sent, noise.on_mean(moved, rng), unit=unit)

    return change


# Of training-time defenses every so many updates is trained plainly too, to compare times.
_TIMED = 10


def shares_gradient(training: LocalTraining) -> bool:
    """Return whether what a client's weights moved by is -lr times its gradient."""
    training = training.filled()
    plain = training.momentum == 0 and training.weight_decay == 0 and training.proximal == 0
    return training.local_steps == 1 and training.optimiser == "sgd" and plain


__all__ = ["DefendedClients", "noise_of_server", "shares_gradient"]


def _unit(training: LocalTraining) -> float:
    """Return what a shared gradient was multiplied with on its way into the weights."""
    training = training.filled()
    return -training.lr if shares_gradient(training) else 1.0
