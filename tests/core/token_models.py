"""Small language models as frameworks write them, and texts whose words are common or rare."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

TOKENS, WIDTH = 300, 24


class Conv1D(nn.Module):
    """GPT-2's linear layer: inputs x outputs, with a bias."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs):
        return inputs @ self.weight + self.bias


class GPT(nn.Module):
    """A causal model of one block, which returns an object as transformers do."""

    def __init__(self, *, tied=False, conv=False, tokens=TOKENS, seed=0, scale=1.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = Conv1D if conv else nn.Linear
            self.wte, self.wpe = nn.Embedding(tokens, WIDTH), nn.Embedding(32, WIDTH)
            self.c_fc, self.c_proj = layer(WIDTH, 4 * WIDTH), layer(4 * WIDTH, WIDTH)
            self.ln_f = nn.LayerNorm(WIDTH)
            self.lm_head = nn.Linear(WIDTH, tokens, bias=False)
            nn.init.normal_(self.lm_head.weight, std=0.02)
            nn.init.normal_(self.wte.weight, std=0.5)
        self.scale = scale
        if tied:
            self.wte.weight = self.lm_head.weight

    def hidden(self, ids):
        places = torch.arange(ids.shape[1])
        inputs = self.wte(ids) + self.wpe(places)
        seen = inputs.cumsum(1) / (places[:, None] + 1)  # each position sees those before it
        return self.ln_f(inputs + self.c_proj(torch.tanh(self.c_fc(seen + inputs))))

    def forward(self, ids):
        return SimpleNamespace(logits=self.scale * self.lm_head(self.hidden(ids)))


class LSTM(nn.Module):
    """A recurrent model, which returns its logits and its state."""

    def __init__(self, tokens=TOKENS):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embed = nn.Embedding(tokens, WIDTH)
            self.body = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self.out = nn.Linear(WIDTH, tokens)

    def forward(self, ids):
        seen, state = self.body(self.embed(ids))
        return self.out(seen), state


def texts(seed, rows=8, length=17, tokens=TOKENS):
    """Draw texts of words of which few are common, a follower of each more likely than others."""
    rng = torch.Generator().manual_seed(seed)
    often = 1 / (3 + torch.arange(tokens, dtype=torch.float64))
    drawn = torch.multinomial(often, rows * length, replacement=True, generator=rng)
    drawn = drawn.view(rows, length)
    follow = torch.rand(rows, length - 1, generator=rng) < 0.3
    for place in range(1, length):
        after = (drawn[:, place - 1] * 7 + 3) % tokens
        drawn[:, place] = torch.where(follow[:, place - 1], after, drawn[:, place])
    return drawn


def loss_of(model, ids, labels=None):
    """Return the mean cross-entropy of the next tokens, as Trainer has it."""
    given = model(ids)
    logits = given[0] if isinstance(given, tuple) else getattr(given, "logits", given)
    wanted = ids if labels is None else labels
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())


def gradients(model, ids, labels=None):
    """Return the gradient that a client shares, as it would be saved."""
    model.zero_grad()
    torch.autograd.backward(loss_of(model, ids, labels))
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def train(model, steps, seed=100, lr=3e-3):
    """Train a model on texts of its own."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(loss_of(model, texts(seed + step, rows=16)))
        optimiser.step()
    return model
