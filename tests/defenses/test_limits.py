"""After a defense at its declared strength, no bias gradient is longer than its law allows."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
import torch

from labelleak.core.update import SharedTensors
from labelleak.defenses import DEFENSES, parse_defense

FORMS = (
    "gaussian:0.3", "laplace:0.2", "exponential:0.2", "exponential:0.2:centred", "head_noise:1",
    "clip:0.5", "clip_layers:0.5", "topk:0.3", "randomk:0.3", "randomk:0.3:rescale", "prune:0.5",
    "threshold:0.01", "sign:scaled", "qsgd:1", "qsgd:8", "bits:2", "bits:6", "float16",
    "withhold:bias", "historical_dp:1", "historical_compression:0.5", "server_noise:1",
    "clip:1|gaussian:0.1|qsgd:2",
)  # fmt: skip
# These make gradients that a law of sizes says nothing of, or state theirs in tests of their own.
ELSEWHERE = {
    *("sign", "dgc", "dpsgd", "soteria"),
    *("label_smoothing", "mixup", "head_dropout", "randomised_response"),
}
_STATED = {form.split(":")[0] for chain in FORMS for form in chain.split("|")}
FORMS += tuple(
    one.example or name for name, one in DEFENSES.items() if name not in _STATED | ELSEWHERE
)


def longest_updates(classes, trials=200, seed=0):
    """Give bias gradients of L1 norm 2, the longest there are, with weights of their own."""
    rng = np.random.default_rng(seed)
    up, down = rng.dirichlet(np.full(classes, 0.2), (2, trials))
    low = rng.integers(1, classes, trials)[:, None] > np.arange(classes)
    bias = np.where(low, -down, up)
    bias = np.where(low, bias / (bias * low).sum(1, keepdims=True) * -1, bias)
    bias = np.where(low, bias, bias / (bias * ~low).sum(1, keepdims=True))
    weight = bias[:, :, None] * rng.random((trials, 1, 5))
    return SharedTensors({"weight": torch.tensor(weight), "bias": torch.tensor(bias)}, "")


@pytest.mark.parametrize("classes", [2, 10, 50])
@pytest.mark.parametrize("form", FORMS)
def test_law_holds_for_the_longest_updates(form, classes):
    defense = parse_defense(form)
    sent, _ = defense.apply(longest_updates(classes), np.random.default_rng(1))
    if "bias" in sent.tensors:
        size = float(sent.tensors["bias"].abs().sum(1).max())
        assert size <= defense.largest_after(2.0, classes) * (1 + 1e-3)


@pytest.mark.parametrize("form", ["gaussian:0.3", "randomk:0.3:rescale", "qsgd:1"])
def test_law_is_needed_and_finite(form):
    sent, _ = parse_defense(form).apply(longest_updates(10), np.random.default_rng(1))
    limit = parse_defense(form).largest_after(2.0, 10)
    assert 2.02 < float(sent.tensors["bias"].abs().sum(1).max()) <= limit < 40


@pytest.mark.parametrize("form", ["sign", "topk:0.5:feedback", "dgc:0.5"])
def test_no_size_is_impossible_after(form):
    assert parse_defense(form).largest_after(2.0, 10) == inf


@pytest.mark.parametrize("form", ["topk:1:feedback", "gaussian:0", "dgc:1", "none"])
def test_defense_that_is_off_widens_nothing(form):
    assert parse_defense(form).largest_after(2.0, 10) == 2.0


def test_noise_counts_in_the_units_of_the_gradient():
    noise = parse_defense("gaussian:0.01")
    room = noise.largest_after(0.0, 10)
    assert noise.largest_after(0.0, 10, unit=100.0) == pytest.approx(100 * room)
    private = parse_defense("dpsgd:1:1")
    assert private.largest_after(0.0, 10, batch_size=50) == pytest.approx(
        private.largest_after(0.0, 10) / 50
    )


def test_every_defense_states_its_law():
    stated = {form.split(":")[0] for chain in FORMS for form in chain.split("|")}
    assert stated | ELSEWHERE == set(DEFENSES)
