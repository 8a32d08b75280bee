"""The command line: thin, and quick to help, since anything heavy is imported inside a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak import __version__
from labelleak.commands.gate import gate
from labelleak.commands.paper import paper
from labelleak.commands.run import run
from labelleak.commands.terminal import command_line, interruptible, progress_bar
from labelleak.commands.watch import watch
from labelleak.errors import BadInput, LabelleakError

if TYPE_CHECKING:
    from labelleak.record import Record

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Audit how many training labels a federated learning update gives away.",
)


class Listing(StrEnum):
    """What `labelleak list` can list."""

    attacks = "attacks"
    defenses = "defenses"
    data = "data"
    models = "models"
    paper = "paper"
    schemes = "schemes"


def main() -> None:
    """Run the command line; what users do wrong ends in one sentence and status 2."""
    try:
        app()
    except LabelleakError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def _show_number(wanted: bool) -> None:
    if wanted:
        print(f"labelleak {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_number, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    pass


@app.command()
def audit(
    out: Annotated[Path, typer.Option(help="Folder for records.jsonl and report.html.")] = Path(
        "out"
    ),
    data: Annotated[str, typer.Option(help="Name or path; see `labelleak list data`.")] = "digits",
    model: Annotated[
        str, typer.Option(help="Name (`labelleak list models`) or package.module:factory.")
    ] = "cnn",
    activation: Annotated[
        str | None, typer.Option(help="relu, sigmoid, tanh, ...; the model's own if left out.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="default (PyTorch's), uniform (-0.5 to 0.5, the paper's) or xavier."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Safetensors file of trained weights for the model.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Module name of the last linear layer; found if left out.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="train (as clients run it) or eval; matters to batch norm.")
    ] = "train",
    batch_sizes: Annotated[
        str, typer.Option(help="Samples per batch, comma-separated.")
    ] = "1,2,4,8,16,32,64,128",
    schemes: Annotated[
        str, typer.Option(help="How batches are drawn; see `labelleak list schemes`.")
    ] = "iid,unbalanced",
    local_steps: Annotated[
        str, typer.Option(help="Steps that a client takes before it shares, comma-separated.")
    ] = "1",
    lr: Annotated[str, typer.Option(help="Learning rate of those steps, comma-separated.")] = "0.1",
    momentum: Annotated[float, typer.Option(help="SGD momentum of those steps.")] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="L2 factor of those steps.")] = 0.0,
    optimiser: Annotated[str, typer.Option(help="Of those steps: sgd or adam.")] = "sgd",
    clients: Annotated[
        str, typer.Option(help="Clients averaged into one update, comma-separated.")
    ] = "1",
    defenses: Annotated[
        str,
        typer.Option(help="Such as none,gaussian:0.1,clip:1|prune:0.8; `labelleak list defenses`."),
    ] = "none",
    attacks: Annotated[
        str, typer.Option(help="Comma-separated names, or standard; see `labelleak list attacks`.")
    ] = "standard",
    dummies: Annotated[
        str | None,
        typer.Option(
            help="LLG*'s inputs: zeros, ones, uniform, gaussian; else the paper's choice."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Batches per cell, over all initialisations.")] = 100,
    initialisations: Annotated[
        int | None, typer.Option(help="Independent models; 10 if left out, 1 with --weights.")
    ] = None,
    training_steps: Annotated[
        str, typer.Option(help="Training steps before the audit, comma-separated.")
    ] = "0,300",
    train_lr: Annotated[float, typer.Option(help="Learning rate of that training.")] = 0.05,
    train_batch_size: Annotated[int, typer.Option(help="Samples per step of that training.")] = 64,
    users: Annotated[
        int | None,
        typer.Option(help="Train by federated averaging over so many; steps are rounds."),
    ] = None,
    partition: Annotated[
        str, typer.Option(help="Users' data: iid, dirichlet:ALPHA, pathological:CLASSES, shards:N.")
    ] = "iid",
    per_round: Annotated[
        int | None, typer.Option(help="Users drawn for a round; all if left out.")
    ] = None,
    round_steps: Annotated[int, typer.Option(help="Local steps of a user in a round.")] = 1,
    victims: Annotated[
        str, typer.Option(help="unseen, or seen: drawn from what the model was trained on.")
    ] = "unseen",
    gradient: Annotated[
        str, typer.Option(help="auto, autograd or head_table (same numbers, faster).")
    ] = "auto",
    keep_counts: Annotated[
        bool, typer.Option("--keep-counts", help="Write true and guessed counts; private!")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads for the model's arithmetic.", min=1)] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop another audit that lies in --out.")
    ] = False,
) -> None:
    """Audit a simulated client: how many labels does its shared gradient give away?"""
    import torch

    from labelleak.experiments.audit import open_journal, run_plan
    from labelleak.experiments.options import check_options
    from labelleak.experiments.plan import plan_audit

    torch.set_num_threads(threads)
    options = check_options(
        data=data,
        model=model,
        activation=activation,
        init=init,
        weights=weights,
        head=head,
        mode=mode,
        batch_sizes=_numbers("batch-sizes", batch_sizes),
        schemes=_names(schemes),
        local_steps=_numbers("local-steps", local_steps),
        lr=_rates("lr", lr),
        momentum=momentum,
        weight_decay=weight_decay,
        optimiser=optimiser,
        clients=_numbers("clients", clients),
        defenses=_names(defenses),
        attacks=_names(attacks),
        dummies=dummies,
        trials=trials,
        initialisations=initialisations,
        training_steps=_numbers("training-steps", training_steps),
        train_lr=train_lr,
        train_batch_size=train_batch_size,
        users=users,
        partition=partition,
        per_round=per_round,
        round_steps=round_steps,
        victims=victims,
        gradient=gradient,
        keep_counts=keep_counts,
        seed=seed,
    )
    plan = plan_audit(options, command=command_line())
    with (
        open_journal(plan, out, overwrite=overwrite) as journal,
        interruptible(journal.records),
        progress_bar("auditing", "cells") as advance,
    ):
        run_plan(plan, journal=journal, progress=advance)
    _conclude(journal.records, out / "report.html")


app.command()(run)
app.command()(paper)
app.command()(gate)
app.command()(watch)


@app.command()
def report(
    records: Annotated[Path, typer.Argument(help="A records.jsonl file.")],
    out: Annotated[
        Path | None, typer.Option(help="Page to write; report.html beside the records if left out.")
    ] = None,
) -> None:
    """Render the page of an audit again from its records; needs no torch."""
    _conclude(records, out or records.with_name("report.html"))


@app.command(name="list")
def list_names(what: Annotated[Listing, typer.Argument(help="What to list.")]) -> None:
    """List attacks, data sets, models, batch schemes or experiments."""
    from labelleak.listings import describe

    for name, line in describe(what.value):
        print(f"{name:<18} {line}")


@app.command()
def bench() -> None:
    """Measure speed on this machine: ratios and times, each taken in this one run."""
    from labelleak.experiments.bench import run_bench

    for line in run_bench():
        print(line)


@app.command()
def selftest() -> None:
    """Audit the auditor: updates known to leak and known not to must be told apart."""
    from labelleak.experiments.controls import run_controls

    failed = False
    for control in run_controls():
        print(control)
        failed |= not control.passed
    if failed:
        raise typer.Exit(1)


def _conclude(records: Path, page: Path) -> None:
    """Write the page and print the findings."""
    from rich.console import Console

    from labelleak.report import headline, summary_table, tabulate, worst_cases, write_report

    rows = write_report(records, page)
    worst = worst_cases(rows)
    console = Console()
    console.print(summary_table(tabulate(rows), worst))
    for sentence in headline(worst):
        console.print(sentence, highlight=False)
    _print_flags(rows)
    print(f"\nrecords  {records}\nreport   {page}")


def _print_flags(rows: Sequence[Record]) -> None:
    """Say which assumptions did not hold, the most frequent first."""
    from labelleak.report.scope import flags, not_applicable

    for reason in not_applicable(rows):
        print(f"\nNot applicable: {reason}")
    raised = flags(rows)
    if raised:
        print("\nFlags (an assumption did not hold; see the report for what to do):")
    for flag in raised:
        print(f"  {flag.name:<26} {flag.trials / flag.of:>4.0%} of runs of {flag.attacks}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise BadInput(
            f"--{option} takes whole numbers with commas between, not {text!r}"
        ) from None


def _rates(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError:
        raise BadInput(f"--{option} takes numbers with commas between, not {text!r}") from None


if __name__ == "__main__":
    main()
