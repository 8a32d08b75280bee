"""Attackers who know the defense: never worse by more than chance, and better where it counts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from contract.scenarios import FEATURES, blobs, network
from labelleak.attacks import ADAPTIVE, ATTACKS
from labelleak.attacks.llg import Dummies
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.score import Truth, score
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import parse_defense
from labelleak.errors import NotApplicable
from labelleak.simulation.defended import defended_gradients

MODEL = WhiteBox(network(), "2")
VICTIMS = blobs(5, seed=2)
BATCHES = np.random.default_rng(5).integers(len(VICTIMS), size=(150, 8))
TRUTH = Truth.from_labels(VICTIMS.labels.numpy()[BATCHES], 5)
EFFORT = {"batches": 150}
PAIRS = [
    ("llg_star", "llg_star_adaptive"),
    ("llg_plus", "llg_plus_adaptive"),
    ("gradient_regression", "gradient_regression_adaptive"),
]


def knowledge(text):
    return Knowledge(MODEL, (FEATURES,), blobs(5), defense=parse_defense(text))


@cache
def asr(name, text, seed=0):
    if name in ADAPTIVE:
        attack = ATTACKS[name](**EFFORT)
    else:
        attack = ATTACKS[name](**({"dummies": Dummies.UNIFORM} if name == "llg_star" else {}))
    answer = prepare(attack, knowledge(text), 5, np.random.default_rng(seed))
    seen = defended_gradients(MODEL, VICTIMS, BATCHES, parse_defense(text))
    estimate = answer(seen)
    assert (estimate.counts.sum(axis=-1) == 8).all()
    assert (estimate.counts >= 0).all()
    return score(estimate.counts, TRUTH).asr


@pytest.mark.parametrize("text", ["gaussian:0.1", "prune:0.9", "label_smoothing:0.8"])
@pytest.mark.parametrize(("plain", "adaptive"), PAIRS)
def test_knowing_the_defense_does_not_hurt(plain, adaptive, text):
    gain = asr(adaptive, text) - asr(plain, text)
    assert gain.mean() > -2 * gain.std() / len(gain) ** 0.5


def test_knowing_the_defense_helps_where_the_scale_is_changed():
    """Smoothing shrinks a label's row by 1 - a: who does not know that misses repeated labels."""
    for plain, adaptive in PAIRS[1:]:
        gain = asr(adaptive, "label_smoothing:0.8") - asr(plain, "label_smoothing:0.8")
        assert gain.mean() > 0.1


@pytest.mark.parametrize("adaptive", ADAPTIVE)
def test_a_defense_that_is_not_granted_is_refused(adaptive):
    known = Knowledge(MODEL, (FEATURES,), blobs(5))
    with pytest.raises(NotApplicable, match="the defense that the client uses"):
        prepare(ATTACKS[adaptive](), known, 5, np.random.default_rng(0))


def test_other_attacks_are_not_shown_the_defense():
    known = knowledge("clip:1")
    assert known.granted(ATTACKS["llg_plus"].needs).defense is None
    assert known.granted(ATTACKS["llg_plus_adaptive"].needs).defense is known.defense


@pytest.mark.parametrize("adaptive", ADAPTIVE)
def test_same_seed_same_answer_whatever_else_was_asked(adaptive):
    attack = ATTACKS[adaptive](**EFFORT)
    seen, fewer = (
        defended_gradients(MODEL, VICTIMS, picks, parse_defense("gaussian:0.1"), full=True)
        for picks in (BATCHES, BATCHES[:, :4])
    )
    first, second = (
        prepare(attack, knowledge("gaussian:0.1"), 5, np.random.default_rng(3)) for _ in range(2)
    )
    second(fewer)
    assert (first(seen).counts == second(seen).counts).all()


@pytest.mark.parametrize("text", ["withhold:bias", "withhold:weight", "withhold:head", "clip:0.01"])
def test_what_is_left_of_the_head_is_used(text):
    values = asr("gradient_regression_adaptive", text).mean()
    guess = score(np.tile([2, 2, 2, 1, 1], (150, 1)), TRUTH).asr.mean()
    assert values > guess + 0.1 if text != "withhold:head" else values < guess + 0.1


def test_a_single_update_without_trials_is_answered():
    answer = prepare(
        ATTACKS["llg_plus_adaptive"](**EFFORT), knowledge("none"), 5, np.random.default_rng(0)
    )
    seen = defended_gradients(MODEL, VICTIMS, BATCHES[:1], parse_defense("none"))
    one = Observation(seen.weight[0], seen.bias[0], 8)
    assert (answer(one).counts == answer(seen).counts[0]).all()
