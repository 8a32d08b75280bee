"""The observer at the server: by the grid, by a strategy, and by a strategy of the old kind."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")
from labelleak import flower  # first: it keeps Flower from phoning home

from flower import federation  # isort: skip
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg

from labelleak.attacks import FreeGuess, Shadow
from labelleak.core.knowledge import LabelledData
from labelleak.core.needs import Need
from labelleak.errors import BadInput
from labelleak.flower.claims import num_examples
from labelleak.flower.findings import Sender
from labelleak.flower.rows import unscored_rows
from labelleak.records.frame import RecordFrame
from labelleak.records.record import read_records


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(records):
    """List the answers in one order; Flower samples clients in a random one."""
    return sorted((r.extra["round"], r.extra["client"], r.attack, r.asr) for r in records)


def by_attack(records, name):
    return [record for record in records if record.attack == name]


def test_the_grid_audits_every_client_of_every_round(tmp_path):
    auditor = federation.make_auditor(tmp_path)
    federation.run(federation.make_app(), wrap=lambda grid: flower.observe(grid, auditor))
    found = by_attack(read_records(tmp_path / "records.jsonl"), "llg")
    seen = {(r.extra["round"], r.extra["client"]) for r in found}
    nodes = [str(partition + 1) for partition in range(federation.CLIENTS)]
    assert seen == {(t, node) for t in (1, 2) for node in nodes}
    assert {(r.extra["client"], r.extra["claimed_partition"]) for r in found} == {
        (node, str(partition)) for partition, node in enumerate(nodes)
    }
    assert np.mean([r.presence_recall for r in found]) > 0.95
    assert np.mean([r.presence_precision for r in found]) > 0.95
    assert {r.threat_model for r in found} == {"update"}
    assert len({r.trial for r in found}) == len(found)
    assert {r.extra["observer"] for r in found} == {"server"}
    assert RecordFrame(found).varying == [], "whose update it was parts no cell of a table"


def test_observing_changes_nothing(tmp_path):
    auditor = federation.make_auditor(tmp_path)
    plain = federation.run(federation.make_app())
    seen = federation.run(federation.make_app(), wrap=lambda grid: flower.observe(grid, auditor))
    for name, array in plain.arrays.items():
        # clients are sampled in random order, so sums round differently
        np.testing.assert_allclose(array.numpy(), seen.arrays[name].numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", [FedAvg, FedAdam])
def test_the_strategy_form_finds_what_the_grid_finds(tmp_path, kind):
    grid, form = (federation.make_auditor(tmp_path / part) for part in ("grid", "form"))
    federation.run(
        federation.make_app(),
        strategy=federation.make_strategy(kind),
        wrap=lambda inner: flower.observe(inner, grid),
    )
    strategy = flower.AuditedStrategy(federation.make_strategy(kind), form)
    federation.run(federation.make_app(), strategy=strategy)
    one, two = (read_records(tmp_path / part / "records.jsonl") for part in ("grid", "form"))
    assert answers(one) == answers(two)
    assert len(one) == 2 * federation.CLIENTS * 3


def test_the_shadow_attack_runs_where_it_is_named_and_only_there(tmp_path):
    pixels = torch.tensor(federation.PIXELS[:200] / 16, dtype=torch.float32)
    own = LabelledData(pixels, torch.tensor(federation.LABELS[:200]))
    for folder, attacks in (("named", ["free", Shadow(batches=50)]), ("not", None)):
        auditor = federation.make_auditor(
            tmp_path / folder,
            attacks=attacks,
            model=federation.make_model,
            input_shape=(64,),
            auxiliary=own,
        )
        grid = flower.InProcessGrid(federation.make_app(), 1)
        flower.observe(grid, auditor).send_and_receive([federation.train_message()])
        found = by_attack(read_records(tmp_path / folder / "records.jsonl"), "shadow")
        assert [r.threat_model for r in found] == ["auxiliary"] * (folder == "named")
        assert all(r.asr > r.asr_free for r in found)
        assert not (tmp_path / folder / "events.jsonl").exists()


def test_without_an_input_shape_attacks_that_make_inputs_are_left_out(tmp_path):
    pixels = torch.tensor(federation.PIXELS[:200] / 16, dtype=torch.float32)
    own = LabelledData(pixels, torch.tensor(federation.LABELS[:200]))
    ran = {}
    pair = (own.inputs.numpy(), own.labels.tolist())
    for folder, auxiliary in (("neither", None), ("data", own), ("pair", pair)):
        auditor = federation.make_auditor(
            tmp_path / folder,
            attacks=["free", "llg", "llg_star"],
            model=federation.make_model,
            auxiliary=auxiliary,
        )
        grid = flower.InProcessGrid(federation.make_app(), 1)
        flower.observe(grid, auditor).send_and_receive([federation.train_message()])
        ran[folder] = {r.attack for r in read_records(tmp_path / folder / "records.jsonl")}
        assert not (tmp_path / folder / "events.jsonl").exists()
    fed = {"free", "llg", "llg_star"}
    assert ran == {"neither": {"free", "llg"}, "data": fed, "pair": fed}


def test_own_data_that_are_none_are_refused_when_the_auditor_is_made(tmp_path):
    with pytest.raises(BadInput, match="takes a name, a path"):
        federation.make_auditor(tmp_path, auxiliary=3)


def test_the_strategy_form_audits_inside_another_strategy_too(tmp_path):
    strategy = flower.AuditedStrategy(federation.make_strategy(), federation.make_auditor(tmp_path))
    grid = flower.InProcessGrid(federation.make_app(), federation.CLIENTS)
    start = ArrayRecord(federation.make_model().state_dict())
    messages = strategy.configure_train(1, start, federation.ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert len(read_records(tmp_path / "records.jsonl")) == federation.CLIENTS * 3
    assert strategy.min_available_nodes == federation.CLIENTS


def test_server_side_clipping_changes_nothing_for_the_observer(tmp_path):
    """Flower's server-side DP edits replies in place, after they have arrived bare."""
    auditors = [federation.make_auditor(tmp_path / part) for part in ("bare", "clipped")]
    for auditor in auditors:
        strategy = federation.make_strategy()
        if auditor is auditors[1]:
            strategy = DifferentialPrivacyServerSideFixedClipping(
                strategy, 1.0, 0.01, federation.CLIENTS
            )
        federation.run(
            federation.make_app(),
            rounds=1,
            strategy=strategy,
            wrap=lambda grid, auditor=auditor: flower.observe(grid, auditor),
        )
    bare, clipped = (read_records(a.home / "records.jsonl") for a in auditors)
    assert answers(bare) == answers(clipped)


def test_without_truth_answers_are_estimates(tmp_path):
    auditor = federation.make_auditor(tmp_path, truth=None)
    federation.run(federation.make_app(), rounds=1, wrap=lambda grid: flower.observe(grid, auditor))
    assert not (tmp_path / "records.jsonl").exists()
    found = rows(tmp_path / "estimates.jsonl")
    assert len(found) == federation.CLIENTS * 3
    llg = next(row for row in found if row["attack"] == "llg" and row["client"] == "1")
    truth = set(federation.labels_of(0, 1).tolist())
    assert {k for k, count in enumerate(llg["counts"]) if count} == truth
    assert sum(llg["counts"]) == llg["num_samples"] == federation.BATCH
    assert all(isinstance(row["flags"], list) for row in found)


def test_estimates_carry_flags_like_any_answer():
    before = {"fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3)}
    after = {name: -0.1 * torch.ones_like(value) for name, value in before.items()}
    auditor = flower.Auditor(folder=None, lr=0.1, attacks=["llg", "free"])
    sender = Sender(round=1, client="0", num_samples=2)
    found = unscored_rows(auditor.audit(before, after, sender), {})
    flags = {row["attack"]: row["flags"] for row in found}
    assert "not_cross_entropy" in flags["llg"]
    assert flags["free"] == []


def test_counts_in_a_metric_are_truth_only_when_asked_for(tmp_path):
    auditor = federation.make_auditor(tmp_path, truth=None, truth_metric="counts")
    assert auditor.labels_of("0", 1, {"counts": [1, 0, 2]}).labels == (0, 2, 2)
    silent = federation.make_auditor(tmp_path, truth=None)
    assert silent.labels_of("0", 1, {"counts": [1, 0, 2]}) is None


def test_a_broken_audit_is_an_event_and_the_round_goes_on(tmp_path):
    def broken(client, server_round):
        raise RuntimeError("no labels today")

    auditor = federation.make_auditor(tmp_path, truth=broken)
    result = federation.run(
        federation.make_app(), rounds=1, wrap=lambda grid: flower.observe(grid, auditor)
    )
    assert result.arrays
    events = rows(tmp_path / "events.jsonl")
    assert len(events) == federation.CLIENTS
    assert {e["event"] for e in events} == {"audit_failed"}
    assert "no labels today" in events[0]["reason"]


def test_a_folder_that_cannot_be_written_does_not_stop_the_round(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    auditor = federation.make_auditor(blocked / "folder")
    assert federation.run(
        federation.make_app(), rounds=1, wrap=lambda grid: flower.observe(grid, auditor)
    ).arrays


def test_a_client_that_fails_is_an_event(tmp_path):
    def train(message, context):
        if context.node_config["partition-id"] == 0:
            raise ValueError("out of memory")
        return federation.train(message, context)

    auditor = federation.make_auditor(tmp_path)
    federation.run(
        federation.make_app(function=train),
        rounds=1,
        wrap=lambda grid: flower.observe(grid, auditor),
    )
    (event,) = rows(tmp_path / "events.jsonl")
    assert event["event"] == "reply_error"
    assert len(by_attack(read_records(tmp_path / "records.jsonl"), "llg")) == 3


def test_the_grid_hands_everything_else_through(tmp_path):
    inner = flower.InProcessGrid(federation.make_app(), 2)
    grid = flower.observe(inner, federation.make_auditor(tmp_path))
    assert list(grid.get_node_ids()) == [1, 2]
    assert grid.run is inner.run
    grid.set_run("run")
    assert inner.run == "run"
    assert grid.context_of(1) is inner.context_of(1)
    message = grid.create_message(federation.RecordDict(), "query", 1, "1")
    ids = grid.push_messages([message])
    assert [reply.has_error() for reply in grid.pull_messages(ids)] == [True]


class Probe:
    """An attack that keeps the head of every model that it is prepared for."""

    name = "probe"
    needs = frozenset({Need.MODEL})
    cite = ""

    def __init__(self):
        self.heads = []

    def prepare(self, known, num_classes, rng):
        self.heads.append(known.model.head_module.weight.detach().clone())
        return FreeGuess().prepare(known, num_classes, rng)


def test_attacks_with_the_model_are_prepared_once_a_round_for_the_weights_sent(tmp_path):
    probe, mine = Probe(), federation.make_model()
    auditor = federation.make_auditor(tmp_path, model=mine, attacks=[probe])
    result = federation.run(
        federation.make_app(), rounds=3, wrap=lambda grid: flower.observe(grid, auditor)
    )
    assert len(probe.heads) == 3
    assert torch.equal(probe.heads[0], federation.make_model()[3].weight)
    assert not torch.equal(probe.heads[1], probe.heads[0])
    assert not torch.equal(torch.tensor(result.arrays["3.weight"].numpy()), probe.heads[2])
    assert torch.equal(mine[3].weight, federation.make_model()[3].weight)


def test_names_of_a_plain_list_come_from_the_model_or_the_last_matrix():
    from labelleak.core.head import locate_head
    from labelleak.flower.naming import with_names

    state = federation.make_model().state_dict()
    numbered = dict(enumerate(state.values()))
    listed = {str(place): value for place, value in numbered.items()}
    assert list(with_names(listed, federation.make_model())) == list(state)
    named = with_names(listed, None)
    head = locate_head(named).name
    assert torch.equal(named[f"{head}.weight"], state["3.weight"])
    assert torch.equal(named[f"{head}.bias"], state["3.bias"])


def run_old(auditor, *, mods=(), workflow=None, **said):
    """Run a round of Flower's old interface under an auditor; SecAgg+ knows no other."""
    from flwr.client import NumPyClient
    from flwr.common import ndarrays_to_parameters
    from flwr.server import LegacyContext, ServerConfig
    from flwr.server.strategy import FedAvg as OldFedAvg
    from flwr.server.workflow import DefaultWorkflow

    def arrays_of(model):
        return [value.numpy().copy() for value in model.state_dict().values()]

    class Client(NumPyClient):
        def __init__(self, context):
            self.context, self.partition = context, context.node_config["partition-id"]

        def fit(self, parameters, config):
            model = federation.make_model()
            names = model.state_dict()
            loaded = {k: torch.tensor(p) for k, p in zip(names, parameters, strict=True)}
            model.load_state_dict(loaded)
            y = federation.train_step(model, self.partition, 1)
            flower.report_labels(self.context, y)
            metrics = {"partition-id": self.partition, **said}
            return arrays_of(model), federation.BATCH, metrics

    app = ClientApp(client_fn=lambda c: Client(c).to_client(), mods=list(mods))
    old = OldFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=federation.CLIENTS,
        min_available_clients=federation.CLIENTS,
        initial_parameters=ndarrays_to_parameters(arrays_of(federation.make_model())),
    )
    legacy = LegacyContext(
        context=federation.empty_context(),
        config=ServerConfig(num_rounds=1),
        strategy=flower.AuditedLegacyStrategy(old, auditor),
    )
    DefaultWorkflow(fit_workflow=workflow)(flower.InProcessGrid(app, federation.CLIENTS), legacy)


def test_the_old_strategy_sees_the_same(tmp_path):
    run_old(federation.make_auditor(tmp_path))
    found = by_attack(read_records(tmp_path / "records.jsonl"), "llg")
    assert len(found) == federation.CLIENTS
    assert np.mean([r.presence_recall for r in found]) > 0.95
    assert not (tmp_path / "aggregates.jsonl").exists()


@pytest.mark.parametrize("said", [float("nan"), float("inf"), -3.0, 0])
def test_the_old_strategy_goes_on_whatever_number_of_examples_a_client_says(tmp_path, said):
    run_old(federation.make_auditor(tmp_path), **{"num-examples": said})
    found = by_attack(read_records(tmp_path / "records.jsonl"), "llg")
    assert [r.num_samples for r in found] == [federation.BATCH] * federation.CLIENTS


def test_the_old_strategy_goes_on_where_what_is_sent_cannot_be_read(tmp_path, monkeypatch):
    def fail(parameters):
        raise ValueError("of another tensor type")

    monkeypatch.setattr("labelleak.flower.legacy.parameters_to_ndarrays", fail)
    run_old(federation.make_auditor(tmp_path))
    events = [row["event"] for row in rows(tmp_path / "events.jsonl")]
    each = [name for name in ("audit_failed", "no_update") for _ in range(federation.CLIENTS)]
    assert events == each


@pytest.mark.parametrize("said", [float("nan"), float("inf"), 0.5, -1, 0, "16", None])
def test_what_is_no_number_of_examples_counts_as_unsaid(said):
    assert num_examples({"num-examples": said}).value is None
    assert num_examples({"num-examples": said, "num_examples": 16.0}).value == 16


@pytest.mark.parametrize("group", ["\u00b2", "9" * 5000])
def test_the_observer_goes_on_whatever_group_a_reply_names(tmp_path, group):
    def answer(message, context):
        reply = federation.train(message, context)
        reply.metadata.group_id = group
        del reply.content["arrays"]
        return reply

    grid = flower.InProcessGrid(federation.make_app(function=answer), 1)
    observed = flower.observe(grid, federation.make_auditor(tmp_path))
    assert len(list(observed.send_and_receive([federation.train_message()]))) == 1
    assert [row["event"] for row in rows(tmp_path / "events.jsonl")] == ["no_update"]


@pytest.mark.parametrize("policy", ["record", "block"])
def test_secure_aggregation_leaves_the_average_alone(tmp_path, policy):
    from flwr.client.mod import secaggplus_mod
    from flwr.server.workflow import SecAggPlusWorkflow

    client = federation.make_auditor(tmp_path / "client", attacks=["free", "llbg"], truth=None)
    server = federation.make_auditor(tmp_path / "server", attacks=["free", "llbg"])
    run_old(
        server,
        mods=[secaggplus_mod, flower.audit_mod(client, policy)],
        workflow=SecAggPlusWorkflow(
            num_shares=3, reconstruction_threshold=2, max_weight=1000, clipping_range=4.0
        ),
    )
    masked = by_attack(read_records(tmp_path / "client" / "records.jsonl"), "llbg")
    assert [r.asr for r in masked] == [1.0] * federation.CLIENTS  # what goes under the masks
    if policy == "block":
        assert {r.extra["action"] for r in masked} == {"blocked"}
        assert not list((tmp_path / "server").glob("*s.jsonl"))
        return
    single = by_attack(read_records(tmp_path / "server" / "records.jsonl"), "llbg")
    assert len(single) == federation.CLIENTS
    assert max(r.asr for r in single) < 0.6
    (average,) = by_attack(read_records(tmp_path / "server" / "aggregates.jsonl"), "llbg")
    assert (average.extra["client"], average.extra["clients"]) == ("all", federation.CLIENTS)
    assert average.num_samples == federation.CLIENTS * federation.BATCH
    assert average.asr > 0.9 > average.asr_free


def test_clients_that_are_alike_are_attacked_in_one_call(tmp_path, monkeypatch):
    from labelleak.core.battery import Battery

    sizes, run = [], Battery.run

    def counting(self, observation, truth):
        sizes.append(observation.trials)
        return run(self, observation, truth)

    monkeypatch.setattr(Battery, "run", counting)
    auditor = federation.make_auditor(tmp_path, attacks=["free", "llg", "ebi", "llbg"])
    federation.run(federation.make_app(), wrap=lambda grid: flower.observe(grid, auditor))
    assert sizes == [(federation.CLIENTS,)] * 2
    together = read_records(tmp_path / "records.jsonl")
    alone = federation.make_auditor(tmp_path / "alone", attacks=["free", "llg", "ebi", "llbg"])
    monkeypatch.setattr("labelleak.flower.server._together", lambda *_: None)
    federation.run(federation.make_app(), wrap=lambda grid: flower.observe(grid, alone))
    assert sizes[2:] == [(1,)] * 2 * federation.CLIENTS
    assert answers(together) == answers(read_records(tmp_path / "alone" / "records.jsonl"))


def test_a_broken_update_spoils_no_other_of_its_round(tmp_path):
    def train(message, context):
        reply = federation.train(message, context)
        if context.node_config["partition-id"] == 1:
            state = reply.content["arrays"].to_torch_state_dict()
            state["3.weight"][0, 0] = float("nan")
            reply.content["arrays"] = ArrayRecord(state)
        return reply

    auditor = federation.make_auditor(tmp_path)
    app = federation.make_app(function=train)
    federation.run(app, rounds=1, wrap=lambda grid: flower.observe(grid, auditor))
    (event,) = rows(tmp_path / "events.jsonl")
    assert (event["event"], event["client"]) == ("audit_failed", "2")
    found = by_attack(read_records(tmp_path / "records.jsonl"), "llg")
    assert {r.extra["client"] for r in found} == {"1", "3", "4"}


def test_clients_with_other_numbers_of_samples_are_audited_with_the_same_model(tmp_path):
    def labels(client, server_round):
        return federation.labels_of(client, server_round)[: 16 - int(client)]

    probe = Probe()
    auditor = federation.make_auditor(
        tmp_path, model=federation.make_model(), attacks=[probe, "llg"], truth=labels
    )
    federation.run(federation.make_app(), rounds=1, wrap=lambda grid: flower.observe(grid, auditor))
    sizes = {
        r.extra["claimed_partition"]: r.num_samples
        for r in read_records(tmp_path / "records.jsonl")
    }
    assert sizes == {"0": 16, "1": 15, "2": 14, "3": 13}
    assert len(probe.heads) == 1


def test_weights_of_another_shape_are_refused_by_name(tmp_path):
    before = federation.make_model().state_dict()
    after = {**before, "3.weight": torch.zeros(2, 10, 32)}
    sender = flower.auditor.Sender(1, "0", labels=(1,))
    with pytest.raises(BadInput, match=r"3.weight has shape \(10, 32\) before and \(2, 10, 32\)"):
        federation.make_auditor(tmp_path).audit(before, after, sender)


def test_updates_of_one_client_are_read_each_by_itself_round_after_round():
    """What is kept from round to round hangs on no value of an update."""
    auditor = flower.Auditor(folder=None, lr=0.1, local_steps=1)
    rng = np.random.default_rng(0)

    def update(classes, labels, width=4):
        before = {
            "a.weight": torch.from_numpy(rng.normal(size=(width, 3))),
            "fc.weight": torch.from_numpy(rng.normal(size=(classes, width))),
            "fc.bias": torch.from_numpy(rng.normal(size=classes)),
        }
        errors = torch.full((classes,), 1 / classes, dtype=torch.float64)
        for label in labels:
            errors[label] -= 1 / len(labels)
        inputs = torch.from_numpy(rng.random(width) + 0.5)
        after = {
            "a.weight": before["a.weight"] - 0.01,
            "fc.weight": before["fc.weight"] - 0.1 * errors[:, None] * inputs,
            "fc.bias": before["fc.bias"] - 0.1 * errors,
        }
        return before, after, Sender(1, "0", labels=labels)

    rounds = [update(10, (1, 1, 3)), update(10, (0, 2, 2)), update(6, (5,)), update(10, (7, 8), 9)]
    broken = rounds[1]
    large = {n: broken[0][n] + 300 * (t - broken[0][n]) for n, t in broken[1].items()}
    rounds.append((broken[0], large, broken[2]))
    for before, after, sender in (*rounds, *rounds):
        kept = auditor.audit(before, after, sender)
        fresh = flower.Auditor(folder=None, lr=0.1, local_steps=1).audit(before, after, sender)
        assert kept.impossible == fresh.impossible == (after is large)
        for one, two in zip(kept.answers, fresh.answers, strict=True):
            assert one.attack == two.attack
            assert one.estimate.counts.tolist() == two.estimate.counts.tolist()
            assert one.raised(0) == two.raised(0)
