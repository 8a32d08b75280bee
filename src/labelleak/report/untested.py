"""List what a set of records leaves untested, from what is absent in them."""

from __future__ import annotations

from collections.abc import Iterable

from labelleak.attacks import ATTACKS
from labelleak.records.frame import RecordFrame
from labelleak.records.record import THREAT_MODELS, Record
from labelleak.report import wording
from labelleak.report.remedies import group_reasons
from labelleak.report.scope import list_values, not_applicable, said
from labelleak.report.wording import capital


def untested(records: Iterable[Record]) -> list[str]:
    """List what the records do not cover, from what is absent in them."""
    frame = RecordFrame.of(records)
    data, models, schemes = (list_values(frame.distinct(k)) for k in ("data", "model", "scheme"))
    return [
        *_untested_attackers(frame),
        *_untested_clients(frame),
        *(f"{capital(reason)}." for reason in group_reasons(not_applicable(frame))),
        "Other data and models than those of this federation."
        if (data, models) == ("federation", "unknown")
        else f"Other data and models than {data} on {models}, and other ways to draw batches than "
        f"{schemes}.",
        "Anything but label counts: which sample has which label, the samples themselves, "
        "or who took part.",
    ]


def _untested_attackers(records: RecordFrame) -> list[str]:
    run = set(records.distinct("attack"))
    absent = [wording.name_attack(a) for a in ATTACKS if a not in run | {"free", "random"}]
    held = records.distinct("threat_model")
    found = [f"{wording.SERVERS[t].capitalize()}." for t in THREAT_MODELS[1:] if t not in held]
    if absent:
        found.append(f"Other attacks of the field: {', '.join(absent)}.")
    if not any(records.distinct("adaptive")):
        found.append("Adaptive attackers, which know the client's defense and model it.")
    found.append("A server that alters the model before it sends it, and one that combines rounds.")
    return found


def _untested_clients(records: RecordFrame) -> list[str]:
    found = []
    if records.distinct("local_steps") == [1]:
        found.append("Several local steps before the update is shared (federated averaging).")
    if records.distinct("defense") == ["none"]:
        found.append("Defenses such as noise, clipping, compression or secure aggregation.")
    stages, given = records.distinct("training_steps"), wording.AS_GIVEN in said(records, "init")
    if given:
        found.append(
            "How the model's weights were trained, and whether on the victims' data: it was "
            "audited as given."
        )
    elif stages == [0]:
        found.append("Trained models: every model here is untrained.")
    elif 0 not in stages:
        found.append("Untrained models, on which such attacks are usually strongest.")
    if not given and "seen" not in said(records, "victims"):
        found.append("Batches that the model has already been trained on.")
    modes = said(records, "mode")
    if modes and "train" not in modes:
        found.append("Updates computed in training mode (batch statistics, dropout).")
    if not any(clients > 1 for clients in records.distinct("clients")):
        found.append("Updates of several clients added up before the server sees them.")
    return found
