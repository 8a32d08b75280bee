"""Tokens read off an embedding's rows, counted at the head: steps, Adam, noise, ties."""

import numpy as np
import pytest
import torch

from core.token_models import GPT, LSTM, TOKENS, gradients, texts
from labelleak.attacks.row_energy import count_rows, has_learnt
from labelleak.attacks.text.input_tokens import InputTokens, read_tokens
from labelleak.audits.one_update import attack_update
from labelleak.core.frequencies import FrequencyPrior, smooth_frequencies
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.errors import NotApplicable


def attacked(ids, attacks=("row_energy", "input_tokens"), **update):
    labels = ids[:, 1:].flatten().tolist()
    report = attack_update(
        attacks=list(attacks), task="tokens", num_samples=len(labels), truth=labels, **update
    )
    return report, {one.attack: one for one in report.results}


def stepped(model, ids, optimiser, steps=1):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(steps):
        optimiser.zero_grad()
        logits = model(ids).logits if not isinstance(model, LSTM) else model(ids)[0]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimiser.step()
    return {"before": before, "after": model.state_dict()}


def test_rows_that_moved_are_the_tokens_that_were_read():
    model, ids = GPT(), texts(4)
    own = gradients(model, ids)
    seen = Observation(own["lm_head.weight"], None, 10, rest=own)
    assert set(np.flatnonzero(read_tokens(seen))) == set(ids[:, :-1].flatten().tolist())


@pytest.mark.parametrize("steps", [1, 3])
def test_adam_without_decay_leaves_the_rows_of_other_tokens_where_they_were(steps):
    model, ids = GPT(), texts(5)
    rate = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    made = LocalTraining(lr=0.01, local_steps=steps, optimiser="adamw")
    _, found = attacked(ids, **stepped(model, ids, rate, steps), made=made)
    named = np.array(found["input_tokens"].counts) > 0
    there = np.isin(np.arange(TOKENS), ids[:, :-1])
    assert (named <= there).all()
    assert named.sum() > 0.8 * there.sum()


def test_the_embedding_shows_rare_words_that_the_head_of_a_trained_model_hides():
    model, known = GPT(), texts(6, rows=64)
    rate = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(40):
        stepped(model, known, rate)
    ids = texts(7)
    _, found = attacked(ids, gradient=gradients(model, ids))
    assert found["input_tokens"].asr >= found["row_energy"].asr
    there = np.unique(ids[:, 1:])
    missed = [
        np.sum(np.array(found[name].counts)[there] == 0) for name in ("input_tokens", "row_energy")
    ]
    assert missed[0] <= min(missed[1], 0.2 * len(there))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda own: {name: gradient + 1e-3 for name, gradient in own.items()},
        lambda own: {name: gradient for name, gradient in own.items() if "wte" not in name},
        lambda own: {**own, "other.embedding": own["wte.weight"]},
    ],
)
def test_an_embedding_that_says_nothing_leaves_the_answer_of_row_energy(spoil):
    own = gradients(GPT(), texts(8))
    weight = own.pop("lm_head.weight")
    seen = Observation(weight, None, 124, rest=spoil(own))
    answer = InputTokens().prepare(Knowledge(), TOKENS, np.random.default_rng(0))
    assert (answer(seen).scores == count_rows(weight, 124)).all()


def test_a_tied_embedding_leaves_the_answer_of_row_energy():
    ids = texts(9)
    _, found = attacked(ids, gradient=gradients(GPT(tied=True), ids))
    assert found["input_tokens"].counts == found["row_energy"].counts


def test_where_the_head_did_not_move_words_come_from_the_embedding_and_counts_from_the_prior():
    ids = texts(12)
    own = gradients(GPT(), ids)
    still = torch.zeros_like(own.pop("lm_head.weight"))
    size = ids[:, 1:].numel()
    shares = smooth_frequencies(np.bincount(texts(3, rows=200).flatten(), minlength=TOKENS))
    prior = FrequencyPrior(tuple(shares.tolist()))
    true = np.bincount(ids[:, 1:].flatten(), minlength=TOKENS)
    named = {}
    for name, known in (("told", Knowledge(prior=prior)), ("untold", Knowledge())):
        answer = InputTokens().prepare(known, TOKENS, np.random.default_rng(0))
        found = answer(Observation(still, None, size, rest=own))
        assert found.counts.sum() == size
        assert set(np.flatnonzero(found.counts)) == set(ids[:, :-1].flatten().tolist())
        named[name] = np.minimum(found.counts, true).sum() / size
    guess = np.minimum(prior.best_guess(size, TOKENS)[0], true).sum() / size
    assert named["told"] > named["untold"]
    assert named["told"] > guess + 0.15
    with pytest.raises(NotApplicable, match="neither a head that moved nor an embedding"):
        answer(Observation(still, None, size, rest={"wpe.weight": torch.ones(32, 24)}))


def test_several_trials_are_read_one_by_one():
    batches = [texts(seed) for seed in (10, 11)]
    own = [gradients(GPT(), ids) for ids in batches]
    both = {name: torch.stack([one[name] for one in own]) for name in own[0]}
    weight = both.pop("lm_head.weight")
    answer = InputTokens().prepare(Knowledge(), TOKENS, np.random.default_rng(0))
    size = batches[0][:, 1:].numel()
    counts = answer(Observation(weight, None, size, rest=both)).counts
    for row, one in zip(counts, own, strict=True):
        alone = Observation(one["lm_head.weight"], None, size, rest=one)
        assert (answer(alone).counts == row).all()


def test_lengths_of_absent_rows_tell_whether_a_model_has_learnt():
    rng = np.random.default_rng(0)
    alike, apart = np.exp(rng.normal(0, (0.2, 2.0), (500, 2))).T
    assert not has_learnt(alike)
    assert has_learnt(apart)
    assert not has_learnt(apart[:10])


def test_named_classes_take_the_place_of_what_rows_say():
    weight = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    named = np.arange(50) < 5
    counts = count_rows(weight, 20, named=named)
    assert (counts[5:] == 0).all()
    assert counts.sum() == pytest.approx(20)
    assert (counts[:5] > 0).all()
