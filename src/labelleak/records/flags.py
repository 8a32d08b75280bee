"""The flags: what each says, which assumption it breaks, and what to do; standard library only."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from labelleak.records.assumptions import Assumption, Doubt, Meaning
from labelleak.records.attack_flags import ATTACK_FLAGS
from labelleak.records.loss_flags import LOSS_FLAGS

FLAGS: dict[str, Meaning] = {
    "no_bias": Meaning(
        "the head has no bias, or its gradient was not shared or is all zero",
        Assumption.BIAS,
        "use attacks on the weight gradient: llg_plus, gradient_regression, rlg",
    ),
    "negative_head_inputs": Meaning(
        "some head inputs are negative, so a row sum's sign does not tell presence",
        Assumption.NON_NEGATIVE_INPUTS,
        "trust attacks on the bias gradient: llbg, pplr, rlu",
    ),
    "samples_unknown": Meaning(
        "the number of samples is not known",
        None,
        "give the batch size, or attack only presence",
        Doubt.untold,
    ),
    "impossible_scale": Meaning(
        "the bias gradient is longer than any mean softmax cross-entropy makes it",
        None,
        "check the reduction of the loss, the learning rate, the local steps, momentum, the "
        "gradient scaler, and that gradients are set to zero before each batch; the "
        "documentation's page on limits says more",
    ),
    "impossible_sign": Meaning(
        "more classes have a negative bias gradient than samples could have; the negative fits",
        None,
        "check which of the two weights was subtracted from the other; the documentation's page "
        "on limits says more",
    ),
    "unlikely_scale": Meaning(
        "gradients of one's own data, or clients simulated on it, give another scale or sign",
        Assumption.KNOWN_SCALE,
        "check the scale, clipping and smoothing; `scale` at repair divides by the factor where "
        "one usual cause alone explains it",
        Doubt.refuted,
    ),
    "samples_inconsistent": Meaning(
        "the update does not fit the number of samples that was told, if labels are hard and weigh "
        "alike",
        None,
        "check the batch size, smoothing, class weights, the update's sign and size, and noise",
        Doubt.refuted,
    ),
    "samples_doubtful": Meaning(
        "the weight gradient has a smaller rank than so many samples give, so their number may be "
        "told too large",
        None,
        "check the batch size; equal inputs, narrow layers below the head, and a head that starts "
        "at zero look alike",
    ),
    "parts_inconsistent": Meaning(
        "the bias gradient is not made of the samples that the weight gradient is made of",
        None,
        "check that both are of one layer, round and order of classes, and the number of samples",
        Doubt.refuted,
    ),
    "momentum": Meaning(
        "the client's optimiser adds earlier gradients to each new one (momentum)",
        Assumption.ONE_STEP,
        "give momentum to Observation.from_update, or use client_simulation",
    ),
    "adaptive_optimiser": Meaning(
        "the client's optimiser scales each coordinate (Adam) or is unknown, so sizes say little",
        Assumption.PLAIN_STEPS,
        "use client_simulation, which trains as the client does",
    ),
    "gradient_clipping": Meaning(
        "the client clips its gradient, which may be shorter than the labels made it",
        Assumption.UNCLIPPED,
        "use client_simulation, which clips as the client does, or llg, which reads no size",
    ),
    **LOSS_FLAGS,
    "learning_rate_unknown": Meaning(
        "the learning rate is not known, so the gradient is known up to a factor only",
        Assumption.KNOWN_SCALE,
        "give the learning rate, or use llg, which reads no size",
        Doubt.untold,
    ),
    "capture_doubtful": Meaning(
        "the capture saw what it could not explain, so sizes may be wrong",
        None,
        "read the notes of the capture, which say what",
        Doubt.untold,
    ),
    "several_local_steps": Meaning(
        "the update sums several local steps, along which the model moved",
        Assumption.ONE_STEP,
        "use interpolation, soft_label_shares or client_simulation",
    ),
    "soft_labels": Meaning(
        "the one sample's label is not one class (smoothing or mixup)",
        None,
        "use labelleak.attacks.soft_labels",
    ),
    "not_cross_entropy": Meaning(
        "the gradient does not sum to zero over classes: another loss, noise or pruning, an "
        "optimiser that scales each coordinate (Adam, AdamW, RMSprop), or weights in its place",
        None,
        "check that this is a gradient or a change, not weights; check the optimiser and the "
        "loss: if each class has a sigmoid of its own, say `task` "
        "multilabel; see labelleak.attacks.losses for closed forms of others",
        Doubt.unlike,
    ),
    "sparse_gradient": Meaning(
        "entries of the weight gradient were set to zero (pruning, compression)",
        None,
        "prefer llg_plus: row sums survive pruning better than the bias gradient",
    ),
    "quantised_gradient": Meaning(
        "the weight gradient holds few distinct values (quantisation, sign-SGD)",
        None,
        "look at presence: counts are lost with the sizes",
    ),
    "noise_dominates": Meaning(
        "most of the gradient cannot be of a softmax head: it is noise, or weights in its place",
        None,
        "use gradient_regression, which averages noise over the whole head",
        Doubt.unlike,
    ),
    "several_heads": Meaning(
        "the head's weight is shared, or another layer has as many rows",
        None,
        "name the head, and check that its gradient is its own",
    ),
    "loss_share_unknown": Meaning(
        "another layer of the update learnt beside the head, by a loss of its own, so the head has "
        "a share of the loss that was not told; 1 was taken",
        Assumption.KNOWN_SCALE,
        "give `loss_share`, the factor on this head's mean loss (1 for none); a capture measures "
        "it",
        Doubt.untold,
    ),
    "task_assumed": Meaning(
        "the head has one output and its labels are 0 and 1, so it was taken to be binary",
        None,
        "say the task: a squared error looks alike",
        Doubt.untold,
    ),
    "head_uncertain": Meaning(
        "several layers could be the head, and the likeliest was attacked",
        None,
        "name the head, or give the model",
        Doubt.untold,
    ),
    "reply_form_uncertain": Meaning(
        "what came back does not look like what it was said to be (weights, a difference or a "
        "gradient)",
        None,
        "say the form: `returns` of flower.Auditor; of one update `after`, `difference` or "
        "`gradient`",
        Doubt.untold,
    ),
    "head_unchanged": Meaning(
        "the head did not change at all, so there is nothing in it to read",
        None,
        "check that the client trained, that the weights before and after are not the same, and "
        "that gradients were read before they were set to zero",
        Doubt.refuted,
    ),
    "weights_assumed": Meaning(
        "the model's weights are as it was built, and the client's may have been others",
        None,
        "give `weights`; without them read attacks that hold the update only",
        Doubt.untold,
    ),
    "steps_unknown": Meaning(
        "the number of local steps is not known, and one was assumed",
        None,
        "give local_steps, or epochs and batch_size, or steps_metric",
        Doubt.untold,
    ),
    "training_contradicted": Meaning(
        "what was told of the client's training is not what the file says of itself; what was told "
        "was taken",
        None,
        "check which is right; what is left out is taken from the file",
        Doubt.untold,
    ),
    "control_terms": Meaning(
        "the client was sent or sent back control variates (SCAFFOLD, FedDyn), which moved the "
        "weights beside the gradient",
        None,
        "give control, which subtracts them",
        Doubt.untold,
    ),
    "partition_clash": Meaning(
        "another client claims the same partition, so it is not known whose labels these are",
        None,
        "look into events.jsonl, and at the clients' partition-id",
        Doubt.untold,
    ),
    "train_mode_batch_norm": Meaning(
        "batch norm ran in train mode: head inputs depend on the whole batch",
        Assumption.SAMPLES_APART,
        "read calibrated attacks as approximate",
    ),
    "near_converged": Meaning(
        "the model is nearly always right, so a few misclassified samples make the gradient",
        None,
        "look at presence (row_min): counts of published attacks fall to the guess or below",
    ),
    "many_samples": Meaning(
        "there are more than four samples for each class, so most classes are present",
        Assumption.FEW_SAMPLES,
        "read llbg or a calibrated attack: llg's impact comes out too small, and presence tells "
        "little",
    ),
    "more_classes_than_samples": Meaning(
        "there are more classes than samples, so any guess is right about most classes",
        Assumption.FEW_CLASSES,
        "read ASR and advantage, not presence accuracy",
    ),
    **ATTACK_FLAGS,
}


def concerning(assumes: Collection[Assumption]) -> list[str]:
    """Name the flags that concern an attack beside those that concern every attack.

    >>> concerning({Assumption.BIAS, Assumption.ONE_STEP})
    ['no_bias', 'momentum', 'several_local_steps']
    """
    return list(_concerning(frozenset(assumes)))


@cache
def _concerning(assumes: frozenset[Assumption]) -> tuple[str, ...]:
    return tuple(name for name, meaning in FLAGS.items() if meaning.breaks in assumes)


__all__ = ["FLAGS", "Doubt", "Meaning", "concerning"]
