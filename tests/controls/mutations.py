"""Mutations of the auditor: a right observation is corrupted, and must be flagged or refused.

What stays silent is listed in docs/limits.md as invisible at that knowledge. Run
``make mutations``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from controls.ordinary import WIDTH, blobs, model_of
from labelleak.core.assumptions import check_model, check_update
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.scale_fit import fit_scale
from labelleak.core.training import LocalTraining
from labelleak.core.training_checks import check_training
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput, NotApplicable
from labelleak.records.states import State

CLASSES, SIZE, LR = 10, 64, 0.1
RNG = np.random.default_rng(5)
MODEL, LATER = (model_of(CLASSES, steps, np.random.default_rng(5)) for steps in (0, 60))
OWN, BATCH = blobs(CLASSES, 600, RNG), blobs(CLASSES, SIZE, RNG)
KNOWN = Knowledge(WhiteBox(MODEL, "2"), (WIDTH,), OWN, training=LocalTraining(lr=LR, batch_size=64))


def gradients(batch: LabelledData = BATCH) -> dict[str, torch.Tensor]:
    """Return the whole right gradient."""
    loss = F.cross_entropy(MODEL(batch.inputs), batch.labels)
    names, parameters = zip(*MODEL.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


GRADIENT = gradients()
WEIGHT, BIAS = GRADIENT["2.weight"], GRADIENT["2.bias"]
OTHER_BIAS = gradients(blobs(CLASSES, SIZE, RNG))["2.bias"]
FEW, OTHER_FEW = (gradients(blobs(CLASSES, 6, RNG)) for _ in range(2))
ORDER = torch.from_numpy(np.random.default_rng(1).permutation(CLASSES))


def seen(weight=WEIGHT, bias=BIAS, size=SIZE) -> Observation:
    return Observation.from_gradient(weight, bias, num_samples=size)


def times(factor: float) -> Observation:
    return seen(factor * WEIGHT, factor * BIAS)


def noisy(share: float) -> Observation:
    rng = torch.Generator().manual_seed(0)
    draws = [torch.randn(t.shape, generator=rng) * t.std() * share for t in (WEIGHT, BIAS)]
    return seen(WEIGHT + draws[0], BIAS + draws[1])


def other_weights() -> Observation:
    """Take the weights of another round for those that were sent."""
    return Observation.from_update(
        LATER.state_dict(), MODEL.state_dict(), head="2", lr=LR, batch_size=SIZE
    )


def without_row() -> Observation:
    weight, bias = WEIGHT.clone(), BIAS.clone()
    weight[3], bias[3] = 0, 0
    return seen(weight, bias)


def with_nan() -> Observation:
    weight = WEIGHT.clone()
    weight[0, 0] = float("nan")
    return seen(weight)


def pruned() -> Observation:
    least = WEIGHT.abs().quantile(0.8)
    return seen(WEIGHT * (WEIGHT.abs() >= least))


MUTATIONS: dict[str, Callable[[], Observation]] = {
    "loss summed (x 64)": lambda: times(64),
    "gradient scaler (x 65,536)": lambda: times(65536),
    "five steps told as one (x 5)": lambda: times(5),
    "momentum 0.9 outlasts the round (x 10)": lambda: times(10),
    "half the steps (x 0.5)": lambda: times(0.5),
    "divided by N twice (x 1/64)": lambda: times(1 / 64),
    "clipped (x 0.1)": lambda: times(0.1),
    "learning rate forgotten (x 0.01)": lambda: times(0.01),
    "sign turned": lambda: times(-1),
    "sign turned and summed": lambda: times(-64),
    "weight transposed": lambda: seen(WEIGHT.T),
    "another layer": lambda: seen(GRADIENT["0.weight"], GRADIENT["0.bias"]),
    "another round's weights": other_weights,
    "classes permuted, both parts alike": lambda: seen(WEIGHT[ORDER], BIAS[ORDER]),
    "classes permuted in the bias alone": lambda: seen(WEIGHT, BIAS[ORDER]),
    "noise, half the gradient's size": lambda: noisy(0.5),
    "bias zeroed": lambda: seen(WEIGHT, torch.zeros_like(BIAS)),
    "bias of another scale (x 0.3)": lambda: seen(WEIGHT, 0.3 * BIAS),
    "bias of another batch": lambda: seen(WEIGHT, OTHER_BIAS),
    "one class's row lost": without_row,
    "signs alone": lambda: seen(WEIGHT.sign(), BIAS.sign()),
    "pruned by 80 %": pruned,
    "N told as 4": lambda: seen(size=4),
    "NaN in the weight": with_nan,
    "few labels, bias of another batch": lambda: seen(FEW["2.weight"], OTHER_FEW["2.bias"], 6),
    "few labels, classes permuted in the bias": lambda: seen(
        FEW["2.weight"], FEW["2.bias"][ORDER], 6
    ),
}


# These tell of sizes, not that anything is wrong.
INFORMS = {"more_classes_than_samples", "many_samples", "negative_head_inputs"}


def raised(make: Callable[[], Observation], known: Knowledge) -> set[str]:
    """Return the flags that an observation raises, or that it is refused."""
    try:
        observation = make()
        flags = [*check_training(known), *check_model(known), *check_update(observation, known)]
    except BadInput:
        return {"refused"}
    found = {flag.name for flag in flags if flag.raised.any()}
    try:
        if fit_scale(observation, known).state is State.failed:
            found.add("unlikely_scale")
    except NotApplicable:
        pass
    return found - INFORMS


def judge() -> dict[str, tuple[set[str], set[str]]]:
    """Return what each mutation raises that the right update does not: alone, and with own data."""
    levels = (replace(KNOWN, model=None, auxiliary=None), KNOWN)
    right = [raised(seen, known) for known in levels]
    return {
        name: tuple(raised(make, known) - base for known, base in zip(levels, right, strict=True))
        for name, make in MUTATIONS.items()
    }


if __name__ == "__main__":
    table = judge()
    for name, (alone, with_data) in table.items():
        shown = [", ".join(sorted(found)) or "invisible" for found in (alone, with_data)]
        print(f"| {name} | {shown[0]} | {shown[1]} |")
    silent = [sum(not found[level] for found in table.values()) for level in (0, 1)]
    print(
        f"{len(table)} mutations; invisible: {silent[0]} to the update alone, {silent[1]} with data"
    )
