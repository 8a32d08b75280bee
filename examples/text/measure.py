"""Measure what one gradient of a GPT-2-like model names of a batch of AG News, over its training.

usage: measure.py AG_NEWS.npz [STEPS ...] [--tied] [--alone]
(needs: pip install transformers tokenizers)
The data set holds texts x_train and x_test. Training text, own text and clients' text are disjoint.
With --alone the attacker has neither the model nor text of its own.
"""

import sys

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from labelleak import LocalTraining, attack_update
from labelleak.core.knowledge import LabelledData

TOKENS, LENGTH, TRIALS = 2000, 64, 3
ATTACKS = ("free", "row_energy", "input_tokens", "token_posterior")


def read_texts(path):
    """Return the token ids of training text, own text and clients' text."""
    raw = np.load(path, allow_pickle=False)
    train, test = ([str(text) for text in raw[part]] for part in ("x_train", "x_test"))
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(train, trainer)
    known, clients = (
        torch.tensor([token for one in tokenizer.encode_batch(texts) for token in one.ids])
        for texts in (train, test)
    )
    return known[: len(known) // 2], known[len(known) // 2 :], clients


def draw(ids, rows, generator):
    """Draw rows of text from anywhere in a stream."""
    starts = torch.randint(len(ids) - LENGTH, (rows,), generator=generator)
    return torch.stack([ids[start : start + LENGTH] for start in starts.tolist()])


def main(path, steps):
    """Train, and attack one gradient of the model at each number of steps."""
    known, own, clients = read_texts(path)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    config = GPT2Config(
        vocab_size=TOKENS, n_positions=128, n_embd=128, n_layer=2, n_head=4,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, tie_word_embeddings="--tied" in sys.argv,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = own[: len(own) // LENGTH * LENGTH].view(-1, LENGTH)[:900]
    for step in range(max(steps) + 1):
        if step in steps:
            report_on(model, step, LabelledData(texts, texts), clients, generator)
        ids = draw(known, 16, generator)
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()


def report_on(model, step, own, clients, generator):
    """Print the share of a client's tokens that each attack names."""
    alone = "--alone" in sys.argv
    held, attacks = ({}, ATTACKS[1:3]) if alone else ({"model": model, "auxiliary": own}, ATTACKS)
    found = []
    for _ in range(TRIALS):
        ids = draw(clients, 8, generator)
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        labels = ids[:, 1:].flatten().tolist()
        report = attack_update(
            gradient={n: p.grad.clone() for n, p in model.named_parameters()},
            task="tokens", truth=labels, attacks=attacks, num_samples=len(labels),
            made=LocalTraining(local_steps=1), **held,
        )  # fmt: skip
        found.append([result.asr for result in report.results])
    means = ", ".join(f"{n} {x:.2f}" for n, x in zip(attacks, np.mean(found, 0), strict=True))
    print(f"{step} training steps: {means}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(one) for one in sys.argv[2:] if one.isdecimal()] or [0, 60, 300, 1500])
