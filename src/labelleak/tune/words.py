"""Say in plain words what a search for a defense found, and what it does not cover."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from labelleak.defenses import parse_defense, remarks
from labelleak.defenses.accounting import account
from labelleak.defenses.catalogue import uncovered
from labelleak.report import wording
from labelleak.tune.answers import Answer, Confirmed
from labelleak.tune.clear_layers import is_attacked
from labelleak.tune.leaks import Leak
from labelleak.tune.options import TuneOptions

# A loss of accuracy above which a setting should not be recommended without a warning.
_HEAVY = 0.1


def say_answer(answer: Answer, options: TuneOptions) -> str:
    """Return the outcome in a few sentences."""
    server = wording.SERVERS[options.attacker]
    chosen = answer.recommended
    if chosen is None:
        without = say_leak(answer.baseline.leak, options)
        return f"{_nothing(answer, options)} Without a defense {server} has advantage {without}."
    if chosen.point.label == "none":
        return f"No defense is needed: {server} has advantage {_both(chosen, options)} without one."
    cost = chosen.cost
    return (
        f"{chosen.point.label} {_met(options)}: {server} has advantage {_both(chosen, options)}; "
        f"without a defense {say_leak(chosen.without, options)}. Test accuracy after "
        f"{options.rounds} rounds is {wording.share(cost.accuracy)}, {_change(cost.loss)} than "
        f"without it on the same seeds ({wording.share(cost.accuracy + cost.loss)}); an update "
        f"takes {cost.wire_bytes:,.0f} bytes, and a client's round {cost.seconds_ratio:.2f} times "
        f"as long.{_warning(cost.loss)}"
    )


def _warning(loss: float) -> str:
    if loss <= _HEAVY:
        return ""
    return (
        " That is a heavy loss: with these families, rounds and this learning rate no setting "
        "keeps both accuracy and labels."
    )


def _both(chosen: Confirmed, options: TuneOptions) -> str:
    fresh, searched = say_leak(chosen.leak, options), say_leak(chosen.point.leak, options)
    return f"{fresh} on seeds that the search never saw, where the search had {searched}"


def _met(options: TuneOptions) -> str:
    if options.target_advantage is not None:
        return f"meets the target of {options.target_advantage:g}"
    return f"leaks least within a loss of accuracy of {options.accuracy_budget:g}"


def _change(loss: float) -> str:
    """Return a loss of accuracy in points.

    >>> _change(0.012), _change(-0.0051), _change(0.0)
    ('1.2 points lower', '0.5 points higher', '0.0 points lower')
    """
    return f"{abs(100 * loss):.1f} points {'higher' if loss < 0 else 'lower'}"


def _nothing(answer: Answer, options: TuneOptions) -> str:
    if options.target_advantage is None:
        return (
            f"No setting of {', '.join(options.families)} stays within a loss of accuracy of "
            f"{options.accuracy_budget:g}; raise `accuracy_budget` or name other `families`."
        )
    said = (
        f"No setting meets it: none of {', '.join(options.families)} brings the advantage to "
        f"{options.target_advantage:g} or below and leaves the model half of what it learns"
    )
    best = answer.closest
    if best is None or best.cost is None:
        return f"{said}; name other `families`."
    return (
        f"{said}; the closest is {best.label} with {say_leak(best.leak, options)} at an accuracy "
        f"of {wording.share(best.cost.accuracy)}. {_front(answer, options)} "
        "Raise `target_advantage` or name other `families`."
    )


def _front(answer: Answer, options: TuneOptions) -> str:
    """Name the settings that no other beats in both leakage and accuracy."""
    best = "; ".join(
        f"{point.label} ({say_leak(point.leak, options)}, accuracy "
        f"{wording.share(point.cost.accuracy)})"
        for point in answer.front
        if point.cost
    )
    return f"The front, least leakage first: {best}."


def say_readers(options: TuneOptions) -> str:
    """Say which attackers read what."""
    if options.attacker != "auxiliary":
        return "Attackers without auxiliary data read the head alone, not the layers below it."
    return (
        "Attackers with auxiliary data read every layer that is shared (layer_regression, gdbr, "
        "and on fresh seeds layer_regression_adaptive, shadow_layers and shadow_layers_adaptive); "
        "all others the head alone."
    )


def say_leak(leak: Leak, options: TuneOptions) -> str:
    """Return an advantage with its interval, as text; where learners were left out, at least."""
    least = "at least " if leak.at_least else ""
    return least + wording.span(leak.advantage, options.trials)


def caveats(label: str, options: TuneOptions) -> list[str]:
    """Return one sentence for each thing that the measured leak does not cover."""
    return list(dict.fromkeys(_caveats(label, options)))


def _caveats(label: str, options: TuneOptions) -> Iterator[str]:
    chain = parse_defense(label)
    yield from (wording.as_sentence(said, chain.label) for said in remarks(chain))
    if chain.links:
        proved = account(chain, rounds=options.rounds)
        epsilon = "" if proved.epsilon is None else f"epsilon {proved.epsilon:.3g} at delta 1e-5, "
        yield f"Privacy ({epsilon}{proved.method}): {proved.sentence}."
    yield from uncovered(label, [part.label for part in chain.links if part.is_off])
    if not is_attacked(label, options.attacker):
        yield "The layers below the head are in the clear, and nobody asked here reads them."
    yield say_readers(options)


def audit_command(label: str, options: TuneOptions, seed: int, out: Path) -> str:
    """Return the command that measures a setting, and no defense beside it, on a seed.

    The command writes into a new folder inside that of the search.
    """
    words = ["labelleak", "audit", "--data", options.data, "--model", options.model]
    for flag, value in (("--activation", options.activation), ("--init", options.init)):
        words += [flag, value] if value else []
    steps = ",".join(str(step) for step in options.training_steps)
    words += ["--batch-sizes", str(options.batch_size), "--schemes", options.scheme]
    words += ["--training-steps", steps, "--trials", str(options.trials)]
    words += ["--initialisations", str(options.initialisations), "--seed", str(seed)]
    defenses = "none" if label == "none" else f"none,{label}"
    folder = out / f"audit-{re.sub(r'[^a-z0-9._]+', '-', label)}-{seed}"
    return shlex.join([*words, "--defenses", defenses, "--out", str(folder)])


__all__ = ["audit_command", "caveats", "say_answer", "say_leak", "say_readers"]
