"""Small language models that ship: token ids in, a logit for each token at each position out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, LAYERS, HEADS = 128, 2, 4
# Standard deviation of initial weights (GPT-2, Radford et al. 2019; Llama has it, too).
SPREAD = 0.02


class Attention(nn.Module):
    """Causal self-attention, with positions turned into the vectors where asked (RoPE)."""

    def __init__(self, *, turned: bool) -> None:
        super().__init__()
        self.turned = turned
        self.inputs = nn.Linear(WIDTH, 3 * WIDTH, bias=not turned)
        self.output = nn.Linear(WIDTH, WIDTH, bias=not turned)

    def forward(self, inputs: Tensor) -> Tensor:
        """Let each position see those before it."""
        texts, length, _ = inputs.shape
        split = self.inputs(inputs).view(texts, length, 3, HEADS, WIDTH // HEADS)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        if self.turned:
            queries, keys = turn_by_place(queries), turn_by_place(keys)
        # Written out, since torch's own has no rule for gradients sample by sample.
        fits = queries @ keys.mT / math.sqrt(WIDTH // HEADS)
        later = torch.ones(length, length, dtype=torch.bool, device=inputs.device).triu(1)
        seen = fits.masked_fill(later, -math.inf).softmax(-1) @ values
        outputs: Tensor = self.output(seen.transpose(1, 2).reshape(texts, length, WIDTH))
        return outputs


def turn_by_place(vectors: Tensor) -> Tensor:
    """Turn pairs of coordinates by an angle that grows with the position (Su et al. 2021).

    >>> turned = turn_by_place(torch.ones(1, 1, 2, 4))
    >>> torch.equal(turned[..., 0, :], torch.ones(1, 1, 4)), turned.norm().item()
    (True, 2.8284270763397217)
    """
    half = vectors.shape[-1] // 2
    speeds = 10_000.0 ** (-torch.arange(half, device=vectors.device) / half)
    angles = torch.arange(vectors.shape[-2], device=vectors.device)[:, None] * speeds
    cos, sin = angles.cos().to(vectors), angles.sin().to(vectors)
    first, second = vectors[..., :half], vectors[..., half:]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


class Gated(nn.Module):
    """A feed-forward layer with a gate, as Llama has it (SwiGLU, Shazeer 2020)."""

    def __init__(self) -> None:
        super().__init__()
        inside = 8 * WIDTH // 3
        self.gate, self.up = (nn.Linear(WIDTH, inside, bias=False) for _ in range(2))
        self.down = nn.Linear(inside, WIDTH, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer."""
        outputs: Tensor = self.down(F.silu(self.gate(inputs)) * self.up(inputs))
        return outputs


def _plain() -> nn.Sequential:
    inside = 4 * WIDTH
    return nn.Sequential(nn.Linear(WIDTH, inside), nn.GELU("tanh"), nn.Linear(inside, WIDTH))


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalised before and added."""

    def __init__(self, *, llama: bool) -> None:
        super().__init__()
        self.before_attention, self.before_inner = _norm(llama), _norm(llama)
        self.attention = Attention(turned=llama)
        self.inner = Gated() if llama else _plain()

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the block."""
        inputs = inputs + self.attention(self.before_attention(inputs))
        outputs: Tensor = inputs + self.inner(self.before_inner(inputs))
        return outputs


def _norm(llama: bool) -> nn.Module:
    return nn.RMSNorm(WIDTH, eps=1e-6) if llama else nn.LayerNorm(WIDTH)


class Decoder(nn.Module):
    """A causal transformer: GPT-2's layout with learnt positions, or Llama's with turned ones."""

    def __init__(self, tokens: int, length: int, *, llama: bool, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, WIDTH)
        self.places = None if llama else nn.Embedding(length, WIDTH)
        self.blocks = nn.Sequential(*(Block(llama=llama) for _ in range(LAYERS)))
        self.norm = _norm(llama)
        self.lm_head = nn.Linear(WIDTH, tokens, bias=False)
        self.apply(_draw)
        for block in self.blocks:  # what is added to the stream is drawn smaller, as in GPT-2
            assert isinstance(block, Block)
            nn.init.normal_(block.attention.output.weight, std=SPREAD / math.sqrt(2 * LAYERS))
        if tied:
            self.lm_head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return ``texts x positions x tokens`` logits."""
        inputs = self.embedding(ids)
        if self.places is not None:
            inputs = inputs + self.places(torch.arange(ids.shape[1], device=ids.device))
        logits: Tensor = self.lm_head(self.norm(self.blocks(inputs)))
        return logits


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=SPREAD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class Recurrent(nn.Module):
    """One LSTM layer between an embedding and a head with a bias, as keyboards have them."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, WIDTH)
        self.body = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.lm_head = nn.Linear(WIDTH, tokens)

    def forward(self, ids: Tensor) -> Tensor:
        """Return ``texts x positions x tokens`` logits."""
        logits: Tensor = self.lm_head(self.body(self.embedding(ids))[0])
        return logits


def make_language_model(name: str, tokens: int, length: int) -> nn.Module:
    """Make a language model of so many tokens, for texts of a length.

    Args:
        name: gpt2-small, gpt2-untied, llama-small or lstm.
        tokens: V.
        length: positions of a text at most.

    >>> make_language_model("lstm", 50, 8)(torch.zeros(2, 8, dtype=torch.long)).shape
    torch.Size([2, 8, 50])
    """
    if name == "lstm":
        return Recurrent(tokens)
    return Decoder(tokens, length, llama=name == "llama-small", tied=name == "gpt2-small")


__all__ = ["Decoder", "Recurrent", "make_language_model", "turn_by_place"]
