"""The flags that attacks raise of their own answers; standard library only."""

from __future__ import annotations

from labelleak.records.assumptions import Assumption, Meaning

ATTACK_FLAGS: dict[str, Meaning] = {
    "impact_not_negative": Meaning(
        "on own data a label raises its row sum, which LLG cannot explain",
        Assumption.NON_NEGATIVE_INPUTS,
        "use attacks on the bias gradient: this answer rests on signs or on a guess",
    ),
    "rank_exceeded": Meaning(
        "there are as many samples as active head inputs or classes, too many for RLG",
        Assumption.LOW_RANK,
        "use row_min or a count attack",
    ),
    "own_data_one_sided": Meaning(
        "some label is with none, or with all, of the attacker's own data, and an attack that "
        "needs both took it to be so in the batch",
        None,
        "give data that hold samples with and without each label, or read another attack",
    ),
    "linear_programs_cut_short": Meaning(
        "RLG reached the limit of its work and filled up with the likeliest classes",
        Assumption.LOW_RANK,
        "raise RLG(effort=...), or use row_min",
    ),
    "confusions_cut_short": Meaning(
        "iLRG or RLU did not reach a solution of so many classes", None, "use llg_plus or pplr"
    ),
    "simulation_diverged": Meaning(
        "simulated training on one class alone diverged, so there was nothing to compare with",
        Assumption.STABLE_SIMULATION,
        "check the learning rate that was given",
    ),
    "optimisation_diverged": Meaning(
        "the dummy batch did not come near the gradient",
        Assumption.CLOSE_FIT,
        "raise DLG(restarts=...), or use an analytic attack",
    ),
    "activations_not_smooth": Meaning(
        "the model's activations have no useful second derivative",
        Assumption.SMOOTH_ACTIVATIONS,
        "use an analytic attack; DLG needs a smooth model",
    ),
    "more_than_one_sample": Meaning(
        "the attack is for one sample, and there are more",
        Assumption.ONE_SAMPLE,
        "use an attack on counts",
    ),
    "weaker_attack_wins": Meaning(
        "an attack that knows less scored higher on the same batches",
        None,
        "read the strongest attack: something that this one assumes does not hold here",
    ),
}

__all__ = ["ATTACK_FLAGS"]
