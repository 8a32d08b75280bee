"""The helper for users' suites: what it takes, what it says, what it refuses."""

import pytest

from labelleak.audits.audit import Audit
from labelleak.errors import BadInput
from labelleak.records.record import append_records
from labelleak.testing import assert_leakage_below
from report.samples import make_record


def test_takes_records_an_audit_or_a_path(tmp_path):
    rows = tuple(make_record(trial=t) for t in range(20))
    path = tmp_path / "r.jsonl"
    append_records(path, rows)
    for source in (rows, Audit(rows), path, str(path)):
        assert_leakage_below(source, 0.5, threat_model="update")
        with pytest.raises(AssertionError) as caught:
            assert_leakage_below(source, {"update": 0.2})
        for words in ("LLG has advantage 0.38", "limit 0.2", "guess without", "To pass, share"):
            assert words in str(caught.value)


def test_no_evidence_is_no_pass():
    rows = [make_record(trial=t) for t in range(20)]
    with pytest.raises(AssertionError, match="no attack of threat model model"):
        assert_leakage_below(rows, 1.0)
    with pytest.raises(AssertionError, match="20 trials here, the policy asks for 30"):
        assert_leakage_below(rows, 1.0, threat_model="update", min_trials=30)
    with pytest.raises(AssertionError, match="hold nothing"):
        assert_leakage_below([], 1.0)


def test_a_module_is_audited_here_and_now():
    import torch

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(AssertionError, match="has advantage"):
        assert_leakage_below(model, 0.1, data="digits", attacks=["ilrg"])
    with pytest.raises(BadInput, match="with data="):
        assert_leakage_below(model, 0.1)


def test_bad_limits_and_lost_options_are_refused():
    rows = [make_record()]
    with pytest.raises(BadInput, match="did you mean 'update'"):
        assert_leakage_below(rows, 0.1, threat_model="updates")
    with pytest.raises(BadInput, match=r"max_advantage\.update"):
        assert_leakage_below(rows, 2.0, threat_model="update")
    with pytest.raises(BadInput, match="batch_sizes are options of an audit"):
        assert_leakage_below(rows, 0.1, batch_sizes=[8])
