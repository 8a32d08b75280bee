"""Settle what is known of one update's scale and sign, and undo what one usual cause explains."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from labelleak.audits.simulated_scale import simulate_scale
from labelleak.core.assumptions import Flag
from labelleak.core.knowledge import Knowledge
from labelleak.core.limits import Limits, check_limits, suspect
from labelleak.core.observation import Observation
from labelleak.core.scale_fit import TURNED, ScaleFit, fit_each, repair
from labelleak.core.task import Task
from labelleak.core.update import ReceivedUpdate
from labelleak.errors import NotApplicable, unknown_name
from labelleak.records.states import State

ScaleMode = Literal["check", "repair"]


@dataclass(frozen=True)
class Standing:
    """What is known of the scale, or of the sign, of one update.

    Attributes:
        state: held, failed, repaired, impossible or not_known.
        says: why, in one sentence.
        factor: the factor that own data tell, or that was divided by; None where none was told.
        low: lower end of its interval.
        high: upper end; None where nothing bounds it.
    """

    state: State
    says: str
    factor: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, what is not known left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, eq=False)
class Settled:
    """An update whose scale and sign are settled as far as they can be.

    Attributes:
        observation: the update, repaired where that was asked for and safe.
        scale: what is known of its scale.
        sign: what is known of its sign.
        flags: what to raise.
    """

    observation: Observation
    scale: Standing
    sign: Standing
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class Told:
    """What speaks for an update's scale beside the update itself.

    Attributes:
        measured: whether the capture that made it saw a plain mean loss at the head.
        doubt: why what was told of its size is in doubt; empty where it is not.
        moved: whether it came as a change of weights, which the rate and the steps scale.
    """

    measured: bool = False
    doubt: str = ""
    moved: bool = False

    @classmethod
    def of(cls, update: ReceivedUpdate) -> Told:
        """Read it off an update as it was received."""
        moved = update.gradient is None
        doubt = "; ".join(update.contradicted)
        if not doubt and moved and update.training.local_steps is None:
            doubt = "one local step was assumed, since nobody told their number"
        return cls(update.measured.holds_scale, doubt, moved)


_PLAIN = Told()
_MEASURED = Standing(State.held, "the capture measured the mean loss at the head, unscaled")
_NOT_FITTED = Flag("unlikely_scale", np.asarray(False), np.asarray(np.nan), State.not_known)


def settle(
    observation: Observation,
    known: Knowledge,
    mode: ScaleMode = "check",
    told: Told = _PLAIN,
) -> Settled:
    """Hold one update against the limits and against own data.

    Args:
        observation: one update, without trial dimensions.
        known: what the attacker holds.
        mode: ``repair`` divides by the factor of the one usual cause that explains the update.
        told: what speaks for its scale beside it.

    Raises:
        BadInput: for another mode.
    """
    if mode not in get_args(ScaleMode):
        raise unknown_name("scale", str(mode), get_args(ScaleMode))
    if observation.head_is_still:
        none = Standing(State.not_known, "the head did not change at all")
        return Settled(observation, none, none, (_NOT_FITTED,))
    try:
        fit, why = fit_each(observation, known), ""
        if not fit.bounded and observation.local_steps > 1 and (told.doubt or not told.measured):
            fit = _simulated(observation, known) or fit
    except NotApplicable as reason:
        fit, why = None, str(reason)
    maps = known.model is not None and known.model.task is Task.dense
    if fit is not None and fit.state is State.failed and told.measured and maps:
        # Pixels of one class look otherwise in images with more of it: the capture knows better.
        fit, why = None, "own images do not tell it"
    if fit is None:
        unlikely = _NOT_FITTED
    else:
        off = np.asarray(fit.state is State.failed)
        unlikely = Flag("unlikely_scale", off, np.asarray(fit.factor), fit.state)
    if fit is not None and fit.repair is not None and mode == "repair":
        fixed = Flag("unlikely_scale", np.asarray(False), unlikely.figure, State.repaired)
        return Settled(
            repair(observation, fit), _repaired(fit, "scale"), _repaired(fit, "sign"), (fixed,)
        )
    limits = check_limits(observation, known.training)
    scale, sign = (
        _scale(observation, known, limits, fit, why, told),
        _sign(observation, limits, fit),
    )
    if {scale.state, sign.state} & {State.impossible, State.failed}:
        return Settled(observation, scale, sign, (unlikely,))
    if told.measured:  # what own data cannot tell takes nothing back that a capture measured
        unlikely = replace(unlikely, otherwise=State.held)
        scale, sign = (one if one.state is State.held else _MEASURED for one in (scale, sign))
    if told.doubt:
        unlikely = replace(unlikely, otherwise=State.not_known)
        scale = replace(scale, state=State.not_known, says=told.doubt)
    return Settled(observation, scale, sign, (unlikely,))


def _simulated(observation: Observation, known: Knowledge) -> ScaleFit | None:
    """Fit the factor by simulated clients, where they can tell it."""
    try:
        return simulate_scale(observation, known)
    except NotApplicable:
        return None


def _repaired(fit: ScaleFit, what: str) -> Standing:
    if what == "sign" and (fit.repair or 0) > 0:
        return _standing(State.held, f"own data tell a factor of {fit}", fit)
    says = (
        f"divided by {fit.repair:.6g} ({fit.suspect}), the only usual cause that the factor {fit} "
        "of own data leaves; were it another, labels would be lost, so the advantage is a lower "
        "bound"
    )
    return _standing(State.repaired, says, fit)


def _scale(
    observation: Observation,
    known: Knowledge,
    limits: Limits,
    fit: ScaleFit | None,
    why: str,
    told: Told,
) -> Standing:
    if limits.scale.any():
        momentum = None if known.training is None else known.training.momentum
        return Standing(State.impossible, suspect(limits, observation, momentum, moved=told.moved))
    if fit is None:
        return Standing(limits.otherwise, f"{limits.why} ({why})")
    said = f"own data tell a factor of {fit}"
    if fit.state is State.failed:
        return _standing(State.failed, f"{said}{_hint(fit, told, observation)}", fit)
    if fit.state is State.not_known and not fit.bounded:
        along = observation.local_steps > 1
        why = "over several steps, along which the model moved" if along else "on this model"
        return Standing(State.not_known, f"own data cannot tell it {why}")
    if fit.state is State.not_known:
        others = "others" if observation.local_steps > 1 else "a usual cause"
        return _standing(State.not_known, f"{said}, which holds 1 and {others}", fit)
    return _standing(fit.state, said, fit)


def _hint(fit: ScaleFit, told: Told, observation: Observation) -> str:
    """Ask for the likeliest cause of a factor: of weights what was told of their steps."""
    asked = [fit.suspect] if fit.suspect else []
    if told.moved and fit.suspect != TURNED:
        asked.insert(0, "the learning rate or the number of local steps told wrongly")
    if asked and observation.local_steps > 1:
        asked.append("labels smoothed, or own data unlike the client's")
    return f": {', or '.join(asked)}?" if asked else ""


def _sign(observation: Observation, limits: Limits, fit: ScaleFit | None) -> Standing:
    if limits.sign.any():
        says = (
            f"{float(limits.negative):.0f} classes have a negative bias gradient, more than "
            f"{observation.num_samples} samples can have, and the negative of the update is "
            "possible: was it subtracted the wrong way round, or is the number told too small?"
        )
        return Standing(State.impossible, says)
    if fit is not None and (fit.low > 0 or fit.high < 0):
        state = State.held if fit.low > 0 else State.failed
        return _standing(state, f"own data tell a factor of {fit}", fit)
    if limits.otherwise is State.held:
        return Standing(State.held, limits.why)
    says = "so many samples may have all these classes, so neither sign is impossible"
    if observation.bias is None or observation.num_samples is None:
        says = "it shows in the bias gradient of a known number of samples only"
    return Standing(State.not_known, says)


def _standing(state: State, says: str, fit: ScaleFit) -> Standing:
    low, high = (end if math.isfinite(end) else None for end in (fit.low, fit.high))
    return Standing(state, says, fit.factor, low, high)


__all__ = ["ScaleMode", "Settled", "Standing", "settle"]
