"""The command `attack`, which says which labels one given update gives away."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.errors import BadInput

if TYPE_CHECKING:
    from labelleak.audits.answers import AttackResult, UpdateReport

_MANY = 6


def attack(
    before: Annotated[
        str | None, typer.Option(help="Weights that the server sent: safetensors, npz or pt.")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Weights that the client returned.")] = None,
    gradient: Annotated[
        str | None, typer.Option(help="The shared gradient, in place of both.")
    ] = None,
    update: Annotated[
        str | None, typer.Option(help="One file of labelleak's capture, in place of both.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="The client's learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Labels per local step.")] = None,
    local_steps: Annotated[
        int | None, typer.Option(help="The client's optimiser steps; 1 if left out.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="The client's SGD momentum.")] = None,
    dampening: Annotated[float | None, typer.Option(help="Its dampening.")] = None,
    nesterov: Annotated[
        bool | None, typer.Option("--nesterov", help="Its momentum is Nesterov's.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="The client's L2 factor.")] = None,
    proximal: Annotated[float | None, typer.Option(help="FedProx's pull.")] = None,
    optimiser: Annotated[str | None, typer.Option(help="sgd or adam.")] = None,
    head: Annotated[
        str | None, typer.Option(help="Module name of the last linear layer; found if left out.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The attacker's model: a name, or package.module:factory."),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="default, uniform or xavier, for a named model.")
    ] = None,
    activation: Annotated[str | None, typer.Option(help="Activation of a named model.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="The model's weights; those of --before if left out.")
    ] = None,
    mode: Annotated[str, typer.Option(help="train (as clients run it) or eval.")] = "train",
    input_shape: Annotated[
        str | None, typer.Option(help="Shape of an input, as in 1,28,28, without --auxiliary.")
    ] = None,
    auxiliary: Annotated[
        str | None, typer.Option(help="The attacker's own data: a name or path, as for audit.")
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="JSON list of the true labels or counts, to score against.")
    ] = None,
    attacks: Annotated[
        str, typer.Option(help="Comma-separated names, or standard; see `labelleak list attacks`.")
    ] = "standard",
    scheme: Annotated[
        str, typer.Option(help="How batches are drawn, for the guess without the update.")
    ] = "iid",
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    max_bytes: Annotated[
        int, typer.Option(help="Largest file that is read; 2 GiB unless said.", min=1)
    ] = 2 * 2**30,
    learnt: Annotated[
        Path | None,
        typer.Option(help="Folder where the shadow attack keeps what it learns, to use it again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Append a record an attack here; needs --truth.")
    ] = None,
    keep_counts: Annotated[
        bool, typer.Option("--keep-counts", help="Write counts into the records; private!")
    ] = False,
) -> None:
    """Attack one update: which labels do these very weights or gradients give away?"""
    import torch

    from labelleak.audits.one_update import ModelOptions, attack_update
    from labelleak.core.training import LocalTraining
    from labelleak.files.fit_cache import FolderFitCache
    from labelleak.records.record import append_records

    if save is not None and truth is None:
        raise BadInput(
            "--save needs --truth: a record says how right an answer was, and without the truth "
            "nobody knows; keep the output of --json instead"
        )
    torch.set_num_threads(1)
    report = attack_update(
        before=before,
        after=after,
        gradient=gradient,
        update=update,
        made=LocalTraining(
            lr=lr,
            batch_size=batch_size,
            local_steps=local_steps,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
            weight_decay=weight_decay,
            proximal=proximal,
            optimiser=optimiser,
        ),
        head=head,
        model=ModelOptions(
            name=model,
            init=init,
            activation=activation,
            weights=weights,
            mode=mode,
            input_shape=_shape(input_shape),
        ),
        auxiliary=auxiliary,
        truth=truth,
        attacks=[name.strip() for name in attacks.split(",") if name.strip()],
        scheme=scheme,
        seed=seed,
        max_bytes=max_bytes,
        fit_cache=FolderFitCache(learnt, _tell),
    )
    if save is not None:
        command = shlex.join(["labelleak", *sys.argv[1:]])
        append_records(save, report.records(command=command, keep_counts=keep_counts))
    if as_json:
        print(json.dumps(report.to_json(), allow_nan=False))
    else:
        _show(report, save)


def _tell(what: str) -> None:
    if what:
        print(f"{what} ...", file=sys.stderr)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) < 2**16 for part in parts):
        raise BadInput(f"--input-shape takes whole numbers with commas between, not {text!r}")
    return tuple(int(part) for part in parts)


def _show(report: UpdateReport, save: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    size = "unknown" if report.num_samples is None else report.num_samples
    print(
        f"{report.source}: head {report.head or '(the model itself)'!r}, "
        f"{report.num_classes} classes, {size} labels, {report.made.local_steps or 1} local step(s)"
    )
    scored = report.truth is not None
    table = Table("attack", "attacker holds", "labels guessed (class: count, confidence)")
    tells = any(result.expected_asr is not None for result in report.results)
    if tells:
        table.add_column("expected right", justify="right")
    if scored:
        table.add_column("right", justify="right")
        table.add_column("advantage", justify="right")
    for result in report.results:
        told = [] if not tells else [_expected(result)]
        table.add_row(
            result.attack, result.threat_model, _guessed(result), *told, *_score(result, scored)
        )
    console.print(table, markup=False)
    if report.truth is not None:
        print(f"True counts: {report.truth.counts.tolist()}")
    if report.asr_free is not None:
        print(
            f"A guess without the update names {report.asr_free:.1%} of the labels on average "
            f"(batches drawn {report.scheme}); only what is above it was leaked."
        )
    print("Confidence: the attack's own score scaled to 0..1 within this update; no probability.")
    if tells:
        print("Where the attack says what share it expects right: the probability of the class.")
    _show_scope(report)
    if save is not None:
        print(f"records  {save}")


def _guessed(result: AttackResult) -> str:
    there = [(k, n) for k, n in enumerate(result.counts) if n]
    there.sort(key=lambda pair: (-pair[1], -result.confidence[pair[0]], pair[0]))
    guess = result.threat_model == "none"  # no look at the update, so no confidence from it
    words = [
        f"{k}: {n}" if guess else f"{k}: {n} ({result.confidence[k]:.2f})" for k, n in there[:_MANY]
    ]
    more = [f"{len(there) - _MANY} more"] if len(there) > _MANY else []
    return ", ".join([*words, *more])


def _expected(result: AttackResult) -> str:
    return "" if result.expected_asr is None else f"{result.expected_asr:.1%}"


def _score(result: AttackResult, scored: bool) -> list[str]:
    if not scored or result.asr is None:
        return []
    gained = "-" if result.advantage is None else f"{result.advantage:+.2f}"
    return [f"{result.asr:.1%}", gained]


def _show_scope(report: UpdateReport) -> None:
    """Say what was checked, what did not hold, and who could not answer."""
    from labelleak.records.flags import FLAGS

    failed = [name for name, found in report.checked.items() if found["failed"]]
    print(f"\nAssumptions checked: {', '.join(report.checked)}")
    for name in failed:
        concerned = [result.attack for result in report.results if name in result.flags]
        of = f" (for {', '.join(concerned)})" if concerned else ""
        print(f"  did not hold: {name}: {FLAGS[name].says}; {FLAGS[name].advice}{of}")
    if not failed:
        print("  all held")
    for why in report.not_applicable.values():
        print(f"Not applicable: {why}")
    for note in report.notes:
        print(f"Note: {note}")
