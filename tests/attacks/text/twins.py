"""Slow twins of attacks on text: one token at a time, in the words of the equations."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats

from labelleak.attacks.text.input_means import share_of_numbers
from labelleak.attacks.text.row_noise import measure_noise


def slow_follows(inputs, chances, labels, texts, token, doubt=5.0):
    """Return how much each label more than usual adds to its token's posteriors, text by text."""
    share, number = (labels == token).mean(), len(labels)
    usual = chances[:, token] @ inputs / number
    above = doubt * len(set(texts.tolist())) / number
    apart, alone = np.zeros(inputs.shape[1]), 0.0
    for text in range(texts.max() + 1):
        here = texts == text
        size = here.sum()
        more = (labels[here] == token).sum() - size * share
        above += more**2 / size
        apart += more / size * (chances[here, token] @ inputs[here] - size * usual)
        alone += more / size * (chances[here, token].sum() - size * chances[:, token].mean())
    return apart / above, alone / above


def slow_posterior(gradient, own, total, shares, tokens, most=60):
    """Return P(c_v >= 1) of some tokens, by densities of full normal distributions."""
    width = gradient.shape[1]
    weighted = own.weighted.numpy()
    posterior = total * np.maximum(own.squares * own.size - (weighted**2).sum(1) / width, 0.0)
    apart = total * (weighted - gradient)
    factor, noise = measure_noise((apart**2).sum(1) / width, posterior, total * shares < 0.3, 0.0)
    within = own.within().numpy()
    sizes, axes = np.linalg.eigh(within + noise * np.eye(width))
    metric = axes * np.maximum(sizes, 0.05 * sizes.mean()) @ axes.T
    inverse = np.linalg.inv(metric)
    label = np.trace(inverse @ within) / width
    around = np.trace(inverse) / width
    middle, often = own.middle.numpy(), own.seen >= 5
    means = own.inputs.numpy() / np.maximum(own.seen, 1)[:, None]
    away = means[often] - middle
    between = np.einsum("vd,de,ve->v", away, inverse, away).mean() / width
    apart_by = max(between / label - (1 / own.seen[often]).mean(), 1e-3)
    power = share_of_numbers(own, torch.from_numpy(np.linalg.cholesky(inverse)), label)
    found = {}
    for token in tokens:
        drawn = own.seen[token] + 1 / apart_by
        follows = own.follows[0].numpy()[token]
        mean = (own.inputs.numpy()[token] + middle / apart_by) / drawn - follows
        row = apart[token] - total * own.seen[token] / own.total * follows
        other = (factor * posterior[token] + noise) * around + 1e-9
        logs = []
        for count in range(most):
            variance = label * (count + count**2 / drawn) + other
            density = stats.multivariate_normal(count * mean, variance * metric)
            chance = stats.poisson.logpmf(count, total * shares[token])
            logs.append(power * density.logpdf(row) + chance)
        chances = np.exp(np.asarray(logs) - max(logs))
        found[token] = 1 - chances[0] / math.fsum(chances)
    return found
