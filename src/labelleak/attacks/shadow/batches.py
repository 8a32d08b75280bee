"""Batches that an attacker makes up from its own data, under a broad mixture of priors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.head_table import HeadTable
from labelleak.core.lazy import Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass, WhiteBox

# Shares of the mixture: uniform labels, half one class and a quarter another; Dirichlet the rest.
UNIFORM, HALF_QUARTER = 0.5, 0.15
LARGEST_ALPHA = 10.0
# How far a sample is moved along the line to another one of its class, and copies made of it so.
_REACH = 0.6
_MOST_COPIES, _ENOUGH, _FEW = 10, 6000, 3000
# A class of n samples borrows from other classes for b^2 / (b^2 + n^2) of its copies.
_BORROWED = 5.0
# Samples lent to classes that have none, in all and a class.
_LENT, _LENT_EACH = 5000, 50


def draw_counts(shadows: int, total: int, num_classes: int, rng: np.random.Generator) -> Ints:
    """Draw label counts of N labels from a mixture that treats all classes alike.

    Half the draws are uniform over classes; 15 % give half of the batch to one class and a
    quarter to another; 35 % draw class shares from a symmetric Dirichlet, its concentration
    log-uniform from 0.05 (1/K if that is less) to 10.

    Returns:
        ``shadows x K`` counts, each row summing to N.

    >>> draw_counts(3, 8, 4, np.random.default_rng(0)).sum(axis=1).tolist()
    [8, 8, 8]
    """
    kind = rng.random(shadows)
    shares = np.full((shadows, num_classes), 1 / num_classes)
    dirichlet = kind >= UNIFORM + HALF_QUARTER
    shares[dirichlet] = draw_shares(int(dirichlet.sum()), num_classes, rng)
    counts = np.zeros((shadows, num_classes), dtype=np.int64)
    rows = np.flatnonzero((kind >= UNIFORM) & ~dirichlet)
    first = rng.integers(num_classes, size=len(rows))
    other = (first + rng.integers(1, num_classes, size=len(rows))) % num_classes
    counts[rows, first] = total // 2
    counts[rows, other] = total // 4
    rest = total - counts.sum(axis=1)
    return counts + rng.multinomial(rest, shares)


def draw_shares(draws: int, num_classes: int, rng: np.random.Generator) -> Floats:
    """Draw class shares from symmetric Dirichlets, their concentrations spread as said above."""
    low, high = np.log(min(0.05, 1 / num_classes)), np.log(LARGEST_ALPHA)
    alphas = np.exp(rng.uniform(low, high, size=(draws, 1)))
    # A floor, so that shares that all underflow are even; and divided last, to sum to 1.
    weights = rng.standard_gamma(np.broadcast_to(alphas, (draws, num_classes))) + 1e-300
    shares = weights / weights.sum(axis=1, keepdims=True)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Head:
    """Weight and bias of a head, its classes in some order."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, model: WhiteBox, order: Tensor) -> Head:
        """Take a model's head with its classes in an order."""
        head = model.head_module.state_dict()
        bias = head.get("bias")
        return cls(head["weight"].cpu()[order], None if bias is None else bias.cpu()[order])

    def logits(self, inputs: Tensor) -> Tensor:
        """Answer for head inputs."""
        return torch.nn.functional.linear(inputs, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Bank:
    """Samples as they show at the head, sorted by class, from which shadow batches are drawn.

    Attributes:
        table: head inputs and errors of every sample.
        starts: where each class begins.
        sizes: samples of each class with their copies, none of them 0.
        own: samples of each class without copies.
    """

    table: HeadTable
    starts: Ints
    sizes: Ints
    own: Ints

    @classmethod
    def of(cls, seen: HeadPass, labels: Tensor, head: Head, rng: np.random.Generator) -> Bank:
        """Keep a pass, with smoothed copies of its samples.

        Few samples would be known by heart, and an attack that knows them overrates itself on
        a client's. So each gets up to 10 copies (of few samples, 3,000 in all), its head input
        moved along the line to another of its class by a uniform share in -0.6 .. 0.6 of the
        way. Of a class known by n samples, 25 / (25 + n^2) of the copies are its mean moved as a
        sample of any class differs from the mean of its own: a few samples do not show how
        a class varies, all of them do. Copies are held within the range that each feature was
        seen in; the head answers for them.

        Args:
            seen: pass of the samples, each class with at least one; logits in the bank's order
                of classes.
            labels: their classes in that order.
            head: the head in that order.
            rng: source of the copies.
        """
        inputs, known = seen.inputs.detach(), labels.numpy()
        most = max(_MOST_COPIES, _FEW // len(known))
        copies = int(np.clip(_ENOUGH // len(known), 1, most))
        low, high = inputs.amin(dim=0), inputs.amax(dim=0)
        moved = [inputs]
        for _ in range(copies):
            step = torch.from_numpy(rng.uniform(-_REACH, _REACH, (len(known), 1)))
            other = inputs[torch.from_numpy(_partners(known, rng))]
            copy = inputs + step.to(inputs) * (other - inputs)
            moved.append(torch.clamp(_borrow(copy, inputs, labels, rng), low, high))
        logits = torch.cat([seen.logits.detach(), head.logits(torch.cat(moved[1:]))])
        repeated = np.tile(known, copies + 1)
        order = torch.from_numpy(np.argsort(repeated, kind="stable"))
        sizes = np.bincount(repeated, minlength=logits.shape[1])
        held = HeadPass(torch.cat(moved)[order], logits[order], logits[order])
        sorted_labels = torch.from_numpy(repeated)[order]
        table = HeadTable.of_pass(held, sorted_labels, head.bias is not None)
        return cls(table, np.cumsum(sizes) - sizes, sizes, sizes // (copies + 1))

    def draw(self, counts: Ints, rng: np.random.Generator) -> Ints:
        """Draw samples with given label counts, ``shadows x N`` indices into the table.

        Each class is a Polya urn: of n own samples, the j-th draw repeats an earlier one with
        chance (j - 1) / (n + j - 1). That is how samples of a class come that is known by n of
        them alone (the Bayesian bootstrap), so batches differ more where there are few.
        """
        shadows, classes = counts.shape
        labels = np.repeat(np.tile(np.arange(classes), shadows), counts.ravel())
        firsts = np.repeat(np.cumsum(counts.ravel()) - counts.ravel(), counts.ravel())
        drawn = np.arange(len(labels)) - firsts
        repeats = rng.random(len(labels)) * (self.own[labels] + drawn) < drawn
        earlier = firsts + np.floor(rng.random(len(labels)) * drawn).astype(np.int64)
        source = np.where(repeats, earlier, np.arange(len(labels)))
        while (source != source[source]).any():  # a repeat of a repeat
            source = source[source]
        places = np.floor(rng.random(len(labels)) * self.sizes[labels]).astype(np.int64)
        return np.asarray((self.starts[labels] + places[source]).reshape(shadows, -1))

    def observe(self, counts: Ints, rng: np.random.Generator) -> Observation:
        """Return the head gradients of shadow batches with given label counts."""
        return self.table.gradients(self.draw(counts, rng))


def lend(labels: Tensor, num_classes: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Lend samples of any class to classes without any, as the other attacks on such data do.

    Returns:
        Which samples to take and the class to take each for: all under their own label first,
        then the lent ones.
    """
    absent = np.flatnonzero(np.bincount(labels.numpy(), minlength=num_classes) == 0)
    own = torch.arange(len(labels))
    if not absent.size:
        return own, labels
    each = int(np.clip(_LENT // absent.size, 2, _LENT_EACH))
    # The same samples for every such class, so that class names do not matter.
    picks = np.tile(rng.integers(len(labels), size=each), absent.size)
    lent = torch.from_numpy(np.repeat(absent, each))
    return torch.cat([own, torch.from_numpy(picks)]), torch.cat([labels, lent])


def _borrow(copies: Tensor, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Put in place of some copies their class's mean, moved as any class's samples differ."""
    sizes = torch.bincount(labels).to(inputs)
    means = inputs.new_zeros(len(sizes), inputs.shape[1]).index_add_(0, labels, inputs)
    means /= sizes.clamp(min=1)[:, None]
    pool = torch.nonzero(sizes[labels] > 1)[:, 0]
    if not len(pool):
        return copies
    lender = pool[torch.from_numpy(rng.integers(len(pool), size=len(labels)))]
    own, theirs = sizes[labels], sizes[labels[lender]]
    # Around a mean of n samples they spread by (n - 1) / n too little.
    apart = (theirs / (theirs - 1)).sqrt()[:, None] * (inputs[lender] - means[labels[lender]])
    taken = torch.from_numpy(rng.random(len(labels))).to(inputs) < _BORROWED**2 / (
        _BORROWED**2 + own**2
    )
    return torch.where(taken[:, None], means[labels] + apart, copies)


def _partners(labels: np.ndarray, rng: np.random.Generator) -> Ints:
    """Pair each sample with one of its class, by a random order."""
    inside = np.argsort(labels + rng.random(len(labels)), kind="stable")
    outside = np.argsort(labels, kind="stable")
    partners = np.empty(len(labels), dtype=np.int64)
    partners[outside] = inside
    return partners


__all__ = ["Bank", "Head", "draw_counts", "lend"]
