"""Check what attacks assume, on what was seen and on the model where it is granted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelleak.core.entries import distinct_sizes, stands_out, sum_rests, zeroed_share
from labelleak.core.knowledge import Knowledge
from labelleak.core.limits import Limits, check_limits
from labelleak.core.observation import Observation
from labelleak.core.pos_weight_fit import SIGMAS, look_for_weights
from labelleak.core.row_groups import in_groups
from labelleak.core.sample_checks import Ranks, negative_inputs
from labelleak.core.task import Task, form_shape
from labelleak.core.white_box import HeadPass, WhiteBox, convolutions, transposed
from labelleak.errors import NotApplicable
from labelleak.records.states import State

# Shares above which a flag is raised; each is tested from both sides.
NEGATIVE_INPUTS = 0.01
ZERO_SUM = 0.01
NOISE = 0.5
ZEROED = 0.05
HARD_LABEL = 0.05
CONFIDENT = 0.8
MANY = 4
# Inputs looked at for the model.
LOOK = 2048


# What `check_model` and `check_update` look at where they can.
CHECKED = (
    "negative_head_inputs",
    "momentum",
    "adaptive_optimiser",
    "gradient_clipping",
    "label_smoothing",
    "class_weights",
    "samples_inconsistent",
    "soft_labels",
    "noise_dominates",
    "sparse_gradient",
    "quantised_gradient",
    "parts_inconsistent",
    "several_heads",
    "train_mode_batch_norm",
    "near_converged",
)


@dataclass(frozen=True, eq=False)
class Flag:
    """A flag, where it was raised and the figure that raised it.

    Attributes:
        name: its id, a key of `labelleak.records.flags.FLAGS`.
        raised: over which trials ``*R`` (or a single truth value for all).
        figure: what was measured, same shape; NaN where nothing was.
        otherwise: the state where it is not raised.
    """

    name: str
    raised: np.ndarray
    figure: np.ndarray
    otherwise: State = State.held

    @property
    def state(self) -> State:
        """Whether the assumption held, over all trials."""
        return State.failed if self.raised.any() else self.otherwise


def check_model(known: Knowledge) -> list[Flag]:
    """Check once what concerns the model.

    Args:
        known: what is granted; what is not granted is not checked.
    """
    flags: list[Flag] = []
    if known.model is not None:
        flags += _architecture(known.model)
        seen, labels = _look(known)
        if seen is not None:
            share = float((seen.inputs < 0).double().mean())
            flags.append(one_flag("negative_head_inputs", share > NEGATIVE_INPUTS, share))
        if seen is not None and labels is not None:
            sure = float(seen.probabilities.gather(1, labels[:, None]).mean())
            flags.append(one_flag("near_converged", sure > CONFIDENT, sure))
    return flags


def not_checked(flags: Iterable[Flag]) -> Iterator[Flag]:
    """Return the assumptions that nobody told and that could not be measured."""
    seen = {flag.name for flag in flags}
    for name in CHECKED:
        if name not in seen:
            yield Flag(name, np.asarray(False), np.asarray(np.nan), State.not_known)


def check_update(observation: Observation, known: Knowledge) -> list[Flag]:
    """Check what the update itself shows, trial by trial.

    A clean softmax cross-entropy gradient sums to zero over the classes, in every column of the
    weight and in the bias. What is left of that sum, against the gradient's size, is 0 for
    it and about 1 for pure noise.

    Args:
        observation: the update.
        known: what is granted.
    """
    limits = check_limits(observation, known.training)
    return [
        _no_bias(observation),
        one_flag(
            "learning_rate_unknown", not observation.lr_known, float(not observation.lr_known)
        ),
        one_flag(
            "several_local_steps", observation.local_steps > 1, float(observation.local_steps)
        ),
        *_limits(limits),
        *_samples(observation),
        *_sums(observation),
        *_positives(observation, known),
        *_entries(observation),
        *_sample_number(observation, known, limits),
        *_soft_labels(observation, known),
    ]


def one_flag(name: str, raised: bool, figure: float) -> Flag:
    """Make a flag that is raised of all trials or of none."""
    return Flag(name, np.asarray(raised), np.asarray(figure))


def raise_flag(name: str, figure: float = 1.0) -> Flag:
    """Make a raised flag of what is known otherwise than from the update itself."""
    return one_flag(name, True, figure)


def _architecture(model: WhiteBox) -> Iterator[Flag]:
    weight = model.head_weight
    holders = sum(  # one that is frozen has no part in the update, tied or not
        parameter is weight and parameter.requires_grad
        for module in model.module.modules()
        for parameter in module.parameters(recurse=False)
    )
    alike = sum(_may_be_head(layer, model) for layer in model.module.modules())
    heads = max(holders, alike)
    yield one_flag("several_heads", heads > 1, heads)
    norms = sum(isinstance(m, _BatchNorm) and m.training for m in model.module.modules())
    yield one_flag("train_mode_batch_norm", norms > 0, norms)


def _may_be_head(layer: nn.Module, model: WhiteBox) -> bool:
    """Tell a layer of as many rows; of convolutions those of one position, as heads mostly are."""
    rows = model.form.shape[0]
    if isinstance(layer, nn.Linear):
        # One that is frozen, such as a head that LoRA adapts, has no part in the update.
        return layer.out_features == rows and bool(layer.weight.requires_grad)
    if not isinstance(layer, convolutions()) or model.task is not Task.dense:
        return False
    weight = layer.weight
    assert isinstance(weight, Tensor)
    first, _, *kernel = form_shape(weight.shape, isinstance(layer, transposed()))
    return first == rows and {*kernel} == {1}


def _look(known: Knowledge) -> tuple[HeadPass | None, Tensor | None]:
    """Pass a few inputs: auxiliary data, or noise where there are none."""
    assert known.model is not None
    if known.auxiliary is not None:
        each = known.auxiliary.labels[0].numel() if known.model.task is Task.tokens else 1
        with suppress(NotApplicable):  # which each attack that would pass them says
            return known.pass_own(most=max(1, LOOK // each))
    if known.input_shape is None:
        return None, None
    generator = torch.Generator().manual_seed(0)
    return known.model.run_all(torch.rand(64, *known.input_shape, generator=generator)), None


def _no_bias(observation: Observation) -> Flag:
    """Look for a bias that is missing, or that was frozen or zeroed while the weight moved."""
    if observation.bias is None or observation.weight is None:
        return one_flag("no_bias", observation.bias is None, float(observation.bias is None))
    moved = observation.bias_gradient.any(axis=-1)
    still = stands_out(observation) & ~moved
    return Flag("no_bias", still, still.astype(np.float64))


def _limits(found: Limits) -> Iterator[Flag]:
    yield Flag("impossible_scale", found.scale, found.times, found.otherwise)
    yield Flag("impossible_sign", found.sign, found.negative, found.otherwise)


def _samples(observation: Observation) -> Iterator[Flag]:
    size, classes = observation.num_samples, observation.num_classes // observation.problems
    yield one_flag("samples_unknown", size is None, float(size is None))
    if size is None:
        return
    yield one_flag("many_samples", size > MANY * classes, size / classes)
    yield one_flag("more_classes_than_samples", classes > size, classes / size)


def _positives(observation: Observation, known: Knowledge) -> Iterator[Flag]:
    """Say of sigmoids what is known of the weight of labels that are there."""
    if not observation.paired:
        return
    told = None if known.training is None else known.training.pos_weight
    apart, sure = np.full(observation.trials, -np.inf), False
    if observation.scale is not State.held:  # else whoever made the update knows its loss
        try:
            apart, sure = look_for_weights(observation, known)
        except NotApplicable:
            apart = apart + 0.0
    held = State.held if sure or told is not None else State.not_known
    held = State.repaired if {*(told or ())} - {1.0} else held
    yield Flag("pos_weight", apart > SIGMAS, apart, held)
    assumed = told is None and not sure
    yield one_flag("pos_weight_assumed", assumed, float(assumed))


def _sums(observation: Observation) -> Iterator[Flag]:
    """Compare what is left of the sum over classes with the gradient's size.

    The two rows that one logit stands for sum to 0 whatever was done to it, which tells nothing.
    """
    if observation.paired:
        silent = np.zeros(observation.trials)
        for name in ("not_cross_entropy", "noise_dominates"):
            yield Flag(name, silent > 0, silent, State.not_known)
        return
    rests = [rest for rest in sum_rests(observation) if rest is not None]
    clear = stands_out(observation)
    rest = np.where(clear, np.max(rests, axis=0), 0.0)
    yield Flag("not_cross_entropy", rest > ZERO_SUM, rest)
    if observation.weight is not None:
        noise = np.where(clear, rests[0], 0.0)
        yield Flag("noise_dominates", noise > NOISE, noise)
    groups = in_groups(observation)
    yield Flag("several_softmaxes", groups, groups.astype(np.float64))


def _entries(observation: Observation) -> Iterator[Flag]:
    """Look for entries that were zeroed one by one, and for few distinct sizes."""
    if observation.weight is None:
        return
    clear, share = stands_out(observation), zeroed_share(observation)
    held = State.not_known if observation.paired else State.held
    yield Flag("sparse_gradient", clear & (share > ZEROED), share, held)
    distinct, few = distinct_sizes(observation)
    yield Flag("quantised_gradient", clear & few, distinct)


def _sample_number(observation: Observation, known: Knowledge, limits: Limits) -> Iterator[Flag]:
    """Hold the number of samples that was told against signs, sizes and rank of the update.

    Without the model, the signs of head inputs are read where that number is right.
    """
    size, needed = observation.num_samples, np.maximum(limits.negative, limits.needed)
    if size is not None and observation.bias is not None and observation.problems == 1:
        ranks = Ranks.of(observation)
        if ranks is not None:
            needed = np.maximum(needed, ranks.least)
            yield Flag("parts_inconsistent", ranks.apart > ZERO_SUM, ranks.apart)
            yield Flag("samples_doubtful", ranks.shown < size, ranks.shown)
        yield Flag("samples_inconsistent", needed > size, needed)
    share = None if known.model is not None else negative_inputs(observation, needed)
    if share is not None:
        yield Flag("negative_head_inputs", share > NEGATIVE_INPUTS, share)


def _soft_labels(observation: Observation, known: Knowledge) -> Iterator[Flag]:
    """With one sample, a bias and the model the label is exact: y = softmax(W h + b) - db."""
    weight, bias = observation.weight, observation.bias
    if weight is None or bias is None or known.model is None:
        return
    if observation.num_samples != 1 or observation.problems != 1:
        return
    top = bias.abs().argmax(dim=-1, keepdim=True)
    row = weight.gather(-2, top[..., None].expand(*top.shape, weight.shape[-1])).squeeze(-2)
    inputs = row / bias.gather(-1, top)
    head = known.model.head_module
    posterior = torch.softmax(_apply(head, inputs), dim=-1)
    label = posterior - bias.double()
    softness = (1 - label.amax(dim=-1)).abs().detach().cpu().numpy()
    softness = np.where(np.isfinite(softness), softness, 0.0)
    yield Flag("soft_labels", softness > HARD_LABEL, softness)


def _apply(head: nn.Linear, inputs: Tensor) -> Tensor:
    logits = inputs.double() @ head.weight.detach().double().T
    return logits if head.bias is None else logits + head.bias.detach().double()
