"""Where records come from: the version of this program, and the keys that every door writes."""

from __future__ import annotations

from typing import Any

VERSION = "0.1.0"


def origin(
    *,
    seed: int,
    data: str,
    model: str,
    command: str,
    num_classes: int,
    initialisation: int = 0,
    training_steps: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Return the keys of a record that say what it is of and what made it.

    Args:
        seed: seed of everything random.
        data: name of the data.
        model: name of the model.
        command: the command that made it.
        num_classes: K.
        initialisation: number of the model's initialisation.
        training_steps: steps that the global model was trained before.
        more: further keys of the contract that are known by now.

    >>> keys = origin(seed=0, data="digits", model="mlp", command="", num_classes=10)
    >>> keys["model"], keys["labelleak"] == VERSION
    ('mlp', True)
    """
    return {
        "seed": seed,
        "data": data,
        "model": model,
        "initialisation": initialisation,
        "training_steps": training_steps,
        "num_classes": num_classes,
        **more,
        **software(),
        "command": command,
    }


def software() -> dict[str, str]:
    """Return the versions that figures depend on, without loading torch."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        torch = version("torch")
    except PackageNotFoundError:  # a torch that was not installed as a package
        torch = "unknown"
    return {"labelleak": VERSION, "torch": torch}


__all__ = ["VERSION", "origin", "software"]
