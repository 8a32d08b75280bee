"""Random models of many kinds, their layers defined in any order, with the truth about the head."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ORDINARY = {"head": ("classifier", "head", "fc", "out", "lm_head"), "aux": ("domain", "aux_head")}
PLAIN = {"head": ("a", "zz", "top", "m1"), "aux": ("b", "yy", "side", "m2")}


class Net(nn.Module):
    """Layers in any order of definition, and what is done with them."""

    def __init__(self, parts, rng, run):
        super().__init__()
        names = list(parts)
        for place in rng.permutation(len(names)):
            self.add_module(names[place], parts[names[place]])
        self.run = run
        self.extra = None

    def forward(self, x):
        self.extra = None
        return self.run(self, x)


@dataclass
class Case:
    """A model with its true head, an input, labels, and a further loss of its side outputs."""

    kind: str
    model: nn.Module
    head: str
    x: torch.Tensor
    y: torch.Tensor
    side: str = ""

    def loss(self):
        logits = self.model(self.x)
        whole = F.cross_entropy(logits, self.y)
        other = self.model.extra
        if other is None or not self.side:
            return whole
        if self.side == "entropy":
            return whole + F.cross_entropy(other, self.y % other.shape[1])
        return whole + other.square().mean()


def draw(seed):
    """Draw a case; kinds, widths, names, biases and order of definition are all random."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    kind = KINDS[seed % len(KINDS)]
    names = ORDINARY if rng.random() < 0.6 else PLAIN
    head = str(rng.choice(names["head"]))
    aux = str(rng.choice(names["aux"]))
    k, d, n = int(rng.integers(2, 12)), int(rng.integers(3, 14)), 16
    if rng.random() < 0.25:
        d = k
    hidden = int(rng.choice([8, 12, 16, 24, 32]))
    bias = partial(dict, bias=bool(rng.random() < 0.7))
    x, y = torch.randn(n, d), torch.from_numpy(rng.integers(0, k, n))
    parts, run, x, side = BUILDERS[kind](rng, x, d, hidden, k, head, aux, bias)
    return Case(kind, Net(parts, rng, run), head, x, y, side)


def _mlp(rng, x, d, h, k, head, aux, bias):
    depth = int(rng.integers(1, 4))
    widths = [d, *(int(rng.choice([8, h, 20])) for _ in range(depth))]
    body = {f"l{i}": nn.Linear(a, b) for i, (a, b) in enumerate(pairwise(widths))}

    def run(m, x):
        for name in body:
            x = getattr(m, name)(x).relu()
        return getattr(m, head)(x)

    return {**body, head: nn.Linear(widths[-1], k, **bias())}, run, x, ""


def _conv(rng, x, d, h, k, head, aux, bias):
    pool = bool(rng.random() < 0.5)
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1 if pool else 2), nn.Flatten(),
        nn.Linear(8 if pool else 32, h), nn.ReLU(),
    )  # fmt: skip
    parts = {"body": body, head: nn.Linear(h, k, **bias())}
    return parts, lambda m, x: getattr(m, head)(m.body(x)), torch.randn(len(x), 1, 10, 10), ""


def _transformer(rng, x, d, h, k, head, aux, bias):
    layer = nn.TransformerEncoderLayer(h, 2, 2 * h, batch_first=True, dropout=0.0)
    table = "tok" if rng.random() < 0.5 else "embedding"
    parts = {
        table: nn.Embedding(23, h), "enc": layer, "norm": nn.LayerNorm(h),
        head: nn.Linear(h, k, **bias()),
    }  # fmt: skip

    def run(m, x):
        return getattr(m, head)(m.norm(m.enc(getattr(m, table)(x))).mean(1))

    return parts, run, torch.randint(0, 23, (len(x), 5)), ""


def _text(rng, x, d, h, k, head, aux, bias):
    table = "words" if rng.random() < 0.5 else "emb"
    parts = {table: nn.Embedding(20, h), head: nn.Linear(h, k, **bias())}
    tokens = torch.randint(0, 20, (len(x), 6))
    return parts, lambda m, x: getattr(m, head)(getattr(m, table)(x).mean(1).relu()), tokens, ""


def _lstm(rng, x, d, h, k, head, aux, bias):
    both = bool(rng.random() < 0.5)
    kind = nn.LSTM if rng.random() < 0.5 else nn.GRU
    parts = {"rnn": kind(d, h, batch_first=True, bidirectional=both)}
    parts[head] = nn.Linear(2 * h if both else h, k, **bias())

    def run(m, x):
        return getattr(m, head)(m.rnn(x)[0][:, -1])

    return parts, run, torch.randn(len(x), 4, d), ""


def _glu(rng, x, d, h, k, head, aux, bias):
    parts = {"up": nn.Linear(d, 2 * h), head: nn.Linear(h, k, **bias())}
    return parts, lambda m, x: getattr(m, head)(F.glu(m.up(x))), x, ""


def _two_heads(rng, x, d, h, k, head, aux, bias):
    rows = k if rng.random() < 0.4 else int(rng.integers(2, 9))
    side = str(rng.choice(["", "entropy", "square"]))
    parts = {"body": nn.Linear(d, h), head: nn.Linear(h, k, **bias()), aux: nn.Linear(h, rows)}

    def run(m, x):
        h = m.body(x).relu()
        m.extra = getattr(m, aux)(h)
        return getattr(m, head)(h)

    return parts, run, x, side


def _projection(rng, x, d, h, k, head, aux, bias):
    name = "projection" if rng.random() < 0.5 else aux
    width = k if rng.random() < 0.4 else 16
    top = (
        nn.Linear(h, width)
        if rng.random() < 0.5
        else nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, width))
    )
    parts = {"body": nn.Linear(d, h), head: nn.Linear(h, k, **bias()), name: top}

    def run(m, x):
        h = m.body(x).relu()
        m.extra = F.normalize(getattr(m, name)(h), dim=1) @ torch.ones(width)
        return getattr(m, head)(h)

    return parts, run, x, str(rng.choice(["", "square"]))


def _experts(rng, x, d, h, k, head, aux, bias):
    gate = "gate" if rng.random() < 0.5 else aux
    parts = {
        "e0": nn.Linear(d, h), "e1": nn.Linear(d, h), gate: nn.Linear(d, 2),
        head: nn.Linear(h, k, **bias()),
    }  # fmt: skip

    def run(m, x):
        share = getattr(m, gate)(x).softmax(1)
        mixed = share[:, :1] * m.e0(x).relu() + share[:, 1:] * m.e1(x).relu()
        return getattr(m, head)(mixed)

    return parts, run, x, ""


def _residual(rng, x, d, h, k, head, aux, bias):
    parts = {"stem": nn.Linear(d, h), head: nn.Linear(h, k, **bias())}
    parts |= {
        f"b{i}": nn.Sequential(nn.LayerNorm(h), nn.Linear(h, 2 * h), nn.GELU(), nn.Linear(2 * h, h))
        for i in range(3)
    }
    parts["last_norm"] = nn.LayerNorm(h)

    def run(m, x):
        x = m.stem(x)
        for i in range(3):
            x = x + getattr(m, f"b{i}")(x)
        return getattr(m, head)(m.last_norm(x))

    return parts, run, x, ""


def _autoencoder(rng, x, d, h, k, head, aux, bias):
    back = "decoder" if rng.random() < 0.5 else aux
    parts = {"enc": nn.Linear(d, 8), back: nn.Linear(8, d), head: nn.Linear(8, k, **bias())}

    def run(m, x):
        h = m.enc(x).relu()
        m.extra = getattr(m, back)(h) - x
        return getattr(m, head)(h)

    return parts, run, x, "square"


def _branches(rng, x, d, h, k, head, aux, bias):
    join = bool(rng.random() < 0.5)
    parts = {"left": nn.Linear(d, h), "right": nn.Linear(d, h)}
    parts[head] = nn.Linear(2 * h if join else h, k, **bias())

    def run(m, x):
        a, b = m.left(x).relu(), m.right(-x).relu()
        return getattr(m, head)(torch.cat([a, b], 1) if join else (a - b).abs())

    return parts, run, x, ""


BUILDERS = {
    "mlp": _mlp, "conv": _conv, "transformer": _transformer, "text": _text, "lstm": _lstm,
    "glu": _glu, "two_heads": _two_heads, "projection": _projection, "experts": _experts,
    "residual": _residual, "autoencoder": _autoencoder, "branches": _branches,
}  # fmt: skip
KINDS = tuple(BUILDERS)
