"""Class shares from a bias movement over several epochs: Ramakrishna and Dán's soft labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.attacks.bounds import round_bounded
from labelleak.attacks.by_class import averages
from labelleak.attacks.head_path import HeadPath, slices
from labelleak.attacks.inverse_confusions import Confusions
from labelleak.core.card import Card
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import nn, special, torch
from labelleak.core.needs import OWN_DATA, READS_BIAS, Need
from labelleak.core.observation import Observation
from labelleak.records.assumptions import TRAJECTORY, Assumption

# Logits beyond these would overflow in a sum; their softmax is one class either way.
_LARGEST = 1e100


@dataclass(frozen=True)
class SoftLabelShares(Attack):
    """Solve the bias movement for class shares, with the posteriors of the model that came back.

    Over E passes at learning rate lr the bias moves by ``dB = lr (E x - sum_t s_t^T x)``, x the
    class shares and row c of s_t the mean posterior of class c in pass t. Ramakrishna & Dán take
    ``softmax(B_0)`` for every class in the first pass, B_0 the bias that was sent, and for all
    others what auxiliary data show at the final model, S::

        (I - (E - 1) / E S^T) x = dB / (lr E) + softmax(B_0) / E,   x >= 0, sum x = 1

    Here a pass is a local step, and ``dB / (lr E)`` is the mean bias gradient with its sign turned,
    so that momentum and weight decay are taken out of it as `Observation.from_update` does. The
    final model is the one that was sent with the head moved; below the head nothing is assumed to
    move. Without the weight's gradient only the head's bias is moved.

    Assumes auxiliary data like the client's, posteriors that settle after the first step, and a
    model that answers its bias alone at the start, hence an untrained one.

    Edge cases: at one step x is ``softmax(B_0) - b``. What the system cannot tell apart stays even.
    A class without auxiliary data is modelled by all of them. An Adam client is read as plain SGD.
    Cost: one pass over n auxiliary samples once; ``n K D`` and ``K^3`` a trial, in slices.
    """

    name = "soft_label_shares"
    needs = READS_BIAS | OWN_DATA | {Need.TRAINING}
    cite = "Ramakrishna & Dán, AISec 2022 (soft labels)"
    card = Card(
        "soft-label shares",
        TRAJECTORY | {Assumption.BIAS},
        plain="Solves for class shares from how the bias moved over the local steps.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once and keep their head inputs and logits."""
        assert known.model is not None
        head = known.model.head_module
        seen, labels = known.pass_own(int(rng.integers(2**31)))
        inputs, logits = seen.inputs.double().cpu(), seen.logits.double().cpu()
        mean_of = averages(labels, num_classes)
        first = _first_posterior(head)

        def answer(observation: Observation) -> Estimate:
            total, steps = samples(observation), observation.local_steps
            path = HeadPath.of(known, steps)
            shares: list[Floats] = []
            for part in slices(_with_weight(observation, head), len(inputs)):
                weight, bias = path.moves(part)
                moved = logits + inputs @ weight.transpose(1, 2) + bias[:, None]
                final = mean_of @ moved.clamp(-_LARGEST, _LARGEST).softmax(dim=-1)
                posteriors = first / steps + (1 - 1 / steps) * final.numpy()
                pulls = posteriors - np.eye(num_classes)
                shares.extend(
                    Confusions.of(pull).shares(b)
                    for pull, b in zip(pulls, part.bias_gradient, strict=True)
                )
            counts = total * np.reshape(shares, (*observation.trials, num_classes))
            return Estimate(round_bounded(counts, observation), counts)

        return answer


def _first_posterior(head: nn.Linear) -> Floats:
    if not isinstance(head.bias, torch.Tensor):
        return np.full(head.out_features, 1 / head.out_features)
    return np.asarray(special.softmax(head.bias.detach().double().cpu().numpy()))


def _with_weight(observation: Observation, head: nn.Linear) -> Observation:
    """Put a weight gradient of 0 where none was shared."""
    if observation.weight is not None:
        return observation
    still = torch.zeros(*observation.trials, *head.weight.shape)
    return Observation(still, observation.bias, observation.num_samples, observation.local_steps)


__all__ = ["SoftLabelShares"]
