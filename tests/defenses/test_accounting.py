"""Epsilon against closed forms and Opacus' own numbers; and what is never called private."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from scipy.stats import norm

from labelleak.defenses import parse_defense
from labelleak.defenses.accounting import account, gaussian_epsilon, sampled_epsilon
from labelleak.errors import BadInput

with_opacus = pytest.mark.skipif(find_spec("opacus") is None, reason="needs labelleak[dp]")


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("rounds", [1, 20])
def test_the_closed_form_by_integration(multiplier, rounds):
    """delta(eps) is the mass by which one Gaussian exceeds e^eps times its neighbour."""
    epsilon = gaussian_epsilon(multiplier, 1e-5, rounds)
    deviation = multiplier / rounds**0.5
    z = np.linspace(-12 * deviation, 1 + 12 * deviation, 400_001)
    excess = norm.pdf(z, 1, deviation) - np.exp(epsilon) * norm.pdf(z, 0, deviation)
    delta = np.maximum(excess, 0).sum() * (z[1] - z[0])
    assert delta == pytest.approx(1e-5, rel=0.01) or (epsilon == 0 and delta <= 1e-5)


@with_opacus
@pytest.mark.parametrize(
    ("rate", "multiplier", "steps", "prv", "rdp"),
    [(1.0, 1.0, 1, 4.387, 4.729), (0.01, 1.0, 1000, 1.838, 2.101), (0.05, 0.6, 50, 8.92, 10.50)],
)
def test_sampled_epsilon_agrees_with_known_figures(rate, multiplier, steps, prv, rdp):
    epsilon, check, method = sampled_epsilon(multiplier, rate, steps, 1e-5)
    assert epsilon == pytest.approx(prv, rel=0.01)
    assert check == pytest.approx(rdp, rel=0.01)
    assert method == "Opacus PRV accountant"
    assert epsilon <= check


@with_opacus
def test_opacus_and_the_closed_form_agree_without_sampling():
    for multiplier, steps in ((1.0, 1), (2.0, 20), (5.0, 100)):
        exact = gaussian_epsilon(multiplier, 1e-5, steps)
        assert sampled_epsilon(multiplier, 1.0, steps, 1e-5)[0] == pytest.approx(exact, rel=0.01)


@with_opacus
def test_where_prv_fails_the_method_says_so():
    epsilon, check, method = sampled_epsilon(0.097, 1.0, 20, 1e-5)
    assert np.isfinite(epsilon)
    assert epsilon == check or method == "Opacus PRV accountant"
    assert epsilon >= 0.99 * gaussian_epsilon(0.097, 1e-5, 20)


def test_a_chain_is_accounted_by_its_noise_and_its_clipping():
    one = account(parse_defense("clip:0.5|gaussian:1"))
    assert one.epsilon == pytest.approx(gaussian_epsilon(2.0, 1e-5))
    later = account(parse_defense("clip:0.5|topk:0.1|gaussian:1|sign|topk:0.5"))
    assert later.epsilon == one.epsilon, "what follows the noise is free"
    many = account(parse_defense("clip:0.5|gaussian:1"), rounds=20)
    assert many.epsilon == pytest.approx(gaussian_epsilon(2.0, 1e-5, 20))
    assert many.protects == "update"


@with_opacus
def test_dp_sgd_is_accounted_by_its_sampling():
    whole = account(parse_defense("dpsgd:1:2"), rounds=5, local_steps=4)
    assert whole.epsilon == pytest.approx(gaussian_epsilon(2.0, 1e-5, 20))
    sampled = account(parse_defense("dpsgd:1:2"), rounds=5, local_steps=4, sample_rate=0.1)
    assert sampled.epsilon < whole.epsilon
    assert sampled.check >= sampled.epsilon
    assert "Poisson" in sampled.sentence
    assert sampled.protects == "sample"


def test_labels_have_an_epsilon_of_their_own():
    found = account(parse_defense("randomised_response:0.5"), rounds=6)
    assert (found.epsilon, found.delta, found.protects) == (3.0, 0.0, "label")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("none", "changes nothing"),
        ("clip:inf|gaussian:0", "changes nothing"),
        ("clip:1", "adds no noise"),
        ("clip_layers:1", "adds no noise"),
        ("dpsgd:1:0", "adds no noise"),
        ("topk:0.01", "adds no noise"),
        ("prune:0.9:feedback", "adds no noise"),
        ("sign", "adds no noise"),
        ("label_smoothing:0.5", "adds no noise"),
        ("gaussian:10", "right after clip"),
        ("gaussian:1|clip:1", "right after clip"),
        ("clip:1|laplace:1", "right after clip"),
        ("clip:1|sign|gaussian:1", "right after clip"),
        ("clip:1|randomk:0.1:rescale|gaussian:1", "right after clip"),
        ("clip:1|topk:0.1:feedback|gaussian:1", "right after clip"),
        ("head_noise:10", "shared in the clear"),
        ("head_noise:0.1|gaussian:1", "right after clip"),
        ("historical_dp:1", "not samples"),
        ("clip:1|server_noise:10", "sees updates before it does"),
    ],
)
def test_what_is_not_private_is_not_called_private(text, sentence):
    found = account(parse_defense(text))
    assert found.epsilon is None
    assert found.protects == "nothing"
    assert sentence in found.sentence


@pytest.mark.parametrize(
    "options", [{"delta": 0.0}, {"delta": 1.0}, {"rounds": 0}, {"local_steps": 0}]
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(BadInput):
        account(parse_defense("clip:1|gaussian:1"), **options)
    with pytest.raises(BadInput, match="sampling rate"):
        sampled_epsilon(1.0, 1.5, 1, 1e-5)


@pytest.mark.parametrize("rounds", [1, 60])
def test_noise_that_is_next_to_none_gives_a_number_and_no_error(rounds):
    assert gaussian_epsilon(1e-200, 1e-5, rounds) == np.inf  # less than floats can tell from none
    found = [gaussian_epsilon(10.0**power, 1e-5, rounds) for power in range(-14, 1)]
    assert all(np.isfinite(found))
    assert found == sorted(found, reverse=True)
    # Where Renyi's bound takes over, it and the closed form agree.
    below, above = (
        gaussian_epsilon(share * 1e-5 * rounds**0.5, 1e-5, rounds) for share in (0.999999, 1.000001)
    )
    assert below == pytest.approx(above, rel=1e-4)
