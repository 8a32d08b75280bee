"""The flags: what each says, which attacks it concerns, and what to do; standard library only."""

from __future__ import annotations

from dataclasses import dataclass

EVERY = frozenset({"*"})
SIGNS = frozenset({"llg", "llg_star", "llg_plus", "llg_repaired", "idlg", "row_min"})
TRAJECTORIES = frozenset({"interpolation", "rlu_epochs", "soft_label_shares"})
BIASES = frozenset(
    {"ebi", "llbg", "llg_repaired", "pplr", "rlu", "ilrg"}
    | {"llbg_measured", "rlu_epochs", "soft_label_shares"}
)
PRESENCE = frozenset({"idlg", "row_min", "rlg"})
CALIBRATED = frozenset(
    {"llg_star", "llg_plus", "zlg", "pplr", "rlu", "gradient_regression", "llbg_measured"}
)
IMITATORS = frozenset({"llg_star_adaptive", "llg_plus_adaptive", "gradient_regression_adaptive"})
SHADOWS = frozenset({"shadow", "shadow_adaptive"})
# These read labels from sizes; the others from signs, or from the ratios of rows.
SIZES = (
    CALIBRATED
    | TRAJECTORIES
    | IMITATORS
    | SHADOWS
    | frozenset({"llg_repaired", "llbg", "ilrg", "soft_label", "dlg", "client_simulation"})
)
STATIC = IMITATORS | CALIBRATED | SIGNS | frozenset({"ebi", "llbg", "ilrg", "soft_label", "dlg"})


@dataclass(frozen=True)
class Meaning:
    """What a raised flag says.

    Attributes:
        says: what was found, in plain words.
        concerns: names of the attacks whose answers it weakens; ``*`` for all.
        advice: what to do.
    """

    says: str
    concerns: frozenset[str]
    advice: str

    def touches(self, attack: str) -> bool:
        """Return whether an attack is concerned."""
        return bool({"*", attack} & self.concerns)


FLAGS: dict[str, Meaning] = {
    "no_bias": Meaning(
        "the head has no bias, or its gradient was not shared",
        BIASES,
        "use attacks on the weight gradient: llg_plus, gradient_regression, rlg",
    ),
    "negative_head_inputs": Meaning(
        "some head inputs are negative, so a row sum's sign does not tell presence",
        SIGNS,
        "trust attacks on the bias gradient: llbg, pplr, rlu",
    ),
    "samples_unknown": Meaning(
        "the number of samples is not known",
        EVERY,
        "give the batch size, or attack only presence",
    ),
    "samples_inconsistent": Meaning(
        "more classes have a negative bias gradient than there are samples",
        EVERY,
        "check the batch size, the sign of the update and whether noise was added",
    ),
    "momentum": Meaning(
        "the client's optimiser replays gradients (momentum)",
        STATIC,
        "give momentum to Observation.from_update, or use client_simulation",
    ),
    "adaptive_optimiser": Meaning(
        "the client's optimiser scales each coordinate (Adam) or is unknown, so sizes say little",
        STATIC | TRAJECTORIES,
        "use client_simulation, which trains as the client does",
    ),
    "gradient_clipping": Meaning(
        "the client clips its gradient, which may be shorter than the labels made it",
        SIZES - {"client_simulation"},
        "use client_simulation, which clips as the client does, or llg, which reads no size",
    ),
    "label_smoothing": Meaning(
        "the client smooths its labels: every class has a share of every label",
        (STATIC | TRAJECTORIES | SHADOWS | PRESENCE) - {"soft_label"},
        "use client_simulation, which smooths as the client does",
    ),
    "class_weights": Meaning(
        "the client's loss weighs classes, so counts come out times their weights",
        STATIC | TRAJECTORIES | SHADOWS,
        "use client_simulation, which weighs as the client does",
    ),
    "learning_rate_unknown": Meaning(
        "the learning rate is not known, so the gradient is known up to a factor only",
        SIZES,
        "give the learning rate, or use llg, which reads no size",
    ),
    "capture_doubtful": Meaning(
        "the capture saw what it could not explain, so sizes may be wrong",
        EVERY,
        "read the notes of the capture, which say what",
    ),
    "several_local_steps": Meaning(
        "the update sums several local steps, along which the model moved",
        STATIC,
        "use interpolation, soft_label_shares or client_simulation",
    ),
    "soft_labels": Meaning(
        "the one sample's label is not one class (smoothing or mixup)",
        EVERY,
        "use labelleak.attacks.soft_labels",
    ),
    "not_cross_entropy": Meaning(
        "the gradient does not sum to zero over classes: another loss, noise or pruning",
        EVERY,
        "check the loss; see labelleak.attacks.losses for closed forms of others",
    ),
    "sparse_gradient": Meaning(
        "entries of the weight gradient were set to zero (pruning, compression)",
        EVERY,
        "prefer llg_plus: row sums survive pruning better than the bias gradient",
    ),
    "quantised_gradient": Meaning(
        "the weight gradient holds few distinct values (quantisation, sign-SGD)",
        EVERY,
        "look at presence: counts are lost with the sizes",
    ),
    "noise_dominates": Meaning(
        "most of the gradient is not that of a softmax head: noise dominates",
        EVERY,
        "use gradient_regression, which averages noise over the whole head",
    ),
    "several_heads": Meaning(
        "the head's weight is shared, or another layer has as many rows",
        EVERY,
        "name the head, and check that its gradient is its own",
    ),
    "train_mode_batch_norm": Meaning(
        "batch norm ran in train mode: head inputs depend on the whole batch",
        CALIBRATED | IMITATORS | TRAJECTORIES | {"ilrg", "client_simulation"},
        "read calibrated attacks as approximate",
    ),
    "near_converged": Meaning(
        "the model is sure of its answers: little is left in the gradient, and a few "
        "misclassified samples carry it",
        EVERY,
        "look at presence (row_min): counts of published attacks fall to the guess or below",
    ),
    "many_samples": Meaning(
        "there are more samples than classes by far",
        frozenset({"llg", "ebi"}) | PRESENCE,
        "read llbg or a calibrated attack: llg's impact comes out too small, presence runs out",
    ),
    "more_classes_than_samples": Meaning(
        "there are more classes than samples: shares of right classes are high for any guess",
        PRESENCE,
        "read ASR and advantage, not presence accuracy",
    ),
    "impact_not_negative": Meaning(
        "a label was measured to raise its row sum, which LLG cannot explain",
        SIGNS,
        "use attacks on the bias gradient: this answer rests on signs alone",
    ),
    "rank_exceeded": Meaning(
        "there are as many samples as active head inputs or classes, too many for RLG",
        frozenset({"rlg"}),
        "use row_min or a count attack",
    ),
    "linear_programs_cut_short": Meaning(
        "RLG ran out of its effort and filled up with the likeliest classes",
        frozenset({"rlg"}),
        "raise RLG(effort=...), or use row_min",
    ),
    "simulation_diverged": Meaning(
        "training on one class alone diverged, so nothing was matched",
        frozenset({"client_simulation"}),
        "check the learning rate that was given",
    ),
    "optimisation_diverged": Meaning(
        "the dummy batch did not come near the gradient",
        frozenset({"dlg"}),
        "raise DLG(restarts=...), or use an analytic attack",
    ),
    "activations_not_smooth": Meaning(
        "the model's activations have no useful second derivative",
        frozenset({"dlg"}),
        "use an analytic attack; DLG needs a smooth model",
    ),
    "more_than_one_sample": Meaning(
        "the attack is for one sample, and there are more",
        frozenset({"soft_label"}),
        "use an attack on counts",
    ),
    "weaker_attack_wins": Meaning(
        "an attack that knows less scored higher on the same batches",
        EVERY,
        "read the strongest attacker: what this one assumes does not hold here",
    ),
}
