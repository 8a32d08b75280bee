"""The command `capture`: write the files of a simulated client's update, to try `attack` on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer


def capture(
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("captured"),
    data: Annotated[str, typer.Option(help="Name or path; see `labelleak list data`.")] = "digits",
    model: Annotated[
        str, typer.Option(help="Name (`labelleak list models`) or package.module:factory.")
    ] = "cnn",
    init: Annotated[
        str | None, typer.Option(help="default, uniform or xavier; what goes with the model.")
    ] = None,
    scheme: Annotated[
        str, typer.Option(help="How batches are drawn; see `labelleak list schemes`.")
    ] = "unbalanced",
    batch_size: Annotated[int, typer.Option(help="Labels per local step.", min=1)] = 32,
    local_steps: Annotated[int, typer.Option(help="The client's steps.", min=1)] = 1,
    lr: Annotated[float, typer.Option(help="The client's learning rate.", min=1e-12)] = 0.1,
    momentum: Annotated[float, typer.Option(help="The client's SGD momentum.", min=0)] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="The client's L2 factor.", min=0)] = 0.0,
    training_steps: Annotated[
        int, typer.Option(help="Steps that the server's model was trained before.", min=0)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
) -> None:
    """Simulate one client and write its update and true labels, to try `labelleak attack` on.

    For your own training loop use the Python form: with labelleak.capture(model) as update: ...
    """
    import torch

    from labelleak.audits.sample_update import ClientStep, write_client_step
    from labelleak.core.training import FullTraining

    torch.set_num_threads(1)
    training = FullTraining(
        lr=lr,
        local_steps=local_steps,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    options: dict[str, Any] = {"data": data, "model": model, "init": init, "scheme": scheme}
    step = ClientStep(**options, training_steps=training_steps, training=training, seed=seed)
    files = write_client_step(step, out)
    for path in files:
        print(f"wrote {path}")
    before, after, gradient, _, truth = (str(path) for path in files)
    rates = ["--lr", f"{lr:g}", "--batch-size", str(batch_size)]
    known = ["--model", model, "--auxiliary", data, "--truth", truth]
    print("\nTry:")
    print(f"  {shlex.join(['labelleak', 'attack', '--before', before, '--after', after, *rates])}")
    print(f"  {shlex.join(['labelleak', 'attack', '--gradient', gradient, '--truth', truth])}")
    both = ["labelleak", "attack", "--before", before, "--after", after, *known]
    print(f"  {shlex.join(both)}")
