"""Audits of other tasks than classes: one logit on tables, and maps of classes."""

import json

import numpy as np
import pytest
from torch import nn

from labelleak import audit
from labelleak.audits.options import AuditOptions
from labelleak.audits.plan import plan_audit
from labelleak.core.priors import free_guess
from labelleak.core.task_priors import MapPrior
from labelleak.errors import BadInput
from labelleak.simulation.data.datasets import load_dataset

SMALL = {"trials": 6, "initialisations": 1, "training_steps": 0, "seed": 3}


def records(folder, **options):
    audit(out=folder, **{**SMALL, **options})
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def success(rows, **wanted):
    """Return the mean ASR by attack over the records of a condition."""
    kept = [r for r in rows if all(r[name] == value for name, value in wanted.items())]
    names = sorted({r["attack"] for r in kept})
    return {n: float(np.mean([r["asr"] for r in kept if r["attack"] == n])) for n in names}


def test_one_logit_is_audited_with_local_steps_and_defenses(tmp_path):
    rows = records(
        tmp_path,
        data="breast_cancer",
        model="mlp",
        task="binary",
        batch_sizes=32,
        schemes="unbalanced",
        local_steps=(1, 3),
        defenses=("none", "gaussian:0.01", "clip:1", "prune:0.5"),
        attacks=("rlu", "llbg", "client_simulation", "free"),
    )
    plain = success(rows, local_steps=1, defense="none")
    assert min(plain["rlu"], plain["llbg"]) >= 0.99
    assert success(rows, local_steps=3, defense="none")["rlu"] >= 0.97
    assert {row["task"] for row in rows} == {"binary"}
    assert {row["num_classes"] for row in rows} == {2}
    assert not any("impossible" in flag for row in rows for flag in row["flags"])


def test_maps_are_audited_pixel_by_pixel(tmp_path):
    rows = records(
        tmp_path,
        data="digit_maps",
        model="fcn",
        batch_sizes=4,
        local_steps=(1, 2),
        defenses=("none", "gaussian:0.001"),
        attacks=("rlu", "llbg", "gradient_regression", "free"),
    )
    plain = success(rows, local_steps=1, defense="none")
    assert plain["rlu"] >= 0.99
    free = [row["asr_free"] for row in rows if row["attack"] == "free" and row["local_steps"] == 1]
    assert abs(np.mean(free) - plain["free"]) < 0.05
    assert {(row["task"], row["scheme"]) for row in rows} == {("dense", "natural")}
    assert {row["num_samples"] for row in rows if row["local_steps"] == 2} == {4 * 256 * 2}


def test_pixels_without_a_label_count_for_nothing(tmp_path):
    """Each batch has an N of its own, told like all of the training; its trials are one cell."""
    rng = np.random.default_rng(0)
    x = rng.random((120, 8, 8)).astype(np.float32)
    y = (x > 0.6).astype(np.int64) + (x > 0.85)
    y[rng.random(y.shape) < rng.uniform(0, 0.7, size=(120, 1, 1))] = -100
    np.savez(tmp_path / "maps.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    options = {"data": str(tmp_path / "maps.npz"), "model": "fcn", "batch_sizes": 4}
    rows = records(
        tmp_path / "out",
        local_steps=(1, 2),
        defenses=("none", "clip:1"),
        attacks=("rlu", "free"),
        keep_counts=True,
        **options,
    )
    assert success(rows, local_steps=1, defense="none")["rlu"] >= 0.99
    assert success(rows, local_steps=2, defense="none")["rlu"] >= 0.97
    one = [row for row in rows if row["attack"] == "free" and row["local_steps"] == 1]
    assert {row["num_samples"] for row in one} == {4 * 64}
    assert len({row["labelled"] for row in one}) > 1
    assert all(sum(row["true_counts"]) == row["labelled"] for row in rows)
    for more, sentence in (
        ({"clients": 2}, "tells no N"),
        ({"defenses": "dpsgd:1:1"}, "no pixels"),
    ):
        with pytest.raises(BadInput, match=sentence):
            plan_audit(AuditOptions(**{**SMALL, **options, **more}))


def test_the_guess_for_maps_with_holes_is_right_as_often_as_it_says():
    rng = np.random.default_rng(1)
    pool = rng.multinomial(9, [0.6, 0.25, 0.15], size=30)
    pool -= rng.integers(0, 3, size=pool.shape)
    pool = np.maximum(pool, 0)
    drawn = pool[rng.integers(30, size=(20000, 3))].sum(axis=1)
    held = drawn[drawn.sum(axis=1) == 19]
    counts, told = free_guess(MapPrior(tuple(map(tuple, pool.tolist())), maps=3), 19, 3)
    assert counts.sum() == 19
    assert told == pytest.approx(np.minimum(held, counts).sum(axis=1).mean() / 19, abs=0.02)


def test_the_guess_without_a_map_is_right_as_often_as_it_says():
    rng = np.random.default_rng(0)
    pool = rng.multinomial(9, [0.7, 0.2, 0.1], size=20)
    counts, told = free_guess(MapPrior(tuple(map(tuple, pool.tolist()))), 27, 3)
    drawn = pool[rng.integers(20, size=(4000, 3))].sum(axis=1)
    assert told == pytest.approx(np.minimum(drawn, counts).sum(axis=1).mean() / 27, abs=0.005)
    with pytest.raises(BadInput, match="no number of maps"):
        free_guess(MapPrior(((2, 0), (1, 1))), 3, 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": "binary"}, "two classes"),
        ({"task": "dense"}, "one label"),
        ({"task": "ranking"}, "unknown task"),
        ({"task": "multilabel"}, "has one label, so its task is not multilabel"),
        ({"data": "digit_maps", "model": "fcn", "task": "classes"}, "a map of labels"),
        ({"data": "digit_maps", "model": "fcn", "schemes": "iid"}, "use `schemes` natural"),
        ({"data": "digit_maps", "model": "lenet"}, "models such as fcn"),
    ],
)
def test_a_task_that_the_data_do_not_have_is_refused(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        plan_audit(AuditOptions(**{**SMALL, **options}))


def test_a_model_of_ones_own_stays_as_it_is():
    module = nn.Sequential(nn.Linear(30, 4), nn.ReLU(), nn.Linear(4, 1))
    options = AuditOptions(data="breast_cancer", task="binary", **SMALL)
    plan = plan_audit(options, module=module)
    assert not module._forward_hooks
    assert plan.module is not module


def test_the_bundled_sets_are_what_they_say():
    tumours, maps = load_dataset("breast_cancer"), load_dataset("digit_maps")
    assert (tumours.num_classes, tumours.input_shape) == (2, (30,))
    assert len(tumours.y_train) + len(tumours.y_test) == 569
    assert int(tumours.y_train.sum() + tumours.y_test.sum()) == 212
    assert tuple(maps.y_train.shape[1:]) == maps.input_shape[1:] == (16, 16)
    assert maps.num_classes == 11
    assert 0.8 < float((maps.y_train == 0).float().mean()) < 0.95


class Both(nn.Module):
    """A model that returns a mapping, its head transposed and without a bias."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.aux = nn.Conv2d(8, 3, 1)
        self.out = nn.ConvTranspose2d(8, 11, 2, stride=2, bias=False)

    def forward(self, images):
        seen = self.body(images).relu()
        return {"logits": self.out(seen), "aux": self.aux(seen)}


def test_a_model_that_returns_a_mapping_is_audited(tmp_path):
    rows = records(
        tmp_path,
        data="digit_maps",
        model=Both,
        head="out",
        batch_sizes=4,
        training_steps=(0, 2),
        defenses=("none", "gaussian:0.001"),
        attacks=("rlu", "llbg", "client_simulation", "free"),
    )
    assert {row["head"] for row in rows} == {"out"}
    plain = success(rows, defense="none", training_steps=0)
    assert plain["rlu"] > plain["free"] + 0.02
    assert "llbg" in rows[0]["not_applicable"]


def test_maps_of_one_channel_are_audited_as_two_classes():
    rng = np.random.default_rng(1)
    masks = (rng.random((120, 4, 4)) < 0.3).astype(np.int64)
    images = (rng.normal(0, 0.5, (120, 1, 4, 4)) + masks[:, None]).astype(np.float32)

    def run(channels):
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, channels, 1))
        found = audit(
            data=(images, masks), model=model, task="dense", batch_sizes=[4], schemes=["natural"],
            attacks=["rlu"], local_steps=[1, 2], **SMALL,
        )  # fmt: skip
        return float(np.mean([r.asr - r.asr_free for r in found.records]))

    assert min(run(1), run(2)) > 0
    with pytest.raises(BadInput, match="has 3 rows, but there are 2 classes"):
        run(3)
