"""What pooled counts of maps say of single images, wherever the truth is held."""

import html
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import labelleak
from labelleak.audits.audit import audit
from labelleak.audits.update_notes import few_pixels
from labelleak.core.frequencies import FrequencyPrior
from labelleak.core.images import count_images, count_split, image_free, score_images
from labelleak.core.knowledge import LabelledData
from labelleak.core.observation import Observation
from labelleak.core.priors import RepeatedPrior, SummedPrior, UniformPrior, free_guess
from labelleak.core.task import Task
from labelleak.core.task_priors import MapPrior
from labelleak.errors import BadInput
from labelleak.files.truth import read_maps
from labelleak.records.record import read_records
from labelleak.report.page import render

RNG = np.random.default_rng(0)
IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MASKS = (3 * IMAGES[:, 0] ** 3).long().clamp_max(2)
MASKS[:, 0, 0] = -100


def test_counts_of_images_add_up_and_are_those_of_a_loop():
    maps = RNG.integers(-1, 4, size=(3, 6, 20))
    found = count_images(maps, 4)
    for trial, image in np.ndindex(3, 6):
        held = maps[trial, image][maps[trial, image] >= 0]
        assert found[trial, image].tolist() == np.bincount(held, minlength=4).tolist()
    rows = [one[one >= 0] for one in maps[0]]
    again = count_split(np.concatenate(rows), [len(row) for row in rows], 4)
    assert again.tolist() == found[0].tolist()


def test_a_pooled_answer_is_scored_as_the_share_of_each_image():
    """The twin writes out the guess for each image, which need not be whole numbers."""
    images = count_images(RNG.integers(-1, 3, size=(2, 4, 30)), 3)
    guess = np.stack([np.roll(row.sum(0), 1) for row in images])
    for trial, found in enumerate(score_images(guess, images)):
        right = 0.0
        for image in images[trial]:
            right += sum(min(g * image.sum() / guess[trial].sum(), c) for g, c in
                         zip(guess[trial], image, strict=True))  # fmt: skip
        assert found == pytest.approx(right / images[trial].sum())
    one = images[:, :1]
    assert score_images(one[:, 0], one).tolist() == [1.0, 1.0]  # of one image the counts are its


def test_the_guess_at_an_image_is_that_at_one():
    pool = ((9, 0, 0), (4, 5, 0), (3, 0, 6))
    images = np.array([[9, 0, 0], [3, 0, 6]])
    alone = free_guess(MapPrior(pool), 9, 3)[1]
    for prior in (
        MapPrior(pool, 2),
        RepeatedPrior(MapPrior(pool), 2),
        SummedPrior(MapPrior(pool), 2),
    ):
        assert image_free(prior, images) == alone
    told = FrequencyPrior((0.5, 0.25, 0.25))
    assert image_free(told, images) == free_guess(told, 9, 3)[1]
    # Where pixels are taken to be drawn one by one, each image is taken to be like the others.
    assert image_free(UniformPrior(), images) > alone


def test_masks_are_a_truth_with_the_counts_of_each_image(tmp_path):
    masks = MASKS[:3].tolist()
    held = MASKS[:3][MASKS[:3] >= 0]
    (tmp_path / "masks.json").write_text(json.dumps(masks))
    row = {"labels": held.tolist(), "images": [63, 63, 63]}
    each = count_images(MASKS[:3].flatten(1).numpy(), 3)
    for source in (masks, {"labels": masks}, tmp_path / "masks.json", MASKS[:3].numpy(), row):
        found = read_maps(source, 3, 189)
        assert found.images.tolist() == each.tolist()
        assert found.counts.tolist() == each.sum(axis=0).tolist()
    assert read_maps({"labels": held.tolist()}, 3, 189).images is None
    with pytest.raises(BadInput, match="189 in all"):
        read_maps({**row, "images": [63, 63]}, 3, 189)
    for broken in ([["a", 1], [1, 1]], [[[1.5]], [[1]]]):
        with pytest.raises(BadInput, match="whole numbers"):
            read_maps(broken, 3, 189)


def test_a_capture_writes_how_many_labels_each_image_has(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with labelleak.capture(model) as update:
        for rows in (slice(0, 2), slice(2, 4)):
            optimiser.zero_grad()
            F.cross_entropy(model(IMAGES[rows]), MASKS[rows]).backward()
            optimiser.step()
    truth = update.save_truth(tmp_path / "truth.json")
    assert json.loads(truth.read_text())["images"] == [63] * 4
    report = labelleak.attack_update(captured=update, truth=truth, attacks=["free", "llbg"])
    each = count_images(MASKS[:4].flatten(1).numpy(), 3)
    assert report.to_json()["true_image_counts"] == each.tolist()
    record = report.records(keep_counts=True)[1]
    assert record.extra["true_image_counts"] == each.tolist()
    assert report.results[1].asr_image == record.extra["asr_image"] < 1
    assert 0 < record.extra["asr_image_free"] < 1


def test_an_audit_says_what_is_told_of_single_images(tmp_path):
    data = {"x_train": IMAGES.numpy(), "y_train": MASKS.numpy()}
    held = {**data, "x_test": IMAGES[:10].numpy(), "y_test": MASKS[:10].numpy()}
    np.savez(tmp_path / "maps.npz", **held)
    audit(
        data=str(tmp_path / "maps.npz"), model="fcn", schemes=("natural",), trials=4,
        batch_sizes=(1, 4), attacks=("free", "zlg"), initialisations=1, training_steps=(0,),
        keep_counts=True, out=tmp_path / "out",
    )  # fmt: skip
    found = list(read_records(tmp_path / "out" / "records.jsonl"))
    assert {len(record.extra["true_image_counts"]) for record in found} == {1, 4}
    for record in found:
        assert np.sum(record.extra["true_image_counts"], 0).tolist() == record.extra["true_counts"]
        if record.batch_size == 1:  # of one image pooled counts are its own
            assert record.extra["asr_image"] == pytest.approx(record.asr, abs=1e-6)
        assert record.extra["asr_image_free"] == pytest.approx(found[0].asr_free, abs=1e-6)
    pooled = [record for record in found if record.batch_size == 4]
    for part, said in ((pooled, True), (found[:8], False)):
        page = html.unescape(render(part, source="records.jsonl"))
        assert "how many pixels of the images behind it have each class" in page
        assert ("Its images are pooled: of each one by itself that names" in page) == said


def test_how_many_inputs_there_are_is_said_where_all_positions_have_a_label():
    half = torch.where(torch.arange(8)[:, None] < 4, torch.zeros(5, 8, 8).long(), -100)
    seen = Observation(torch.zeros(2, 4), None, 128)
    said = [few_pixels(LabelledData(IMAGES[:5], own), seen, Task.dense) for own in (half, 0 * half)]
    assert said[0] == ()
    assert "the labels of 2 inputs" in said[1][0]
