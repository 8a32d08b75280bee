"""Every registered attack says what pages and flags need to know of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from labelleak.attacks import ADAPTIVE, ATTACKS, RULES, STANDARD, slow_attacks
from labelleak.attacks.titles import TITLES, title_of
from labelleak.core.card import Card, card_of
from labelleak.core.interfaces import threat_model
from labelleak.defenses import DEFENSES
from labelleak.records.assumptions import Assumption
from labelleak.records.flags import concerning
from labelleak.report.wording import name_attack

READERS = [name for name, attack in ATTACKS.items() if threat_model(attack()) != "none"]


@pytest.mark.parametrize("catalogue", [ATTACKS, DEFENSES], ids=["attacks", "defenses"])
def test_a_catalogue_names_everything_as_it_names_itself(catalogue):
    assert len(catalogue) > 20
    for name, found in catalogue.items():
        assert found.name == name
        assert catalogue.of_class(found.__name__) is found
    for missing in ("", "llg ", "LLG", None):
        assert missing not in catalogue
        assert catalogue.get(missing) is None


def test_the_files_of_attacks_are_there_without_being_imported_by_name():
    program = "import labelleak.attacks as a; print(a.llg.LLG is a.LLG, a.shadow.__name__)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout == "True labelleak.attacks.shadow\n", said.stderr


def test_titles_differ():
    titles = [name_attack(name) for name in ATTACKS]
    assert len(set(titles)) == len(ATTACKS)


def test_titles_that_are_known_without_loading_are_those_of_the_cards():
    assert TITLES
    for name, title in TITLES.items():
        assert ATTACKS[name].card.title == title
    for name in ATTACKS:
        assert title_of(name) == ATTACKS[name].card.title


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_declares_its_card_itself(name):
    assert isinstance(vars(ATTACKS[name])["card"], Card)


@pytest.mark.parametrize("name", READERS)
def test_some_flag_concerns_every_attack_that_reads_an_update(name):
    assert concerning(ATTACKS[name].card.assumes)


def test_an_attack_that_is_not_here_keeps_its_own_name():
    assert name_attack("brand_new") == "brand_new"


def test_an_attack_without_a_card_may_assume_anything():
    class Own:
        name = "own"

    assert card_of(Own()) == Card("own", frozenset(Assumption))


def test_the_battery_is_what_cards_say():
    assert set(RULES) < set(STANDARD)
    assert "shadow" in set(STANDARD) - set(RULES)
    assert not set(STANDARD) & set(ADAPTIVE)
    assert list(slow_attacks(STANDARD, 257)) == [
        "gdbr",
        "gradient_regression",
        "layer_regression",
        "shadow_layers",
    ]
    assert {"ilrg", "rlu"} <= set(slow_attacks(STANDARD, 10_001)) - set(
        slow_attacks(STANDARD, 10_000)
    )
    assert not slow_attacks(STANDARD, 256)
