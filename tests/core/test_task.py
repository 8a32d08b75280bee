"""A task: how a head's rows stand to softmax problems, and how the task is told."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core.head import locate_head
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.limits import check_limits
from labelleak.core.local_steps import as_seen, as_update
from labelleak.core.observation import Observation
from labelleak.core.task import HeadForm, Task, check_rows, read_task, tell_task
from labelleak.core.white_box import WhiteBox, lift, patches, unlifted
from labelleak.errors import BadInput, NotApplicable
from labelleak.simulation.gradients import autograd_gradients

RNG = torch.Generator().manual_seed(0)
X, LABELS = torch.rand(12, 6, generator=RNG), torch.arange(12) % 2
IMAGES = torch.rand(5, 2, 6, 6, generator=RNG)
MAPS = torch.randint(3, (5, 6, 6), generator=RNG)


def one_logit(bias=True):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1, bias=bias))


def maps(kernel=1, classes=3):
    torch.manual_seed(2)
    body = nn.Conv2d(2, 4, 3, padding=1)
    return nn.Sequential(body, nn.ReLU(), nn.Conv2d(4, classes, kernel, padding=kernel // 2))


@pytest.mark.parametrize("bias", [True, False])
def test_the_rows_of_one_logit_are_the_softmax_of_it_and_nought(bias):
    model = one_logit(bias)
    box = WhiteBox(lift(model, Task.binary), "2")
    seen = autograd_gradients(box, LabelledData(X, LABELS), np.arange(12)[None], full=True)
    loss = F.binary_cross_entropy_with_logits(model(X)[:, 0], LABELS.float())
    own = dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(loss, model.parameters()),
            strict=True,
        )
    )
    assert torch.allclose(seen.weight[0, 1:], own["2.weight"], atol=1e-7)
    assert torch.equal(seen.weight[0, 0], -seen.weight[0, 1])
    assert torch.allclose(seen.rest["0.weight"][0], own["0.weight"], atol=1e-7)
    assert seen.paired
    assert seen.num_samples == 12
    if bias:  # the counts are exact with the batch's own posteriors
        p = box.run(X).probabilities.double().mean(0).numpy()
        counts = 12 * (p - seen.bias_gradient[0])
        assert np.allclose(counts, [6, 6], atol=1e-5)


def test_the_rows_of_a_map_are_its_positions():
    for kernel in (1, 3):
        model = maps(kernel)
        box = WhiteBox(lift(model, Task.dense), "2")
        seen = autograd_gradients(box, LabelledData(IMAGES, MAPS), np.arange(5)[None])
        assert tuple(seen.weight.shape) == (1, 3, 4 * kernel**2)
        assert seen.num_samples == 5 * 36
        rows = box.run(IMAGES)
        errors = rows.probabilities - F.one_hot(MAPS.flatten(), 3)
        assert torch.allclose(seen.weight[0], errors.T @ rows.inputs / 180, atol=1e-6)
        logits = F.linear(rows.inputs, box.head_module.weight, box.head_module.bias)
        assert torch.allclose(rows.logits, logits, atol=1e-5)


def test_a_line_and_a_grid_of_voxels_are_maps_too():
    line = nn.Conv1d(3, 2, 3, stride=2, padding=1)
    found = patches(line, torch.rand(4, 3, 9))
    assert tuple(found.shape) == (4, 5, 9)
    values = torch.rand(4, 3, 9)
    same = patches(line, values) @ line.weight.flatten(1).T + line.bias
    assert torch.allclose(same.transpose(1, 2), line(values), atol=1e-6)
    voxels = nn.Conv3d(3, 2, 1)
    assert tuple(patches(voxels, torch.rand(2, 3, 2, 2, 2)).shape) == (2, 8, 3)
    with pytest.raises(BadInput, match="groups"):
        patches(nn.Conv2d(4, 2, 1, groups=2), torch.rand(1, 4, 2, 2))


@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize(
    "how",
    [
        {"kernel_size": 3, "padding": "same", "dilation": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
        {"kernel_size": 2, "stride": 2},
    ],
)
def test_a_convolution_is_a_linear_layer_on_its_patches(layer, how):
    head, sides = layer(3, 4, **how), (6, 5, 4)[: layer(1, 1, 1).weight.dim() - 2]
    inputs = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0))
    rows = patches(head, inputs) @ head.weight.flatten(1).T + head.bias
    assert torch.allclose(rows.mT, head(inputs).flatten(2), atol=1e-5)


@pytest.mark.parametrize("how", [{"stride": 2}, {"stride": 1, "padding": 1, "dilation": 2}])
def test_a_transposed_head_is_read_by_the_sum_of_its_kernel(how):
    """Of each class the kernel's gradient sums to that of a row on the inputs at each position."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 3, 2, **how))
    images = torch.rand(4, 1, 6, 6)
    with torch.no_grad():
        masks = model(images).argmax(1)
    box = WhiteBox(lift(model, Task.dense), "2")
    rows = box.run(images)
    errors = rows.probabilities - F.one_hot(masks.flatten(), 3)
    seen = autograd_gradients(box, LabelledData(images, masks), np.arange(4)[None])
    assert torch.allclose(seen.weight[0], errors.T @ rows.inputs / masks.numel(), atol=1e-6)
    with pytest.raises(NotApplicable, match="transposed"):
        _ = box.head_module
    with pytest.raises(NotApplicable, match="transposed"):
        box.form.raw(seen.weight, seen.bias)


def test_lifting_changes_nothing_of_the_model_itself():
    model = one_logit()
    lifted = lift(model, Task.binary)
    assert lifted(X).shape == (12, 2)
    assert model(X).shape == (12, 1)
    assert lift(lifted, Task.binary) is lifted
    assert lifted[2].weight is model[2].weight
    assert lift(model, Task.classes) is model
    assert unlifted(lifted)(X).shape == (12, 1)
    assert locate_head(model=lifted, example=X).name == "2"
    box = WhiteBox(lifted, "2")
    assert box.head_module.weight[0].count_nonzero() == 0
    assert torch.equal(box.head_module.weight[1:], model[2].weight)
    assert box.moving.tolist() == [0, 1]


def test_what_was_lifted_comes_back_in_the_heads_own_form():
    for task, model, shape in (
        (Task.binary, one_logit(), (1, 5)),
        (Task.dense, maps(3), (3, 4, 3, 3)),
    ):
        box = WhiteBox(lift(model, task), "2")
        own = {"2.weight": torch.rand(4, *shape), "2.bias": torch.rand(4, shape[0])}
        seen = Observation.from_gradient(*own.values(), num_samples=8, form=box.form)
        back = as_update(seen, box)
        assert all(torch.equal(back.tensors[name], own[name]) for name in own)
        again = as_seen(back, box, 8)
        assert torch.equal(again.weight, seen.weight)


def test_positions_without_a_label_are_left_out():
    labels = MAPS.clone()
    labels[:, :2] = -100
    box = WhiteBox(lift(maps(), Task.dense), "2")
    seen, own = Knowledge(box, auxiliary=LabelledData(IMAGES, labels)).pass_own()
    assert len(seen.inputs) == len(own) == 5 * 24
    assert own.min() >= 0


def test_a_map_that_is_moved_after_the_head_has_no_label_a_position():
    model = nn.Sequential(*maps(), nn.ReflectionPad2d(1))
    box = WhiteBox(lift(model, Task.dense), "2")
    big = torch.nn.functional.pad(MAPS, (1, 1, 1, 1))
    with pytest.raises(NotApplicable, match="resized"):
        Knowledge(box, auxiliary=LabelledData(IMAGES, big)).pass_own()


def test_the_task_is_told_by_loss_shape_and_labels_and_asked_for_otherwise():
    assert tell_task(None, (5, 8)) is Task.classes
    assert tell_task(None, (5, 8, 1, 1)) is Task.dense
    assert tell_task(None, (1, 8, 1, 1)) is Task.dense
    assert tell_task(None, (1, 8), "bce") is Task.binary
    assert tell_task(None, (1, 8), labels=(0, 1, 1)) is Task.binary
    assert tell_task(Task.binary, (1, 8)) is Task.binary
    for told, shape, loss, labels, sentence in (
        (None, (1, 8), None, None, "say `task` binary"),
        (None, (1, 8), None, (0, 3), "say `task` binary"),
        (Task.binary, (3, 8), None, None, "one output"),
        (Task.classes, (1, 8), None, None, "one output"),
        (Task.classes, (3, 8, 1, 1), None, None, "say `task` dense"),
    ):
        with pytest.raises(BadInput, match=sentence):
            tell_task(told, shape, loss, labels)
    for text, sentence in (("regression", "no labels to count"), ("segments", "unknown task")):
        with pytest.raises(BadInput, match=sentence):
            read_task(text)
    with pytest.raises(BadInput, match="two classes"):
        check_rows(Task.binary, 3)


def test_a_convolution_is_found_where_it_is_the_head():
    state = {name: value.clone() for name, value in maps(3).state_dict().items()}
    assert locate_head(state).name == "2"
    assert locate_head(model=maps(), example=IMAGES).how == "traced"
    # Beside a linear layer it must be told, or traced.
    state |= {"squeeze.weight": torch.rand(2, 4), "excite.weight": torch.rand(4, 2)}
    assert locate_head(state, name="2").name == "2"
    assert locate_head(state, task=Task.dense).name == "2"
    pooled = nn.Sequential(maps(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(BadInput, match="comes from convolution"):
        locate_head(model=pooled, example=IMAGES)


def test_several_updates_are_no_convolution():
    with pytest.raises(BadInput, match="2 dimension"):
        locate_head({"fc.weight": torch.rand(6, 5, 12)}, name="fc")


def test_no_right_gradient_of_one_logit_is_above_one():
    form = HeadForm(Task.binary, (1, 4))
    still = torch.tensor([[0.5, 0.0, 1.0, 0.25]])

    def times(bias, weight):
        seen = Observation.from_gradient(weight, torch.tensor([bias]), num_samples=8, form=form)
        found = check_limits(seen)
        return float(found.times), bool(found.scale)

    assert times(0.9, still) == (pytest.approx(0.9), False)
    assert times(8.0, 8 * still) == (8.0, True)
    # Noise reaches every entry, with signs of either kind.
    noise = torch.tensor([[3.0, -2.0, 1.0, -4.0]])
    assert times(8.0, noise) == (8.0, False)


def test_a_loss_that_is_no_softmax_cannot_be_seen_of_one_logit():
    from labelleak.core.assumptions import check_update

    form = HeadForm(Task.binary, (1, 4))
    seen = Observation.from_gradient(torch.rand(1, 4), torch.rand(1), num_samples=8, form=form)
    states = {flag.name: str(flag.state) for flag in check_update(seen, Knowledge())}
    assert states["not_cross_entropy"] == states["noise_dominates"] == "not_known"
