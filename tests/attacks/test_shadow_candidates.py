"""Where classes are many, shadows are made of candidates; the others are one class to them."""

import numpy as np
import pytest
import torch

from labelleak.attacks.shadow import attack as shadow
from labelleak.attacks.shadow import candidates
from labelleak.attacks.shadow.attack import Shadow
from labelleak.attacks.shadow.batches import Head
from labelleak.attacks.shadow.candidates import MergedHead
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable

CLASSES, WIDTH, LABELS = 40, 16, 4
QUICK = Shadow(batches=400, epochs=4)


def update(model, x, y):
    """Return the gradients of batches ``R x N``."""
    errors = model(x).detach().softmax(dim=-1) - torch.nn.functional.one_hot(y, CLASSES)
    return errors.mT @ x / y.shape[1], errors.mean(dim=1)


@pytest.fixture(scope="module")
def case():
    """Return a model whose classes lie around centres, own data but of one class, and batches."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.rand(CLASSES, WIDTH, generator=generator)
    model = torch.nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        model.weight.copy_(0.5 * (centres - centres.mean(dim=0)))
        model.bias.zero_()

    def near(labels):
        noise = 0.2 * torch.randn(*labels.shape, WIDTH, generator=generator)
        return (centres[labels] + noise).clamp(min=0)

    own = torch.arange(CLASSES - 1).repeat_interleave(3)
    labels = torch.randint(CLASSES - 1, (3, LABELS), generator=generator)
    known = Knowledge(WhiteBox(model, ""), (WIDTH,), LabelledData(near(own), own))
    return known, near(labels), labels


@pytest.fixture
def few(monkeypatch):
    """Look at no more than 12 classes, above 20."""
    monkeypatch.setattr(shadow, "DIRECT", 20)
    monkeypatch.setattr(candidates, "_FEWEST", 12)


def ready(known):
    return prepare(QUICK, known, CLASSES, np.random.default_rng(0))


def test_merged_classes_have_the_sum_of_their_probabilities(case):
    model, inputs = case[0].model, case[1].flatten(0, 1)
    among = np.array([7, 3, 30])
    whole = Head.of(model, torch.arange(CLASSES))
    merged = MergedHead(whole.weight, whole.bias, among).logits(inputs).softmax(dim=1)
    expected = whole.logits(inputs).softmax(dim=1)
    assert torch.allclose(merged[:, :3], expected[:, among], atol=1e-6)
    assert torch.allclose(merged.sum(dim=1), torch.ones(len(inputs)))


@pytest.mark.parametrize("biased", [True, False])
def test_labels_are_found_among_candidates(few, case, biased):
    known, x, y = case
    weight, bias = update(known.model.module, x, y)
    seen = Observation.from_gradient(weight, bias if biased else None, num_samples=LABELS)
    answer = ready(known)
    found = answer(seen)
    truth = np.stack([np.bincount(row, minlength=CLASSES) for row in y.numpy()])
    assert (found.counts.sum(axis=1) == LABELS).all()
    assert np.minimum(found.counts, truth).sum() >= 0.8 * truth.sum()
    assert ((found.scores > 0).sum(axis=1) == 12).all()
    assert ((found.expected_asr >= 0) & (found.expected_asr <= 1)).all()
    alone = answer(
        Observation.from_gradient(weight[1], bias[1] if biased else None, num_samples=LABELS)
    )
    np.testing.assert_array_equal(alone.counts, found.counts[1])


def test_what_classes_are_called_does_not_matter(few, case):
    known, x, y = case
    weight, bias = update(known.model.module, x, y)
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(5))
    names, model, own = torch.argsort(order), torch.nn.Linear(WIDTH, CLASSES), known.auxiliary
    with torch.no_grad():
        model.weight.copy_(known.model.module.weight[order])
        model.bias.copy_(known.model.module.bias[order])
    data = LabelledData(own.inputs, names[own.labels])
    renamed = Knowledge(WhiteBox(model, ""), (WIDTH,), data)
    seen = Observation.from_gradient(weight, bias, num_samples=LABELS)
    other = Observation.from_gradient(weight[:, order], bias[:, order], num_samples=LABELS)
    found, again = ready(known)(seen), ready(renamed)(other)
    np.testing.assert_array_equal(again.counts, found.counts[:, order])


def test_the_label_of_one_sample_is_proved(few, case, monkeypatch):
    known, x, y = case
    monkeypatch.delattr(
        "labelleak.attacks.shadow.posterior.CountPosterior.fit_all"
    )  # none is needed
    weight, bias = update(known.model.module, x[:, :1], y[:, :1])
    found = ready(known)(Observation.from_gradient(weight, bias, num_samples=1))
    assert (found.counts.argmax(axis=1) == y[:, 0].numpy()).all()
    assert (found.counts.sum(axis=1) == 1).all()
    assert (found.scores == found.counts).all()
    assert (found.expected_asr == 1).all()


def test_more_labels_than_candidates_are_refused_with_the_reason(few, case):
    known, x, y = case
    weight, bias = update(known.model.module, x, y)
    with pytest.raises(NotApplicable, match=r"look at 1,000 of them, too few for 501 labels"):
        ready(known)(Observation.from_gradient(weight, bias, num_samples=501))
