"""An audit of layers: what is shared alone, and who says that there was nothing to read."""

from __future__ import annotations

import pytest

import labelleak
from labelleak.audits.layer_probes import with_layers_alone
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput

NAMES = ["a.weight", "a.bias", "norm.weight", "fc.weight", "fc.bias"]
ALONE = ["withhold:a:others", "withhold:norm:others", "withhold:head:others"]


def test_each_layer_is_shared_alone_behind_each_defense():
    chains = [parse_defense(text) for text in ("none", "clip:1")]
    found = [one.label for one in with_layers_alone(chains, NAMES, "fc")]
    assert found == [
        *("none", "withhold:head", *ALONE),
        *("clip:1", *(f"clip:1|{one}" for one in ("withhold:head", *ALONE))),
    ]
    (whole, head) = with_layers_alone([parse_defense("none")], ["weight", "bias"], "")
    assert (whole.label, head.label) == ("none", "withhold:head:others")
    with pytest.raises(BadInput, match="`layers` withholds layers itself"):
        with_layers_alone([parse_defense("withhold:bias")], NAMES, "fc")


def test_an_audit_of_layers_asks_attackers_of_every_layer_and_tells_who_saw_nothing():
    found = labelleak.audit(
        model="mlp",
        attacks=("llbg", "layer_regression", "gdbr"),
        batch_sizes=(8,),
        schemes=("unbalanced",),
        training_steps=(0,),
        trials=4,
        initialisations=1,
        layers=True,
    ).records
    gains = {}
    for row in found:
        gains.setdefault(row.defense, {}).setdefault(row.attack, []).append(row.asr)
    assert list(gains)[:2] == ["none", "withhold:head"]
    assert set(gains["withhold:head:others"]) == {"llbg", "layer_regression"}
    alone = next(row for row in found if row.defense == "withhold:head:others")
    assert "no layer's gradient" in alone.extra["not_applicable"]["gdbr"]
    assert min(gains["withhold:features.1:others"]["layer_regression"]) > 0.5
    whole = next(row for row in found if row.defense == "none")
    assert "not_applicable" not in whole.extra
