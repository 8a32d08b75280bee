"""The head is found by name, by tracing or by class count, and what is no head is named."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from labelleak.core.head import AmbiguousHead, find_head, locate_head
from labelleak.core.reparametrised import fold
from labelleak.errors import BadInput

X = torch.rand(2, 4)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.spare = nn.Linear(4, 3)

    def forward(self, x):
        return self.used(x)


class Unrunnable(TwoHeads):
    def forward(self, x):
        if x.sum() > 10**9 or len(x) < 3:
            raise ValueError("at least three rows")
        return super().forward(x)


class Wrapped(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.head = nn.Linear(3, 3)
        self.last = last

    def forward(self, x):
        return self.last(self.head(self.body(x).relu()))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 4)
        self.out = nn.Linear(4, 3)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x), x


def frozen():
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "how", "found"),
    [
        (nn.Linear(4, 3), {"name": ""}, ""),
        (nn.Linear(4, 3), {"example": X}, ""),
        (TwoHeads(), {"example": X}, "used"),
        (TwoHeads(), {"name": "spare"}, "spare"),
        (TwoHeads(), {"num_classes": 3}, "used"),
        (Pair(), {"example": X}, "fc"),
        (Wrapped(nn.Identity()), {"example": X}, "head"),
        (Wrapped(nn.Softmax(dim=-1)), {"example": X}, "head"),
        (Wrapped(nn.LogSoftmax(dim=-1)), {"example": X, "num_classes": 3}, "head"),
        (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), {"num_classes": 3}, "1"),
        (nn.Sequential(nn.Linear(4, 8)), {}, "0"),
        (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), {"example": X}, "2"),
    ],
)
def test_the_head_is_found(model, how, found):
    assert find_head(model, **how) == found


@pytest.mark.parametrize(
    ("model", "how", "sentence"),
    [
        (nn.Sequential(nn.ReLU()), {"example": X}, "has no linear layer"),
        (nn.Linear(4, 3), {"name": "fc"}, "'fc' does not exist"),
        (Wrapped(nn.ReLU()), {"name": "last"}, "is no linear layer"),
        (Unrunnable(), {"num_classes": 3}, "several linear layers with 3 rows"),
        (Unrunnable(), {"num_classes": 7}, "no linear layer with 7 rows"),
        (TwoHeads(), {"num_classes": 7}, "has 3 rows, but there are 7 classes"),
        (TwoHeads(), {"name": "used", "num_classes": 7}, "has 3 rows, but there are 7 classes"),
        (nn.Linear(4, 1), {"num_classes": 2}, "say `task` binary"),
        (nn.Linear(4, 3), {"num_classes": 4}, "if the labels start at 1"),
        (Tied(), {"example": X}, "shares its weight"),
        (frozen(), {"example": X}, "is frozen"),
        (weight_norm(nn.Linear(4, 3)), {"name": ""}, "computes its weight"),
        (nn.Linear(4, 3), {"example": torch.rand(2, 9)}, "cannot take inputs"),
        (nn.Sequential(nn.Linear(4, 6), nn.GLU()), {"example": X}, "no linear layer gives"),
    ],
)
def test_what_cannot_be_the_head_is_said_clearly(model, how, sentence):
    with pytest.raises(BadInput, match=sentence):
        find_head(model, **how)


def test_looking_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model[1].eval()
    find_head(model, example=X)
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


class Answer:
    def __init__(self, logits, features):
        self.logits = logits
        self.features = features


class Returning(nn.Module):
    """A head defined before its body, and a second head; returns whatever it is told to."""

    def __init__(self, shape):
        super().__init__()
        self.top = nn.Linear(8, 3)
        self.other = nn.Linear(8, 5)
        self.body = nn.Linear(4, 8)
        self.shape = shape

    def forward(self, x):
        h = self.body(x).relu()
        return self.shape(self.top(h), self.other(h), h)


@pytest.mark.parametrize(
    "shape",
    [
        lambda a, b, h: {"logits": a, "features": h},
        lambda a, b, h: {"logits": a, "aux": b},
        lambda a, b, h: (a, h),
        lambda a, b, h: (h, a.log_softmax(1)),
        lambda a, b, h: Answer(a, h),
        lambda a, b, h: (a * 4.0).softmax(-1),
        lambda a, b, h: a.reshape(-1, 3, 1) / 7,
        lambda a, b, h: torch.nn.functional.pad(a, (0, 0)) + 0 * b.sum(),
    ],
)
def test_what_a_model_returns_is_traced_to_its_head(shape):
    found = locate_head(model=Returning(shape), example=X)
    assert (found.name, found.how) == ("top", "traced")
    assert locate_head(model=Returning(shape)).name == "top"  # an input is made up


def test_two_outputs_are_two_candidates():
    model = Returning(lambda a, b, h: (a, b))
    with pytest.raises(AmbiguousHead, match="several linear layers") as doubt:
        locate_head(model=model, example=X)
    assert set(doubt.value.candidates) == {"top", "other"}
    assert locate_head(model=model, example=X, num_classes=5).name == "other"
    assert copy.copy(doubt.value).candidates == doubt.value.candidates


def test_a_head_that_is_run_but_not_returned_is_a_rival():
    found = locate_head(model=Returning(lambda a, b, h: a), example=X)
    assert found.rivals == ("other",)
    assert "its output becomes the model's" in found.evidence[0]


def test_a_model_that_no_made_up_input_fits_is_traced_by_symbols():
    class Odd(Returning):
        def forward(self, x):
            return self.top(self.body(x["pixels"]).relu())

    assert locate_head(model=Odd(None)).name == "top"


def step(model, x, y, lr=0.1):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    nn.functional.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    return before, {name: t.clone() for name, t in model.state_dict().items()}


def batch(n=12, d=6, k=4):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, d, generator=generator), torch.arange(n) % k


def test_a_frozen_head_says_that_it_did_not_move():
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    model[2].requires_grad_(False)
    before, after = step(model, *batch())
    for name in (None, "2"):
        with pytest.raises(BadInput, match="'2' did not move"):
            locate_head(after, before=before, name=name)
    assert locate_head(after, before=after, name="2").evidence == ("no layer moved",)


def test_tied_layers_are_named():
    table = torch.rand(20, 8)
    before = {"emb.weight": table, "mix.weight": torch.rand(8, 8), "lm_head.weight": table}
    after = {name: t + 0.1 * torch.rand(t.shape) for name, t in before.items()}
    after["lm_head.weight"] = after["emb.weight"]
    with pytest.raises(BadInput, match="'lm_head' shares its weight with 'emb'"):
        locate_head(after, before=before)
    assert locate_head(after, before=before, name="lm_head").how == "named"


def test_buffers_and_masks_are_no_heads():
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4))
    model.register_buffer("mask", torch.full((4, 9), float("-inf")))
    before, after = step(model, *batch())
    assert locate_head(after, before=before).name == "3"
    arrays = [{n: t.numpy() for n, t in side.items()} for side in (before, after)]
    assert locate_head(arrays[1], before=arrays[0]).name == "3"


@pytest.mark.parametrize(
    ("norm", "form"),
    [(weight_norm, "new"), (torch.nn.utils.weight_norm, "old"), (None, "pruned")],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_are_put_together_exactly(norm, form):
    """One step on the parts gives the gradient of the whole, as autograd has it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    if norm is None:
        prune.l1_unstructured(model[2], "weight", 0.4)
    else:
        norm(model[2])
    with torch.no_grad():  # away from the start, where the length of v is g
        for name, parameter in model.named_parameters():
            if name.endswith(("original1", "weight_v")):
                parameter *= 3.0
    x, y = batch()
    h = model[1](model[0](x))
    weight = model[2].weight.detach().clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(h.detach() @ weight.T + model[2].bias, y)
    (true,) = torch.autograd.grad(loss, [weight])
    before, after = step(model, x, y)
    assert locate_head(after, before=before).name == "2"
    whole = fold(after, before)
    seen = (whole.before["2.weight"] - whole.tensors["2.weight"]) / 0.1
    kept = model[2].weight_mask if form == "pruned" else torch.ones_like(true)
    assert torch.allclose(seen, true * kept, atol=1e-5)
    assert torch.allclose(whole.before["2.weight"], weight.detach(), atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (weight_norm, "weight-normed"),
        (spectral_norm, "reparametrised"),
        (torch.nn.utils.spectral_norm, "reparametrised"),
    ],
)
def test_a_gradient_of_parts_is_refused_by_the_name_of_the_form(wrap, said):
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), wrap(nn.Linear(9, 4)))
    nn.functional.cross_entropy(model(batch()[0]), batch()[1]).backward()
    gradient = {n: p.grad for n, p in model.named_parameters()}
    for name in (None, "2"):
        with pytest.raises(BadInput, match=f"'2' is {said}"):
            locate_head(gradient, name=name)
    before, after = step(model, *batch())
    if wrap is not weight_norm:
        with pytest.raises(AmbiguousHead, match="'2' is spectrally normed"):
            locate_head(after, before=before)


def test_kernels_of_inputs_by_outputs_are_not_taken_for_weights():
    kernels = {"a.weight": torch.rand(6, 9), "a.bias": torch.rand(9)}
    kernels |= {"b.weight": torch.rand(9, 4), "b.bias": torch.rand(4)}
    with pytest.raises(AmbiguousHead, match="kernels of Keras or JAX"):
        locate_head(kernels)


def test_the_likeliest_comes_first():
    shapes = {"body": (9, 6), "b": (4, 9), "classifier": (4, 9), "zz": (3, 9)}
    tensors = {f"{name}.weight": torch.rand(shape) for name, shape in shapes.items()}
    with pytest.raises(AmbiguousHead, match="likeliest first") as doubt:
        locate_head(tensors)
    assert doubt.value.candidates[0] == "classifier"
    assert "body" not in doubt.value.candidates


def test_finding_is_linear_in_the_number_of_layers():
    """Calls are counted, not seconds: they are the same on every machine."""

    def calls(layers):
        tensors = {f"l{i}.weight": torch.full((4, 4), 1.0 + i) for i in range(layers)}
        tensors |= {f"l{i}.bias": torch.ones(4) for i in range(layers)}
        before = {name: 2 * t for name, t in tensors.items()}
        made = 0

        def count(frame, event, argument):
            nonlocal made
            made += event in ("call", "c_call")

        tensors_with_head = tensors | {"head.weight": torch.tensor([[1.0] * 4, [-1.0] * 4])}
        sys.setprofile(count)
        try:
            with pytest.raises(AmbiguousHead):
                locate_head(tensors, before=before)
            found = locate_head(tensors_with_head)
        finally:
            sys.setprofile(None)
        assert found.name == "head"
        return made

    few, many = calls(200), calls(800)
    assert few > 200
    assert many < 4.5 * few
