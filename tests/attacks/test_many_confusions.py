"""Many classes are solved without an inverse, and give what the inverse gives."""

import numpy as np
import pytest
import torch

from labelleak.attacks import confusions, many_confusions
from labelleak.attacks.confusions import ILRG, RLU, mean_posteriors
from labelleak.attacks.inverse_confusions import Confusions
from labelleak.attacks.many_confusions import CUT_SHORT, ManyConfusions
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass, WhiteBox
from naive import twins

CLASSES, LABELS = 60, 12


def table(seed, sharp, classes=CLASSES):
    """Return mean posteriors of a model that is sure of each class by so much."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((classes, classes)) + sharp * np.eye(classes)
    return torch.from_numpy(logits).softmax(dim=1).float()


def batch(seed, posteriors, labels=LABELS):
    """Return label counts and the signal that they leave, a little off."""
    rng = np.random.default_rng(seed)
    counts = np.bincount(rng.integers(len(posteriors), size=labels), minlength=len(posteriors))
    rows = posteriors.double().numpy() - np.eye(len(posteriors))
    noise = 1e-4 * rng.standard_normal(len(posteriors))
    return counts, counts / labels @ rows + noise - noise.mean()


@pytest.mark.parametrize("sharp", [0.0, 4.0, 9.0])
def test_shares_are_those_of_the_inverse(sharp):
    for seed in range(5):
        posteriors = table(seed, sharp)
        counts, signal = batch(seed, posteriors)
        direct = Confusions.of(posteriors.double().numpy() - np.eye(CLASSES))
        many = ManyConfusions.of(posteriors.clone())
        plain, solved = many.plain_shares(signal)
        assert solved
        np.testing.assert_allclose(LABELS * plain, LABELS * direct.plain_shares(signal), atol=0.01)
        shares, reached = many.shares(signal, LABELS)
        assert reached
        np.testing.assert_allclose(LABELS * shares, LABELS * direct.shares(signal), atol=0.02)
        assert sharp == 9.0 or (np.rint(LABELS * shares) == counts).all()


def test_classes_join_a_mixture_until_none_is_missing(monkeypatch):
    monkeypatch.setattr(many_confusions, "_JOIN", 3)
    posteriors = table(1, 2.0)
    _, signal = batch(1, posteriors)
    direct = Confusions.of(posteriors.double().numpy() - np.eye(CLASSES))
    found, reached = ManyConfusions.of(posteriors.clone()).shares(signal, LABELS)
    assert reached
    np.testing.assert_allclose(LABELS * found, LABELS * direct.shares(signal), atol=0.02)
    monkeypatch.setattr(many_confusions, "_MOST", 4)
    found, reached = ManyConfusions.of(posteriors.clone()).shares(signal, LABELS)
    assert not reached
    expected = np.maximum(direct.plain_shares(signal), 0)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4)


def test_a_model_that_is_sure_of_all_leaves_no_signal_and_even_shares():
    many = ManyConfusions.of(torch.eye(CLASSES))
    shares, solved = many.plain_shares(np.zeros(CLASSES))
    assert solved
    np.testing.assert_allclose(shares, 1 / CLASSES)
    assert np.isfinite(many.shares(np.zeros(CLASSES), LABELS)[0]).all()


@pytest.mark.parametrize("by_inputs", [False, True])
def test_mean_posteriors_are_those_taken_class_by_class(by_inputs):
    generator = torch.Generator().manual_seed(0)
    inputs, logits = (torch.rand(40, k, generator=generator) for k in (5, 6))
    labels = torch.randint(5, (40,), generator=generator)
    weights = inputs.sum(dim=1).double().numpy() if by_inputs else np.ones(40)
    passes = [HeadPass(inputs[p], logits[p], logits[p]) for p in (slice(9), slice(9, 40))]
    found = mean_posteriors(iter(passes), labels, 6, lambda part: weights[_place(part, inputs)])
    posteriors = logits.softmax(dim=1).double().numpy()
    expected = twins.class_means(posteriors, labels.numpy(), weights, 6)
    for label, mean in expected.items():
        np.testing.assert_allclose(found[label], mean, rtol=1e-5)
    np.testing.assert_allclose(found[5], (posteriors * weights[:, None]).mean(axis=0), rtol=1e-5)


def _place(part, inputs):
    return slice(0, 9) if torch.equal(part.inputs[0], inputs[0]) else slice(9, 40)


@pytest.fixture(scope="module")
def case():
    """A model of some classes, own data, and the gradient of three batches."""
    generator = torch.Generator().manual_seed(3)
    model = torch.nn.Linear(16, CLASSES)
    with torch.no_grad():
        model.weight.copy_(0.3 * torch.randn(CLASSES, 16, generator=generator))
        model.bias.zero_()
    own = LabelledData(
        torch.randn(4 * CLASSES, 16, generator=generator).abs(),
        torch.arange(CLASSES - 1).repeat(5)[: 4 * CLASSES],
    )
    x = torch.randn(3, LABELS, 16, generator=generator).abs()
    y = torch.randint(CLASSES, (3, LABELS), generator=generator)
    errors = model(x).detach().softmax(dim=-1) - torch.nn.functional.one_hot(y, CLASSES)
    weight, bias = errors.mT @ x / LABELS, errors.mean(dim=1)
    return Knowledge(WhiteBox(model, ""), (16,), own), weight, bias


@pytest.mark.parametrize(("attack", "biased"), [(ILRG(), True), (RLU(), True), (RLU(), False)])
def test_answers_are_the_same_above_the_limit_of_the_inverse(monkeypatch, case, attack, biased):
    known, weight, bias = case
    seen = Observation.from_gradient(weight, bias if biased else None, num_samples=LABELS)
    below = attack.prepare(known, CLASSES, np.random.default_rng(0))(seen)
    monkeypatch.setattr(confusions, "DIRECT", CLASSES - 1)
    above = attack.prepare(known, CLASSES, np.random.default_rng(0))(seen)
    np.testing.assert_allclose(above.scores, below.scores, atol=0.05)
    assert (above.counts == below.counts).mean() > 0.98
    assert CUT_SHORT not in above.notes


def test_an_answer_that_was_not_reached_says_so(monkeypatch, case):
    known, weight, bias = case
    monkeypatch.setattr(confusions, "DIRECT", 2)
    monkeypatch.setattr(many_confusions, "_STEPS", 1)
    monkeypatch.setattr(many_confusions, "_MOST", 1)
    monkeypatch.setattr(many_confusions, "_RESTARTS", 1)
    seen = Observation.from_gradient(weight, bias, num_samples=LABELS)
    for attack in (ILRG(), RLU()):
        found = attack.prepare(known, CLASSES, np.random.default_rng(0))(seen)
        assert CUT_SHORT in found.notes
        assert (found.counts.sum(axis=1) == LABELS).all()
