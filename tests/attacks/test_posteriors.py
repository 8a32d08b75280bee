from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from contract.scenarios import (
    FEATURES,
    TRIALS,
    blobs,
    network,
    one_step,
    several_steps,
    train,
    zeros,
)
from labelleak.attacks import confusions, head_path
from labelleak.attacks.bias import EBI, LLBG, LLGRepaired
from labelleak.attacks.confusions import ILRG, PPLR, RLU, recover_features
from labelleak.attacks.inverse_confusions import Confusions, plain_shares, pseudo_inverse
from labelleak.attacks.llg import LLG, Dummies, LLGPlus
from labelleak.attacks.posteriors import FEATURES_CANCEL, ZLG, Interpolation
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.priors import UniformPrior, free_guess
from labelleak.core.score import Truth, score
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput, NotApplicable
from labelleak.simulation.batches import draw_batches, parse_scheme
from labelleak.simulation.gradients import HeadTable, autograd_gradients
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import divide

ATTACKS = (ZLG(), ZLG(use_bias=False), Interpolation(), PPLR(), RLU(), ILRG())
IN_BATCH_MEANS = (PPLR(), RLU())


def run(attack, observation, known, seed=0):
    ready = prepare(attack, known, observation.num_classes, np.random.default_rng(seed))
    return ready(observation)


def asr(attack, scenario):
    found = run(attack, scenario.observation, scenario.known)
    return score(found.counts, scenario.truth).asr


class ConstantFeatures(nn.Module):
    """Gives every input the same head inputs, so that one posterior holds for all."""

    def __init__(self, classes, *, bias=True, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.head = nn.Linear(4, classes, bias=bias).requires_grad_(False)
        for parameter in self.head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.head.requires_grad_(True)

    def forward(self, inputs):
        return self.head(torch.ones_like(inputs[:, :1]) * torch.tensor([0.5, 1.0, 0.25, 2.0]))


def constant_known(classes, **options):
    box = WhiteBox(ConstantFeatures(classes, **options), "head")
    data = LabelledData(torch.zeros(2 * classes, 3), torch.arange(2 * classes) % classes)
    return Knowledge(box, (3,), data, training=LocalTraining(lr=0.1))


def constant_observation(known, labels):
    data = LabelledData(torch.zeros(len(labels), 3), torch.tensor(labels))
    return autograd_gradients(known.model, data, np.arange(len(labels))[None])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 2**16), st.booleans())
@settings(max_examples=25)
def test_equal_features_are_solved_exactly_whatever_the_head_has_learnt(labels, seed, bias):
    known = constant_known(5, seed=seed, bias=bias)
    seen = constant_observation(known, labels)
    truth = Truth.from_labels([labels], 5)
    for attack in ATTACKS:
        if bias or attack.name != "ilrg":
            found = run(attack, seen, known)
            # Near a tie of counts a rounding error of float32 may tip one label.
            assert np.abs(found.scores - truth.counts).max() < 1e-2, attack
            assert (found.counts == truth.counts).all(), attack


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_an_untrained_model_gives_its_labels_away(attack, activation):
    scenario = one_step("untrained", network(activation), size=40)
    assert asr(attack, scenario).mean() >= 0.9


@pytest.mark.parametrize("attack", IN_BATCH_MEANS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("steps", [0, 20])
def test_auxiliary_data_that_are_the_batch_itself_give_exact_counts(
    attack, bias, activation, steps
):
    model = train(network(activation, bias=bias), blobs(5), steps).double()
    box, victims = WhiteBox(model, "2"), blobs(5, seed=2)
    batches = np.random.default_rng(0).integers(len(victims), size=(TRIALS, 30))
    for batch in batches:
        data = LabelledData(victims.inputs[batch].double(), victims.labels[batch])
        seen = autograd_gradients(box, data, np.arange(len(batch))[None])
        found = run(attack, seen, Knowledge(box, (FEATURES,), data))
        truth = Truth.from_labels(data.labels.numpy(), 5)
        assert (found.counts[0] == truth.counts).all()


def test_rlu_tells_pairs_apart_that_pplr_mixes_up():
    """Classes 0 and 1 are taken for each other, 2 and 3 are not taken for anything."""
    confusions = np.array(
        [[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.1, 0.0, 0.9, 0.0], [0.0, 0.0, 0.2, 0.8]]
    )
    confusions = 0.98 * confusions + 0.005
    model = nn.Linear(4, 4, bias=True).double().requires_grad_(False)
    model.weight.copy_(torch.from_numpy(np.log(confusions)).T)
    model.bias.zero_()
    inputs = torch.eye(4, dtype=torch.float64)
    known = Knowledge(WhiteBox(model, ""), (4,), LabelledData(inputs, torch.arange(4)))
    counts = np.array([2, 9, 3, 6])
    seen = Observation(None, torch.from_numpy(counts @ (confusions - np.eye(4)) / 20), 20)
    assert run(RLU(), seen, known).counts.tolist() == counts.tolist()
    assert run(PPLR(), seen, known).counts.tolist() != counts.tolist()


def test_rlu_never_answers_below_zero_before_rounding():
    scenario = one_step("trained", train(network(), blobs(5), 100))
    found = run(RLU(), scenario.observation, scenario.known)
    assert (found.scores >= 0).all()
    assert np.allclose(found.scores.sum(-1), 8)


@pytest.mark.parametrize("attack", IN_BATCH_MEANS)
def test_a_class_without_auxiliary_data_is_modelled_by_all(attack):
    scenario = one_step("relu", network(), size=30)
    data = scenario.known.auxiliary
    kept = data.labels != 2
    known = replace(scenario.known, auxiliary=LabelledData(data.inputs[kept], data.labels[kept]))
    found = run(attack, scenario.observation, known)
    assert score(found.counts, scenario.truth).asr.mean() >= 0.95


@pytest.mark.parametrize("attack", IN_BATCH_MEANS)
def test_a_model_that_is_always_right_leaves_even_counts(attack):
    box = WhiteBox(nn.Linear(5, 5, bias=False).double().requires_grad_(False), "")
    box.module.weight.copy_(1000 * torch.eye(5))
    data = LabelledData(torch.eye(5, dtype=torch.float64), torch.arange(5))
    seen = autograd_gradients(
        WhiteBox(box.module.requires_grad_(True), ""), data, np.array([[0, 0, 3, 3, 3]])
    )
    assert run(attack, seen, Knowledge(box, (5,), data)).counts.tolist() == [[1, 1, 1, 1, 1]]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_batch_of_one_class_or_of_one_sample_gives_the_features_exactly(activation):
    model = train(network(activation), blobs(5), 5).double()
    data = blobs(5, seed=2)
    data = LabelledData(data.inputs.double(), data.labels)
    box = WhiteBox(model, "2")
    seen = autograd_gradients(box, data, np.array([[3], [4], [6]]))
    features = recover_features(seen.weight.numpy(), seen.bias_gradient)
    expected = box.run(data.inputs[[3, 4, 6]]).inputs.numpy()
    assert np.allclose(features, expected[:, None], atol=1e-6)
    # With one class, the ratio of its own row weighs samples by 1 - p alone: no signs are mixed.
    same = np.flatnonzero(data.labels.numpy() == 3)[:10]
    one_class = autograd_gradients(box, data, same[None])
    own = recover_features(one_class.weight.numpy(), one_class.bias_gradient)[0, 3]
    inside = box.run(data.inputs[same]).inputs.numpy()
    assert (own >= inside.min(0) - 1e-9).all()
    assert (own <= inside.max(0) + 1e-9).all()
    found = run(ILRG(), one_class, Knowledge(box, (FEATURES,)))
    assert found.counts.tolist() == [[0, 0, 0, 10, 0]]


def test_faint_bias_entries_fall_back_on_the_mean_feature():
    feature = np.array([1.0, -2.0])
    bias = np.array([-1e-12, 1e-12, 1e-30])
    weight = bias[:, None] * feature
    weight[2] = 1e-20  # rounding, not a feature
    assert np.allclose(recover_features(weight, bias), feature, atol=1e-2)
    assert (recover_features(0 * weight, 0 * bias) == 0).all()


def test_what_counts_as_faint_moves_features_from_their_own_class_to_the_mean():
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((5, 3)), rng.standard_normal(5)
    own, mean = weight / bias[:, None], bias @ weight / (bias @ bias)
    assert np.allclose(recover_features(weight, bias), own, rtol=1e-3)
    assert np.allclose(recover_features(weight, bias, faint=1e6), mean)
    half = recover_features(weight, bias, faint=np.abs(bias).min() / np.abs(bias).max())
    faintest = np.abs(bias).argmin()
    assert np.allclose(half[faintest], (own[faintest] + mean) / 2)


@pytest.mark.parametrize("faint", [0.0, -1.0, float("nan")])
def test_a_faintness_that_is_not_positive_is_refused(faint):
    with pytest.raises(BadInput, match="faint"):
        ILRG(faint=faint)


def test_features_that_cancel_leave_row_sums_aside_and_say_so():
    model = network(nn.Identity).requires_grad_(False)
    model[0].bias.zero_()
    scenario = one_step("cancel", model.requires_grad_(True), size=10)
    found = run(ZLG(use_bias=False), scenario.observation, scenario.known)
    assert found.notes == (FEATURES_CANCEL,)
    assert run(ZLG(), scenario.observation, scenario.known).notes == ()
    assert (found.scores == found.scores[0]).all()


@pytest.mark.parametrize("attack", [ZLG(), Interpolation()])
def test_dummies_need_a_shape(attack):
    scenario = one_step("relu", network())
    with pytest.raises(NotApplicable, match="shape"):
        run(attack, scenario.observation, replace(scenario.known, input_shape=None))


def test_zlg_without_bias_or_weight_is_refused():
    scenario = one_step("relu", network())
    seen = replace(scenario.observation, weight=None)
    assert run(ZLG(), seen, scenario.known).counts.shape == (TRIALS, 5)
    with pytest.raises(NotApplicable, match="weight"):
        run(ZLG(use_bias=False), seen, scenario.known)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dummies", list(Dummies))
def test_interpolation_is_zlg_at_one_step(use_bias, dummies):
    scenario = one_step("relu", network(), size=30)
    options = {"dummies": dummies, "use_bias": use_bias}
    zlg, path = (
        run(kind(**options), scenario.observation, scenario.known) for kind in (ZLG, Interpolation)
    )
    assert (zlg.counts == path.counts).all()
    assert np.allclose(zlg.scores, path.scores)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_interpolation_follows_the_head_that_every_step_started_from(momentum, weight_decay):
    """With features that nothing moves, average the posteriors that the client really had."""
    known = constant_known(5)
    head = known.model.module.head
    features = known.model.run(torch.zeros(1, 3)).inputs
    labels, steps = torch.tensor([0, 0, 1, 3]), 5
    lr = 1e-3  # so that the path is straight
    before = {name: value.detach().clone() for name, value in head.state_dict().items()}
    client = nn.Linear(4, 5)
    client.load_state_dict(before)
    optimiser = torch.optim.SGD(
        client.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay
    )
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(client(features.expand(4, 4)), labels))
        optimiser.step()
    how = {"lr": lr, "local_steps": steps, "momentum": momentum, "weight_decay": weight_decay}
    seen = Observation.from_update(before, client.state_dict(), head="", batch_size=4, **how)
    training = LocalTraining(batch_size=4, **how)
    found = run(Interpolation(), seen, replace(known, training=training))
    static = run(ZLG(), seen, known)
    truth = np.array([10, 5, 0, 5, 0])
    assert np.abs(found.scores - truth).max() < 0.01
    assert np.abs(found.scores - truth).max() < 0.5 * np.abs(static.scores - truth).max()


def test_interpolation_follows_a_client_that_moves():
    known = constant_known(5)
    labels, steps, lr = [0] * 6 + [3] * 2, 60, 0.02
    model = ConstantFeatures(5)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        logits = model(torch.zeros(8, 3))
        torch.autograd.backward(nn.functional.cross_entropy(logits, torch.tensor(labels)))
        optimiser.step()
    seen = Observation.from_update(
        before, model.state_dict(), head="head", lr=lr, local_steps=steps, batch_size=8
    )
    training = LocalTraining(lr=lr, local_steps=steps, batch_size=8)
    truth = Truth.from_labels(labels * steps, 5)
    followed, static = (
        score(run(attack, seen, replace(known, training=training)).counts, truth).asr
        for attack in (Interpolation(), ZLG())
    )
    assert followed > static + 0.1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_interpolation_beats_chance_over_local_steps(momentum):
    scenario = several_steps("steps", steps=6, size=5, momentum=momentum)
    assert asr(Interpolation(), scenario).mean() >= asr(ZLG(), scenario).mean() >= 0.8


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_all_zero_update_is_answered(attack):
    scenario = one_step("zeros", network(), size=7, change=zeros)
    found = run(attack, scenario.observation, scenario.known)
    assert (found.counts.sum(-1) == 7).all()
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("scale", [1e-12, 1e-30, 1e3])
@pytest.mark.parametrize("trials", [(), (2, 3)])
def test_gradients_of_any_size_and_any_leading_shape_are_answered(attack, scale, trials):
    scenario = one_step("trained", train(network(nn.Tanh), blobs(5), 60))
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(scale * rng.standard_normal((*trials, 5, 16)))
    bias = torch.from_numpy(scale * rng.standard_normal((*trials, 5)))
    for one in (bias, 1e-18 * bias, torch.zeros_like(bias)):
        found = run(attack, Observation(weight, one, 4096), scenario.known)
        assert found.counts.shape == (*trials, 5)
        assert (found.counts.sum(-1) == 4096).all()
        assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("attack", [Interpolation(), ILRG()])
def test_slices_of_trials_give_the_same_as_all_at_once(attack, monkeypatch):
    scenario = several_steps("steps")
    together = run(attack, scenario.observation, scenario.known)
    for module in (confusions, head_path):
        monkeypatch.setattr(module, "_SLICE_BYTES", 1)
    sliced = run(attack, scenario.observation, scenario.known)
    assert np.allclose(sliced.scores, together.scores)
    without_bias = replace(scenario.observation, bias=None)
    if attack.name == "interpolation":
        assert run(attack, without_bias, scenario.known).counts.shape == together.counts.shape


@pytest.mark.parametrize("attack", ATTACKS)
def test_many_classes_and_half_precision(attack):
    data = blobs(300, rows=2)
    box = WhiteBox(network(classes=300), "2")
    batches = np.random.default_rng(0).integers(len(data), size=(2, 512))
    seen = HeadTable.build(box, data).gradients(batches)
    half = replace(seen, weight=seen.weight.half(), bias=seen.bias.half())
    known = Knowledge(box, (FEATURES,), data, training=LocalTraining(lr=0.1))
    truth = Truth.from_labels(data.labels.numpy()[batches], 300)
    assert score(run(attack, half, known).counts, truth).asr.mean() > 0.4


# What the attacks score on scikit-learn's digits, enlarged to 28x28 (28 = 2 + 8 * 3 + 2).


@pytest.fixture(scope="module")
def roles():
    pixels, labels = load_digits(return_X_y=True)
    images = np.kron(pixels.reshape(-1, 8, 8) / 16, np.ones((1, 3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None].astype(np.float32)
    return divide(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), seed=0)


@pytest.fixture(scope="module")
def measure(roles):
    tables = {}

    def success(attack, activation, scheme, size, init="default", seed=0):
        key = activation, init, seed
        if key not in tables:
            model = build_model(
                "cnn",
                input_shape=(1, 28, 28),
                num_classes=10,
                activation=activation,
                init=init,
                seed=seed,
            )
            box = WhiteBox(model, "head")
            tables[key] = box, HeadTable.build(box, roles.victims)
        box, table = tables[key]
        pool = roles.victims.labels.numpy()
        rng = np.random.default_rng(1)
        batches = draw_batches(parse_scheme(scheme), pool, 10, size, 60, rng)
        known = Knowledge(
            box, (1, 28, 28), roles.auxiliary, training=LocalTraining(lr=0.1, batch_size=size)
        )
        found = run(attack, table.gradients(batches), known)
        return score(found.counts, Truth.from_labels(pool[batches], 10)).asr.mean()

    return success


def test_balanced_batches_defeat_llg_and_not_the_bias(measure):
    free = free_guess(UniformPrior(), 128, 10)[1]
    assert measure(LLG(), "relu", "iid", 128) < free - 0.2
    assert measure(EBI(), "relu", "iid", 128) < free - 0.2
    for attack in (LLBG(), ZLG(), PPLR(), RLU(), ILRG()):
        assert measure(attack, "relu", "iid", 128) >= 0.98, attack


@pytest.mark.parametrize(("seed", "works"), [(0, True), (4, False)])
def test_features_of_both_signs_turn_row_sums_upside_down_or_not(measure, seed, works):
    """What tanh does to LLG hangs on the sign that the features' sum happens to have."""
    for attack in (LLG(), LLGPlus()):
        found = measure(attack, "tanh", "unbalanced", 8, seed=seed)
        assert found >= 0.9 if works else found <= 0.1, attack
    for attack in (LLBG(), LLGRepaired(), ZLG(), PPLR(), RLU(), ILRG()):
        assert measure(attack, "tanh", "unbalanced", 8, seed=seed) >= 0.95, attack


def test_the_papers_network_is_solved_with_its_weights(measure):
    for attack in (ZLG(), ZLG(use_bias=False), PPLR(), RLU(), ILRG()):
        assert measure(attack, "sigmoid", "iid", 128, init="uniform") >= 0.93, attack


def centred_confusions(seed, classes, *, sharp=1.0, doubled=False, trials=()):
    """Return centred confusions of a model, as `Confusions` inverts them."""
    rng = np.random.default_rng(seed)
    logits = sharp * rng.standard_normal((*trials, classes, classes))
    posteriors = np.exp(logits - logits.max(axis=-1, keepdims=True))
    posteriors /= posteriors.sum(axis=-1, keepdims=True)
    rows = posteriors - np.eye(classes)
    if doubled:  # two classes that leave the same signal
        rows[..., 1, :] = rows[..., 0, :]
    return rows - rows.mean(axis=-2, keepdims=True)


@pytest.mark.parametrize("sharp", [0.0, 1e-3, 1.0, 20.0])
@pytest.mark.parametrize("classes", [2, 3, 50])
def test_an_inverse_gives_what_singular_values_give(classes, sharp):
    for doubled in (False, True):
        centred = centred_confusions(classes, classes, sharp=sharp, doubled=doubled, trials=(3,))
        expected = np.linalg.pinv(centred, rcond=1e-7)
        np.testing.assert_allclose(pseudo_inverse(centred), expected, atol=1e-7)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_posteriors_that_differ_little_are_solved_for_the_shares_that_an_inverse_gives(noise):
    rng = np.random.default_rng(7)
    # Blunt and sharp ones in one call, one model that is sure of all, and twins of a class.
    posteriors = np.stack(
        [scipy.special.softmax(size * rng.standard_normal((12, 12)), -1) for size in (0, 0.1, 1, 9)]
        + [np.eye(12), np.tile(np.eye(12)[:6], (2, 1))]
    )
    shares = rng.dirichlet(np.ones(12), size=len(posteriors))
    signals = np.einsum("tc,tck->tk", shares, posteriors - np.eye(12))
    signals += noise * rng.standard_normal(signals.shape)  # which sum to anything
    found = plain_shares(posteriors, signals)
    for own, signal, rows in zip(found, signals, posteriors, strict=True):
        wanted = Confusions.of(rows - np.eye(12)).plain_shares(signal)
        np.testing.assert_allclose(own, wanted, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(plain_shares(rows[None], signal[None])[0], own, atol=1e-12)
    if not noise:
        np.testing.assert_allclose(found[:3], shares[:3], atol=1e-9)


def test_what_the_head_makes_of_features_is_read_off_what_it_makes_of_the_gradient():
    rng = np.random.default_rng(8)
    weight, bias = rng.standard_normal((3, 5, 7)), rng.standard_normal((3, 5))
    weight[1], bias[1] = 0, 0
    bias[2, 3] = 1e-9
    head = rng.standard_normal((5, 7))
    made = recover_features(weight, bias) @ head.T
    np.testing.assert_allclose(recover_features(weight @ head.T, bias), made, rtol=1e-7, atol=1e-9)


def test_where_an_inverse_will_not_do_singular_values_are_taken():
    mixed = np.stack(
        [
            centred_confusions(0, 4),
            0 * centred_confusions(0, 4),
            centred_confusions(0, 4, doubled=True),
        ]
    )
    mixed = np.concatenate([mixed, np.ones((1, 4, 4)), 1e-150 * mixed[:1]])
    expected = np.linalg.pinv(mixed, rcond=1e-7)
    np.testing.assert_allclose(pseudo_inverse(mixed), expected, rtol=1e-6, atol=1e-9)
    faint = centred_confusions(1, 5)
    left, sizes, right = np.linalg.svd(faint)
    sizes[3] = sizes[0] * 2e-7
    faint = left * sizes @ right
    np.testing.assert_allclose(pseudo_inverse(faint), np.linalg.pinv(faint, rcond=1e-7), rtol=1e-3)
