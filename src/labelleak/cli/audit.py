"""`labelleak audit` and `labelleak report`: a simulated client, and the page of its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.cli.terminal import command_line, interruptible, progress_bar, say_remarks
from labelleak.errors import BadInput

if TYPE_CHECKING:
    from labelleak.records.record import Record


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
    shadow_batches: Annotated[
        int, typer.Option(help="Batches that the shadow attack learns from, for each model and N.")
    ] = 1000,
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
    learnt: Annotated[
        Path | None,
        typer.Option(help="Folder where the shadow attack keeps what it learns, to use it again."),
    ] = None,
) -> None:
    """Audit a simulated client: how many labels does its shared gradient give away?"""
    import torch

    from labelleak.audits.audit import open_journal, run_plan
    from labelleak.audits.options import check_options
    from labelleak.audits.plan import plan_audit
    from labelleak.files.fit_cache import FolderFitCache

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
        shadow_batches=shadow_batches,
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
    notes = FolderFitCache(learnt)
    say_remarks(options.defenses)
    with (
        open_journal(plan, out, overwrite=overwrite) as journal,
        interruptible(journal.records),
        progress_bar("auditing", "cells") as advance,
    ):
        notes.tell = advance.tell
        run_plan(replace(plan, fit_cache=notes), journal=journal, progress=advance)
    _conclude(journal.records, out / "report.html")


def report(
    records: Annotated[Path, typer.Argument(help="A records.jsonl file.")],
    out: Annotated[
        Path | None, typer.Option(help="Page to write; report.html beside the records if left out.")
    ] = None,
) -> None:
    """Render the page of an audit again from its records; needs no torch."""
    _conclude(records, out or records.with_name("report.html"))


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


__all__ = ["audit", "report"]
