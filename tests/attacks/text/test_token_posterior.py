"""The token posterior: near exact over training, honest of its own doubt, whatever the scale."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from attacks.text.twins import slow_follows, slow_posterior
from core.token_models import GPT, LSTM, TOKENS, gradients, texts, train
from labelleak.attacks.text import own_sums, token_posterior
from labelleak.attacks.text.input_means import share_of_numbers
from labelleak.attacks.text.own_sums import OwnSums, pass_text
from labelleak.attacks.text.row_noise import find_drift
from labelleak.attacks.text.token_posterior import TokenPosterior
from labelleak.core.frequencies import FrequencyPrior, smooth_frequencies
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.task import Task, next_tokens
from labelleak.core.white_box import WhiteBox, lift
from labelleak.errors import NotApplicable

OWN = texts(900, rows=250)


def known_of(model, head="lm_head", own=OWN):
    data = LabelledData(own, next_tokens(own, own))
    often = np.bincount(own[:, 1:].flatten().numpy(), minlength=TOKENS)
    prior = FrequencyPrior(tuple(smooth_frequencies(often).tolist()))
    return Knowledge(WhiteBox(lift(model, Task.tokens), head), (17,), data, prior=prior)


def seen_of(model, ids, head="lm_head"):
    found = gradients(model, ids)
    bias = found.get(f"{head}.bias")
    return Observation.from_gradient(found[f"{head}.weight"], bias, num_samples=ids[:, 1:].numel())


def rate(found, ids):
    real = np.bincount(ids[:, 1:].flatten().numpy(), minlength=TOKENS)
    return np.minimum(found.counts, real).sum() / real.sum()


@pytest.fixture(scope="module")
def learnt():
    return train(GPT(), 80)


@pytest.fixture(scope="module")
def ready(learnt):
    return prepare(TokenPosterior(), known_of(learnt), TOKENS, np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_has_learnt_gives_nearly_all_tokens_away(learnt, ready, seed):
    ids = texts(seed)
    found = ready(seen_of(learnt, ids))
    free = known_of(learnt).prior.best_guess(128, TOKENS)[1]
    assert rate(found, ids) > max(0.9, free + 0.2)
    assert found.counts.sum() == 128
    assert abs(found.expected_asr - rate(found, ids)) < 0.1


def test_an_untrained_model_does_so_too_with_a_bias_or_without():
    for model, head in ((GPT(), "lm_head"), (LSTM(), "out")):
        ready = prepare(TokenPosterior(), known_of(model, head), TOKENS, np.random.default_rng(0))
        assert rate(ready(seen_of(model, texts(1), head)), texts(1)) > 0.9


def test_an_unknown_scale_is_found(learnt, ready):
    seen = seen_of(learnt, texts(2))
    found = ready(replace(seen, weight=37 * seen.weight, lr_known=False))
    assert rate(found, texts(2)) > 0.85


@pytest.mark.parametrize("factor", [0.02, 0.3])
def test_a_clipped_gradient_is_found_out_and_flagged(learnt, ready, factor):
    seen = seen_of(learnt, texts(2))
    found = ready(replace(seen, weight=factor * seen.weight))
    assert rate(found, texts(2)) > 0.85
    assert found.notes == ("unlikely_scale",)
    assert found.expected_asr is None
    assert ready(seen).notes == ()


@pytest.mark.parametrize("optimiser", [torch.optim.AdamW, torch.optim.RMSprop])
def test_steps_that_rescale_entries_are_read_by_presence_and_the_prior(learnt, ready, optimiser):
    model, sent = copy.deepcopy(learnt), learnt.lm_head.weight.detach()
    steps = optimiser(model.parameters(), lr=1e-3)
    for seed in (1, 2):
        gradients(model, texts(seed))
        steps.step()
    moved = Observation.from_gradient(sent - model.lm_head.weight.detach(), num_samples=256)
    both, found = torch.cat([texts(1), texts(2)]), ready(moved)
    guess = known_of(learnt).prior.best_guess(256, TOKENS)[0]
    assert rate(found, both) > rate(replace(found, counts=guess), both)
    assert found.expected_asr is None


def test_signs_tell_which_tokens_and_nothing_shared_is_the_guess(learnt, ready):
    seen, guess = seen_of(learnt, texts(2)), known_of(learnt).prior.best_guess(128, TOKENS)
    found = ready(replace(seen, weight=seen.weight.sign()))
    assert rate(found, texts(2)) > guess[1]
    assert found.expected_asr is None
    silent = ready(replace(seen, weight=torch.zeros_like(seen.weight)))
    assert np.array_equal(silent.counts, guess[0])
    assert silent.expected_asr == pytest.approx(guess[1])


def test_rows_are_trusted_less_where_noise_is_odd(learnt, ready):
    seen = seen_of(learnt, texts(2))
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(seen.weight.shape, generator=generator) < 0.05
    found = ready(replace(seen, weight=seen.weight * kept * 20))
    assert found.expected_asr is None or found.expected_asr < 0.95
    assert rate(found, texts(2)) > 0.3


def test_noise_is_measured_and_told_in_what_is_expected(learnt, ready):
    seen = seen_of(learnt, texts(3))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(seen.weight.shape, generator=generator)
    sigma = 2 * seen.weight.norm() / seen.weight.numel() ** 0.5
    found = ready(replace(seen, weight=seen.weight + sigma * noise))
    assert abs(found.expected_asr - rate(found, texts(3))) < 0.15
    assert found.expected_asr < 0.95


@pytest.mark.parametrize("steps", [0, 80])
def test_a_tied_embeddings_part_is_measured_on_own_text(steps):
    model, ids = train(GPT(tied=True), steps), texts(4)
    ready = prepare(TokenPosterior(), known_of(model), TOKENS, np.random.default_rng(0))
    seen = Observation.from_gradient(gradients(model, ids)["wte.weight"], num_samples=128)
    assert rate(ready(seen), ids) > 0.85
    assert own_sums.tied_embedding(WhiteBox(model, "lm_head")) is model.wte
    assert own_sums.tied_embedding(WhiteBox(GPT(), "lm_head")) is None


def test_own_sums_are_what_one_pass_over_all_text_gives(learnt, monkeypatch):
    known = known_of(learnt, own=texts(5, rows=9))
    whole = pass_text(known, TOKENS)
    monkeypatch.setattr("labelleak.core.white_box.TEXT_ENTRIES", 2 * 17 * TOKENS)
    parts = pass_text(known, TOKENS)
    seen, labels = known.pass_own()
    assert whole.total == parts.total == len(labels)
    for name in {field.name for field in fields(OwnSums)} - {"kept"}:
        one, other = getattr(whole, name), getattr(parts, name)
        assert np.allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-7), name
    weighted = seen.probabilities.double().mT @ seen.inputs.double() / len(labels)
    assert torch.allclose(whole.weighted, weighted, atol=1e-6)
    one, other = ([torch.cat(p) for p in zip(*own.kept, strict=True)] for own in (whole, parts))
    assert torch.allclose(one[0], other[0], atol=1e-6)
    assert torch.equal(one[1], other[1])
    assert len(set(one[2].tolist())) == len(set(other[2].tolist())) == 9
    monkeypatch.setattr(own_sums, "_KEPT", 50)
    assert [len(part[1]) for part in pass_text(known, TOKENS).kept] == [32, 18]
    monkeypatch.setattr(own_sums, "MOST_LABELS", 40)
    assert pass_text(known, TOKENS).total == 64  # whole passes


def test_the_covariance_within_tokens_is_that_around_their_means(learnt):
    known = known_of(learnt)
    own = pass_text(known, TOKENS)
    seen, labels = known.pass_own()
    h = seen.inputs.double()
    means = torch.zeros(TOKENS, 24, dtype=torch.float64).index_add_(0, labels, h)
    means /= torch.from_numpy(np.maximum(own.seen, 1))[:, None]
    plain = (h - means[labels]).mT @ (h - means[labels])
    round_ = 24 * own.spread * torch.eye(24, dtype=torch.float64)
    freedom = len(labels) - (own.seen > 0).sum()
    assert torch.allclose(own.within(), (plain + round_) / (freedom + 24), atol=1e-5)


def test_blocks_of_rows_do_not_matter_and_a_slow_twin_agrees(learnt, ready, monkeypatch):
    seen = seen_of(learnt, texts(6))
    whole = ready(seen)
    monkeypatch.setattr(token_posterior, "_BLOCK", 64)
    assert (ready(seen).counts == whole.counts).all()
    own, prior = pass_text(known_of(learnt), TOKENS), known_of(learnt).prior
    chances = slow_posterior(
        seen.weight.double().numpy(), own, 128, np.asarray(prior.shares), range(0, 300, 7)
    )
    for token, there in chances.items():
        assert abs(whole.scores[token] - there) < 1e-3


def test_sums_start_with_the_first_pass():
    inputs, chances = torch.ones(2, 3), torch.full((2, 4), 0.25)
    own = OwnSums.of([(inputs, inputs, chances, torch.tensor([0, 3]), torch.arange(2))], 4)
    assert own.seen.tolist() == [1, 0, 0, 1]
    assert own.chances.tolist() == [0.25] * 4
    assert own.middle.tolist() == [1, 1, 1]


@pytest.mark.parametrize("together", [1, 20, 1000])
def test_what_follows_a_tokens_labels_is_a_regression_over_texts(monkeypatch, together):
    """Texts of several lengths, and a token that own text lacks."""
    monkeypatch.setattr(own_sums, "_TOGETHER", together)
    rng = np.random.default_rng(0)
    texts_of = np.repeat(np.arange(9), [3, 9, 1, 7, 7, 20, 4, 5, 6])
    labels = rng.integers(6, size=62)
    inputs, logits = rng.normal(size=(62, 4)), rng.normal(size=(62, 7))
    logits[:, 2] += (labels == 2) * 3.0
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    one = tuple(torch.from_numpy(part) for part in (inputs, inputs, chances, labels, texts_of))
    own = OwnSums.of([tuple(p[:20] for p in one), tuple(p[20:] for p in one)], 7)
    pull, pulled = own.follows
    for token in range(6):
        along, alone = slow_follows(inputs, chances, labels, texts_of, token)
        assert np.allclose(pull[token], along)
        assert np.isclose(pulled[token], alone)
    assert not pull[6].any()
    assert pulled[6] == 0
    assert pulled[2] > 0.1


@pytest.mark.parametrize(("short", "size", "long", "more"), [(10, 3, 110, 36), (6, 4, 170, 2)])
def test_a_token_of_short_texts_is_not_said_to_follow_what_it_does_not(short, size, long, more):
    """Posteriors that know nothing of the labels, and as many as would make a plain sum 0."""
    rng = np.random.default_rng(0)
    number = short * size + long
    texts_of = np.concatenate([np.repeat(np.arange(short), size), np.full(long, short)])
    inputs, chances = rng.normal(size=(number, 4)) + 1, rng.dirichlet(np.ones(5), size=number)
    labels = 1 + np.arange(number) % 4
    labels[: short * size : size] = 0
    labels[short * size : short * size + more] = 0
    one = tuple(torch.from_numpy(p) for p in (inputs, inputs, chances, labels, texts_of))
    pull, pulled = OwnSums.of([one], 5).follows
    assert np.abs(pulled).max() < 1
    assert pull.abs().max() < 1


def test_own_text_without_a_label_is_refused():
    known = known_of(GPT(), own=OWN[:2])
    nothing = LabelledData(OWN[:2], torch.full_like(known.auxiliary.labels, -100))
    for own in (nothing, LabelledData(nothing.inputs[:0], nothing.labels[:0])):
        with pytest.raises(NotApplicable, match="own data without a single label"):
            pass_text(replace(known, auxiliary=own), TOKENS)


def test_one_text_alone_tells_of_nothing_that_follows():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(3, size=5_000))
    inputs = torch.from_numpy(rng.normal(size=(5_000, 4)) + 9).float()
    chances = torch.from_numpy(rng.dirichlet(np.ones(4), size=5_000)).float()
    one = inputs, inputs, chances, labels, torch.zeros(5_000, dtype=torch.int64)
    pull, pulled = OwnSums.of([one], 4).follows
    assert not pull.any()
    assert not pulled.any()


def test_a_label_more_adds_to_its_row_what_is_expected_of_it():
    """A text has a word often or never, and the model that has read it knows."""
    rng = np.random.default_rng(0)
    often = rng.random((800, 8)) < 0.5
    chances = np.full((800, 10, 8), 0.01) + 0.1 * often[:, None]
    chances = np.concatenate([chances, 1 - chances.sum(-1, keepdims=True)], -1)
    labels = (rng.random((800, 10, 1)) > chances.cumsum(-1)[..., :-1]).sum(-1)
    inputs = rng.normal(size=(800, 10, 16)) * 0.2 + 1.0
    texts_of = np.broadcast_to(np.arange(800)[:, None], (800, 10))
    flat = (torch.from_numpy(part[:400].copy()) for part in (inputs, chances, labels, texts_of))
    h, p, y, of = (part.flatten(0, 1) for part in flat)
    own = OwnSums.of([(h, h, p, y, of)], 9)
    pull, usual = own.follows[0].numpy(), (own.seen / own.total)[:, None]
    means = own.inputs.numpy() / own.seen[:, None]
    found = {"more": [], "plain": [], "told": []}
    for start in range(400, 800, 2):
        h, p, y = (part[start : start + 2].reshape(20, -1) for part in (inputs, chances, labels))
        row = 20 * own.weighted.numpy() - (p - np.eye(9)[y[:, 0]]).T @ h
        found["more"].append(np.bincount(y[:, 0], minlength=9) - 20 * usual[:, 0])
        for name, each in (("plain", means), ("told", means - pull)):
            above = ((row - 20 * usual * means) * each).sum(1)
            found[name].append(above / np.square(each).sum(1))
    more, plain, told = (np.stack(part)[:, :8].ravel() for part in found.values())
    assert np.polyfit(more, plain, 1)[0] < 0.7
    assert np.polyfit(more, told, 1)[0] == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("again", [False, True])
def test_inputs_that_come_again_and_again_tell_less(again):
    """Normal inputs, and inputs that are one of four for each token."""
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 20
    inputs = rng.normal(size=(2000, 32))
    if again:
        inputs = rng.normal(size=(20, 4, 32))[labels, rng.integers(4, size=2000)]
    texts_of = np.arange(2000) // 10
    one = (torch.from_numpy(part) for part in (inputs, inputs, np.ones((2000, 20)) / 20))
    own = OwnSums.of([(*one, torch.from_numpy(labels), torch.from_numpy(texts_of))], 20)
    turn = torch.eye(32, dtype=torch.float64)
    share = share_of_numbers(own, turn, float(own.within().trace()) / 32)
    assert share == 0.2 if again else share > 0.85


def test_a_model_whose_inputs_are_the_word_before_is_not_overtrusted(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("embedding", torch.nn.Embedding(TOKENS, 128))
    model.add_module("norm", torch.nn.LayerNorm(128))
    model.add_module("lm_head", torch.nn.Linear(128, TOKENS, bias=False))
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)

    def named_and_expected():
        ready = prepare(TokenPosterior(), known_of(model), TOKENS, np.random.default_rng(0))
        found = [(ready(seen_of(model, ids)), ids) for ids in map(texts, range(1, 9))]
        expected = np.mean([float(one.expected_asr) for one, _ in found])
        return np.mean([rate(one, ids) for one, ids in found]), expected

    named, expected = named_and_expected()
    assert expected - named < 0.04
    monkeypatch.setattr(token_posterior, "share_of_numbers", lambda *_: 1.0)
    before, surely = named_and_expected()
    assert surely - before > 0.08
    assert named > before + 0.005


def test_a_drift_of_all_head_inputs_is_found_over_local_steps(learnt, ready):
    """Each row holds its labels' inputs, all moved alike."""
    rng = np.random.default_rng(0)
    means, drift = (torch.from_numpy(rng.normal(size=shape)) for shape in ((200, 16), (16,)))
    prior = 60 / (1 + np.arange(200.0))
    counts = torch.from_numpy(rng.poisson(prior)).double()
    spread = (counts + 0.2).sqrt()[:, None] * torch.from_numpy(rng.normal(size=(200, 16)))
    noise, still = np.full(200, 0.2), counts[:, None] * means + spread
    moved = still + counts[:, None] * drift
    assert torch.allclose(find_drift(moved, means, 1.0, noise, prior), drift, atol=0.25)
    assert not find_drift(0 * spread, 0 * means, 1.0, noise, prior).any()
    seen = seen_of(learnt, texts(2))
    assert rate(ready(replace(seen, local_steps=4)), texts(2)) > 0.9


def test_labels_of_local_steps_whose_inputs_drift_are_named():
    """A bias that all head inputs share moves at each step, with the model's first answers."""
    model, steps, rate_of = GPT(), [texts(seed) for seed in range(4)], 0.5
    ready = prepare(TokenPosterior(), known_of(model), TOKENS, np.random.default_rng(0))
    sent = model.lm_head.weight.detach().clone()
    moves = torch.optim.SGD(model.parameters(), lr=rate_of)
    for ids in steps:
        gradients(model, ids)
        moves.step()
    weight = (sent - model.lm_head.weight.detach()) / (rate_of * 4)
    seen = Observation.from_gradient(weight, num_samples=512)
    found = ready(replace(seen, local_steps=4))
    assert rate(found, torch.cat(steps)) > rate(ready(seen), torch.cat(steps)) + 0.01
