from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from contract.scenarios import blobs, network, one_step, train, zeros
from labelleak.attacks.bias import EBI, LLBG, LLBGMeasured, LLGRepaired, _hand_out
from labelleak.core.counts import extract_counts
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.core.score import Truth, score
from labelleak.errors import BadInput, NotApplicable

ATTACKS = (EBI(), LLBG(), LLGRepaired())


def run(attack, observation):
    ready = prepare(attack, Knowledge(), observation.num_classes, np.random.default_rng(0))
    return ready(observation)


def toy(counts, feature=2.0, width=3):
    """The gradient of a head that predicts uniformly and sees one feature vector for all."""
    counts = np.asarray(counts)
    bias = 1 / counts.shape[-1] - counts / counts.sum()
    weight = bias[:, None] * np.full(width, feature)
    return Observation.from_gradient(weight, bias, num_samples=int(counts.sum()))


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12).filter(any))
@settings(max_examples=60)
def test_equal_features_and_posteriors_are_solved_exactly(counts):
    for attack in (LLBG(), LLGRepaired()):
        assert run(attack, toy(counts)).counts.tolist() == counts


def test_balanced_batches_pile_up_on_one_class_unless_the_impact_is_right():
    seen, truth = toy([13, 12, 13, 12]), Truth(np.array([13, 12, 13, 12]))
    assert score(run(EBI(), seen).counts, truth).asr < 0.6
    assert score(run(LLGRepaired(), seen).counts, truth).asr == 1


@given(st.integers(2, 8), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(-3, 3))
@settings(max_examples=60)
def test_llbg_is_rounding_and_a_constant_offset_changes_nothing(classes, total, seed, offset):
    b = np.random.default_rng(seed).standard_normal(classes)
    b -= b.mean()
    found = run(LLBG(), Observation.from_gradient(None, b / total, num_samples=total)).counts
    rounded = round_counts(total / classes - b, total)
    assert (rounded == round_counts(total / classes - b + offset, total)).all()
    # The label owed to every negative entry is the one difference.
    owed = b < 0
    if ((rounded > 0) >= owed).all():
        assert (found == rounded).all()
    elif owed.sum() <= total:
        assert (found[owed] > 0).all()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_one_sample_is_named(attack, activation):
    scenario = one_step("one", network(activation), size=1)
    assert (score(run(attack, scenario.observation).counts, scenario.truth).asr == 1).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_all_zero_update_gives_even_counts(attack):
    scenario = one_step("zeros", network(), size=7, change=zeros)
    assert run(attack, scenario.observation).counts[0].tolist() == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_head_without_a_bias_is_refused(attack):
    scenario = one_step("no_bias", network(bias=False))
    with pytest.raises(NotApplicable, match=attack.name):
        run(attack, scenario.observation)


def test_scale_matters_to_theory_and_not_to_what_is_read_off_the_update():
    seen = one_step("relu", network(), size=30).observation
    half = Observation(seen.weight / 2, seen.bias / 2, seen.num_samples)
    for attack in (EBI(), LLGRepaired()):
        same = (run(attack, half).counts == run(attack, seen).counts).all()
        assert same == (attack == EBI())
    assert (run(LLBG(), half).counts != run(LLBG(), seen).counts).any()


def test_confidence_makes_a_label_lighter():
    b = torch.tensor([-0.3, 0.1, 0.2])
    seen = Observation(None, b, 10)
    assert run(LLBG(), seen).counts.tolist() == [7, 2, 1]
    assert run(LLBG(confidence=0.9), seen).counts.tolist() == [10, 0, 0]


@pytest.mark.parametrize("confidence", [-0.1, 1.0, float("nan")])
def test_a_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(BadInput, match="confidence"):
        LLBG(confidence=confidence)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("classes", "total"), [(2, 1), (1000, 4096), (1000, 3)])
def test_large_and_small_problems(attack, classes, total):
    rng = np.random.default_rng(0)
    weight = 1e-12 * torch.from_numpy(rng.standard_normal((3, classes, 4)))
    found = run(attack, Observation(weight, weight.mean(-1), total)).counts
    assert (found.sum(-1) == total).all()
    assert (found >= 0).all()


def slow_hand_out(values, steps, total):
    counts = [0] * len(values)
    for label in sorted((i for i, v in enumerate(values) if v < 0), key=lambda i: (values[i], i)):
        counts[label] += sum(counts) < total
    while sum(counts) < total:
        heights = [v + n * s for v, n, s in zip(values, counts, steps, strict=True)]
        counts[heights.index(min(heights))] += 1
    return counts


@given(
    st.integers(2, 6).flatmap(
        lambda k: st.tuples(
            st.lists(st.integers(-4, 4), min_size=k, max_size=k),
            st.lists(st.sampled_from([0.25, 0.5, 1.0, 3.0]), min_size=k, max_size=k),
        )
    ),
    st.integers(1, 30),
)
def test_labels_are_handed_out_with_a_step_for_each_class(rows, total):
    values, steps = np.array(rows[0], dtype=float), np.array(rows[1])
    found = _hand_out(np.stack([values, -values]), steps, total)
    assert found[0].tolist() == slow_hand_out(values, steps, total)
    assert found[1].tolist() == slow_hand_out(-values, steps, total)


@given(st.integers(2, 8), st.integers(1, 30), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_with_one_step_for_all_it_is_the_rule_of_llbg(classes, total, seed):
    b = np.random.default_rng(seed).standard_normal((3, classes))
    found = _hand_out(b, np.full(classes, 0.3), total)
    assert (found == extract_counts(b, -0.3, 0.0, total)).all()


def measured(scenario, attack):
    classes = scenario.truth.counts.shape[-1]
    return prepare(attack, scenario.known, classes, np.random.default_rng(0))(scenario.observation)


def test_measured_confidences_help_where_the_model_is_half_sure():
    model = train(network(nn.Tanh, seed=3), blobs(5), 6)
    scenario = one_step("half sure", model, size=60)
    plain, known = (measured(scenario, attack) for attack in (LLBG(), LLBGMeasured()))
    rates = [score(found.counts, scenario.truth).asr.mean() for found in (plain, known)]
    assert rates[1] > rates[0]


def test_a_model_that_is_always_right_and_a_class_without_data_do_no_harm():
    model = train(network(), blobs(5), 600)
    scenario = one_step("sure", model, size=20)
    data = scenario.known.auxiliary
    kept = data.labels != 4
    part = LabelledData(data.inputs[kept], data.labels[kept])
    known = replace(scenario.known, auxiliary=part)
    ready = prepare(LLBGMeasured(), known, 5, np.random.default_rng(0))
    found = ready(scenario.observation).counts
    assert (found.sum(-1) == 20).all()
    assert (found >= (scenario.observation.bias_gradient < 0)).all()
