"""Rounds in which every client defends itself: units, memories, and what is withheld."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contract.scenarios import blobs, network
from labelleak.core.training import LocalTraining
from labelleak.core.update import Memory
from labelleak.defenses import Chain, parse_defense
from labelleak.simulation.cohort import Federation, run_rounds
from labelleak.simulation.defended_rounds import DefendedClients, noise_of_server

DATA = blobs(5, seed=3)
PARTS = np.array_split(np.random.default_rng(0).permutation(len(DATA)), 3)


def federation(steps=1, rounds=3):
    return Federation(LocalTraining(lr=0.5, local_steps=steps, batch_size=8), rounds=rounds)


def run(text, how):
    clients = DefendedClients(parse_defense(text), "2")
    return clients, list(run_rounds(network(), DATA, PARTS, how, seed=1, train=clients.train))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_chain_of_nothing_changes_nothing(steps):
    plain = list(run_rounds(network(), DATA, PARTS, federation(steps), seed=1))
    clients = DefendedClients(Chain(), "2")
    defended = list(
        run_rounds(network(), DATA, PARTS, federation(steps), seed=1, train=clients.train)
    )
    for one, other in zip(plain, defended, strict=True):
        for name, value in one.aggregated.items():
            torch.testing.assert_close(other.aggregated[name], value, atol=1e-6, rtol=1e-5)


def test_one_step_is_defended_as_a_gradient_and_several_as_weights():
    for steps, scale in ((1, 0.5), (4, 1.0)):
        _, plain = run("none", federation(steps, rounds=1))
        _, noisy = run("gaussian:0.2", federation(steps, rounds=1))
        gaps = torch.cat(
            [
                (noisy[0].aggregated[name] - value).flatten()
                for name, value in plain[0].aggregated.items()
            ]
        )
        expected = scale * 0.2 / np.sqrt(len(PARTS))
        assert float(gaps.std()) == pytest.approx(expected, rel=0.15)


def test_error_feedback_is_kept_per_client_and_loses_nothing():
    clients, rounds = run("topk:0.1:feedback", federation(rounds=4))
    assert sorted(clients.memories) == [0, 1, 2]
    for memory in clients.memories.values():
        assert isinstance(memory, Memory)
        assert memory.parts[0].rounds == 4
        assert any(bool(t.any()) for t in memory.parts[0].residual.values())
    # What the server got and what clients hold back are all that they computed.
    for client in range(3):
        sent = sum(
            (one.sent["2.weight"] - one.clients[client].update.after["2.weight"]) / 0.5
            for one in rounds
        )
        kept = clients.memories[client].parts[0].residual["2.weight"][0]
        raw = torch.zeros_like(kept)
        model = network()
        for one in rounds:
            model.load_state_dict(dict(one.sent))
            part = one.clients[client]
            picks = _picks(client, one.number)
            assert sorted(DATA.labels[picks].tolist()) == sorted(part.consumed.tolist())
            loss = torch.nn.functional.cross_entropy(model(DATA.inputs[picks]), DATA.labels[picks])
            raw += torch.autograd.grad(loss, model[2].weight)[0]
        torch.testing.assert_close(sent + kept, raw, atol=1e-5, rtol=1e-4)


def _picks(client, number):
    from labelleak.core.seeding import stream
    from labelleak.simulation.client import draw_steps

    rng = stream(1, "steps", number, client)
    return torch.from_numpy(draw_steps(PARTS[client], 8, rng, steps=1)[0])


def test_a_withheld_head_stays_with_its_client():
    clients, rounds = run("withhold:head", federation(rounds=3))
    start = network().state_dict()
    torch.testing.assert_close(rounds[-1].aggregated["2.weight"], start["2.weight"])
    assert not torch.equal(rounds[-1].aggregated["0.weight"], start["0.weight"])
    heads = [clients.own[client]["2.weight"] for client in range(3)]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], start["2.weight"])
    model = network()
    model.load_state_dict(dict(rounds[-1].aggregated))
    each = []
    for head in clients.own.values():
        model.load_state_dict(head, strict=False)
        each.append(float((model(DATA.inputs).argmax(1) == DATA.labels).double().mean()))
    model.load_state_dict(dict(rounds[-1].aggregated))
    assert clients.accuracy(model, DATA) == pytest.approx(np.mean(each))


@pytest.mark.parametrize("text", ["label_smoothing:0.3", "dpsgd:1:0.5"])
def test_training_time_defenses_change_what_clients_compute(text):
    _, plain = run("none", federation(rounds=1))
    clients, changed = run(text, federation(rounds=1))
    assert not torch.equal(plain[0].aggregated["2.bias"], changed[0].aggregated["2.bias"])
    assert clients.plain_seconds > 0
    assert clients.seconds > 0


def test_the_same_seed_gives_the_same_rounds():
    (_, one), (_, other) = run("gaussian:0.1", federation()), run("gaussian:0.1", federation())
    for name, value in one[-1].aggregated.items():
        assert torch.equal(value, other[-1].aggregated[name])


def test_noise_of_the_server_is_on_what_it_got_alone():
    sent = {name: value.clone() for name, value in network().state_dict().items()}
    mean = {name: value + 1 for name, value in sent.items()}
    how = LocalTraining(lr=0.5, batch_size=8)

    def noised(text, fixed=frozenset()):
        change = noise_of_server(parse_defense(text), "2", fixed, how, 0)
        return change(sent, dict(mean), 1)

    everything = noised("server_noise:0.1")
    for name, value in mean.items():
        spread = float((everything[name] - value).std())
        assert spread == pytest.approx(0.5 * 0.1, rel=0.6), "sigma on a gradient is lr sigma here"
    again = noised("server_noise:0.1")
    assert all(torch.equal(value, again[name]) for name, value in everything.items())
    kept = noised("withhold:head|server_noise:0.1", frozenset({"0.bias"}))
    assert torch.equal(kept["2.weight"], sent["2.weight"])
    assert torch.equal(kept["0.bias"], mean["0.bias"])
    assert not torch.equal(kept["0.weight"], mean["0.weight"])
    assert noise_of_server(parse_defense("clip:1"), "2", frozenset(), how, 0) is None


def test_what_the_server_clips_was_sent_whole():
    """Clipping at the server shortens the mean as clipping at the client, and no update."""
    at_client, first = run("clip:0.01", federation(rounds=2))
    at_server, second = run("server_clip:0.01:0:0", federation(rounds=2))
    for one, other in zip(first, second, strict=True):
        for name, value in one.aggregated.items():
            torch.testing.assert_close(other.aggregated[name], value, atol=1e-6, rtol=1e-5)
    assert not at_client.clipped
    assert sorted(at_server.clipped) == [0, 1, 2]
    _, plain = run("none", federation(rounds=2))
    assert not torch.allclose(plain[-1].aggregated["2.weight"], second[-1].aggregated["2.weight"])
