"""What a defense guarantees: (epsilon, delta), recomputed from its noise, never from a label."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import exp, inf, log, sqrt

from labelleak.core.knowledge import Defense
from labelleak.core.lazy import optimize, special
from labelleak.defenses.clipping import Clipping
from labelleak.defenses.composition import Part, as_part
from labelleak.defenses.dp_sgd import DPSGD
from labelleak.defenses.flower import LocalDP
from labelleak.defenses.noise import GaussianNoise
from labelleak.defenses.nvflare import SparseVector
from labelleak.defenses.training import RandomisedResponse
from labelleak.errors import BadInput, from_extra

# Noise below this share of the sensitivity leaves epsilon above 5e9.
_NO_NOISE = 1e-5
# Between clipping and noise these may stand: none can lengthen an update.
_SHRINKING = {"topk", "prune", "threshold", "randomk", "withhold", "clip", "clip_layers"}


@dataclass(frozen=True)
class Guarantee:
    """What is proved of a defense against the server that receives the updates.

    Attributes:
        epsilon: privacy loss; None where nothing is proved.
        delta: the chance with which epsilon may fail; 0 for pure privacy.
        protects: what is protected: sample, update, label or nothing.
        method: how epsilon was computed.
        sentence: what this means, or why nothing is proved.
        check: the same epsilon by another method, as a cross-check; None where there is none.
    """

    epsilon: float | None
    delta: float
    protects: str
    method: str
    sentence: str
    check: float | None = None


def gaussian_epsilon(noise_multiplier: float, delta: float, rounds: int = 1) -> float:
    """Return the exact epsilon of the Gaussian mechanism, repeated without subsampling.

    Balle & Wang, ICML 2018: with sensitivity 1 and deviation s, delta is ``Phi(1/2s - eps s) -
    e^eps Phi(-1/2s - eps s)``, solved for eps. T rounds are one with ``s / sqrt(T)``.

    Args:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity.
        delta: in (0, 1).
        rounds: T.

    Returns:
        Epsilon; inf without noise. Above 5e9, which is no privacy at all, Renyi's bound stands in
        its place: larger by less than a ten-thousandth, and safe from rounding.

    >>> round(gaussian_epsilon(1.0, 1e-5), 3)
    4.377
    """
    _check(delta, rounds)
    if noise_multiplier <= 0:
        return inf
    s = noise_multiplier / sqrt(rounds)
    if s**2 == 0:  # below what a float holds
        return inf

    # Renyi's bound is never below the exact value, so the root lies under it.
    most = 0.5 / s**2 + sqrt(2 * log(1 / delta)) / s
    if s < _NO_NOISE:
        return most

    def excess(epsilon: float) -> float:
        lost = exp(epsilon + float(special.log_ndtr(-0.5 / s - epsilon * s)))
        return float(special.ndtr(0.5 / s - epsilon * s)) - lost - delta

    if excess(0.0) <= 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, most, xtol=1e-12))


def sampled_epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float
) -> tuple[float, float, str]:
    """Return epsilon of the Poisson-sampled Gaussian mechanism by Opacus.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm.
        sample_rate: chance of each sample to take part in a step.
        steps: optimiser steps over all rounds.
        delta: in (0, 1).

    Returns:
        Epsilon by the PRV accountant, epsilon by RDP as a cross-check, and the method's name. Where
        PRV gives no finite number, RDP's, which is never too small, stands in both places.

    Raises:
        BadInput: for numbers out of range, or if Opacus is not installed.
    """
    _check(delta, steps)
    if not 0 < sample_rate <= 1:
        raise BadInput(f"the sampling rate must lie above 0 and up to 1, not {sample_rate:g}")
    if noise_multiplier <= 0:
        return inf, inf, "no noise"
    needed = "epsilon of DP-SGD needs Opacus; install labelleak[dp]"
    with from_extra(needed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant, RDPAccountant
    found = []
    for kind in (RDPAccountant, PRVAccountant):
        accountant = kind()
        accountant.history = [(noise_multiplier, sample_rate, steps)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # RDP warns that its orders end, which only loosens it
            try:
                found.append(float(accountant.get_epsilon(delta=delta)))
            except (RuntimeError, ValueError, OverflowError, MemoryError):
                found.append(inf)  # PRV's grid does not hold losses this large
    rdp, prv = found
    if not prv < inf:
        return rdp, rdp, "Opacus RDP accountant (its PRV accountant gave no finite number)"
    return prv, rdp, "Opacus PRV accountant"


def response_epsilon(epsilon: float, rounds: int) -> float:
    """Add up randomised response over rounds in which a label is exchanged anew each time."""
    return epsilon * rounds


def account(
    defense: Defense,
    *,
    rounds: int = 1,
    delta: float = 1e-5,
    sample_rate: float = 1.0,
    local_steps: int = 1,
    entries: int | None = None,
) -> Guarantee:
    """Say what a defense guarantees a client against the server that receives its updates.

    Neighbours differ by adding or removing: one sample for DP-SGD (all batches drawn by Poisson
    sampling at the given rate), one whole update for clipping with noise. Exchanging one for
    another doubles the sensitivity, as if the noise were half as large. A sparse vector's epsilon
    is that of an exchange.

    Args:
        defense: a defense or a chain.
        rounds: updates that the client shares.
        delta: in (0, 1).
        sample_rate: for DP-SGD, the share of the client's samples in a batch; 1 counts no gain
            from sampling.
        local_steps: for DP-SGD, noisy steps in each round.
        entries: parameters of an update, on which a sparse vector's epsilon depends.

    Returns:
        The guarantee with the method that computed it; epsilon None where nothing is proved.

    Raises:
        BadInput: for numbers out of range.

    >>> from labelleak.defenses import parse_defense
    >>> found = account(parse_defense("clip:2|gaussian:2"), rounds=1)
    >>> found.method, round(found.epsilon, 3), found.protects
    ('closed form of the Gaussian mechanism', 4.377, 'update')
    >>> account(parse_defense("clip:1")).sentence
    'clip:1 is not private: clipping bounds an update and adds no noise'
    """
    _check(delta, rounds)
    _check(delta, local_steps)
    parts = [part for part in as_part(defense).parts if not part.is_off]
    for part in parts:
        if isinstance(part, DPSGD) and part.noise_multiplier:
            return _of_samples(part, rounds * local_steps, sample_rate, delta, rounds)
    found = _of_vectors(parts, rounds, entries) or _of_updates(parts, rounds, delta)
    if found is not None:
        return found
    for part in parts:
        if isinstance(part, RandomisedResponse):
            return _of_labels(part, rounds * local_steps)
    return Guarantee(None, delta, "nothing", "none", _why_not(as_part(defense).label, parts))


def _of_samples(
    part: DPSGD, steps: int, sample_rate: float, delta: float, rounds: int
) -> Guarantee:
    said = f"sample-level privacy over {rounds} round(s) and {steps} noisy step(s) in all"
    if sample_rate == 1:
        epsilon = gaussian_epsilon(part.noise_multiplier, delta, steps)
        method = "closed form of the Gaussian mechanism"
        return Guarantee(epsilon, delta, "sample", method, f"{said}; no gain from sampling")
    epsilon, check, method = sampled_epsilon(part.noise_multiplier, sample_rate, steps, delta)
    said += f"; holds for Poisson sampling at rate {sample_rate:g}, not for shuffled batches"
    return Guarantee(epsilon, delta, "sample", method, said, check)


def _of_updates(parts: list[Part], rounds: int, delta: float) -> Guarantee | None:
    """Account noise on an update whose norm was bounded before, by nothing that lengthens it."""
    bound = inf
    for part in parts:
        if isinstance(part, LocalDP) and part.sigma:
            return _of_local_dp(part, min(bound, part.norm), rounds, delta)
        if isinstance(part, Clipping):
            bound = min(bound, part.norm)
        elif isinstance(part, GaussianNoise):
            if bound == inf:
                return None
            epsilon = gaussian_epsilon(part.sigma / bound, delta, rounds)
            said = (
                f"client-level privacy of the whole update over {rounds} round(s), from noise "
                f"{part.sigma:g} on a norm of at most {bound:g}; what follows the noise costs none"
            )
            method = "closed form of the Gaussian mechanism"
            return Guarantee(epsilon, delta, "update", method, said)
        elif part.name not in _SHRINKING or getattr(part, "rescale", False):
            bound = inf
        elif getattr(part, "feedback", False):
            bound = inf  # the residual may make it longer than it was
    return None


def _of_local_dp(part: LocalDP, bound: float, rounds: int, delta: float) -> Guarantee:
    said = (
        f"client-level privacy of the whole update over {rounds} round(s), from noise "
        f"{part.sigma:.3g} on a norm of at most {bound:g}; Flower's own figure, epsilon "
        f"{part.epsilon:g} at delta {part.delta:g}, stands for one round"
    )
    epsilon = gaussian_epsilon(part.sigma / bound, delta, rounds)
    return Guarantee(epsilon, delta, "update", "closed form of the Gaussian mechanism", said)


def _of_vectors(parts: list[Part], rounds: int, entries: int | None) -> Guarantee | None:
    """Add up a sparse vector over rounds; it bounds its entries itself, whatever came before."""
    for part in parts:
        if isinstance(part, SparseVector) and entries:
            said = (
                f"client-level privacy of the whole update over {rounds} round(s), when one is "
                f"exchanged for another; NVFlare's own figure is epsilon "
                f"{rounds * part.claimed(entries):.4g}"
            )
            epsilon = rounds * part.epsilon_of(entries)
            return Guarantee(epsilon, 0.0, "update", "sparse vector, added up", said)
    return None


def _of_labels(part: RandomisedResponse, uses: int) -> Guarantee:
    said = (
        f"label-level privacy over {uses} use(s) of each label, exchanged anew each time; inputs "
        "are not protected, and neither is what they tell about their label"
    )
    epsilon = response_epsilon(part.epsilon, uses)
    return Guarantee(epsilon, 0.0, "label", "randomised response, added up", said)


def _why_not(label: str, parts: list[Part]) -> str:
    names = {part.name for part in parts}
    if not parts:
        return f"{label} is not private: it changes nothing"
    if "svt" in names:
        return (
            f"what {label} guarantees depends on the size of the model, which is not known here: "
            "each value that is sent costs its budget again"
        )
    if names & {"server_noise", "server_clip"}:
        return (
            f"{label} is not private against the server, which sees updates before it does "
            "anything to them"
        )
    if names <= {"clip", "clip_layers", "adaptive_clip"} or names == {"dpsgd"}:
        return f"{label} is not private: clipping bounds an update and adds no noise"
    if "historical_dp" in names:
        return f"no guarantee is proved for {label}: it clips mean gradients, not samples"
    if names & {"gaussian", "laplace", "exponential"}:
        return (
            f"no guarantee is proved for {label}: it needs Gaussian noise right after clip, so "
            "that the noise is known in units of the largest update"
        )
    if "head_noise" in names:
        return f"{label} is not private: the gradients of the other layers are shared in the clear"
    return f"{label} is not private: it adds no noise, and what is sent still depends on the labels"


def _check(delta: float, rounds: int) -> None:
    if not 0 < delta < 1:
        raise BadInput(f"delta must lie between 0 and 1, not {delta:g}")
    if rounds < 1:
        raise BadInput(f"rounds and steps must be at least 1, not {rounds}")


__all__ = ["Guarantee", "account", "gaussian_epsilon", "response_epsilon", "sampled_epsilon"]
