"""Records of two runs in one file are told from those of one, whatever tells them apart."""

from dataclasses import replace

import pytest

from labelleak.records.mixing import WHAT_TO_DO, say_mixed
from report.federated import federated_records
from report.samples import make_record


def mod_records(**extra):
    """Records as a client mod writes them under a policy: two clients, two rounds."""
    return [
        replace(row, extra={**row.extra, "observer": "client", "policy": "block", **extra})
        for row in federated_records(2, 2, states=(False,))
    ]


def with_digests(prefix, rows):
    return [
        replace(r, extra={**r.extra, "update_digest": f"{prefix}{r.extra['round']}"}) for r in rows
    ]


ONE = with_digests("a", mod_records(run="7", action="blocked"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ONE, ""),
        ([make_record(trial=t) for t in range(3)], ""),
        (federated_records(2, 2), ""),  # defense off and on
        # `defend` writes an update as it was and as it left
        (
            [
                *with_digests("a", mod_records(policy="defend", action="defended")),
                *with_digests("b", mod_records(policy="defend", action="sent")),
            ],
            "",
        ),
        ([*ONE, make_record()], "some are of an audit, others of a federation"),
        ([*ONE, *mod_records(run="8", action="blocked")], "Flower numbers 2 runs"),
        ([*ONE, *mod_records(policy="record", action="sent")], "decided by two policies"),
        (
            [*ONE, *with_digests("b", mod_records(action="blocked"))],
            "several updates (client c0, round 1)",
        ),
        ([*ONE, *mod_records(observer="server", action="observed")], "clients and server wrote"),
    ],
)
def test_what_tells_two_runs_apart(rows, said):
    found = say_mixed(reversed(rows))
    assert said in found
    assert bool(found) == bool(said) == found.endswith(WHAT_TO_DO)


def test_rounds_that_nobody_told_are_not_taken_for_repeats():
    rows = [*ONE, *with_digests("b", ONE)]
    assert say_mixed(rows)
    assert not say_mixed([replace(r, extra={**r.extra, "round": 0}) for r in rows])
