"""`labelleak tune`: the cheapest defense that works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelleak.cli.run import AddressOption, WorkersOption
from labelleak.cli.terminal import command_line, interruptible, progress_bar
from labelleak.errors import BadInput

_STANDARD = "gaussian,clip|gaussian,head_noise,prune,topk,sign,qsgd,withhold"


def tune(
    out: Annotated[Path, typer.Option(help="Folder for tune.md, .svg, .json and records.")] = Path(
        "out"
    ),
    data: Annotated[str, typer.Option(help="Name or path; see `labelleak list data`.")] = "digits",
    model: Annotated[
        str, typer.Option(help="Name (`labelleak list models`) or package.module:factory.")
    ] = "mlp",
    activation: Annotated[
        str | None, typer.Option(help="relu, sigmoid, tanh, ...; the model's own if left out.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="default (PyTorch's), uniform (the paper's) or xavier.")
    ] = None,
    attacker: Annotated[
        str, typer.Option(help="What the attacker holds: update, model or auxiliary (data).")
    ] = "auxiliary",
    target_advantage: Annotated[
        float | None, typer.Option(help="Largest advantage that may be left, 0 to 1; or")
    ] = None,
    accuracy_budget: Annotated[
        float | None, typer.Option(help="largest loss of test accuracy, such as 0.02.")
    ] = None,
    families: Annotated[
        str, typer.Option(help="Families to search, or defenses written out, comma-separated.")
    ] = _STANDARD,
    batch_size: Annotated[int, typer.Option(help="Labels in a batch.")] = 32,
    scheme: Annotated[
        str, typer.Option(help="How batches are drawn; see `labelleak list schemes`.")
    ] = "unbalanced",
    training_steps: Annotated[
        str, typer.Option(help="Training before a leak is measured; the worst stage counts.")
    ] = "0,300",
    trials: Annotated[int, typer.Option(help="Batches for each measurement and stage.")] = 100,
    initialisations: Annotated[int, typer.Option(help="Models of each measurement.")] = 5,
    users: Annotated[int, typer.Option(help="Clients of the federation that tells cost.")] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds of that federation.")] = 150,
    lr: Annotated[
        float | None, typer.Option(help="Its learning rate; what suits the model if left out.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Federations that an accuracy is the mean of.")] = 3,
    grid: Annotated[
        int, typer.Option(help="Measure a plain grid of so many points too, to compare.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    executor: Annotated[str, typer.Option(help="joblib (processes), serial or ray.")] = "joblib",
    workers: WorkersOption = None,
    address: AddressOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop another search that lies in --out.")
    ] = False,
) -> None:
    """Search the cheapest defense that keeps leakage below a target, or within a loss of accuracy.

    An interrupted search goes on where it stopped.
    """
    import torch

    from labelleak.audits.executors import make_executor
    from labelleak.tune.files import write_answer
    from labelleak.tune.measurements import Measurements
    from labelleak.tune.options import TuneOptions
    from labelleak.tune.search import Search
    from labelleak.tune.words import audit_command, caveats, say_answer

    torch.set_num_threads(1)
    options = TuneOptions(
        data=data,
        model=model,
        activation=activation,
        init=init,
        attacker=attacker,
        target_advantage=target_advantage,
        accuracy_budget=accuracy_budget,
        families=tuple(part.strip() for part in families.split(",") if part.strip()),
        batch_size=batch_size,
        scheme=scheme,
        training_steps=_steps(training_steps),
        trials=trials,
        initialisations=initialisations,
        users=users,
        rounds=rounds,
        lr=lr,
        repeats=repeats,
        grid=grid,
        seed=seed,
    )
    where = make_executor(executor, workers, address)
    command = command_line()
    with (
        progress_bar("searching", "measurements") as advance,
        Measurements.open(
            options,
            out,
            command=command,
            overwrite=overwrite,
            executor=where,
            progress=advance,
        ) as measured,
        interruptible(measured.journal.records),
    ):
        answer = Search(measured).run()
        measured.finish()
        write_answer(answer, measured, out, command=command)
    print(say_answer(answer, options))
    chosen = answer.recommended
    if chosen is not None:
        print(f"\n{audit_command(chosen.point.label, options, chosen.seed, out)}")
        for said in caveats(chosen.point.label, options):
            print(f"- {said}")
    print(f"\npage     {out / 'tune.md'}\npicture  {out / 'tune.svg'}")
    print(f"answer   {out / 'tune.json'}\nrecords  {out / 'records.jsonl'}")


def _steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise BadInput(
            f"--training-steps takes whole numbers with commas between, not {text!r}"
        ) from None


__all__ = ["tune"]
