"""The flags that say what is known of a client's loss; standard library only."""

from __future__ import annotations

from labelleak.records.assumptions import Assumption, Doubt, Meaning

LOSS_FLAGS: dict[str, Meaning] = {
    "label_smoothing": Meaning(
        "the client smooths its labels: every class has a share of every label",
        Assumption.HARD_LABELS,
        "use client_simulation, which smooths as the client does",
    ),
    "class_weights": Meaning(
        "the client's loss weighs classes, so counts come out times their weights",
        Assumption.EQUAL_CLASSES,
        "tell `class_weights`, which are undone, or use client_simulation, which weighs as the "
        "client does",
    ),
    "pos_weight": Meaning(
        "own data rule out a plain binary cross-entropy: labels which are there weigh more, or the "
        "loss is another (focal, Dice, a squared error, smoothed labels)",
        None,
        "give `pos_weight`, as torch's BCEWithLogitsLoss has it; noise or a wrong scale look alike",
        Doubt.refuted,
    ),
    "pos_weight_assumed": Meaning(
        "a plain binary cross-entropy (`pos_weight` 1, no focal loss, no smoothed labels) was "
        "assumed, and nothing here could verify it; of another loss counts come out wrong",
        None,
        "give `pos_weight`, or '' for none; a capture measures it",
        Doubt.untold,
    ),
    "loss_assumed": Meaning(
        "a plain cross-entropy by pixel was assumed (no Dice or focal loss, no class weights), and "
        "nothing told or measured it; of another loss counts come out wrong",
        None,
        "tell class weights and smoothing ('' and 0 for none); a capture measures the loss",
        Doubt.untold,
    ),
    "several_softmaxes": Meaning(
        "rows of the head fall into groups that each sum to zero: several softmaxes in one layer "
        "(several tasks, a pixel shuffle after it), so its rows are no classes",
        None,
        "no attack reads such a head; cut the rows of one softmax out of the update",
        Doubt.refuted,
    ),
    "labels_inconsistent": Meaning(
        "the loss that was told cannot make this update of the labels behind it: labels weigh "
        "otherwise (class weights, `pos_weight`, smoothing), or the loss, its scale, the labels or "
        "the head are others",
        None,
        "tell `class_weights`, `pos_weight`, `label_smoothing` or `loss_share`, and check the "
        "labels that were told",
        Doubt.refuted,
    ),
}

__all__ = ["LOSS_FLAGS"]
