import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from contract.scenarios import blobs, network, one_step, train, zeros
from labelleak.attacks.signs import IDLG, RowMinimum
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.score import score

ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.LeakyReLU, nn.GELU)


def run(attack, observation):
    ready = prepare(attack, Knowledge(), observation.num_classes, np.random.default_rng(0))
    return ready(observation)


def row_minimum(weight, num_samples):
    seen = Observation.from_gradient(np.asarray(weight, dtype=float), num_samples=num_samples)
    return run(RowMinimum(), seen).counts.tolist()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", [3, 5, 100])
def test_idlg_is_exact_for_one_sample(activation, classes, bias):
    model = network(activation, classes=classes, bias=bias)
    scenario = one_step("one", model, classes=classes, size=1)
    found = run(IDLG(), scenario.observation)
    assert (score(found.counts, scenario.truth).asr == 1).all()
    assert (found.scores.argmax(-1) == scenario.truth.counts.argmax(-1)).all()


@pytest.mark.parametrize("bias", [True, False])
def test_idlg_is_exact_for_one_sample_of_a_trained_model(bias):
    model = train(network(nn.Tanh, bias=bias), blobs(5), 150)
    scenario = one_step("one", model, size=1)
    assert (score(run(IDLG(), scenario.observation).counts, scenario.truth).asr == 1).all()


def test_idlg_without_a_bias_needs_no_sign_of_the_features():
    scenario = one_step("one", network(nn.Tanh, bias=False), size=1)
    assert scenario.observation.row_sums.argmin(-1).tolist() != (
        scenario.truth.counts.argmax(-1).tolist()
    )
    assert (score(run(IDLG(), scenario.observation).counts, scenario.truth).asr == 1).all()


@given(
    st.integers(2, 8),
    st.integers(0, 2**32 - 1),
    st.sampled_from([torch.float64, torch.float32, torch.float16]),
)
@settings(max_examples=50)
def test_idlg_finds_the_row_against_all_others(classes, seed, dtype):
    rng = np.random.default_rng(seed)
    errors = rng.dirichlet(np.ones(classes))
    label = int(rng.integers(classes))
    errors[label] -= 1.0
    # Half precision cannot tell rows that cancel but for less than its rounding.
    assume(classes == 2 or errors.max() < 0.99 * -errors[label])
    features = rng.standard_normal(20)
    if classes == 2:  # the two rows cancel: only the sign of the features can tell
        features = np.abs(features)
    weight = torch.from_numpy(np.outer(errors, features)).to(dtype)
    found = run(IDLG(), Observation.from_gradient(weight, num_samples=1))
    assert found.counts.argmax() == label
    assert found.counts.sum() == 1


def test_idlg_settles_two_rows_that_cancel_by_the_sign_of_the_features():
    h = np.array([0.5, 0.25])
    weight = np.stack([0 * h, h, -h, 0 * h])
    seen = Observation.from_gradient(weight, num_samples=1)
    assert run(IDLG(), seen).counts.tolist() == [0, 0, 1, 0]


def test_idlg_shares_labels_out_in_turns():
    bias = np.array([-0.3, 0.5, -0.4, 0.2])
    for num_samples, counts in ((2, [1, 0, 1, 0]), (7, [3, 0, 4, 0])):
        seen = Observation(torch.zeros(4, 2), torch.from_numpy(bias), num_samples)
        assert run(IDLG(), seen).counts.tolist() == counts


def test_idlg_names_the_most_negative_classes_when_they_outnumber_the_labels():
    seen = Observation.from_gradient(np.array([[-1.0], [-3.0], [-2.0], [6.0]]), num_samples=2)
    assert run(IDLG(), seen).counts.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("attack", [IDLG(), RowMinimum()])
def test_an_all_zero_update_gives_even_counts(attack):
    scenario = one_step("zeros", network(), size=7, change=zeros)
    assert run(attack, scenario.observation).counts[0].tolist() == [2, 2, 1, 1, 1]


def test_the_row_minimum_restores_labels_that_do_not_repeat():
    weight = [[-0.1, 0.9], [-0.5, 0.1], [0.2, 0.1], [0.4, -0.2]]
    assert row_minimum(weight, 3) == [1, 1, 0, 1]
    assert row_minimum(weight, 2) == [0, 1, 0, 1]


def test_the_row_minimum_shares_what_is_left_by_size():
    assert row_minimum([[-0.1, 0.5], [-0.3, 0.1], [0.0, 0.1], [0.4, 0.2]], 8) == [2, 6, 0, 0]


def test_the_row_minimum_knows_who_is_absent_from_a_trained_relu_model():
    model = train(network(nn.ReLU), blobs(5), 30)
    scenario = one_step("trained", model, size=4)
    found = run(RowMinimum(), scenario.observation)
    assert (score(found.counts, scenario.truth).presence_precision == 1).all()
    by_row_sum = scenario.observation.row_sums < 0
    assert (found.counts[by_row_sum] > 0).all()
    assert (found.counts > 0).sum() > by_row_sum.sum()


def test_features_of_both_signs_make_every_class_look_present():
    scenario = one_step("tanh", network(nn.Tanh), size=100)
    found = run(RowMinimum(), scenario.observation)
    assert (found.counts > 0).all()


def test_without_a_negative_row_the_lowest_class_is_named() -> None:
    """Noise can leave no negative row; the answer still sums to N."""
    weight = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    for attack in (IDLG(), RowMinimum()):
        ready = attack.prepare(Knowledge(), 4, np.random.default_rng(0))
        assert ready(Observation.from_gradient(weight, num_samples=8)).counts.sum() == 8
