"""Counts by regressing the head's whole gradient on what each class is known to leave there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labelleak.attacks.bounds import round_bounded
from labelleak.core.card import MANY_CLASSES, Card
from labelleak.core.counts import Floats
from labelleak.core.head_sums import by_rows
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, torch
from labelleak.core.mixtures import mixture_shares
from labelleak.core.needs import OWN_DATA, READS_WEIGHT
from labelleak.core.observation import Observation
from labelleak.core.wide_products import wide_product
from labelleak.records.assumptions import MEASURED

# Bytes of class means in one block; two blocks are held at once.
_BLOCK_BYTES = 128 * 2**20
# Bytes of class means that are kept; to make them takes longer than to use them once.
_KEPT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class GradientRegression(Attack):
    """Explain the head gradient as a mixture of class means measured on auxiliary data.

    A sample of class c adds on average ``A_c = E[(p - e_c) [h, 1]^T | y = c]`` to the
    gradient of head weight and bias, so ``N g ~ sum_c n_c A_c``. The counts are the
    least-squares n over ``n >= 0, sum n = N``, rounded. In matrix terms it extends the bias-only
    regression of Ramakrishna & Dán (AISec 2022) and RLU (Chen & Vikalo, ICML 2024) to all K (D + 1)
    entries. Under additive noise that matters: projecting on A_c is the matched filter, whose
    signal-to-noise ratio exceeds that of the bias alone by about ``sqrt(|h|^2 + 1)``.

    Assumes auxiliary data like the client's, one step (or steps that barely move the
    model), and a model that is not yet trained: once p is nearly e_y on auxiliary data, a few
    misclassified samples make up the whole gradient and no class mean explains them.

    Edge cases: a head without a bias is regressed on its weight alone. A class without
    auxiliary data is modelled by all auxiliary data under its label. Where nothing tells classes
    apart (all means equal) labels are spread evenly. An all-zero update gives the mixture whose
    mean gradient is nearest to zero. Half-precision gradients are computed on in float64.

    Cost: one pass over n auxiliary samples and ``n K D + K^3 D`` products once; ``K^2 D`` and one
    K x K non-negative least squares a trial. Of the K^2 D numbers of the class means no more
    than 256 MiB are held at a time.
    """

    name = "gradient_regression"
    needs = READS_WEIGHT | OWN_DATA
    cite = "labelleak, after Ramakrishna & Dán, AISec 2022, and Chen & Vikalo, 2024"
    card = Card(
        "gradient regression",
        MEASURED,
        standard=True,
        quick_up_to=MANY_CLASSES,
        plain="Explains the gradient as a mixture of class averages of the attacker's own data.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Pass the auxiliary data once and keep the inner products of the class means."""
        seen, labels = known.pass_own(int(rng.integers(2**31)))
        means = _ClassMeans(seen.inputs.double(), seen.probabilities.double(), labels, num_classes)
        weight_gram, bias_means = means.gram(), means.bias()
        bias_gram = bias_means @ bias_means.T

        def answer(observation: Observation) -> Estimate:
            assert observation.weight is not None
            weight = observation.weight.detach().cpu()
            onto = means.project(weight.flatten(-2))
            gram = weight_gram
            if observation.bias is not None:
                onto = onto + observation.bias_gradient @ bias_means.T
                gram = weight_gram + bias_gram

            def size() -> Floats:
                found = by_rows(weight, lambda rows: rows.square().sum(dim=-1)).sum(axis=-1)
                if observation.bias is not None:
                    found = found + np.square(observation.bias_gradient).sum(axis=-1)
                return np.asarray(found)

            total = samples(observation)
            counts = total * mixture_shares(gram, onto, size)
            return Estimate(round_bounded(counts, observation), counts)

        return answer


@dataclass(frozen=True, eq=False)
class _ClassMeans:
    """The class means A_c, made from head inputs and posteriors: block by block where large."""

    inputs: Tensor
    posteriors: Tensor
    labels: Tensor
    num_classes: int

    def bias(self) -> Floats:
        """Their bias part, ``E[p - e_c | y = c]``, ``K x K``."""
        rows = torch.stack(
            [self.posteriors[self._members(label)].mean(dim=0) for label in range(self.num_classes)]
        )
        return np.asarray(rows.numpy() - np.eye(self.num_classes))

    def gram(self) -> Floats:
        """Inner products of their weight parts, ``K x K``."""
        found = np.empty((self.num_classes, self.num_classes))
        for start, block in self._blocks():
            found[:, start : start + len(block)] = self.project(block).T
        return (found + found.T) / 2

    def project(self, flat: Tensor) -> Floats:
        """Inner products of their weight parts with ``*R x K D`` gradients, ``*R x K``."""
        rows = flat.reshape(-1, flat.shape[-1])
        found = [wide_product([rows], block.T).numpy() for _, block in self._blocks()]
        return np.concatenate(found, axis=-1).reshape(*flat.shape[:-1], self.num_classes)

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        row_bytes = 8 * self.num_classes * self.inputs.shape[1]
        if self.num_classes * row_bytes <= _KEPT_BYTES:
            yield 0, self._all
            return
        size = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, self.num_classes, size):
            classes = range(start, min(start + size, self.num_classes))
            yield start, torch.stack([self._mean(label).flatten() for label in classes])

    @cached_property
    def _all(self) -> Tensor:
        """All of them, made once."""
        return torch.stack([self._mean(label).flatten() for label in range(self.num_classes)])

    def _mean(self, label: int) -> Tensor:
        members = self._members(label)
        inputs = self.inputs[members]
        mean = self.posteriors[members].T @ inputs / len(inputs)
        mean[label] -= inputs.mean(dim=0)
        return mean

    def _members(self, label: int) -> Tensor:
        own = self.labels == label
        return own if own.any() else torch.ones_like(own)
