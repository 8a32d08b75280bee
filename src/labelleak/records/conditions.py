"""Keys of records beside the contract that say under which conditions they were made."""

from __future__ import annotations

# Extra keys that change what is measured: where a file holds several values of one, records
# of different values must not be averaged.
CONDITIONS = (
    "activation",
    "mode",
    "victims",
    "gradient",
    "normalisation",
    "optimizer",
    "clients",
    "train_size",
    "auxiliary_size",
    "victim_size",
    "data_fingerprint",
    "train_lr",
    "train_batch_size",
    "users",
    "partition",
    "per_round",
    "round_steps",
    "dummies",
    "shadow_batches",
    "weights",
    "head",
    "defended",
    "batch_size_source",
    "federation",
    "against",
    "rounds",
    "phase",
    "tokens",
    "sequence_length",
    "own_text",
    "lora",
)

__all__ = ["CONDITIONS"]
