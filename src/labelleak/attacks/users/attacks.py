"""Attacks on a user's label distribution over rounds: LDIA, Decaf, PPA and ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np

from labelleak.attacks.many_clients import gradient_norms
from labelleak.attacks.users.regression import (
    Fit,
    learn_shares,
    nearest_shares,
    weigh_rounds,
)
from labelleak.attacks.users.rounds import UserRound, join
from labelleak.core.counts import Floats
from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import torch
from labelleak.core.mixtures import mixture_shares

# Samples of each class on which PPA measures how a model takes it.
_PROBES = 6


class UserAttack(Protocol):
    """Guesses the label distribution of every user from the rounds so far; all users take part."""

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self) -> None:
        """Begin without a round."""

    def add(self, seen: UserRound) -> None:
        """Take in a round."""
        ...

    def shares(self) -> Floats:
        """Guess each user's label distribution, ``users x K``."""
        ...


class Decaf:
    """Remove absent classes, then explain the update by updates of one class each.

    After Dai et al. (Decaf, 2024). A class without a negative entry in its row of any round's
    update is absent (`is_absent`), where head inputs are not negative. The shares of the others
    are the mixture ``min |g - sum_c x_c a_c|, x >= 0, sum x = 1``, where a_c is the update of a
    user who holds class c of the server's own data alone and trains as users do. Rounds
    are averaged. The paper's last step, a search around the solution, is left out: the mixture is
    exact here.
    """

    name: ClassVar[str] = "decaf"
    title: ClassVar[str] = "Decaf"

    def __init__(self) -> None:
        """Begin without a round."""
        self._rounds: list[Floats] = []
        self._absent: np.ndarray | None = None

    def add(self, seen: UserRound) -> None:
        """Decompose each update."""
        if seen.signs_tell:
            self._absent = seen.absent if self._absent is None else self._absent & seen.absent
        self._rounds.append(_unmix(seen.heads, seen, self._absent))

    def shares(self) -> Floats:
        """Average the rounds."""
        return _without(np.mean(self._rounds, axis=0), self._absent)


class _Learnt:
    """Learns from imitated users, round by round."""

    def __init__(self) -> None:
        self._fits: list[Fit] = []

    def _learn(
        self, seen: UserRound, features: Callable[[UserRound], tuple[Floats, Floats]]
    ) -> None:
        shown, asked = features(seen)
        self._fits.append(learn_shares(shown, seen.users.shares, asked))

    def _average(self) -> Floats:
        return nearest_shares(np.mean([fit.shares for fit in self._fits], axis=0))


class LDIA(_Learnt):
    """Learn shares from the updates of imitated users anew in every round, and average the rounds.

    After Gu & Bai (LDIA, 2023): shadow users of known label distributions train on the server's own
    data from the model that was sent; a regression from their updates to their distributions
    answers for the users' updates. The regression is a kernel ridge, where the paper
    has a network.
    """

    name: ClassVar[str] = "ldia"
    title: ClassVar[str] = "LDIA"

    def add(self, seen: UserRound) -> None:
        """Learn what updates of this model tell."""
        self._learn(seen, _head_features)

    def shares(self) -> Floats:
        """Average the rounds."""
        return self._average()


class PPA(_Learnt):
    """Learn shares from how sensitive returned models are to each class.

    After Zhang et al. (PPA, NDSS 2023): the gradient of a user's returned model on samples of a
    class is small where the user holds much of it. The features are ``log |grad_c|`` of the
    returned model less that of the sent one; a meta model learnt on imitated users turns them
    into shares. The paper guesses the majority class only. Rounds are averaged.
    """

    name: ClassVar[str] = "ppa"
    title: ClassVar[str] = "PPA"

    def add(self, seen: UserRound) -> None:
        """Measure the sensitivities of every returned model."""
        self._learn(seen, _sensitivities)

    def shares(self) -> Floats:
        """Average the rounds."""
        return self._average()


class UserPosterior(_Learnt):
    """The shadow estimate with rounds as observations: weighed by how their errors go together.

    As LDIA, with the imitated users the same ones in every round, so that their
    leave-one-out errors say how good each round's answer is and which error rounds share.
    The weighed mean is the best linear one (`weigh_rounds`); classes that
    show no sign of a sample in any round are absent (`is_absent`).
    """

    name: ClassVar[str] = "user_posterior"
    title: ClassVar[str] = "shadow over rounds"

    def __init__(self) -> None:
        """Begin without a round."""
        super().__init__()
        self._absent: np.ndarray | None = None

    def add(self, seen: UserRound) -> None:
        """Unmix the updates, and learn how far off that is from the imitated users' updates."""
        if seen.signs_tell:
            self._absent = seen.absent if self._absent is None else self._absent & seen.absent
        shown, asked = _head_features(seen)
        guessed = _unmix(join(seen.shadows.seen), seen, None), _unmix(seen.heads, seen, None)
        features = [
            np.concatenate(pair, axis=1) for pair in zip((shown, asked), guessed, strict=True)
        ]
        fit = learn_shares(features[0], seen.users.shares - guessed[0], features[1])
        self._fits.append(Fit(guessed[1] + fit.shares, fit.errors))

    def shares(self) -> Floats:
        """Weigh the rounds."""
        weights = weigh_rounds([fit.errors for fit in self._fits])
        mean = np.einsum("r,ruk->uk", weights, np.stack([fit.shares for fit in self._fits]))
        return _without(mean, self._absent)


USER_ATTACKS: tuple[type[UserAttack], ...] = (LDIA, Decaf, PPA, UserPosterior)


def _unmix(heads: tuple[Floats, Floats], seen: UserRound, absent: np.ndarray | None) -> Floats:
    """Explain updates as mixtures of those of users of one class each, ``users x K``."""
    bases, updates = (np.concatenate(rows, axis=1) for rows in (join([seen.shadows.pure]), heads))
    found = np.zeros((len(updates), len(bases)))
    for user, update in enumerate(updates):
        kept = _kept(absent, user, len(bases))
        own = bases[kept]
        found[user, kept] = mixture_shares(own @ own.T, own @ update, update @ update)
    return found


def _kept(absent: np.ndarray | None, user: int, classes: int) -> np.ndarray:
    """Give the classes that a user may hold: all, where none shows a sign."""
    if absent is None or absent[user].all():
        return np.ones(classes, dtype=bool)
    return np.asarray(~absent[user])


def _without(values: Floats, absent: np.ndarray | None) -> Floats:
    """Turn values into shares of the classes that are there."""
    found = np.zeros_like(values)
    for user, row in enumerate(values):
        kept = _kept(absent, user, len(row))
        found[user, kept] = nearest_shares(row[None, kept])[0]
    return found


def _head_features(seen: UserRound) -> tuple[Floats, Floats]:
    """Describe updates: bias gradients, and the mixture of one-class updates by inner products."""
    bases = join([seen.shadows.pure])[0]
    unit = bases / np.maximum(np.linalg.norm(bases, axis=1, keepdims=True), 1e-12)
    steps = seen.users.steps, np.array([float(u.seen.local_steps) for u in seen.updates])
    rows = []
    for (weight, bias), number in zip((join(seen.shadows.seen), seen.heads), steps, strict=True):
        rows.append(np.concatenate([weight @ unit.T, bias, np.log(number)[:, None]], axis=1))
    return rows[0], rows[1]


def _sensitivities(seen: UserRound) -> tuple[Floats, Floats]:
    """Measure how the size of each class's gradient changed from the sent to the returned model."""
    names = list(seen.shadows.after)
    own = {name: torch.stack([u.after[name] for u in seen.updates]) for name in names}
    data, classes = seen.auxiliary, seen.users.num_classes
    picks = [torch.nonzero(data.labels == label)[:_PROBES, 0] for label in range(classes)]
    sent = {name: dict(seen.model.module.named_parameters())[name].detach()[None] for name in names}
    before, shown, asked = (
        np.stack(
            [
                gradient_norms(seen.model, LabelledData(data.inputs[p], data.labels[p]), states)
                for p in picks
            ],
            axis=1,
        )
        for states in (sent, seen.shadows.after, own)
    )
    return np.log(shown + 1e-9) - np.log(before + 1e-9), np.log(asked + 1e-9) - np.log(
        before + 1e-9
    )


__all__ = ["LDIA", "PPA", "USER_ATTACKS", "Decaf", "UserAttack", "UserPosterior"]
