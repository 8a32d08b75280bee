"""Tokens read below a head that is not shared: exact sums, noise, clipping, layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.token_models import GPT, LSTM, TOKENS, gradients, texts
from labelleak.attacks.text.layer_sums import LayerSums, _passed, sketch_layers
from labelleak.attacks.text.token_layers import TokenLayers
from labelleak.core.frequencies import FrequencyPrior, smooth_frequencies
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.task import Task
from labelleak.core.white_box import WhiteBox, lift
from labelleak.errors import NotApplicable

IDS = [texts(seed) for seed in range(20, 24)]
OWN = texts(2, rows=200)
SHARES = smooth_frequencies(np.bincount(OWN[:, 1:].flatten(), minlength=TOKENS))
PRIOR = FrequencyPrior(tuple(SHARES.tolist()))


class Plain(torch.nn.Module):
    """A model whose logits are all that it returns."""

    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head = model, model.lm_head if hasattr(model, "lm_head") else model.out

    def forward(self, ids):
        found = self.model(ids)
        return found[0] if isinstance(found, tuple) else found.logits


def known(model):
    box = WhiteBox(lift(Plain(model), Task.tokens), "lm_head")
    return Knowledge(box, (16,), LabelledData(OWN[:, :-1], OWN[:, 1:]), PRIOR)


def below(model, ids, keep=lambda name: "lm_head" not in name and "wte" not in name):
    own = gradients(model, ids)
    return {f"model.{name}": one for name, one in own.items() if keep(name)}


def observe(rests, **more):
    rest = {name: torch.stack([one[name] for one in rests]) for name in rests[0]}
    weight = torch.zeros(len(rests), TOKENS, 24)
    return replace(Observation(weight, None, IDS[0][:, 1:].numel(), rest=rest), **more)


def answered(model, seen):
    ready = prepare(TokenLayers(), known(model), TOKENS, np.random.default_rng(0))
    return ready(seen)


def named(found):
    true = [np.bincount(ids[:, 1:].flatten(), minlength=TOKENS) for ids in IDS]
    return np.minimum(found.counts, true).sum(1).mean() / IDS[0][:, 1:].numel()


def guessed():
    counts, _ = PRIOR.best_guess(IDS[0][:, 1:].numel(), TOKENS)
    true = [np.bincount(ids[:, 1:].flatten(), minlength=TOKENS) for ids in IDS]
    return np.mean([np.minimum(counts, one).sum() for one in true]) / IDS[0][:, 1:].numel()


def test_layers_below_the_head_tell_more_than_frequencies_do():
    found = answered(GPT(), observe([below(GPT(), ids) for ids in IDS]))
    assert (found.counts.sum(1) == IDS[0][:, 1:].numel()).all()
    assert named(found) > guessed() + 0.03
    assert found.notes == ()


def test_an_embedding_beside_them_tells_nearly_all():
    with_embedding = [below(GPT(), ids, lambda name: "lm_head" not in name) for ids in IDS]
    found = answered(GPT(), observe(with_embedding))
    assert named(found) > max(0.8, guessed() + 0.2)


def test_what_labels_leave_sums_to_the_gradient():
    box, ids = known(GPT()).model, IDS[0]
    data = LabelledData(ids[:, :-1], ids[:, 1:])
    own = below(GPT(), ids)
    few = LabelledData(OWN[:, :-1], OWN[:, 1:])
    sketches = sketch_layers(box, few, list(own), TOKENS)
    assert list(sketches) == [
        f"model.c_{n}.{k}" for n in ("proj", "fc") for k in ("bias", "weight")
    ]
    rows = sum(part.sum(0) for part, _ in _passed(box, data, sketches))
    whole = torch.cat([one.of_gradients(own[name][None])[0] for name, one in sketches.items()])
    assert torch.allclose(rows, ids[:, 1:].numel() * whole, atol=1e-4)


def test_means_of_tokens_without_labels_lie_on_the_line_from_the_head():
    box, data = known(GPT()).model, LabelledData(OWN[:20, :-1], OWN[:20, 1:])
    names = [n for n in below(GPT(), IDS[0]) if "c_proj" in n]
    sums = LayerSums.of(box, data, sketch_layers(box, data, names, TOKENS), TOKENS)
    counts = np.bincount(OWN[:20, 1:].flatten(), minlength=TOKENS)
    rare = np.flatnonzero(counts == 0)
    assert len(rare) > 50
    apart = sums.means - sums.means.mean(0)
    kept = torch.cat([box.head_weight.detach().double(), torch.ones(TOKENS, 1)], 1)
    fit = kept @ torch.linalg.lstsq(kept[rare], apart[rare]).solution
    assert torch.allclose(fit[rare], apart[rare], atol=1e-6)
    assert torch.linalg.eigvalsh(sums.within).min() > -1e-6


def test_noise_leaves_the_guess_and_is_said():
    rng = torch.Generator().manual_seed(0)
    rests = [below(GPT(), ids) for ids in IDS]
    noised = [{n: g + 3 * torch.randn(g.shape, generator=rng) for n, g in r.items()} for r in rests]
    found = answered(GPT(), observe(noised))
    assert named(found) > guessed() - 0.02
    assert found.notes == ("unlikely_scale",)


def test_a_gradient_that_was_clipped_is_scaled_back_and_said():
    rests = [below(GPT(), ids) for ids in IDS]
    short = [{n: g / 50 for n, g in rest.items()} for rest in rests]
    found = answered(GPT(), observe(short))
    assert found.notes == ("unlikely_scale",)
    assert named(found) > guessed() + 0.02


def test_without_the_learning_rate_or_a_layer_that_can_be_read_it_refuses():
    rests = [below(GPT(), ids) for ids in IDS]
    with pytest.raises(NotApplicable, match="learning rate"):
        answered(GPT(), observe(rests, lr_known=False))
    places = [{n: g for n, g in rest.items() if "wpe" in n or "ln_f" in n} for rest in rests]
    with pytest.raises(NotApplicable, match="no layer's gradient"):
        answered(GPT(), observe(places))
    recurrent = [below(LSTM(), ids, lambda name: "body" in name) for ids in IDS]
    with pytest.raises(NotApplicable, match="no layer's gradient"):
        answered(LSTM(), observe(recurrent))


def test_one_trial_is_answered_as_among_many():
    rests = [below(GPT(), ids) for ids in IDS]
    many = answered(GPT(), observe(rests))
    one = answered(GPT(), observe(rests[1:2]))
    assert (many.counts[1] == one.counts[0]).all()
