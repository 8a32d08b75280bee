"""What an update says of each class, measured alike for all of them, so that they share a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from labelleak.core.lazy import F, Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass

GROUPS = ("bias", "rows", "signs", "classes", "solutions", "ranks", "constants")

# Beside the trial's largest entry, less than this is rounding and has no sign.
_ROUNDING = 1e-8
# What is added to covariances: shares of their mean variance.
_STEADY, _STEADY_GRAM = 0.1, 1e-4
_SLICE_BYTES = 256 * 2**20
# Above so many classes a ridge stands in for singular values, which take seconds.
_MANY, _RIDGE = 256, 1e-3
_TINY = 1e-30
# Units of signed logarithms.
_FINE, _COARSE = 1e-6, 1e-2
# Columns of which a signed logarithm is taken, with its unit, and others as they are.
_Columns = tuple[list[tuple[Tensor, float]], list[Tensor]]


@dataclass(frozen=True, eq=False)
class ClassFeatures:
    """Measures an update class by class, in units learnt from labelled samples.

    With ``N dW_i = sum_k (p_k - e_k)_i h_k`` and ``N b_i`` likewise, the groups are:

    * bias: ``N b_i``, at two scales and beside the largest.
    * rows: row sums, at two scales; and the part of a row that its own class does not explain.
    * signs: least and greatest entry of a row, share and length of its negative and positive part.
    * classes: the row projected on the class's direction in a basis dual to the class means
      (within-class covariance as metric). It takes the errors of samples of class j at output i
      apart: at i = j it is minus the sum of ``1 - p_i`` over the batch's samples of class i.
      Also the cosine with the class mean, and the discriminant direction.
    * solutions: real counts after RLU (plain least squares) and PPLR, and the dual projection
      over its mean.
    * ranks: of three of these among the classes.
    * constants: how sure the model is of the class when right and wrong: mean of ``1 - p``
      over its samples, of p over all others, mean and spread of ``log(1 - p)``.

    Sizes spread over orders of magnitude on trained models, so they enter as signed logarithms.

    Attributes:
        groups: which are given.
        means: class means of head inputs, ``K x D``, of length 1.
        dual: the dual basis, ``K x D``.
        directions: discriminant directions of length 1, ``K x D``.
        confusion: mean ``p - e_c`` over the samples of class c, ``K x K``.
        inverse: pseudo-inverse of the centred confusion.
        constants: ``K x 4``.
        units: mean size of a sum of head inputs, of their length, and of an entry.
    """

    groups: tuple[str, ...]
    means: Tensor
    dual: Tensor
    directions: Tensor
    confusion: Tensor
    inverse: Tensor
    constants: Tensor
    units: tuple[float, float, float]

    @classmethod
    def measure(
        cls, seen: HeadPass, labels: Tensor, groups: tuple[str, ...] = GROUPS
    ) -> ClassFeatures:
        """Learn units, directions and constants from labelled samples, every class with some."""
        inputs, posteriors = seen.inputs.double(), seen.logits.double().softmax(dim=-1)
        classes = posteriors.shape[1]
        members = F.one_hot(labels, classes).double()
        share = members / members.sum(dim=0)
        means = share.T @ inputs
        covariance = _steadied((inputs - means[labels]).T @ (inputs - means[labels]), _STEADY)
        metric = torch.linalg.solve(covariance, means.T).T
        centred = torch.linalg.solve(covariance, (means - means.mean(dim=0)).T).T
        confusion = share.T @ posteriors - torch.eye(classes).double()
        return cls(
            groups,
            means / (means.norm(dim=1, keepdim=True) + _TINY),
            torch.linalg.solve(_steadied(metric @ means.T, _STEADY_GRAM), metric),
            centred / (centred.norm(dim=1, keepdim=True) + _TINY),
            confusion,
            _invert(confusion - confusion.mean(dim=0)),
            _constants(posteriors, labels, members),
            (
                float(inputs.sum(dim=1).abs().mean()) + _TINY,
                float(inputs.norm(dim=1).mean()) + _TINY,
                float(inputs.abs().mean()) + _TINY,
            ),
        )

    @classmethod
    def measure_half(
        cls, seen: HeadPass, labels: Tensor, groups: tuple[str, ...], rng: np.random.Generator
    ) -> ClassFeatures:
        """Learn as `measure` from a random half of each class (rounded at random, at least one).

        What a half says of all samples errs by as much as all say of the population (half-sample
        replication, McCarthy 1969): shadows drawn from all are to this measure what a
        client's batches are to the one of all.
        """
        own = labels.numpy()
        sizes = np.bincount(own)
        order = np.argsort(own + rng.random(len(own)), kind="stable")
        place = np.empty(len(own), dtype=np.int64)
        place[order] = np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        taken = place < np.maximum(np.floor(sizes / 2 + rng.random()), 1)[own]
        rows = torch.from_numpy(np.flatnonzero(taken))
        logits = seen.logits[rows]
        return cls.measure(HeadPass(seen.inputs[rows], logits, logits), labels[rows], groups)

    def __call__(self, observation: Observation, total: int) -> Tensor:
        """Measure updates, ``T x K x F`` float64; T counts all leading dimensions."""
        assert observation.weight is not None
        weight = observation.weight.detach().cpu().flatten(0, -3)
        bias = None
        if observation.bias is not None:
            bias = torch.from_numpy(observation.bias_gradient).reshape(-1, weight.shape[1])
        size = max(1, _SLICE_BYTES // (32 * weight.shape[1] * weight.shape[2]))
        return torch.cat(
            [
                self._measure(
                    part.double() * total,
                    None if bias is None else bias[size * n : size * (n + 1)] * total,
                    total,
                )
                for n, part in enumerate(torch.split(weight, size))
            ]
        )

    def _measure(self, weight: Tensor, bias: Tensor | None, total: int) -> Tensor:
        sums = weight.sum(dim=-1) / self.units[0]
        errors = sums if bias is None else bias
        own = (weight * self.dual).sum(dim=-1)
        least, most = weight.amin(dim=-1), weight.amax(dim=-1)
        lowest = least / self.units[2]
        make: dict[str, Callable[[], _Columns]] = {
            "bias": lambda: ([(errors, _FINE), (errors, _COARSE)], [_beside_largest(errors)]),
            "rows": lambda: (
                [
                    (sums, _FINE),
                    (sums, _COARSE),
                    (weight @ self.dual.sum(dim=0) - own, _COARSE),
                ],
                [],
            ),
            "signs": lambda: self._signs(weight, lowest, least, most),
            "classes": lambda: self._directions(weight, own),
            "solutions": lambda: self._solutions(errors, own, total),
            "ranks": lambda: ([], [_ranks(errors), _ranks(lowest), _ranks(own)]),
            "constants": lambda: (
                [],
                [column.expand(errors.shape) for column in self.constants.unbind(dim=1)],
            ),
        }
        found = [make[group]() for group in self.groups]
        logged = [one for logs, _ in found for one in logs]
        plain = [one for _, others in found for one in others]
        parts = [_log(logged)] if logged else []
        return torch.cat([*parts, *([torch.stack(plain, dim=-1)] if plain else [])], dim=-1)

    def _signs(self, weight: Tensor, lowest: Tensor, least: Tensor, most: Tensor) -> _Columns:
        largest = torch.maximum(most, -least).amax(dim=-1)[..., None, None]
        above = weight.clamp(min=0)
        parts, rounding = (above - weight, above), _ROUNDING * largest
        lengths = [(part.norm(dim=-1) / self.units[1], _FINE) for part in parts]
        shares = [(part > rounding).sum(dim=-1).double() / weight.shape[-1] for part in parts]
        return [(lowest, _FINE), (most / self.units[2], _FINE), *lengths], shares

    def _directions(self, weight: Tensor, own: Tensor) -> _Columns:
        length = weight.norm(dim=-1) + _TINY
        along = (weight * self.means).sum(dim=-1)
        apart = (weight * self.directions).sum(dim=-1)
        logged = [(own, _FINE), (own, _COARSE), (along / self.units[1], _COARSE), (apart, _COARSE)]
        return logged, [_beside_largest(own), along / length, apart / length]

    def _solutions(self, errors: Tensor, own: Tensor, total: int) -> _Columns:
        shares = (errors / total - self.confusion.mean(dim=0)) @ self.inverse
        shares = shares - shares.mean(dim=-1, keepdim=True) + 1 / shares.shape[-1]
        sure = -torch.diagonal(self.confusion)  # 1 - p of a class on its own samples
        other = (self.confusion.sum(dim=0) + sure) / (len(sure) - 1)
        alone = (other - errors / total) / (sure + other).clamp(min=1e-6)
        roots = [_root(total * guess.clamp(-3, 3)) for guess in (shares, alone)]
        return [(-own / sure.clamp(min=1e-4), _FINE)], roots


def _invert(confusion: Tensor) -> Tensor:
    """Pseudo-invert, small singular values left out; held small by a ridge where K is large."""
    if len(confusion) <= _MANY:
        return torch.as_tensor(torch.linalg.pinv(confusion, rtol=1e-3))
    gram = confusion.T @ confusion
    most = torch.diagonal(gram).max() + _TINY
    steadied = gram + _RIDGE**2 * most * torch.eye(len(gram)).to(gram)
    return torch.as_tensor(torch.linalg.solve(steadied, confusion.T))


def sureness(posteriors: Tensor, labels: Tensor) -> Tensor:
    """Say how sure the model is of each class, right and wrong: the constants of `ClassFeatures`.

    Args:
        posteriors: ``n x K``.
        labels: their classes, each with at least one.
    """
    return _constants(posteriors, labels, F.one_hot(labels, posteriors.shape[1]).double())


def _constants(posteriors: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    share = members / members.sum(dim=0)
    others = 1 - members
    unsure = 1 - posteriors.gather(1, labels[:, None])[:, 0]
    logs = torch.log10(unsure.clamp(min=1e-9))
    mean = share.T @ logs
    spread = (share.T @ logs.square() - mean.square()).clamp(min=1e-9).sqrt()
    wrong = (others * posteriors).sum(dim=0) / others.sum(dim=0).clamp(min=1)
    return torch.stack(
        [torch.log10(share.T @ unsure + 1e-9), torch.log10(wrong + 1e-9), mean, spread], dim=1
    )


def _steadied(matrix: Tensor, share: float) -> Tensor:
    """Add a share of the mean diagonal to the diagonal, so that it can be inverted."""
    amount = share * torch.diagonal(matrix).mean() + 1e-12
    return matrix + amount * torch.eye(len(matrix)).to(matrix)


def _log(columns: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Take the signed logarithm of each column in its unit, all at once."""
    values = torch.stack([own for own, _ in columns], dim=-1)
    units = torch.tensor([unit for _, unit in columns], dtype=values.dtype)
    return torch.copysign(torch.log1p(values.abs().div_(units)).div_(10), values)


def _root(values: Tensor) -> Tensor:
    return values.sign() * values.abs().sqrt()


def _beside_largest(values: Tensor) -> Tensor:
    return values / (values.abs().amax(dim=-1, keepdim=True) + _TINY)


def _ranks(values: Tensor) -> Tensor:
    """Share of the classes that lie lower; ties share a rank."""
    lower = torch.searchsorted(values.sort(dim=-1).values, values.contiguous())
    return lower.double() / values.shape[-1]


__all__ = ["GROUPS", "ClassFeatures", "sureness"]
