"""The page's section on texts: which words are named, rare ones apart."""

from labelleak.report import render
from labelleak.report.words import rare_words

from .samples import make_record


def row(attack="token_posterior", advantage=0.5, once=(4, 3, 1), **more):
    extra = {"task": "tokens", "band_labels": [20, 6, 4, 2], "band_named": [10, 6, 3, 2]}
    changes = {"threat_model": "auxiliary", "asr": 0.6 + 0.4 * advantage, "advantage": advantage}
    return make_record(attack=attack, **changes, extra={**extra, "rare_once": list(once)}, **more)


def test_the_strongest_attackers_trials_are_added_up():
    rows = [row(trial=0), row(trial=1), row("llg", 0.1, (4, 0, 0))]
    found = rare_words(rows)
    assert (found.labels, found.named, found.once) == ((40, 12, 8, 4), (20, 12, 6, 4), (8, 6, 2))
    assert found.say() == (
        "Of 8 rare words that stand in their batch once, 6 are named (75.0\xa0%); 2 rare words "
        "were named that are not there."
    )
    assert [name for name, _, _ in found.rows()] == [
        "Common words",
        "Between",
        "Rare words",
        "Special tokens",
    ]


def test_the_page_has_the_section_only_where_labels_are_tokens():
    page = render([row(trial=0), row(trial=1)], source="records.jsonl")
    assert "Which words are named" in page
    assert "what identifies a person" in page
    assert "Which words are named" not in render([make_record()], source="records.jsonl")
    assert rare_words([make_record()]) is None


def test_no_rare_words_are_said_to_be_none():
    assert "nothing is known" in rare_words([row(once=(0, 0, 0))]).say()
    assert "none wrongly" in rare_words([row(once=(2, 2, 0))]).say()
