"""Row energy: near exact where inputs have one length, whatever their signs; scale and blocks."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from labelleak.attacks import LLG
from labelleak.attacks.row_energy import RowEnergy, count_rows, is_rescaled, split_rows
from labelleak.core import head_sums
from labelleak.core.frequencies import FrequencyPrior
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.priors import free_guess
from labelleak.core.rounding import best_counts, round_counts
from labelleak.errors import BadInput

CLASSES, WIDTH, TOTAL = 400, 48, 120


def text_gradient(seed, *, shared=0.3, learnt=False, dtype=torch.float64):
    """Give the head's gradient of a batch of words, often or rare, and how often each is there.

    Head inputs are those of a layer norm: they sum to 0 and are equally long.
    """
    generator = torch.Generator().manual_seed(seed)
    often = 1 / (10 + torch.arange(CLASSES, dtype=torch.float64))
    labels = torch.multinomial(often, TOTAL, replacement=True, generator=generator)
    common = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    own = torch.randn(TOTAL, WIDTH, generator=generator, dtype=torch.float64)
    inputs = F.layer_norm(own + shared * common, (WIDTH,))
    head = torch.zeros(CLASSES, WIDTH, dtype=torch.float64)
    if learnt:
        typical = F.layer_norm(common, (WIDTH,))
        head = (often / often.mean()).log()[:, None] * typical / typical.square().sum()
    head.requires_grad_(True)
    F.cross_entropy(inputs @ head.T, labels).backward()
    return head.grad.to(dtype), np.bincount(labels.numpy(), minlength=CLASSES)


def hits(attack, weight, counts, **known):
    ready = prepare(attack, Knowledge(**known), CLASSES, np.random.default_rng(0))
    found = ready(Observation.from_gradient(weight, num_samples=TOTAL)).counts
    return np.minimum(found, counts).sum() / TOTAL


@pytest.mark.parametrize("seed", range(3))
def test_words_are_counted_where_llg_sees_nothing(seed):
    weight, counts = text_gradient(seed)
    assert hits(RowEnergy(), weight, counts) > 0.95
    assert hits(LLG(), weight, counts) < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_knows_frequencies_still_gives_words_away(seed):
    weight, counts = text_gradient(seed, shared=6.0, learnt=True)
    often = 1 / (10 + np.arange(CLASSES))
    at_least = np.random.default_rng(0).multinomial(TOTAL, often / often.sum(), size=4000)
    reach = np.stack([(at_least >= n).mean(0) for n in range(1, 30)], axis=-1)
    free = np.minimum(best_counts(reach, TOTAL), counts).sum() / TOTAL
    assert hits(RowEnergy(), weight, counts) > free + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_frequencies_that_are_known_take_the_posteriors_part_out(seed):
    weight, counts = text_gradient(seed, shared=6.0, learnt=True)
    often = 1 / (10 + np.arange(CLASSES))
    prior = FrequencyPrior(tuple((often / often.sum()).tolist()))
    told = hits(RowEnergy(), weight, counts, prior=prior)
    assert told > hits(RowEnergy(), weight, counts) + 0.03
    assert told > free_guess(prior, TOTAL, CLASSES)[1] + 0.2
    untrained, counts = text_gradient(seed)
    assert hits(RowEnergy(), untrained, counts, prior=prior) > 0.95


def test_neither_scale_nor_blocks_nor_trials_matter(monkeypatch):
    (first, _), (second, _) = text_gradient(0), text_gradient(1)
    plain = count_rows(first, TOTAL)
    assert np.allclose(count_rows(1e-30 * first, TOTAL), plain)
    monkeypatch.setattr(head_sums, "BLOCK", 7)
    assert np.allclose(count_rows(first, TOTAL), plain)
    assert np.abs(count_rows(first.bfloat16(), TOTAL) - plain).sum() < 0.05 * TOTAL
    both = Observation.from_gradient(torch.stack([first, second]), num_samples=TOTAL)
    ready = prepare(RowEnergy(), Knowledge(), CLASSES, np.random.default_rng(0))
    assert np.allclose(ready(both).scores[0], plain)


def test_a_row_is_split_along_the_direction_of_the_shorter_half():
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [-3.0, 4.0]])
    along, energy = split_rows(weight)
    assert np.allclose(along, [0.2, 0.2, 0.4, -0.6])
    assert np.allclose(energy, [0.04, 0.04, 0.16, 1])


def test_nothing_to_read_is_spread_evenly():
    ready = prepare(RowEnergy(), Knowledge(), 4, np.random.default_rng(0))
    found = ready(Observation.from_gradient(torch.zeros(4, 3), num_samples=8))
    assert found.counts.tolist() == [2, 2, 2, 2]


def test_frequencies_keep_the_answer_above_the_guess_where_rows_say_little():
    """Signs tell of presence alone, and noise of nothing."""
    rng = np.random.default_rng(0)
    shares = 1 / (2 + np.arange(400))
    shares /= shares.sum()
    labels = rng.choice(400, 200, p=shares)
    true = np.bincount(labels, minlength=400)
    inputs = torch.from_numpy(rng.normal(0.3, 1.0, (200, 32)))
    gradient = torch.full((400, 200), 1 / 400, dtype=torch.float64)
    gradient[labels, np.arange(200)] -= 1
    plain = gradient @ inputs / 200
    noise = torch.from_numpy(rng.normal(size=plain.shape))
    guess, _ = FrequencyPrior(tuple(shares)).best_guess(200, 400)
    for rows in (plain, plain.sign()):
        counts = round_counts(count_rows(rows, 200, shares), 200)
        assert np.minimum(counts, true).sum() > np.minimum(guess, true).sum() + 20
    assert np.array_equal(count_rows(noise, 200, shares), guess)


def test_entries_that_were_rescaled_one_by_one_are_told_from_gradients_and_noise():
    gradient, _ = text_gradient(0)
    noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
    sizes = gradient.abs()
    for rescaled in (gradient.sign(), gradient / (sizes + sizes.median())):
        assert is_rescaled(rescaled)
    for plain in (gradient, noise, gradient + 0.1 * noise, torch.zeros_like(gradient)):
        assert not is_rescaled(plain)


def test_absent_classes_are_named_no_more_often_than_was_chosen():
    """Noise leaves no gap between present and absent rows, so the law decides."""
    rates, found = (0.02, 0.1, 0.3), []
    for rate in rates:
        named = []
        for seed in range(4):
            weight, counts = text_gradient(seed)
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            noised = weight + 0.17 * weight.abs().max() * noise
            there = count_rows(noised, TOTAL, false_alarms=rate) > 0
            named.append([there[counts == 0].mean(), there[counts > 0].mean()])
        found.append(np.mean(named, axis=0))
    false, right = np.transpose(found)
    assert (false < rates).all()
    assert (np.diff(false) > 0).all()
    assert (np.diff(right) > 0.05).all()
    assert (right > 4 * false).all()


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(BadInput, match="between 0 and 1"):
        RowEnergy(false_alarms=rate)


def test_a_batch_of_most_classes_is_guessed_at_least():
    """Few rows are short enough to be absent ones, so few stand out."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    shares = 1 / (2 + np.arange(CLASSES))
    shares /= shares.sum()
    labels = torch.from_numpy(rng.choice(CLASSES, 6000, p=shares))
    inputs = torch.randn(6000, WIDTH, generator=generator, dtype=torch.float64) + 0.3
    gradient = torch.full((CLASSES, 6000), 1 / CLASSES, dtype=torch.float64)
    gradient[labels, torch.arange(6000)] -= 1
    counts = round_counts(count_rows(gradient @ inputs / 6000, 6000, shares), 6000)
    true = np.bincount(labels.numpy(), minlength=CLASSES)
    guess, _ = FrequencyPrior(tuple(shares)).best_guess(6000, CLASSES)
    assert np.minimum(counts, true).sum() >= np.minimum(guess, true).sum()
