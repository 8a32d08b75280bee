"""Hold the head's rows against the labels where no bias tells: an absent class pulls one way only.

A class without a label has in every step the row ``sum p_k h``. Where head inputs h are never
negative, as after a ReLU, no entry of it is negative, whatever the momentum and the steps.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.entries import distinct_sizes, noise_size, stands_out, sum_rests
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import torch
from labelleak.core.observation import Observation
from labelleak.core.task import BY_POSITION
from labelleak.core.white_box import WhiteBox
from labelleak.errors import LabelleakError

# Room for what of the row sums rounding and an untold decay of the weights make, against the
# largest, and for noise, in its deviations; sums over classes beyond the third show noise.
_ROOM, _SIGMAS, _CLEAN = 0.02, 6.0, 0.01
# Inputs that show whether head inputs may be negative.
_TRIED = 256


def negative_absent(observation: Observation, counts: Ints, known: Knowledge) -> Floats | None:
    """Return by how much the row sum of an absent class lies below what is possible.

    Args:
        observation: the update, trials ``*R``, without a bias.
        counts: the true label counts, ``*R x K``.
        known: the model, and own data if there are any.

    Returns:
        One figure a trial against the largest row sum, 0 where nothing is refuted; None where head
        inputs may be negative, or nobody knows.
    """
    if observation.weight is None or observation.paired or not _never_negative(known):
        return None
    rows = observation.weight.detach().double().sum(-1).cpu().numpy()
    largest = np.maximum(np.abs(rows).max(-1), 1e-300)
    of_weight, _ = sum_rests(observation)
    _, few = distinct_sizes(observation)
    assert of_weight is not None
    clean = stands_out(observation) & (of_weight <= _CLEAN) & ~few
    noise = _SIGMAS * noise_size(observation) * np.sqrt(observation.weight.shape[-1])
    absent = np.broadcast_to(np.asarray(counts) == 0, rows.shape)
    below = np.where(absent, -rows, 0.0).max(-1)
    return np.where(clean & (below > _ROOM * largest + noise), below / largest, 0.0)


_KEPT: WeakKeyDictionary[WhiteBox, bool] = WeakKeyDictionary()


def _never_negative(known: Knowledge) -> bool:
    """Tell whether the head's inputs are never negative, by own data or by inputs of any sign."""
    model = known.model
    if model is None or model.task in BY_POSITION:
        return False
    if model not in _KEPT:
        made = torch.Generator().manual_seed(0)
        if known.auxiliary is not None:
            inputs = known.auxiliary.inputs[:_TRIED]
        elif known.input_shape is not None:
            inputs = torch.randn(_TRIED, *known.input_shape, generator=made)
        else:
            return False
        try:
            _KEPT[model] = bool((model.run_all(inputs).inputs >= 0).all())
        except LabelleakError:
            _KEPT[model] = False
    return _KEPT[model]


__all__ = ["negative_absent"]
