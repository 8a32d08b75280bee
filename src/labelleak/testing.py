"""For users' own test suites: assert that updates give away less than a limit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput
from labelleak.records.advantages import read_limit
from labelleak.records.record import Record, read_records
from labelleak.report.gate import judge
from labelleak.report.policy import make_policy

_QUICK: Mapping[str, Any] = {"batch_sizes": (8,), "schemes": ("iid",), "training_steps": (0,)}


def assert_leakage_below(
    source: Any,
    max_advantage: float | Mapping[str, float],
    *,
    threat_model: str | Sequence[str] = "model",
    min_trials: int = 20,
    data: Any = None,
    **choices: Any,
) -> None:
    """Assert that the strongest attacker's advantage stays below a limit, in every cell.

    The upper end of the 95 % interval is compared, so few trials make it harder to pass. Records
    that hold too few trials, or no attack of the threat model, fail.

    Args:
        source: records, a finished `labelleak.audit`, the path of a records file; or, with
            ``data``, a model (its name or a ``torch.nn.Module``) to audit here and now.
        max_advantage: the limit (0: nothing beyond the guess without the update; 1: everything),
            or one per threat model.
        threat_model: what the server holds: update, model (as every federated server does) or
            auxiliary; or several. Not read where ``max_advantage`` names them itself.
        min_trials: trials that each cell must have.
        data: name or `Dataset` to audit a model on; batches of 8, drawn evenly, unless
            ``choices`` say otherwise.
        choices: options of `labelleak.audit`.

    Raises:
        AssertionError: naming the attacker, its advantage, the free guess and what to do.
        BadInput: for a source or a limit that cannot be.

    >>> assert_leakage_below("mlp", 1.0, data="digits", attacks=["llg", "ilrg"])
    >>> try:
    ...     assert_leakage_below("mlp", 0.1, data="digits", attacks=["llg", "ilrg"])
    ... except AssertionError as error:
    ...     print(str(error)[:23])
    iLRG has advantage 1.00
    """
    __tracebackhide__ = True
    if not isinstance(max_advantage, Mapping):
        held = (threat_model,) if isinstance(threat_model, str) else tuple(threat_model)
        max_advantage = dict.fromkeys(held, max_advantage)
    limits = {
        server: read_limit(f"max_advantage.{server}", limit, open_end=False)
        for server, limit in max_advantage.items()
    }
    asked = {"max_advantage": limits, "min_trials": min_trials}
    policy = make_policy(asked, "assert_leakage_below")
    findings = judge(_records(source, data, {"trials": min_trials, **choices}), policy)
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        lines = [f"{f.said} [{f.rule}; {f.cell}]" for f in failed]
        advice = (
            "To pass, share less (a defense, larger batches, secure aggregation) or, where the "
            "interval is wide or trials are few, audit more trials and initialisations; raise "
            "the limit only on purpose."
        )
        raise AssertionError("\n".join([*lines, advice]))


def _records(source: Any, data: Any, choices: Mapping[str, Any]) -> Iterable[Record]:
    """Read, take or make the records to judge."""
    if data is not None:
        import labelleak

        quick = dict(_QUICK)
        if isinstance(source, str) and "weights" not in choices:
            quick["initialisations"] = 2
        return labelleak.audit(model=source, data=data, **{**quick, **choices}).records
    if set(choices) - {"trials"}:
        raise BadInput(
            f"{', '.join(sorted(set(choices) - {'trials'}))} are options of an audit; give data= "
            "and a model to run one"
        )
    if isinstance(source, (str, os.PathLike)):
        return read_records(Path(source))
    found = getattr(source, "records", source)
    if isinstance(found, Iterable) and not isinstance(found, Mapping):
        rows = list(found)
        if all(isinstance(row, Record) for row in rows):
            return rows
    raise BadInput(
        f"{type(source).__name__} holds no records; give records, an audit, a records file, or a "
        "model with data="
    )


__all__ = ["assert_leakage_below"]
