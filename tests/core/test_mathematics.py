"""The exact invariants that everything rests on, in float64 on random models and batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from labelleak.attacks import LLG, LLGPlus, LLGStar
from labelleak.core.counts import extract_counts
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.gradients import HeadTable, autograd_gradients

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}
cases = st.tuples(
    st.sampled_from(sorted(ACTIVATIONS)),
    st.integers(2, 7),
    st.integers(1, 12),
    st.integers(0, 10_000),
)


def setting(case):
    """Build a model, a batch and its true head gradient, in float64."""
    activation, classes, size, seed = case
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 9), ACTIVATIONS[activation](), nn.Linear(9, classes))
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).double())
    inputs = torch.rand(size, 5, generator=generator).double()
    labels = torch.randint(classes, (size,), generator=generator)
    box, data = WhiteBox(model, "2"), LabelledData(inputs, labels)
    return box, data, autograd_gradients(box, data, np.arange(size)[None])


@settings(max_examples=60)
@given(cases)
def test_head_gradients_sum_to_zero_over_classes(case):
    _, _, seen = setting(case)
    assert seen.bias.sum().abs() < 1e-12
    assert seen.weight.sum(1).abs().max() < 1e-12


@settings(max_examples=60)
@given(cases)
def test_head_gradients_are_the_closed_form(case):
    box, data, seen = setting(case)
    forward = box.run(data.inputs)
    errors = forward.probabilities - F.one_hot(data.labels, seen.num_classes)
    assert torch.allclose(seen.bias[0], errors.mean(0), atol=1e-12)
    assert torch.allclose(seen.weight[0], errors.T @ forward.inputs / len(data), atol=1e-12)
    table = HeadTable.build(box, data).gradients(np.arange(len(data))[None])
    assert torch.allclose(table.weight, seen.weight, atol=1e-12)
    assert torch.allclose(table.bias, seen.bias, atol=1e-12)


@settings(max_examples=60)
@given(cases)
def test_counts_are_the_posteriors_less_the_bias_gradient(case):
    box, data, seen = setting(case)
    posteriors = box.run(data.inputs).probabilities.sum(0).numpy()
    counts = np.bincount(data.labels.numpy(), minlength=seen.num_classes)
    assert np.allclose(posteriors - len(data) * seen.bias_gradient[0], counts, atol=1e-10)


@settings(max_examples=60)
@given(cases)
def test_one_sample_has_exactly_one_negative_entry_and_it_is_its_label(case):
    box, data, seen = setting((case[0], case[1], 1, case[3]))
    bias = seen.bias_gradient[0]
    posterior = box.run(data.inputs).probabilities[0]
    if posterior.max() > 1 - 1e-12:  # nothing is left of the gradient of a certain answer
        return
    assert np.flatnonzero(bias < 0).tolist() == data.labels.tolist()
    assert bias[bias > 0].sum() == pytest.approx(-bias.min())
    if case[0] in ("relu", "sigmoid") and (box.run(data.inputs).inputs > 0).any():
        answer = LLG().prepare(Knowledge(), seen.num_classes, np.random.default_rng(0))
        assert answer(seen).counts[0].argmax() == data.labels[0]


@settings(max_examples=60)
@given(cases)
def test_absent_classes_are_never_negative_where_head_inputs_are_not(case):
    case = ("relu", *case[1:])
    _, data, seen = setting(case)
    absent = np.setdiff1d(np.arange(seen.num_classes), data.labels.numpy())
    assert (seen.row_sums[0][absent] >= 0).all()


@settings(max_examples=40)
@given(cases, st.floats(1e-3, 1e3))
def test_scale_does_not_matter_to_llg(case, scale):
    _, data, seen = setting(case)
    answer = LLG().prepare(Knowledge(), seen.num_classes, np.random.default_rng(0))
    scaled = Observation.from_gradient(seen.weight * scale, num_samples=len(data))
    moved = np.abs(answer(scaled).counts - answer(seen).counts).sum()
    assert moved <= 2  # rounding may tip a tie


@settings(max_examples=40)
@given(cases)
def test_order_of_samples_does_not_matter_and_doubling_keeps_the_gradient(case):
    box, data, seen = setting(case)
    order = np.random.default_rng(0).permutation(len(data))
    shuffled = autograd_gradients(box, data, order[None])
    doubled = autograd_gradients(box, data, np.concatenate([order, order])[None])
    assert torch.allclose(shuffled.weight, seen.weight, atol=1e-12)
    assert torch.allclose(doubled.weight, seen.weight, atol=1e-12)
    assert doubled.num_samples == 2 * seen.num_samples


@settings(max_examples=80)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=12).filter(any))
def test_constant_features_and_uniform_posteriors_give_exact_counts(counts):
    """The toy: W = 0 and h constant, so g_i = H (1/K - c_i/N); m = -H/N and s = H/K undo it."""
    classes, total, height = len(counts), sum(counts), 7.0
    g = height * (1 / classes - np.array(counts) / total)
    found = extract_counts(g, -height / total, 0.0, total)
    assert found.tolist() == counts


def test_the_impact_is_negative_and_never_a_sum_over_all_classes():
    """Regression trap: the sum of all row sums is 0, so an impact made of it says nothing."""
    _, data, seen = setting(("sigmoid", 5, 8, 3))
    assert abs(seen.row_sums.sum()) < 1e-12
    known = Knowledge(setting(("sigmoid", 5, 8, 3))[0], (5,), data)
    for attack in (LLGStar(), LLGPlus()):
        ready = attack.prepare(known, 5, np.random.default_rng(0))
        assert not ready(seen).notes


def test_two_classes_of_half_a_batch_each_are_not_given_to_one():
    """Regression trap: a stale index in the second stage hands all labels to one class."""
    g = np.array([-4.0, -4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert extract_counts(g, -1.0, 1.0, 10).tolist() == [5, 5, 0, 0, 0, 0, 0, 0, 0, 0]


def test_more_negative_classes_than_labels_names_the_most_negative():
    """Regression trap: the first stage must stop at N labels."""
    g = np.array([-1.0, -3.0, -2.0, 6.0])
    assert extract_counts(g, -1.0, 0.0, 2).tolist() == [0, 1, 1, 0]
