"""Models that return mappings, tuples and objects: attacked by what their head gives."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.outputs import as_tensor_model
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox, lift
from labelleak.errors import BadInput, NotApplicable

FORMS = {
    "tensor": lambda main, beside: main,
    "mapping": lambda main, beside: {"features": beside, "out": main},
    "tuple": lambda main, beside: (beside, main),
    "object": lambda main, beside: SimpleNamespace(hidden=beside, logits=main),
}
# What only train mode returns, as models with auxiliary heads do.
TRAINED = {"in train mode": "tuple", "otherwise in train mode": "object"}
PLAIN = {"in train mode": "tensor", "otherwise in train mode": "tuple"}


class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.form, self.body = form, nn.Conv2d(1, 3, 3, padding=1)
        self.head, self.aux = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        hidden = torch.relu(self.body(images))
        form = (TRAINED if self.training else PLAIN).get(self.form, self.form)
        return FORMS[form](self.head(hidden), self.aux(hidden))


@pytest.mark.parametrize("form", [*FORMS, *TRAINED])
def test_every_form_is_attacked_alike(form):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(60, 1, 5, 5, generator=generator)
    masks = (images[:, 0] * 3).long()
    masks[:, 0, :2] = -100
    model = Net(form)
    plain = Net("tensor")
    F.cross_entropy(plain(images[:8]), masks[:8]).backward()
    truth = masks[:8][masks[:8] >= 0].tolist()
    report = labelleak.attack_update(
        gradient={n: p.grad for n, p in plain.named_parameters() if p.grad is not None},
        made=LocalTraining(batch_size=len(truth)),
        model=model,
        head="head",
        auxiliary=LabelledData(images[8:], masks[8:]),
        truth={"labels": truth},
        attacks=["rlu", "zlg"],
    )
    assert report.task == "dense"
    assert min(result.asr for result in report.results) >= 0.95
    assert not model._forward_hooks


def test_a_model_that_hides_what_its_head_gives_is_refused():
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, inputs):
            return {"scores": 2 * self.fc(inputs)}

    with pytest.raises(BadInput, match="nothing in it is what its head 'fc' gives"):
        as_tensor_model(Hides(), "fc", torch.ones(1, 3))
    assert as_tensor_model(Hides(), "fc", None)(torch.ones(1, 3)).keys() == {"scores"}


@pytest.mark.parametrize(
    ("last", "named"),
    [
        (nn.Softmax(1), "softmax"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.LogSoftmax(1), ""),
        (nn.Identity(), ""),
        (nn.Hardtanh(0, 1), ""),
    ],
)
def test_probabilities_are_refused_and_their_logarithms_are_not(last, named):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 4), last)
    inputs, labels = torch.rand(12, 6), torch.arange(12) % 4
    choices = {"batch_sizes": [2], "trials": 1, "attacks": ["llg"], "initialisations": 1}
    if not named:
        assert as_tensor_model(model, "0", inputs) is model
        return
    with pytest.raises(BadInput, match=f"{named} of what its head '0' gives"):
        labelleak.audit(data=(inputs, labels), model=model, **choices)
    gradient = {"0.weight": torch.randn(4, 6), "0.bias": torch.randn(4)}
    given = {"auxiliary": LabelledData(inputs, labels), "num_samples": 2, "attacks": ["llg"]}
    found = labelleak.attack_update(gradient=gradient, model=model, **given)
    assert any(f"without the {named}" in note for note in found.notes)


def test_a_model_of_logits_that_look_like_probabilities_is_not_refused():
    class Both(nn.Sequential):
        def forward(self, inputs):
            logits = self[0](inputs)
            return logits if self.training else logits.softmax(1)

    flat = nn.Linear(3, 2)
    with torch.no_grad():
        flat.weight.zero_()
        flat.bias.fill_(0.5)
    assert as_tensor_model(flat, "", torch.rand(2, 3)) is flat
    trained = Both(nn.Linear(3, 2))
    assert as_tensor_model(trained, "0", torch.rand(2, 3)) is trained
    with pytest.raises(BadInput, match="softmax"):
        as_tensor_model(trained.eval(), "0", torch.rand(2, 3))


def test_one_output_of_a_sigmoid_is_refused_in_its_own_shape():
    model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid(), nn.Flatten(0))
    with pytest.raises(BadInput, match="without the sigmoid"):
        as_tensor_model(model, "0", torch.rand(2, 3))


class Shuffles(nn.Module):
    """A head whose maps become others: sub-pixels, a stack, the end as the place of channels."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.last = nn.Conv2d(2, 8, 1), last

    def forward(self, images):
        return self.last(self.head(images))


def test_a_model_that_rearranges_its_head_is_refused_and_no_other():
    images = torch.rand(6, 2, 4, 4)
    shuffles = Shuffles(nn.PixelShuffle(2))
    gradient = {"head.weight": torch.randn(8, 2, 1, 1), "head.bias": torch.randn(8)}
    own = LabelledData(images, torch.zeros(6, 8, 8, dtype=torch.long))
    with pytest.raises(BadInput, match="2 channels of the 8 that its head 'head' gives"):
        labelleak.attack_update(
            gradient=gradient, model=shuffles, auxiliary=own, head="head", num_samples=128
        )
    for last in (
        nn.Identity(),
        nn.Upsample(scale_factor=2),
        nn.Flatten(2),
        lambda maps: torch.stack([maps, maps]),
        lambda maps: maps.permute(0, 2, 3, 1),
    ):
        model = Shuffles(last)
        assert as_tensor_model(model, "head", images) is model


class Pooled(nn.Module):
    """A 1x1 convolution whose maps are averaged, so that an image has one label."""

    def __init__(self, size=4):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Conv2d(2, 5, size, stride=size // 2), nn.Conv2d(5, 3, 1)

    def forward(self, images):
        return self.head(self.first(images).relu()).mean((2, 3))


def pooled_case(size):
    """Return a model, its gradient of eight images, and own data of one label an image."""
    images, labels = torch.rand(40, 2, 8, 8), torch.arange(40) % 3
    model = Pooled(size)
    F.cross_entropy(model(images[:8]), labels[:8]).backward()
    gradient = {name: p.grad for name, p in model.named_parameters()}
    return model, gradient, LabelledData(images[8:], labels[8:])


@pytest.mark.parametrize("told", [{"num_samples": 8}, {}])
def test_labels_of_pooled_maps_are_refused_with_what_to_do(told):
    model, gradient, own = pooled_case(4)
    with pytest.raises(BadInput, match="average before the head and make it a linear layer"):
        labelleak.attack_update(gradient=gradient, model=model, auxiliary=own, head="head", **told)
    held = Knowledge(WhiteBox(lift(model, Task.dense), "head"), (2, 8, 8), own)
    with pytest.raises(NotApplicable, match="several positions of an input"):
        held.pass_own()


def test_a_convolution_of_one_position_has_one_label_an_input():
    model, gradient, own = pooled_case(8)
    found = labelleak.attack_update(
        gradient=gradient, model=model, auxiliary=own, head="head", num_samples=8,
        truth=[n % 3 for n in range(8)], attacks=["rlu"],
    )  # fmt: skip
    assert found.results[0].asr >= 0.75
