"""The client's mods: four policies, defenses, and what happens when something breaks."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")
from labelleak import flower  # first: it keeps Flower from phoning home

from flower import federation  # isort: skip
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.core.battery import Battery
from labelleak.core.digests import digest_tensors
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.flower.sealing import withhold
from labelleak.records.record import read_records
from labelleak.report.actions import follow_actions
from labelleak.report.verdict import UNDECIDED, reach_verdict
from labelleak.testing import assert_leakage_below

POLICIES = ["record", "warn", "defend", "block"]


def hide(update):
    """Replace every update by noise that has nothing to do with it."""
    generator = torch.Generator().manual_seed(1)  # 0 made the weights
    return {name: torch.randn(t.shape, generator=generator) for name, t in update.items()}


def call(mods, *, function=federation.train, message=None, client=0):
    """Send one message through an app's mods and give the reply with the node's context."""
    app = federation.make_app(*mods, function=function)
    grid = flower.InProcessGrid(app, federation.CLIENTS)
    message = message or federation.train_message()
    message.metadata.__dict__["_dst_node_id"] = client + 1
    (reply,) = grid.send_and_receive([message])
    return reply, grid.context_of(client + 1)


ASSUMED = ("model_not_given", "loss_not_told", "prior_assumed", "several_steps_not_tried")


def make_mod(folder, policy, **options):
    auditor = federation.make_auditor(folder, truth=None, attacks=["free", "llg", "llbg"])
    if policy == "defend":
        options.setdefault("defense", hide)
    return flower.audit_mod(auditor, policy, **options)


def rows(folder, name):
    path = folder / f"{name}.jsonl"
    found = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    # Most auditors here have no model and uneven clients; tests of their own say what follows.
    return [row for row in found if row.get("event") not in ASSUMED]


def actions(folder):
    return [row["action"] for row in rows(folder, "records") if row["attack"] == "llg"]


def arrays_of(reply):
    return {name: array.numpy() for name, array in reply.content["arrays"].items()}


def same(one, two):
    return all(np.array_equal(one[name], two[name]) for name in one)


def test_a_verdict_names_the_update_that_left_and_no_other(tmp_path):
    reply, _ = call([make_mod(tmp_path, "defend", limit=0.0)])
    left = digest_tensors(arrays_of(reply))
    said = {row["action"]: row["update_digest"] for row in rows(tmp_path, "records")}
    assert said["sent"] == left
    assert said["defended"] != left
    (tmp_path / "block").mkdir()
    call([make_mod(tmp_path / "block", "block", limit=0.0)])
    (blocked,) = {row["update_digest"] for row in rows(tmp_path / "block", "records")}
    assert blocked == said["defended"]


@pytest.fixture
def bare():
    return arrays_of(call([])[0])


def test_record_writes_and_lets_pass(tmp_path, bare):
    reply, context = call([make_mod(tmp_path, "record")])
    assert same(arrays_of(reply), bare)
    assert actions(tmp_path) == ["sent"]
    assert rows(tmp_path, "events") == []
    (llg,) = [r for r in read_records(tmp_path / "records.jsonl") if r.attack == "llg"]
    assert llg.presence_recall == 1
    assert llg.extra["policy"] == "record"
    assert (llg.extra["round"], llg.extra["client"], llg.extra["claimed_partition"]) == (
        1,
        "1",
        "0",
    )
    assert not context.state


def test_warn_notes_an_event_and_lets_pass(tmp_path, bare):
    reply, _ = call([make_mod(tmp_path, "warn")])
    assert same(arrays_of(reply), bare)
    assert actions(tmp_path) == ["warned"]
    (event,) = rows(tmp_path, "events")
    assert event["event"] == "above_limit"
    assert event["advantage"] > event["limit"] == 0.5


def test_defend_sends_the_defended_update_and_audits_it_again(tmp_path, bare):
    reply, _ = call([make_mod(tmp_path, "defend")])
    sent = federation.make_model().state_dict()
    expected = hide({name: value[None] for name, value in sent.items() if name in FLOATS})
    got = arrays_of(reply)
    for name in FLOATS:
        np.testing.assert_allclose(got[name], (sent[name] + expected[name][0]).numpy(), rtol=1e-6)
    assert not same(got, bare)
    assert actions(tmp_path) == ["defended", "sent"]
    found = [row for row in rows(tmp_path, "records") if row["attack"] == "llg"]
    assert [row["defense"] for row in found] == ["none", "hide"]
    assert found[1]["advantage"] < 0.5 < found[0]["advantage"]


FLOATS = [n for n, _ in federation.make_model().named_parameters()]


def test_defend_says_when_the_defense_did_not_help(tmp_path, bare):
    reply, _ = call([make_mod(tmp_path, "defend", defense=dict)])
    np.testing.assert_allclose(arrays_of(reply)["3.weight"], bare["3.weight"], atol=1e-7)
    assert [event["event"] for event in rows(tmp_path, "events")] == ["above_limit"]


@pytest.mark.parametrize(
    ("policy", "given", "noted"),
    [
        ("block", {}, 1),
        ("defend", {}, 1),
        ("record", {}, 0),
        ("block", {"attacks": ["llg_star"]}, 0),
    ],
)
def test_block_and_defend_say_once_that_the_usual_server_was_not_tried(
    tmp_path, policy, given, noted
):
    if given:
        given |= {"model": federation.make_model, "input_shape": (64,)}
    for _ in range(2):  # two processes of one run
        auditor = federation.make_auditor(tmp_path, truth=None, **given)
        mod = flower.audit_mod(auditor, policy, defense=hide, limit=0.0)
        for client in (0, 1):
            call([mod], client=client)
    events = tmp_path / "events.jsonl"
    said = events.read_text() if events.exists() else ""
    assert said.count('"model_not_given"') == noted
    assert ("give it model=" in said) == bool(noted)


def test_two_runs_into_one_folder_are_not_decided(tmp_path):
    for policy in ("record", "block"):
        call([make_mod(tmp_path, policy)])
    found = reach_verdict(read_records(tmp_path / "records.jsonl"))
    assert found.grade is UNDECIDED
    assert "decided by two policies (client 1, round 1)" in found.mixed
    counts = follow_actions(read_records(tmp_path / "records.jsonl"))[0].counts
    assert counts == {"sent": 1, "blocked": 1}


def test_an_auditor_refuses_the_folder_of_an_audit(tmp_path):
    (tmp_path / "run.json").touch()
    with pytest.raises(BadInput, match="holds a run of `labelleak audit`"):
        make_mod(tmp_path, "record")


def test_block_lets_nothing_leave(tmp_path):
    reply, context = call([make_mod(tmp_path, "block")])
    assert reply.has_error()
    assert not reply.has_content()
    assert "advantage" not in reply.error.reason
    assert actions(tmp_path) == ["blocked"]
    assert not context.state
    (event,) = rows(tmp_path, "events")
    assert (event["event"], event["limit"]) == ("blocked", 0.5)
    assert event["advantage"] > 0.5


@pytest.mark.parametrize("limit", [20, 1.0, 1, -0.1, float("nan"), float("inf"), "0.2", True, None])
@pytest.mark.parametrize("policy", ["record", "block"])
def test_a_limit_that_stops_nothing_is_refused(tmp_path, policy, limit):
    with pytest.raises(BadInput, match="limit"):
        make_mod(tmp_path, policy, limit=limit)
    with pytest.raises(BadInput, match="max_advantage"):  # a policy of 1 is one of evidence alone
        assert_leakage_below([], 1.5 if limit in (1, 20) else limit)


def test_the_limit_in_force_is_on_record_and_in_the_verdict(tmp_path):
    call([make_mod(tmp_path, "block", limit=np.float32(0.25))])
    records = read_records(tmp_path / "records.jsonl")
    assert {row.extra["limit"] for row in records} == {0.25}
    assert reach_verdict(records).fates.startswith(
        "The policy block (above an advantage of 0.25) withheld the only update"
    )


def test_block_sees_an_update_though_the_client_writes_it_over_what_was_sent(tmp_path):
    def answer(message, context):
        reply = federation.train(message, context)
        for name, array in reply.content["arrays"].items():
            message.content["arrays"][name].data = array.data
        return reply

    reply, _ = call([make_mod(tmp_path, "block")], function=answer)
    assert not reply.has_content()
    assert actions(tmp_path) == ["blocked"]


def test_block_lets_a_harmless_update_pass(tmp_path):
    reply, _ = call([make_mod(tmp_path, "block"), flower.defense_mod(hide)])
    assert not reply.has_error()
    assert actions(tmp_path) == ["sent"]


@pytest.mark.parametrize("policy", ["block", "record"])
def test_an_update_of_impossible_scale_is_evidence_of_nothing(tmp_path, policy):
    """The client took steps a thousand times as large as the auditor was told."""
    lr, attacks = federation.LR / 1000, ["free", "llg", "llbg"]
    auditor = federation.make_auditor(tmp_path, truth=None, attacks=attacks, lr=lr)
    reply, _ = call([flower.audit_mod(auditor, policy)])
    assert reply.has_error() == (policy == "block")
    events = {row["event"]: row for row in rows(tmp_path, "events")}
    assert "times the largest possible" in events["impossible_scale"]["reason"]
    assert {row["scale"] for row in rows(tmp_path, "records")} == {"impossible"}


def test_the_first_mod_sees_what_leaves_and_the_last_what_was_trained(tmp_path):
    noise = LocalDpMod(0.05, 0.05, 1.0, 1e-5)
    first, last = make_mod(tmp_path / "first", "record"), make_mod(tmp_path / "last", "record")
    call([first, noise])
    call([noise, last])
    leaves, trained = (
        next(r["advantage"] for r in rows(tmp_path / part, "records") if r["attack"] == "llg")
        for part in ("first", "last")
    )
    assert trained > 0.5 > leaves


def silent(message, context):
    """Train without reporting labels."""
    reply = federation.train(message, context)
    context.state.clear()
    return reply


def without_arrays(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)


def with_two_records(message, context):
    reply = federation.train(message, context)
    reply.content["more"] = ArrayRecord(federation.make_model().state_dict())
    return reply


def with_nan(message, context):
    reply = federation.train(message, context)
    state = reply.content["arrays"].to_torch_state_dict()
    state["3.weight"][0, 0] = float("nan")
    reply.content["arrays"] = ArrayRecord(state)
    return reply


def with_other_names(message, context):
    reply = federation.train(message, context)
    state = reply.content["arrays"].to_torch_state_dict()
    reply.content["arrays"] = ArrayRecord({f"_module.{k}": v for k, v in state.items()})
    return reply


def with_labels_out_of_range(message, context):
    reply = federation.train(message, context)
    flower.report_labels(context, [10])
    return reply


BROKEN = [
    silent,
    without_arrays,
    with_two_records,
    with_nan,
    with_other_names,
    with_labels_out_of_range,
]


@pytest.mark.parametrize("function", BROKEN)
@pytest.mark.parametrize("policy", POLICIES)
def test_an_audit_that_fails_is_closed_under_block_and_open_under_record(
    tmp_path, policy, function
):
    reply, context = call([make_mod(tmp_path, policy)], function=function)
    closed = policy in ("block", "defend")
    assert reply.has_error() == closed
    assert reply.has_content() != closed
    assert [event["event"] for event in rows(tmp_path, "events")] == ["audit_failed"]
    assert not context.state
    if closed:
        reason = rows(tmp_path, "events")[0]["reason"]
        assert reason not in reply.error.reason


@pytest.mark.parametrize("policy", POLICIES)
def test_a_crash_of_an_attack_is_closed_under_block_and_open_under_record(
    tmp_path, policy, monkeypatch
):
    def crash(*_args, **_options):
        raise ZeroDivisionError("in the middle of an attack")

    monkeypatch.setattr("labelleak.core.battery.Battery.run", crash)
    reply, _ = call([make_mod(tmp_path, policy)])
    assert reply.has_error() == (policy in ("block", "defend"))
    assert "ZeroDivisionError" in rows(tmp_path, "events")[0]["reason"]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_audit_that_takes_too_long_has_failed(tmp_path, policy, monkeypatch):
    going_on, battery_run = threading.Event(), Battery.run
    monkeypatch.setattr(Battery, "run", lambda *given: (going_on.wait(), battery_run(*given))[1])
    mod = make_mod(tmp_path, policy, max_seconds=0.2)
    started = [call([mod])[0] for _ in range(2)]  # the second waits for the first, in vain
    assert [reply.has_error() for reply in started] == [policy in ("block", "defend")] * 2
    assert not rows(tmp_path, "records")
    reasons = [e["reason"] for e in rows(tmp_path, "events") if e["event"] == "audit_failed"]
    assert reasons == ["BadInput: the audit took longer than 0.2 s (max_seconds)"] * 2
    going_on.set()
    call([replace(mod, max_seconds=30.0)])
    assert actions(tmp_path)  # and nothing was written of those that were given up
    assert {row["round"] for row in rows(tmp_path, "records")} == {1}


def test_what_raises_a_timeout_itself_is_no_limit_and_limits_are_numbers(tmp_path, monkeypatch):
    def fail(*_given):
        raise TimeoutError("of its own")

    monkeypatch.setattr(Battery, "run", fail)
    call([make_mod(tmp_path, "block", max_seconds=30)])
    assert "of its own" in rows(tmp_path, "events")[0]["reason"]
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="max_seconds must be a number above 0"):
            make_mod(tmp_path, "block", max_seconds=seconds)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_full_disk_is_closed_under_block_and_open_under_record(tmp_path, policy):
    (tmp_path / "file").write_text("")
    reply, _ = call([make_mod(tmp_path / "file" / "folder", policy)])
    assert reply.has_error() == (policy in ("block", "defend"))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_reply_tells_nothing_of_the_labels(tmp_path, policy):
    reply, _ = call([make_mod(tmp_path, policy)])
    if reply.has_content():
        assert list(reply.content) == ["arrays", "metrics"]
        assert set(reply.content["metrics"]) == {"num-examples", "partition-id"}


def test_a_failing_defense_withholds_the_update(tmp_path):
    def fail(update):
        raise RuntimeError("no randomness")

    reply, _ = call([make_mod(tmp_path, "defend", defense=fail)])
    assert not reply.has_content()
    reply, _ = call([flower.defense_mod(fail)])
    assert not reply.has_content()


def test_a_defense_that_returns_other_shapes_or_nan_withholds_the_update():
    def wrong_shape(update):
        return {name: tensor[0] for name, tensor in update.items()}

    def broken(update):
        return {name: tensor * float("nan") for name, tensor in update.items()}

    for defense in (wrong_shape, broken):
        assert not call([flower.defense_mod(defense)])[0].has_content()


def test_labels_of_an_unfinished_round_are_not_used(tmp_path):
    mod = make_mod(tmp_path, "record")
    grid = flower.InProcessGrid(federation.make_app(mod, function=silent), 1)
    context = grid.context_of(1)
    flower.report_labels(context, [9, 9, 9])
    grid.send_and_receive([federation.train_message()])
    assert rows(tmp_path, "events")[0]["event"] == "audit_failed"
    assert not rows(tmp_path, "records")


def test_labels_may_come_from_a_function_and_steps_are_counted(tmp_path):
    def three_steps(message, context):
        reply = federation.train(message, context)
        flower.report_labels(context, [1, 2])
        return reply

    mod = make_mod(tmp_path / "steps", "record")
    call([mod], function=three_steps)
    row = rows(tmp_path / "steps", "records")[0]
    assert (row["local_steps"], row["num_samples"]) == (2, federation.BATCH + 2)
    mod = make_mod(tmp_path / "given", "record", labels=lambda m, c: [1, 2, 3])
    call([mod], function=silent)
    assert rows(tmp_path / "given", "records")[0]["num_samples"] == 3


def test_evaluation_passes_unless_it_carries_arrays_under_block(tmp_path):
    def evaluate(message, context):
        content = RecordDict({"metrics": MetricRecord({"accuracy": 0.5})})
        if "config" in message.content and message.content["config"]["server-round"] == 2:
            content["arrays"] = message.content["arrays"]
        return Message(content, reply_to=message)

    def evaluated(policy, server_round):
        app = federation.make_app(make_mod(tmp_path / policy, policy))
        app.evaluate()(evaluate)
        message = federation.train_message(server_round=server_round, kind="evaluate")
        (reply,) = flower.InProcessGrid(app, 1).send_and_receive([message])
        return reply

    assert not evaluated("block", 1).has_error()
    assert evaluated("block", 2).has_error()
    assert not evaluated("record", 2).has_error()


def update_arrays(model_reply):
    """Give every array of the update, and the weights, as bytes and as numbers."""
    return [np.asarray(array, dtype=np.float32) for array in arrays_of(model_reply).values()]


def in_arrays(reply, update):
    reply.content["copy"] = ArrayRecord([value.copy() for value in update])


def in_metrics(reply, update):
    reply.content["copy"] = MetricRecord({"w": [float(v) for v in update[0].ravel()[:10]]})


def in_single_metrics(reply, update):
    values = {f"w{i}": float(v) for i, v in enumerate(update[0].ravel()[:100])}
    reply.content["copy"] = MetricRecord(values)


def in_config_bytes(reply, update):
    reply.content["copy"] = ConfigRecord({"w": update[0].tobytes()})


def in_config_lists(reply, update):
    reply.content["copy"] = ConfigRecord({"w": [float(v) for v in update[0].ravel()]})


def in_config_text(reply, update):
    reply.content["copy"] = ConfigRecord({"w": update[0].tobytes().hex()})


def in_names_of_values(reply, update):
    reply.content["copy"] = MetricRecord({update[0].tobytes().hex(): 1.0})


def in_names_of_records(reply, update):
    reply.content[update[0].tobytes().hex()] = MetricRecord({})


def in_one_long_number(reply, update):
    reply.content["copy"] = MetricRecord({"w": int.from_bytes(update[0].tobytes(), "big")})


COPIES = [
    in_arrays,
    in_metrics,
    in_single_metrics,
    in_config_bytes,
    in_config_lists,
    in_config_text,
    in_names_of_values,
    in_names_of_records,
    in_one_long_number,
]
KINDS = ["train", "train.again", "evaluate", "query", "query.more"]


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_block_lets_no_array_leave_in_any_record_of_any_reply(tmp_path, kind, copy):
    """The arrays of a training reply are harmless here; the copy beside them is what must stay."""

    def answer(message, context):
        reply = federation.train(message, context)
        update = update_arrays(reply)
        if not kind.startswith("train"):
            context.state.clear()
            del reply.content["arrays"]
        else:
            state = federation.make_model().state_dict()
            noise = hide({name: value[None].float() for name, value in state.items()})
            reply.content["arrays"] = ArrayRecord(
                {k: v + noise[k][0] if v.is_floating_point() else v for k, v in state.items()}
            )
        if with_copy:
            copy(reply, update)
        return reply

    verb, _, action = kind.partition(".")
    for with_copy in (False, True):
        app = ClientApp(mods=[make_mod(tmp_path, "block")])
        (getattr(app, verb)(action) if action else getattr(app, verb)())(answer)
        message = federation.train_message(kind=kind)
        (reply,) = flower.InProcessGrid(app, 1).send_and_receive([message])
        assert reply.has_error() == with_copy, rows(tmp_path, "events")
        assert reply.has_content() != with_copy
    event = rows(tmp_path, "events")[-1]
    assert event["event"] == ("audit_failed" if verb == "train" else "arrays_withheld")
    assert event["reason"] not in reply.error.reason


def harmless(message, context):
    """Train, and answer with weights that tell nothing of the training."""
    reply = federation.train(message, context)
    state = federation.make_model().state_dict()
    noise = hide({name: value[None].float() for name, value in state.items()})
    arrays = {k: v + noise[k][0] if v.is_floating_point() else v for k, v in state.items()}
    secret = reply.content["arrays"]["3.weight"].numpy().tobytes()
    reply.content["arrays"] = ArrayRecord(arrays)
    return reply, secret


def behind_the_array(reply, secret):
    reply.content["arrays"]["0.bias"].data += secret


def in_the_description(reply, secret):
    reply.content["arrays"]["0.bias"].dtype += secret.hex()


def in_the_group(reply, secret):
    reply.metadata.group_id = secret.hex()


def in_the_received_group(reply, secret):
    in_the_received_group.message.metadata.group_id = secret.hex()


def later(reply, secret):
    later.kept = reply.content["arrays"]


PLACES = [behind_the_array, in_the_description, in_the_group, in_the_received_group, later]


@pytest.mark.parametrize("place", PLACES)
def test_block_packs_what_leaves_anew(tmp_path, place):
    def answer(message, context):
        reply, answer.secret = harmless(message, context)
        in_the_received_group.message = message
        place(reply, answer.secret)
        return reply

    def whole(reply):
        arrays = reply.content["arrays"].values()
        told = "".join([*(a.dtype + a.stype for a in arrays), reply.metadata.group_id])
        return b"".join(a.data for a in arrays) + told.encode()

    sent, _ = call([make_mod(tmp_path / "record", "record")], function=answer)
    kept, _ = call([make_mod(tmp_path, "block")], function=answer)
    hidden = (answer.secret, answer.secret.hex().encode())
    assert any(one in whole(sent) for one in hidden) == (place in PLACES[:3])
    if place is later:
        later.kept["3.weight"].data = answer.secret
    assert not any(one in whole(kept) for one in hidden)
    assert arrays_of(kept).keys() == arrays_of(sent).keys()


def with_a_larger_array(reply, secret):
    state = reply.content["arrays"].to_torch_state_dict()
    reply.content["arrays"] = ArrayRecord({**state, "0.bias": torch.zeros(500)})


def with_a_wider_array(reply, secret):
    state = reply.content["arrays"].to_torch_state_dict()
    reply.content["arrays"] = ArrayRecord({**state, "0.bias": state["0.bias"].double()})


@pytest.mark.parametrize("change", [with_a_larger_array, with_a_wider_array])
def test_block_lets_no_array_grow(tmp_path, change):
    def answer(message, context):
        reply, secret = harmless(message, context)
        change(reply, secret)
        return reply

    reply, _ = call([make_mod(tmp_path, "block")], function=answer)
    assert not reply.has_content()
    assert "0.bias has not the shape and type" in rows(tmp_path, "events")[0]["reason"]


def raises(message, context):
    federation.train(message, context)
    raise ValueError("labels were [3, 3, 1]")


def answers_with_an_error(message, context):
    federation.train(message, context)
    return Message(Error(code=2, reason="labels were [3, 3, 1]"), reply_to=message)


@pytest.mark.parametrize("function", [raises, answers_with_an_error])
@pytest.mark.parametrize("policy", POLICIES)
def test_block_sends_no_text_of_an_error(tmp_path, policy, function):
    reply, context = call([make_mod(tmp_path, policy)], function=function)
    assert reply.has_error()
    assert ("labels were" in reply.error.reason) == (policy != "block")
    assert not context.state
    if policy == "block":
        assert "labels were [3, 3, 1]" in rows(tmp_path, "events")[0]["reason"]


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
)
@pytest.mark.parametrize("where", ["training", "labels"])
def test_block_sends_no_text_of_what_ends_a_client(tmp_path, kind, where):
    def end(message, context):
        raise kind("labels were [3, 3, 1]")

    training = where == "training"
    mod = make_mod(tmp_path, "block", labels=None if training else end)
    function = end if training else federation.train
    if kind is KeyboardInterrupt:  # the client's owner wants to stop
        with pytest.raises(KeyboardInterrupt) as stopped:
            call([mod], function=function)
        assert (str(stopped.value), stopped.value.__context__) == ("", None)
    else:
        reply, context = call([mod], function=function)
        assert vars(reply.error) == vars(withhold(federation.train_message()).error)
        assert not context.state
    assert "labels were [3, 3, 1]" in rows(tmp_path, "events")[0]["reason"]


@pytest.mark.parametrize("function", [federation.train, harmless, raises, answers_with_an_error])
def test_what_is_written_into_the_received_metadata_stays_here(tmp_path, function):
    def answer(message, context):
        told = message.metadata
        told.group_id, told.message_type, told.ttl = "labels were [3, 3, 1]", "query.l331", 331.0
        told.src_task_id = told.dst_task_id = 331
        reply = function(message, context)
        return reply[0] if function is harmless else reply

    reply, _ = call([make_mod(tmp_path, "block")], function=answer)
    assert reply.has_content() == (function is harmless)
    assert 331 not in vars(reply.metadata).values()
    assert (reply.metadata.group_id, reply.metadata.message_type) == ("", "train")
    assert reply.metadata.ttl > 331


def test_a_defense_is_not_evaded_by_calling_the_message_another(bare):
    def answer(message, context):
        reply = federation.train(message, context)
        message.metadata.message_type = "evaluate"
        return reply

    reply, _ = call([flower.defense_mod(hide)], function=answer)
    assert not same(arrays_of(reply), bare)


def test_a_defense_changes_parameters_only(bare):
    def triple(update):
        assert all(tensor.shape[0] == 1 for tensor in update.values())
        assert list(update) == FLOATS
        return {name: 3 * tensor for name, tensor in update.items()}

    got = arrays_of(call([flower.defense_mod(triple)])[0])
    sent = {name: value.numpy() for name, value in federation.make_model().state_dict().items()}
    for name in bare:
        wanted = sent[name] + 3 * (bare[name] - sent[name]) if name in FLOATS else bare[name]
        np.testing.assert_allclose(got[name], wanted, atol=1e-6)
        assert got[name].dtype == bare[name].dtype


def test_what_a_defense_withholds_goes_back_as_it_was_sent(bare):
    def withhold_head(update):
        return {name: t for name, t in update.items() if not name.startswith("3.")}

    got = arrays_of(call([flower.defense_mod(withhold_head)])[0])
    sent = federation.make_model().state_dict()
    assert np.array_equal(got["3.weight"], sent["3.weight"].numpy())
    np.testing.assert_allclose(got["0.weight"], bare["0.weight"], atol=1e-7)


def test_a_blocked_federation_learns_nothing_and_says_so(tmp_path):
    auditor = federation.make_auditor(tmp_path / "server")
    mod = make_mod(tmp_path / "client", "block")
    result = federation.run(
        federation.make_app(mod), rounds=1, wrap=lambda grid: flower.observe(grid, auditor)
    )
    assert not result.arrays
    assert actions(tmp_path / "client") == ["blocked"] * federation.CLIENTS
    assert not (tmp_path / "server" / "records.jsonl").exists()
    events = rows(tmp_path / "server", "events")
    assert [event["event"] for event in events] == ["reply_error"] * federation.CLIENTS


def test_unknown_policies_and_a_missing_defense_are_refused(tmp_path):
    auditor = federation.make_auditor(tmp_path)
    with pytest.raises(BadInput, match="did you mean 'block'"):
        flower.audit_mod(auditor, "blok")
    with pytest.raises(BadInput, match="needs a defense"):
        flower.audit_mod(auditor, "defend")


@pytest.mark.parametrize("text", ["clip:0.01", "gaussian:1", "topk:0.1", "clip:0.01|gaussian:0.1"])
def test_defenses_of_labelleak_work_as_mods(text, bare):
    got = arrays_of(call([flower.defense_mod(parse_defense(text), head="3", seed=0)])[0])
    assert not same(got, bare)
    assert all(np.isfinite(array).all() for array in got.values())
    if text == "clip:0.01":
        sent = federation.make_model().state_dict()
        moved = sum(((got[n] - sent[n].numpy()) ** 2).sum() for n in FLOATS)
        assert np.sqrt(moved) == pytest.approx(0.01, rel=1e-3)


def test_what_a_defense_remembers_survives_in_the_client_state():
    from labelleak.core.update import Memory
    from labelleak.flower.defend import load_memory, save_memory

    part = Memory(2, {"a.b": torch.ones(1, 2)}, {"c": torch.zeros(1, 3)})
    context = federation.empty_context()
    assert load_memory(context) is None
    save_memory(context, Memory(2, parts=(None, part)))
    found = load_memory(context)
    assert (found.rounds, found.parts[0], found.parts[1].rounds) == (2, None, 2)
    assert torch.equal(found.parts[1].residual["a.b"], torch.ones(1, 2))
    assert list(found.parts[1].momentum) == ["c"]


def audit_at_once(folder, clients, threads):
    """Let many clients of one machine train, each under a mod that writes to the same folder."""
    app = federation.make_app(make_mod(folder, "record"))
    for server_round in (1, 2):
        grid = flower.InProcessGrid(app, clients)  # the server has begun anew
        messages = [federation.train_message(server_round=server_round) for _ in range(clients)]
        for place, message in enumerate(messages):
            message.metadata.__dict__["_dst_node_id"] = place + 1

        def ask(message, grid=grid):
            (reply,) = grid.send_and_receive([message])
            return reply.has_error()

        with ThreadPoolExecutor(threads) as pool:
            assert not any(pool.map(ask, messages))
    varies = ("seconds", "seconds_ratio", "trial")
    found = [{k: v for k, v in r.items() if k not in varies} for r in rows(folder, "records")]
    return sorted(json.dumps(row, sort_keys=True) for row in found)


def test_twenty_clients_at_once_write_what_they_write_one_by_one(tmp_path):
    at_once = audit_at_once(tmp_path / "at once", 20, 20)
    assert at_once == audit_at_once(tmp_path / "one by one", 20, 1)
    assert len(set(at_once)) == len(at_once) == 2 * 20 * 3
    assert not rows(tmp_path / "at once", "events")


def silent(message, context):
    """Train as the others do, and report no labels."""
    reply = federation.train(message, context)
    flower.labels.take_labels(context)
    return reply


@pytest.mark.parametrize("policy", ["block", "record"])
def test_where_every_audit_failed_each_command_says_so_and_what_to_do(tmp_path, policy):
    for client in range(3):
        call([make_mod(tmp_path, policy)], function=silent, client=client)
    (tmp_path / "policy.toml").write_text("[max_advantage]\nupdate = 0.5\n")
    fate = "were withheld" if policy == "block" else "left unaudited"
    said = f"3 audits failed, and all 3 updates {fate}: the client reported no labels; call report"
    more = {"gate": ["--policy", str(tmp_path / "policy.toml")], "watch": ["--once"]}
    for command in ("report", "watch", "gate", "records"):
        done = CliRunner().invoke(app, [command, str(tmp_path), *more.get(command, [])])
        assert isinstance(done.exception, BadInput) or done.exit_code == 2
        assert f"there are no records: {said}" in f"{done.output}{done.exception}"
        events = tmp_path / "events.jsonl"
        done = CliRunner().invoke(app, [command, str(events), *more.get(command, [])])
        assert (
            f"events.jsonl holds events and no records: {said}" in f"{done.output}{done.exception}"
        )


def test_audits_that_failed_beside_records_are_told_and_close_the_gate_if_updates_left(tmp_path):
    call([make_mod(tmp_path, "record")])
    call([make_mod(tmp_path, "record")], function=silent, client=1)
    (tmp_path / "policy.toml").write_text("min_trials = 2\nmust_run = ['llg']\n")
    for command, *more in (["report"], ["watch", "--once"]):
        done = CliRunner().invoke(app, [command, str(tmp_path), *more])
        said = "ot in these records: 1 audit failed, and its update left unaudited"
        assert f"{said}: the client reported" in " ".join(done.output.split())
    page = (tmp_path / "report.html").read_text("utf-8")
    assert f"{said}." in page
    assert "the client reported" not in page  # a reason may name labels
    words = ["gate", str(tmp_path), "--policy", str(tmp_path / "policy.toml"), "--json"]
    found = json.loads(CliRunner().invoke(app, words).output)["checks"]
    (told,) = [one for one in found if one["rule"] == "audited"]
    assert told["said"] == "1 audit failed, and its update left unaudited; events.jsonl says why"
    assert not told["passed"]


def test_a_run_that_stands_in_a_folder_twice_is_told(tmp_path):
    for _ in range(2):
        call([make_mod(tmp_path, "block")])
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    said = "3 records that repeat others count once: the same run may stand there twice."
    assert said in " ".join(done.output.split())
    assert said in (tmp_path / "report.html").read_text("utf-8")
    assert "withheld the only update" in " ".join(done.output.split())
