"""Attacks are chosen anew whenever others are asked for, and only then."""

from labelleak.attacks import LLG, choice


def test_attacks_are_chosen_once_and_anew_for_other_classes_names_or_attacks(monkeypatch):
    asked, plain = [], choice.choose_attacks
    monkeypatch.setattr(choice, "choose_attacks", lambda *a: asked.append(a[1]) or plain(*a))
    last, wanted = choice.LastChoice(), ["free", "llg"]

    def chosen(names, number):
        return [attack.name for attack in last.choose(names, number).attacks]

    assert chosen(wanted, 10) == chosen(wanted, 10) == ["free", "llg"]
    assert asked == [10]
    assert chosen(wanted, 11) == ["free", "llg"]
    assert asked == [10, 11]
    wanted[1] = "llbg"
    assert chosen(wanted, 11) == ["free", "llbg"]
    assert chosen("free,ilrg", 11) == chosen("free,ilrg", 11) == ["free", "ilrg"]
    assert len(asked) == 4
    assert "ilrg" in chosen(["rules"], 10)
    assert "ilrg" not in chosen(["rules"], 20_000)
    one, other = LLG(), LLG()
    assert last.choose([one], 10).attacks[0] is one
    assert last.choose([other], 10).attacks[0] is other
