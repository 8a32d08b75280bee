"""One update of another task than classes, attacked: one logit, and a map."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import labelleak
from labelleak.cli.app import app
from labelleak.core.knowledge import LabelledData
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput

RULES = ["zlg", "llbg", "rlu", "pplr", "gradient_regression", "client_simulation"]


def people(n, seed=0):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((n, 10)).astype(np.float32))
    return x, (x[:, 0] + x[:, 1] > 0.8).long()


def one_logit(seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1, bias=bias))


def train(model, x, y, steps=1, lr=0.1, loss=F.binary_cross_entropy_with_logits):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    client = copy.deepcopy(model)
    optimiser = torch.optim.SGD(client.parameters(), lr=lr)
    for rows in torch.arange(len(x)).chunk(steps):
        optimiser.zero_grad()
        loss(client(x[rows]).squeeze(1), y[rows].float()).backward()
        optimiser.step()
    return before, client.state_dict()


@pytest.mark.parametrize("steps", [1, 4])
def test_one_logit_gives_its_labels_away(steps):
    model, (x, y), own = one_logit(), people(32 * steps, 1), people(400, 2)
    before, after = train(model, x, y, steps)
    made = LocalTraining(lr=0.1, batch_size=32, local_steps=steps)
    report = labelleak.attack_update(
        before=before,
        after=after,
        made=made,
        task="binary",
        model=model,
        auxiliary=LabelledData(*own),
        truth={"labels": y.tolist()},
        attacks=RULES,
    )
    found = {result.attack: result.asr for result in report.results}
    assert set(found) == set(RULES)
    assert min(found[name] for name in ("rlu", "pplr", "gradient_regression")) >= 0.96
    assert report.num_classes == 2
    assert report.task == report.to_json()["task"] == "binary"


def test_one_output_is_asked_for_unless_its_labels_tell():
    before, after = train(one_logit(), *people(16))
    known = {"before": before, "after": after, "made": LocalTraining(lr=0.1, batch_size=16)}
    with pytest.raises(BadInput, match="say `task` binary"):
        labelleak.attack_update(**known)
    report = labelleak.attack_update(
        **known, truth={"labels": people(16)[1].tolist()}, attacks=["llbg"]
    )
    assert report.task == "binary"
    assert "taken to be binary" in report.notes[0]


def test_the_counts_on_the_client_are_exact():
    """With the batch's own posteriors ``positives = sum of posteriors - N g``: 1,000 batches."""
    from labelleak.attacks.losses import recover_binary

    rng = np.random.default_rng(0)
    for _ in range(1000):
        size, width = int(2 ** rng.uniform(0, 12)), 4
        h = torch.from_numpy(rng.standard_normal((size, width)))
        w = torch.from_numpy(rng.standard_normal(width) * rng.uniform(0, 3)).requires_grad_()
        b = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        y = torch.from_numpy((rng.random(size) < rng.random()).astype(float))
        z = h @ w + b
        slope = torch.autograd.grad(F.binary_cross_entropy_with_logits(z, y), b)[0]
        counts = recover_binary(float(slope), float(z.detach().sigmoid().mean()), size)
        assert np.array_equal(counts.round(6), [size - y.sum(), y.sum()])


def test_a_map_gives_its_pixels_away():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    images = torch.rand(40, 1, 6, 6)
    masks = (images[:, 0] ** 2 * 4).long().clamp(0, 3)
    masks[:, 0] = -100  # a border without labels
    F.cross_entropy(model(images[:4]), masks[:4]).backward()
    gradient = {name: p.grad for name, p in model.named_parameters()}
    truth = masks[:4][masks[:4] >= 0].tolist()
    report = labelleak.attack_update(
        gradient=gradient,
        made=LocalTraining(batch_size=len(truth)),
        model=model,
        auxiliary=LabelledData(images[4:], masks[4:]),
        truth={"labels": truth},
        attacks=["llbg", "rlu", "shadow_adaptive"],
    )
    assert report.task == "dense"
    assert report.head == "2"
    assert {r.attack: r.asr for r in report.results}["rlu"] >= 0.98
    alone = labelleak.attack_update(
        gradient=gradient, made=LocalTraining(batch_size=len(truth)), attacks=["llbg"]
    )
    assert alone.task == "dense"


def test_the_command_takes_a_task(tmp_path):
    (x, y), model = people(24), one_logit()
    F.binary_cross_entropy_with_logits(model(x).squeeze(1), y.float()).backward()
    path = tmp_path / "gradient.safetensors"
    save_file({name: p.grad for name, p in model.named_parameters()}, path)
    command = ["attack", "--gradient", str(path), "--batch-size", "24", "--attacks", "llbg"]
    told = json.loads(CliRunner().invoke(app, [*command, "--json", "--task", "binary"]).stdout)
    assert sum(told["results"][0]["counts"]) == 24
    refused = CliRunner().invoke(app, command)
    assert "say --task binary" in str(refused.exception)


def images_of(n, seed):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0.7).long() + (x[:, 0] > 0.9).long()


def segmenter(turned):
    torch.manual_seed(2)
    body = nn.Conv2d(1, 6, 3, stride=1 + turned, padding=1)
    head = nn.ConvTranspose2d(6, 3, 2, stride=2) if turned else nn.Conv2d(6, 3, 1)
    return nn.Sequential(body, nn.ReLU(), head)


def dice(outputs, masks):
    share, there = outputs.softmax(1), F.one_hot(masks, 3).movedim(-1, 1)
    both = (share * there).sum((0, 2, 3))
    return 1 - (2 * both / (share + there).sum((0, 2, 3))).mean()


def attack_maps(loss, size=256, granted=True, turned=False, **more):
    model, (x, y) = segmenter(turned), images_of(4, 1)
    names = dict(model.named_parameters())
    parts = torch.autograd.grad(loss(model(x), y), list(names.values()))
    known = {"model": model, "auxiliary": LabelledData(*images_of(40, 2))} if granted else {}
    return y, labelleak.attack_update(
        gradient=dict(zip(names, parts, strict=True)),
        made=LocalTraining(batch_size=size),
        attacks=["rlu", "zlg", "llbg", "llg"],
        **known,
        **more,
    )


def test_a_transposed_convolution_is_a_head():
    y, report = attack_maps(F.cross_entropy, turned=True)
    counts = torch.bincount(y.flatten(), minlength=3).tolist()
    assert (report.task, report.head) == ("dense", "2")
    assert np.abs(np.subtract(report.results[0].counts, counts)).sum() <= 4
    _, alone = attack_maps(F.cross_entropy, granted=False, turned=True)
    assert {one.attack: one.counts for one in alone.results}["llbg"] == report.results[2].counts


def test_other_losses_of_maps_are_seen_by_own_data():
    for loss in (dice, lambda z, y: F.cross_entropy(z, y, reduction="sum") / 4):
        _, report = attack_maps(loss)
        assert "unlikely_scale" in report.results[0].flags
    _, report = attack_maps(F.cross_entropy)
    assert any("1/4 of the counts on average" in note for note in report.notes)
    _, report = attack_maps(F.cross_entropy, size=4)
    assert any("`batch_size` counts positions" in note for note in report.notes)


def test_how_losses_of_labels_were_taken_to_add_up_is_said():
    x, y = people(16)
    model = nn.Linear(10, 3)
    targets = torch.stack((y, 1 - y, y), 1).float()
    for times, word in ((1.0, "labels' mean"), (60.0, "read as a sum")):
        loss = times * F.binary_cross_entropy_with_logits(model(x), targets)
        parts = torch.autograd.grad(loss, [model.weight, model.bias])
        rows = dict(zip(("weight", "bias"), parts, strict=True))
        report = labelleak.attack_update(
            gradient=rows, made=LocalTraining(batch_size=16), task="multilabel", attacks=["llbg"]
        )
        assert any(word in note for note in report.notes)


def test_a_captured_scale_of_maps_is_believed_more_than_own_images():
    """Pixels of a class look otherwise where images have more of it."""

    def images(count, share, seed):
        generator = torch.Generator().manual_seed(seed)
        cells = (torch.rand(count, 4, 4, generator=generator) < share).long()
        masks = cells.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return torch.randn(count, 1, 8, 8, generator=generator) * 0.5 + masks[:, None], masks

    own = labelleak.LabelledData(*images(100, 0.3, 1))
    for seed in range(3):
        inputs, masks = images(4, 0.7, 100 + seed)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
        with labelleak.capture(model) as update:
            F.binary_cross_entropy_with_logits(model(inputs)[:, 0], masks.float()).backward()
            torch.optim.SGD(model.parameters(), lr=0.05).step()
        report = labelleak.attack_update(
            update, model=model, auxiliary=own, truth=masks.flatten().tolist(), attacks=["zlg"]
        )
        assert report.results[0].asr > 0.9
        assert "unlikely_scale" not in report.doubts
        assert not report.disbelief
