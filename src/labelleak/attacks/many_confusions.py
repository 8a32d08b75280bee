"""Confusions of more classes than can be inverted: solved by products with them alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.head_sums import by_rows
from labelleak.core.lazy import Tensor, sparse_linalg, torch
from labelleak.core.mixtures import mixture_shares

# Up to so many classes an inverse is as quick.
DIRECT = 1_000
CUT_SHORT = "confusions_cut_short"

# Where the Krylov solver stops: residual beside the signal, steps before a restart, restarts.
_EXACT, _STEPS, _RESTARTS = 1e-6, 200, 2
# Classes that join a mixture at once, and those that it may have.
_JOIN, _MOST = 256, 1024
# A class joins if it would be given more than this share of a label.
_LABEL = 0.01


@dataclass(frozen=True, eq=False)
class ManyConfusions:
    """What one sample of class c leaves in the signal: row c of ``A = P - I``, P held as floats.

    Rows sum to 0, so the diagonal is minus the sum of the rest: it is exact, too, where P nears I.

    Attributes:
        rest: the rows without their diagonal, ``K x K``, in single precision.
        diagonal: K numbers.
    """

    rest: Tensor
    diagonal: Floats

    @classmethod
    def of(cls, rest: Tensor) -> ManyConfusions:
        """Take over a table of mean posteriors; its diagonal is overwritten.

        >>> ManyConfusions.of(torch.tensor([[0.5, 0.5], [0.25, 0.75]])).diagonal.tolist()
        [-0.5, -0.25]
        """
        rest.fill_diagonal_(0.0)
        return cls(rest, -by_rows(rest, lambda rows: rows.sum(dim=-1)))

    def push(self, shares: Floats) -> Floats:
        """Return the signal of shares, ``A^T x``."""
        return _double(self.rest.T @ _single(shares)) + self.diagonal * shares

    def pull(self, signal: Floats) -> Floats:
        """Return the inner product of each row with a signal, ``A s``."""
        return _double(self.rest @ _single(signal)) + self.diagonal * signal

    def rows(self, classes: np.ndarray) -> Floats:
        """Return the rows of some classes, in double precision."""
        found = _double(self.rest[torch.from_numpy(classes)])
        found[np.arange(len(classes)), classes] = self.diagonal[classes]
        return found

    def plain_shares(self, signal: Floats) -> tuple[Floats, bool]:
        """Return the shares that sum to 1 and give the signal, and whether that was reached.

        As `Confusions.plain_shares`: shares are 1/K plus a vector that sums to 0. A takes such
        vectors to such, so GMRES stays among them: a product with A a step, and about as many
        steps as A has directions far from minus the identity, twice as many as labels at most.
        """
        classes = len(self.diagonal)
        missing = _centred(signal - self.push(np.full(classes, 1 / classes)))
        operator = sparse_linalg.LinearOperator(
            (classes, classes),
            matvec=lambda x: _centred(self.push(_centred(np.ravel(x)))),
            dtype=np.float64,
        )
        found, left = sparse_linalg.gmres(
            operator, missing, rtol=_EXACT, restart=min(_STEPS, classes), maxiter=_RESTARTS
        )
        return _centred(found) + 1 / classes, left == 0

    def shares(self, signal: Floats, total: int) -> tuple[Floats, bool]:
        """Return the least-squares shares that sum to 1, none negative, and if they were reached.

        As `Confusions.shares`, on a few classes at a time: those with the least signal, then those
        that would lessen the misfit most, until no class would be given a hundredth of a label.
        Where too many are needed, the plain shares are taken and negative ones left out.

        Args:
            signal: K numbers.
            total: N.
        """
        lengths = np.square(self.diagonal)
        lengths += by_rows(self.rest, lambda rows: rows.square().sum(dim=-1))
        among = np.argsort(signal, kind="stable")[: int(np.clip(total, _JOIN, _MOST))]
        while len(among) <= _MOST:
            rows = self.rows(among)
            own = mixture_shares(rows @ rows.T, rows @ signal, signal @ signal)
            mixed = own @ rows
            slope = self.pull(mixed - signal)
            apart = lengths - 2 * self.pull(mixed) + mixed @ mixed
            gain = (own @ slope[among] - slope) / np.maximum(apart, np.finfo(np.float32).tiny)
            gain[among] = 0.0
            more = np.argsort(-gain, kind="stable")[:_JOIN]
            more = more[gain[more] > _LABEL / total]
            if not more.size:
                shares = np.zeros(len(signal))
                shares[among] = own
                return shares, True
            among = np.concatenate([among, more])
        plain = np.maximum(self.plain_shares(signal)[0], 0.0)
        return plain / plain.sum(), False


def _centred(values: Floats) -> Floats:
    return np.asarray(values - values.mean())


def _single(values: Floats) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _double(tensor: Tensor) -> Floats:
    return np.asarray(tensor.double().numpy())


__all__ = ["CUT_SHORT", "DIRECT", "ManyConfusions"]
