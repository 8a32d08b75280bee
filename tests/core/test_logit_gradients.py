"""Loss, labels and scale are read off the gradient at the logits, or said to be hidden."""

import pytest
import torch
from torch.nn import functional as F

from labelleak.core.logit_gradients import read_logit_rows


def read(loss, classes=6, rows=9, kind=torch.float32, size=1.0):
    generator = torch.Generator().manual_seed(3)
    z = (size * torch.randn(rows, classes, generator=generator)).to(kind).requires_grad_()
    y = torch.randint(classes, (rows,), generator=generator)
    return read_logit_rows(z.detach(), torch.autograd.grad(loss(z, y), z)[0]), y


@pytest.mark.parametrize("classes", [2, 3, 6, 40])
@pytest.mark.parametrize("size", [1.0, 20.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("times", [1.0, 9.0, 65536.0, 1 / 3])
def test_softmax_cross_entropy_is_read_exactly(classes, size, kind, smoothing, times):
    found, y = read(
        lambda z, y: times * F.cross_entropy(z, y, label_smoothing=smoothing),
        classes,
        kind=kind,
        size=size,
    )
    assert (found.loss, found.rows, found.certain) == ("cross_entropy", 9, True)
    assert torch.equal(found.labels, y)
    assert float(found.scales.sum()) == pytest.approx(times, rel=1e-4)
    assert found.smoothing == pytest.approx(smoothing, abs=1e-3)


def test_class_weights_are_the_rows_own_scales():
    weights = torch.linspace(0.5, 3, 6)
    found, y = read(lambda z, y: F.cross_entropy(z, y, weight=weights))
    assert torch.allclose(found.scales, (weights[y] / weights[y].sum()).double(), rtol=1e-4)


def test_class_weights_with_smoothing_are_told_apart_where_rows_suffice():
    weights = torch.linspace(0.5, 3, 4)

    def loss(z, y):
        return F.cross_entropy(z, y, weight=weights, label_smoothing=0.1)

    found, y = read(loss, 4, rows=40)
    assert torch.equal(found.labels, y)
    assert found.smoothing == pytest.approx(0.1, abs=1e-3)
    assert float(found.scales.sum()) == pytest.approx(1, rel=1e-4)
    few, _ = read(loss, 4, rows=3)
    assert few.scales is None
    assert not few.certain


def test_ignored_rows_do_not_count():
    def loss(z, y):
        return F.cross_entropy(z, y.where(torch.arange(9) % 3 > 0, -100))

    found, y = read(loss)
    assert found.rows == 6
    assert torch.equal(found.labels, y[torch.arange(9) % 3 > 0])


def test_rows_of_which_the_model_is_certain_count_where_the_mean_tells_them():
    z = torch.tensor([[200.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.3, 0.2, 0.1]], requires_grad=True)
    y = torch.tensor([0, 2, 1])
    mean = torch.autograd.grad(F.cross_entropy(z, y), z)[0]
    assert not mean[0].any()
    assert read_logit_rows(z.detach(), mean).rows == 3
    weighted = mean * torch.tensor([[1.0], [2.0], [1.3]])
    assert read_logit_rows(z.detach(), weighted).rows is None


def test_mixed_labels_have_a_scale_and_no_labels():
    found, _ = read(lambda z, y: 0.7 * F.cross_entropy(z, y) + 0.3 * F.cross_entropy(z, y.flip(0)))
    assert (found.loss, found.labels) == ("cross_entropy", None)
    assert float(found.scales.sum()) == pytest.approx(1, rel=1e-3)


def test_several_sigmoids_are_read_entry_by_entry():
    found, y = read(lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, 6).float()))
    assert (found.loss, found.rows) == ("bce", 9)
    assert found.labels.tolist() == F.one_hot(y, 6).tolist()
    assert float(found.scales.sum()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        (lambda z, y: F.mse_loss(z, F.one_hot(y, 6).float()), "mse"),
        (lambda z, y: ((1 - (p := z.softmax(1)[range(9), y])) * -p.log()).mean(), "row_weighted"),
        (lambda z, y: F.cross_entropy(z / 2, y), "softmax"),
        (lambda z, y: F.cross_entropy(z, z.detach().flip(1).softmax(1)), "softmax"),
        (lambda z, y: z.tanh().sum(), "unknown"),
    ],
)
def test_other_losses_are_named_and_have_no_scale(loss, named):
    found, _ = read(loss)
    assert (found.loss, found.scales) == (named, None)


def test_a_loss_that_is_maximised_has_a_negative_scale():
    found, y = read(lambda z, y: -F.cross_entropy(z, y))
    assert torch.equal(found.labels, y)
    assert float(found.scales.sum()) == pytest.approx(-1, rel=1e-4)


def test_one_row_of_two_classes_fits_any_scale_but_one_that_is_expected():
    z = torch.tensor([[0.3, -0.4]], requires_grad=True)
    mean = torch.autograd.grad(F.cross_entropy(z, torch.tensor([1])), z)[0]
    assert read_logit_rows(z.detach(), mean).certain
    assert not read_logit_rows(z.detach(), 0.83 * mean).certain


def test_a_hidden_layer_is_no_softmax():
    torch.manual_seed(0)
    x, head = torch.randn(9, 5), torch.randn(4, 5)
    z = x.clone().requires_grad_()
    F.cross_entropy(torch.relu(z) @ head.T, torch.arange(9) % 4).backward()
    assert read_logit_rows(x, z.grad).loss == "unknown"


def test_rows_of_classes_of_their_own_do_not_pass_for_class_weights():
    z = torch.tensor([[0.1, 0.9, 0.3], [0.7, 0.2, 0.4]], requires_grad=True)
    y = torch.tensor([0, 1])

    def scales(loss):
        return read_logit_rows(z.detach(), torch.autograd.grad(loss, z)[0]).scales

    assert (
        scales((torch.tensor([0.3, 0.9]) * F.cross_entropy(z, y, reduction="none")).sum()) is None
    )
    assert scales(F.cross_entropy(z, y, weight=torch.tensor([1.0, 3.0, 2.0]))) is not None


def test_infinite_gradients_tell_nothing():
    found, _ = read(lambda z, y: float("inf") * F.cross_entropy(z, y))
    assert (found.loss, found.rows) == ("unknown", None)


def halves(seed, classes, rows, **loss):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, classes, generator=generator).bfloat16().float().requires_grad_()
    y = torch.randint(0, classes, (rows,), generator=generator)
    dz = torch.autograd.grad(F.cross_entropy(z, y, **loss), z)[0]
    return read_logit_rows(z.detach().bfloat16(), dz.bfloat16()), y


def test_few_weighted_rows_in_half_precision_are_not_taken_for_smoothed_ones():
    """Both explain two rows of three classes, so the scale stays open."""
    found, y = halves(2, 3, 2, weight=torch.linspace(0.5, 2, 3))
    assert (found.loss, found.smoothing, found.scales) == ("row_weighted", None, None)
    assert torch.equal(found.labels, y)


def test_many_smoothed_rows_in_half_precision_are_read_as_such():
    for seed in range(8):
        found, y = halves(seed, 6, 16, label_smoothing=0.2)
        assert found.loss == "cross_entropy"
        assert found.smoothing == pytest.approx(0.2, abs=0.02)
        assert torch.equal(found.labels, y)
