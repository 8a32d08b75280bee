"""Deep Leakage from Gradients (DLG): fit dummy inputs and labels to the whole gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from labelleak.core.card import Card
from labelleak.core.copies import copy_model
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.local_steps import name_gradients
from labelleak.core.needs import READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.optimisers import uncompiled
from labelleak.core.rounding import round_counts
from labelleak.core.white_box import WhiteBox
from labelleak.records.assumptions import ONE_GRADIENT, SIZES, Assumption

DIVERGED = "optimisation_diverged"
NOT_SMOOTH = "activations_not_smooth"

_KINKED = ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "Hardtanh", "Threshold")


@dataclass(frozen=True)
class DLG(Attack):
    """Optimise dummy inputs and dummy labels until they give the gradient that was seen.

    From N dummy inputs X drawn from a normal distribution and N rows of label logits Q, L-BFGS
    minimises ``|dL(X, softmax Q) - G|^2 / |G|^2`` over the gradient of every parameter, and each
    dummy names the class ``argmax q`` (Zhu et al., NeurIPS 2019). The normal start is drawn
    anew `restarts` times and the fit of the smallest residual answers.

    Assumes one step on a batch of up to about 8, and activations that can be differentiated
    twice: through ReLU the second derivative is 0 almost everywhere and a note says so.
    Even at N = 1 it can end in a wrong label; it is here as the baseline that it is. Since the
    start is drawn, renaming classes may change its answer.

    Edge cases: where the residual turns NaN or infinite the best point before that answers; if
    there is none, labels are spread evenly and a note says so. An all-zero update is fitted
    like any other, without the division. The model is copied in double precision, not changed.

    Cost: about ``1.25 * iterations * restarts`` double backward passes of N inputs a trial at most.

    Attributes:
        iterations: L-BFGS iterations a start.
        restarts: starts.
        progress: called with trials done and trials in all.
    """

    iterations: int = 100
    restarts: int = 1
    progress: Callable[[int, int], None] | None = field(default=None, repr=False, compare=False)

    name = "dlg"
    needs = READS_WEIGHT | {Need.MODEL, Need.FULL_GRADIENT}
    cite = "Zhu et al., NeurIPS 2019"
    card = Card(
        "DLG",
        ONE_GRADIENT | SIZES | {Assumption.CLOSE_FIT, Assumption.SMOOTH_ACTIVATIONS},
        plain="Changes made-up data until its gradient matches the one that was shared.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Copy the model in double precision."""
        assert known.model is not None
        shape, seed = known.dummy_shape, int(rng.integers(2**31))
        model = WhiteBox(copy_model(known.model.module).double(), known.model.head)
        kinks = tuple(getattr(nn, name) for name in _KINKED)
        kinked = any(isinstance(module, kinks) for module in model.module.modules())

        def answer(observation: Observation) -> Estimate:
            total = samples(observation)
            shown = _by_name(observation, model)
            even = round_counts(np.zeros(num_classes), total)
            counts = np.broadcast_to(even, (*observation.trials, num_classes)).copy()
            scores = np.full(counts.shape, total / num_classes)
            notes = {NOT_SMOOTH} if kinked else set()
            trials = list(np.ndindex(observation.trials))
            for number, trial in enumerate(trials):
                target = {name: gradient[trial] for name, gradient in shown.items()}
                draws = np.random.default_rng([seed, number])
                best = self._fit(model, target, shape, (total, num_classes), draws)
                if np.isfinite(best.residual):
                    named = best.labels.argmax(axis=1)
                    counts[trial] = np.bincount(named, minlength=num_classes)
                    scores[trial] = best.labels.sum(axis=0)
                else:
                    notes.add(DIVERGED)
                if self.progress is not None:
                    self.progress(number + 1, len(trials))
            return Estimate(counts, scores, tuple(sorted(notes)))

        return answer

    def _fit(
        self,
        model: WhiteBox,
        target: Mapping[str, Tensor],
        shape: tuple[int, ...],
        labels: tuple[int, int],
        rng: np.random.Generator,
    ) -> Fit:
        """Fit from each drawn start and keep the smallest residual."""
        fits = []
        for _ in range(self.restarts):
            inputs = torch.from_numpy(rng.standard_normal((labels[0], *shape)))
            logits = torch.from_numpy(rng.standard_normal(labels))
            seed = int(rng.integers(2**31))
            fits.append(
                fit_dummies(model, target, inputs, logits, iterations=self.iterations, seed=seed)
            )
        return min(fits, key=lambda fit: fit.residual)


@dataclass(frozen=True, eq=False)
class Fit:
    """The best dummies that were met.

    Attributes:
        inputs: ``N x ...``.
        labels: soft labels, ``N x K``.
        residual: ``|g - G|^2 / |G|^2``; infinite if no point met had a finite one.
    """

    inputs: Tensor
    labels: Floats
    residual: float


def fit_dummies(
    model: WhiteBox,
    target: Mapping[str, Tensor],
    inputs: Tensor,
    logits: Tensor,
    *,
    iterations: int,
    seed: int = 0,
) -> Fit:
    """Fit dummy inputs and label logits to a gradient by L-BFGS with a Wolfe line search.

    Args:
        model: in double precision; not changed.
        target: the gradient that was seen, by parameter name.
        inputs: start of the inputs, ``N x ...``.
        logits: start of the label logits, ``N x K``.
        iterations: L-BFGS iterations; function calls are bounded by 1.25 times as many and
            one line search.
        seed: seed of dropout and the like.
    """
    named = dict(model.module.named_parameters())
    parameters = [named[name] for name in target]
    size = sum(float(gradient.square().sum()) for gradient in target.values())
    dummies = (inputs.clone().requires_grad_(), logits.clone().requires_grad_())
    best = Fit(inputs, logits.softmax(dim=1).numpy(), float("inf"))
    optimiser = uncompiled(torch.optim.LBFGS)(
        dummies,
        lr=1.0,
        max_iter=iterations,
        tolerance_grad=1e-14,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def measure() -> Tensor:
        nonlocal best
        seen = model.run(dummies[0], seed=seed, grad=True).logits
        loss = F.cross_entropy(seen, dummies[1].softmax(dim=1))
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        misses = zip(gradients, target.values(), strict=True)
        terms = [(gradient - wanted).square().sum() for gradient, wanted in misses]
        residual = torch.stack(terms).sum() / (size or 1.0)
        slopes = torch.autograd.grad(residual, dummies, allow_unused=True)
        for dummy, slope in zip(dummies, slopes, strict=True):
            dummy.grad = torch.zeros_like(dummy) if slope is None else slope.detach()
        reached = float(residual.detach())
        if reached < best.residual:
            labels = dummies[1].detach().softmax(dim=1).numpy()
            best = Fit(dummies[0].detach().clone(), labels, reached)
        return residual.detach()

    with torch.enable_grad():
        optimiser.step(measure)  # type: ignore[arg-type]
    return best


def _by_name(observation: Observation, model: WhiteBox) -> dict[str, Tensor]:
    """Collect the gradient of every parameter that was shared, in double precision."""
    shared = name_gradients(observation, model)
    return {name: gradient.detach().cpu().double() for name, gradient in shared.items()}
