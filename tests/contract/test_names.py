"""No registered attack is forgotten where attacks are named by hand."""

from __future__ import annotations

import pytest

from labelleak.attacks import ATTACKS
from labelleak.core.interfaces import threat_model
from labelleak.records.flags import FLAGS
from labelleak.report.wording import ATTACKS as WORDS
from labelleak.report.wording import name_attack

READERS = [name for name, attack in ATTACKS.items() if threat_model(attack()) != "none"]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_page_has_a_name_for_every_attack(name):
    assert name in WORDS, f"name {name} in report/wording.py"
    assert list(WORDS.values()).count(WORDS[name]) == 1


@pytest.mark.parametrize("name", READERS)
def test_some_assumption_concerns_every_attack_that_reads_an_update(name):
    named = {flag for flag, meaning in FLAGS.items() if name in meaning.concerns}
    assert named, f"put {name} into the families of flags.py that it belongs to"


def test_families_name_no_attack_that_is_not_there():
    concerned = set().union(*(meaning.concerns for meaning in FLAGS.values()))
    assert concerned - {"*"} <= set(ATTACKS)


def test_an_attack_without_an_entry_keeps_its_own_name():
    assert name_attack("brand_new") == "brand_new"
