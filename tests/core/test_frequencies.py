"""A prior of known class frequencies, for one update and for audits."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import labelleak
from labelleak.cli.app import app
from labelleak.core.frequencies import (
    FrequencyPrior,
    guess_asr,
    prior_of_frequencies,
    smooth_frequencies,
)
from labelleak.core.priors import UniformPrior, expected_shares, free_guess
from labelleak.core.rounding import best_counts
from labelleak.core.task_priors import EachPrior
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput
from labelleak.files.frequencies import read_frequencies


def test_even_frequencies_are_the_uniform_prior():
    found = FrequencyPrior((0.25,) * 4).tails(9, 4)
    assert np.allclose(found, UniformPrior().tails(9, 4))


def test_a_guess_scores_what_it_scores_where_labels_come_otherwise():
    rng = np.random.default_rng(0)
    believed, real = (0.7, 0.2, 0.1), (0.3, 0.3, 0.4)
    guess, _ = free_guess(FrequencyPrior(believed), 20, 3)
    (told,) = guess_asr(FrequencyPrior(real), guess, 20)
    drawn = rng.multinomial(20, real, size=20_000)
    assert told == pytest.approx(np.minimum(drawn, guess).sum(axis=1).mean() / 20, abs=0.003)
    several = EachPrior((FrequencyPrior((0.9, 0.1)), FrequencyPrior((0.5, 0.5))))
    guess, expected = free_guess(several, 16, 4)
    assert np.mean(guess_asr(several, guess, 16)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("told", "problems", "sentence"),
    [([1, 2, 3], 1, "3 frequencies, there are 2"), ([0.5, 1.5], 2, "0 to 1")],
)
def test_frequencies_that_do_not_fit_are_refused(told, problems, sentence):
    with pytest.raises(BadInput, match=sentence):
        prior_of_frequencies(told, 2 * problems, problems)


@pytest.mark.parametrize(
    "text", ["[]", "[0, 0]", "[-1, 2]", '["a"]', "{}", "[true, false]", "[1e999]", "nonsense", "3"]
)
def test_files_that_hold_no_frequencies_are_refused(tmp_path, text):
    path = tmp_path / "prior.json"
    path.write_text(text)
    with pytest.raises(BadInput):
        read_frequencies(path)


@pytest.mark.parametrize("told", [[1, float("nan")], [float("nan"), 10**400], [1, -(10**400)]])
def test_lists_that_hold_no_frequencies_are_refused(told):
    with pytest.raises(BadInput):
        read_frequencies(told)


def test_a_guess_of_many_labels_of_many_classes_is_weighed_at_its_own_counts():
    """K times N chances of a vocabulary and a long text would fill the memory."""
    prior = FrequencyPrior((0.5, *[0.5 / 299_999] * 299_999))
    assert expected_shares(prior, 70_000, 300_000)[0] == 0.5
    guess, expected = free_guess(prior, 70_000, 300_000)
    assert guess_asr(prior, guess, 70_000) == [pytest.approx(expected)]
    few = FrequencyPrior((0.5, 0.3, 0.2))
    tails, counts = few.tails(7, 3), np.array([4, 0, 3])
    taken = np.arange(7) < counts[:, None]
    assert few.expected(counts, 7) == pytest.approx(tails[taken].sum() / 7)


def test_one_update_is_judged_by_the_frequencies(tmp_path):
    path, update = tmp_path / "prior.json", tmp_path / "gradient.safetensors"
    path.write_text(json.dumps({"frequencies": [9, 1, 0]}))
    save_file({"fc.weight": torch.ones(3, 2), "fc.bias": torch.tensor([-0.4, 0.2, 0.2])}, update)
    command = ["attack", "--gradient", str(update), "--batch-size", "10", "--attacks", "llbg"]
    told = CliRunner().invoke(app, [*command, "--prior", str(path), "--json"])
    found = json.loads(told.stdout)
    assert found["free_guess"] == [9, 1, 0]
    report = labelleak.attack_update(
        gradient=str(update), made=LocalTraining(batch_size=10), attacks=["llbg"], prior=[9, 1, 0]
    )
    assert report.asr_free == found["asr_free"] > 0.8


def test_an_audit_holds_attackers_to_what_they_believe(tmp_path):
    small = {"data": "breast_cancer", "model": "mlp", "task": "binary", "schemes": "natural"}
    small |= {"trials": 20, "initialisations": 1, "training_steps": 0, "batch_sizes": 16}
    path = tmp_path / "prior.json"
    found = {}
    for name, told in (("true", [357, 212]), ("wrong", [1, 9])):
        path.write_text(json.dumps(told))
        rows = labelleak.audit(**small, attacks="free", prior=str(path)).records
        assert np.mean([r.asr for r in rows]) == pytest.approx(rows[0].asr_free, abs=0.06)
        found[name] = rows[0].asr_free
    plain = labelleak.audit(**small, attacks="free").records[0].asr_free
    assert found["true"] == pytest.approx(plain, abs=0.01)
    assert found["wrong"] < plain - 0.2
    with pytest.raises(BadInput, match="come in lumps"):
        labelleak.audit(
            data="digit_maps", model="fcn", trials=1, initialisations=1, prior=str(path)
        )


def prior(often):
    return prior_of_frequencies(np.asarray(often).tolist(), len(often))


@pytest.mark.parametrize(("classes", "total"), [(2, 1), (5, 9), (50, 30), (200, 120)])
def test_the_best_guess_is_that_of_all_tails(classes, total):
    rng = np.random.default_rng(classes)
    known = prior(rng.integers(0, 4, classes) + np.arange(classes) % 2 + 1)
    tails = known.tails(total, classes)
    counts, asr = free_guess(known, total, classes)
    assert (counts == best_counts(tails, total)).all()
    taken = np.where(np.arange(total) < counts[:, None], tails, 0).sum()
    assert asr == pytest.approx(taken / total)


def test_classes_that_are_alike_are_those_of_the_uniform_prior():
    alike = prior(np.ones(7))
    assert np.allclose(alike.tails(5, 7), UniformPrior().tails(5, 7))
    assert free_guess(alike, 30, 7)[1] == pytest.approx(free_guess(UniformPrior(), 30, 7)[1])
    assert expected_shares(alike, 10, 7).tolist() == pytest.approx([1 / 7] * 7)


def test_a_hundred_thousand_words_are_weighed():
    often = np.random.default_rng(0).zipf(1.3, 100_000)
    counts, asr = free_guess(prior(often), 20_000, 100_000)
    assert counts.sum() == 20_000
    assert 0.2 < asr < 1


def test_own_text_leaves_room_for_what_it_lacks():
    shares = smooth_frequencies([50, 10, 2, 1, 1, 0, 0])
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 1e-12)[:4].all()
    assert shares[5] == shares[6] == pytest.approx(1 / 64)
    assert smooth_frequencies([0, 0]).tolist() == [0.5, 0.5]
    assert smooth_frequencies([3, 1]).sum() == pytest.approx(1)
