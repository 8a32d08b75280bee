"""Updates that no attack could read are said, and never called safe."""

from dataclasses import replace

from labelleak.report.gate import judge
from labelleak.report.opening import say_verdict
from labelleak.report.page import render
from labelleak.report.policy import Policy
from labelleak.report.unread import find_unread, say_unread
from labelleak.report.verdict import reach_verdict
from report.samples import make_record


def guess(defense, **more):
    extra = {"not_applicable": {"llg": "llg reads the head"}, **more}
    return replace(make_record(attack="free", threat_model="none", defense=defense), extra=extra)


def test_a_condition_that_no_attack_answered_is_named():
    read = make_record(attack="llg", threat_model="update", defense="clip:1")
    rows = [guess("clip:1"), read, guess("withhold:head"), guess("none", lora="attention:8")]
    assert find_unread(rows) == ("withhold:head", "lora attention:8")
    assert find_unread([guess("none"), guess("withhold:head", lora="head:8")]) == (
        "none",
        "lora head:8 and withhold:head",
    )


def test_where_nothing_but_the_guess_was_asked_nothing_is_said():
    assert find_unread([replace(guess("withhold:head"), extra={})]) == ()
    assert say_unread(()) == ""


def test_the_verdict_and_the_page_say_so():
    rows = [guess("withhold:head")]
    said = say_verdict(reach_verdict(rows))
    assert said.startswith("Not decided: no attack could read the update of 1 case (withhold:head)")
    page = render(rows, source="records.jsonl")
    assert "no sign that it is safe" in page
    assert "No update was read: no attack that was asked can read one" in page
    assert "None: no attack could read an update." in page
    unasked = render([replace(rows[0], extra={})], source="records.jsonl")
    assert "No update was attacked" in unasked
    assert "None: no attack that reads an update was run." in unasked
    both = [make_record(attack="llg", threat_model="update"), *rows]
    assert "No attack could read the update of 1 case" in say_verdict(reach_verdict(both))
    assert reach_verdict(both).to_json()["unread"] == ["withhold:head"]


def test_what_one_model_shows_is_not_what_another_does():
    read = replace(make_record(attack="llg", threat_model="update"), model="lstm")
    rows = [read, replace(guess("none"), model="gpt2-small")]
    assert find_unread(rows) == ("none and model gpt2-small",)
    steps = [replace(read, local_steps=2), replace(guess("none"), model="lstm", local_steps=1)]
    assert find_unread(steps) == ("none and local steps 1",)


def test_a_gate_does_not_open_where_no_attack_could_read():
    rows = [replace(guess("withhold:head"), trial=trial) for trial in range(30)]
    policy = Policy(must_run=["free"])
    assert [one.rule for one in judge(rows, policy) if not one.passed] == ["unread"]
    assert all(one.passed for one in judge([replace(r, extra={}) for r in rows], policy))


def test_one_layer_alone_that_tells_nothing_shuts_no_gate():
    read = make_record(attack="llg", threat_model="update")
    rows = [replace(r, trial=trial) for trial in range(30) for r in (read, guess("none"))]
    alone = [replace(guess("withhold:fc:others"), trial=trial) for trial in range(30)]
    found = judge([*rows, *alone], Policy(must_run=["llg"]))
    assert "unread" not in {one.rule for one in found}
