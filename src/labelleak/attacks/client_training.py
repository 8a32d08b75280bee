"""Counts by running the client's own local training on the attacker's data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from labelleak.attacks.bounds import round_bounded
from labelleak.attacks.by_class import pick, pools
from labelleak.core.card import Card
from labelleak.core.copies import copy_model
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.lazy import Tensor, nn, torch
from labelleak.core.local_steps import (
    bend_gradients,
    class_weights_of,
    make_loss,
    make_optimiser,
)
from labelleak.core.mixtures import mixture_shares
from labelleak.core.needs import OWN_DATA, READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.core.seeding import torch_seeded
from labelleak.core.training import FullTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox
from labelleak.records.assumptions import Assumption

DIVERGED = "simulation_diverged"


@dataclass(frozen=True)
class ClientSimulation(Attack):
    """Train as the client did, on auxiliary data, and match how its head has moved.

    Ramakrishna & Dán (AISec 2022) run the client's local training from the model it was sent on
    auxiliary data of class c alone, which moves the head by a_c, and find shares x >= 0, sum x = 1,
    whose ``sum_c x_c a_c`` is nearest to the observed movement g. All of
    `LocalTraining` is simulated: momentum of any kind, weight decay, Adam, FedProx, clipping, label
    smoothing and class weights. Two changes: all K (D + 1) entries of head weight and bias are
    matched instead of the K of the bias, and the residual is fed back. Training is not linear in
    the data, so with M(x) the movement simulated with label shares x, the next shares fit
    ``g - M(x) + sum_c x_c a_c``; of all shares tried, those of the smallest ``|g - M(x)|`` are the
    answer. Under clipping a_c is simulated without it and ``g - M(x)`` lengthened as M(x) was cut.

    Movements are compared in the observation's own unit, the mean gradient: the simulated weights
    go through `Observation.from_update` with the client's step weights. For Adam that is the raw
    movement over ``lr * steps``, which is how its update has to be observed as well.

    Assumes auxiliary data like the client's, and the client's learning rate, steps, optimiser
    and, nearly, batches that are alike: a simulated step averages over label shares instead of
    drawing labels, so it has no label noise. A single step that was clipped has lost its length,
    and with it how uneven its labels were. With momentum early steps weigh more than late ones,
    so labels that are not spread evenly over the steps cannot be counted exactly. Adam keeps
    little more than signs; expect the large classes and not the small ones. In train mode, batch
    normalisation sees simulated batches of another size than the client's.

    Edge cases: a class without auxiliary data is simulated by all auxiliary data under its
    label. If training on a class alone diverges, labels are spread evenly and a note says
    so. Without a bias gradient only the weight is matched. Never changes the model.

    Cost: bounded by K simulations once and ``rounds + 1`` a trial, each of ``local_steps`` steps
    on at most ``samples_per_class * K`` inputs (10 steps of LLG's network take some 25 ms), and
    K^2 D numbers of memory. For some hundred classes at most.

    Attributes:
        samples_per_class: auxiliary inputs of a class in each simulated step.
        rounds: corrections of the first answer by its residual; 0 simulates
            nothing a trial, as published.
    """

    samples_per_class: int = 4
    rounds: int = 1

    name = "client_simulation"
    needs = READS_WEIGHT | OWN_DATA | {Need.TRAINING}
    cite = "Ramakrishna & Dán, AISec 2022 (gradients of auxiliary data)"
    card = Card(
        "client simulation",
        frozenset({Assumption.KNOWN_SCALE, Assumption.SAMPLES_APART, Assumption.STABLE_SIMULATION}),
        plain="Trains as the client did on one class at a time and mixes the results to match.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Train once on each class alone."""
        known.refuse_maps(self.name)
        client = SimulatedClient.of(known, num_classes, self.samples_per_class, rng)
        # A class alone has a larger gradient than any mixture and would be clipped where the client
        # was not; what is clipped is left to the simulated mixtures.
        free = replace(client, training=replace(client.training, clip_norm=math.inf))
        alone = [free.movement(shares) for shares in np.eye(num_classes)]
        has_bias = client.model.head_bias is not None
        kept = [head_entries(one, has_bias) for one in alone if one is not None]
        pure = np.stack(kept) if len(kept) == num_classes else None

        def answer(observation: Observation) -> Estimate:
            total = samples(observation)
            shape = (*observation.trials, num_classes)
            if pure is None:
                even = np.full(shape, total / num_classes)
                return Estimate(round_counts(even, total), even, (DIVERGED,))
            with_bias = has_bias and observation.bias is not None
            seen = head_entries(observation, with_bias)
            flat = seen.reshape(-1, seen.shape[-1])
            shares = self._match(client, flat, pure[:, : seen.shape[-1]], with_bias)
            counts = total * shares.reshape(shape)
            return Estimate(round_bounded(counts, observation), counts)

        return answer

    def _match(
        self, client: SimulatedClient, seen: Floats, pure: Floats, with_bias: bool
    ) -> Floats:
        """Fit shares to movements, then correct each trial's by what simulating them shows."""
        gram = pure @ pure.T
        shares = _fit(gram, pure, seen)
        best, nearest = shares.copy(), np.full(len(seen), np.inf)
        for _ in range(self.rounds + 1 if self.rounds else 0):
            target = shares @ pure
            for trial, movement in enumerate(seen):
                found = client.movement(shares[trial])
                if found is None:
                    target[trial] = movement
                    continue
                residual = movement - head_entries(found, with_bias)
                distance = float(np.linalg.norm(residual))
                if distance < nearest[trial]:
                    best[trial], nearest[trial] = shares[trial], distance
                target[trial] += residual * _shrunk(client, shares[trial], found, with_bias)
            shares = _fit(gram, pure, target)
        return client.label_shares(best)


@dataclass(frozen=True, eq=False)
class SimulatedClient:
    """A client whose data the attacker picks: which inputs each step takes is fixed beforehand.

    Attributes:
        picks: indices into the data, ``steps x K x samples_per_class``.
        seed: seed of dropout and the like.
    """

    model: WhiteBox
    data: LabelledData
    training: FullTraining
    picks: np.ndarray
    seed: int

    @classmethod
    def of(
        cls, known: Knowledge, num_classes: int, per_class: int, rng: np.random.Generator
    ) -> SimulatedClient:
        """Pick the inputs; every class by the same draws, so that class names do not matter."""
        assert known.model is not None
        assert known.auxiliary is not None
        assert known.training is not None
        how = known.training.filled()
        draws = rng.random((how.local_steps, per_class))
        picks = pick(pools(known.auxiliary.labels.numpy(), num_classes), draws)
        seed = int(rng.integers(2**31))
        return cls(known.model, known.auxiliary, how, picks, seed)

    def label_shares(self, shares: Floats) -> Floats:
        """Turn shares that classes have in the loss, ``.. x K``, into shares of the labels.

        With class weights v a step's gradient is ``sum_c x_c v_c g_c / sum_c x_c v_c``: a mixture
        of the classes' own gradients whose shares are z_c = x_c v_c, scaled to sum to 1.
        """
        if not self.training.class_weights:
            return shares
        labels = shares / np.asarray(self.training.class_weights)
        return np.asarray(labels / labels.sum(axis=-1, keepdims=True))

    def movement(self, shares: Floats) -> Observation | None:
        """Train on shares of the loss and observe the head; None if training diverged.

        Args:
            shares: of the classes, ``K``, or ``steps x K`` where steps differ.
        """
        module = copy_model(self.model.module)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        with torch_seeded(self.seed), torch.enable_grad():
            self._train(module, self.label_shares(shares))
        after = module.state_dict()
        if not all(bool(torch.isfinite(value).all()) for value in after.values()):
            return None
        received = ReceivedUpdate(before, after, training=self.training, task=self.model.task)
        return received.observe(self.model.head)

    def _train(self, module: nn.Module, shares: Floats) -> None:
        how = self.training
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        start = [one.detach().clone() for one in trained] if how.proximal else []
        optimiser, criterion = make_optimiser(trained, how), make_loss(how, "none")
        criterion.to(trained[0].dtype)
        per_class = self.picks.shape[2]
        each = np.broadcast_to(shares, (len(self.picks), shares.shape[-1]))
        for picks, own in zip(self.picks, each, strict=True):
            used = np.flatnonzero(own > 0)
            step = picks[used]
            labels = torch.from_numpy(np.repeat(used, per_class))
            parts = torch.from_numpy(np.repeat(own[used] / per_class, per_class))
            parts = parts.to(trained[0].dtype)
            # As torch's mean over a batch of these shares: over the sum of the labels' weights.
            total = (parts * class_weights_of(labels, how, trained[0])).sum()
            logits: Tensor = module(self.data.inputs[torch.from_numpy(step.ravel())])
            optimiser.zero_grad()
            torch.autograd.backward((criterion(logits, labels) * parts).sum() / total)
            bend_gradients(trained, start, how)
            optimiser.step()


def _shrunk(client: SimulatedClient, shares: Floats, found: Observation, with_bias: bool) -> float:
    """Say how many times longer a simulated movement would be without clipping."""
    if math.isinf(client.training.clip_norm):
        return 1.0
    free = replace(client, training=replace(client.training, clip_norm=math.inf)).movement(shares)
    length = float(np.linalg.norm(head_entries(found, with_bias)))
    if free is None or length == 0:
        return 1.0
    return float(np.linalg.norm(head_entries(free, with_bias))) / length


def head_entries(observation: Observation, with_bias: bool) -> Floats:
    """Lay out the head's gradient, ``*R x K D`` or ``*R x K (D + 1)``."""
    assert observation.weight is not None
    flat = observation.weight.detach().cpu().double().flatten(-2).numpy()
    return np.concatenate([flat, observation.bias_gradient], axis=-1) if with_bias else flat


def _fit(gram: Floats, pure: Floats, seen: Floats) -> Floats:
    return mixture_shares(gram, seen @ pure.T, np.square(seen).sum(axis=-1))
