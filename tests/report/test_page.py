"""The page: one file, nothing from outside, escaped, the same bytes twice, true to the table."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from labelleak.errors import BadInput
from labelleak.records.record import Record, append_records
from labelleak.report import (
    headline,
    headline_cells,
    render,
    strongest_records,
    worst_cases,
    write_report,
)
from labelleak.report.headlines import judged_cells
from labelleak.report.verdict import reach_verdict
from labelleak.report.wording import labels_named, number

from .samples import make_record, make_records

EVIL = "<script>alert('x')</script>"


class Reader(HTMLParser):
    """Collect tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def said(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


@pytest.fixture(scope="module")
def page(grid: list[Record]) -> str:
    return render(grid, source="runs/digits/records.jsonl")


def test_asks_for_nothing_outside(page: str) -> None:
    reader = Reader(page)
    for _, attributes in reader.tags:
        for key, value in attributes.items():
            assert key not in {"src", "srcset", "action", "data"}
            if key.endswith("href"):
                assert (value or "").startswith("#")
    assert not re.search(r"https?:|@import|javascript:", page)
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", page))
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in reader.tags}


def test_is_an_accessible_document(page: str) -> None:
    reader = Reader(page)
    attributes = [own for tag, own in reader.tags if tag == "html"]
    assert attributes == [{"lang": "en"}]
    assert page.count("<h1") == 1
    assert page.count("<title>") == 1
    titles = dict(re.findall(r'<title id="([^"]+)">([^<]+)</title>', page))
    drawings = [own for tag, own in reader.tags if tag == "svg"]
    assert len(drawings) == 1 + 4
    assert "No update: the best guess: 11.4 of 32" in titles["named-title"]
    for own in drawings:
        assert own["role"] == "img"
    for own in drawings[1:]:
        title = titles[own["aria-labelledby"] or ""]
        assert "batch sizes 1 to 32" in title
        assert "Best guess without the update: 10.0 % at 1" in title


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = Counter(own["id"] for _, own in Reader(page).tags if "id" in own)
    assert max(ids.values()) == 1
    references = set(re.findall(r'(?:url\(|href=")#([^)"]+)', page))
    assert references
    assert references <= set(ids)


def test_figures_take_the_colours_of_the_page(page: str) -> None:
    assert "currentColor" in page
    assert "#010203" not in page
    assert "DejaVu" not in page


@pytest.mark.parametrize("key", ["data", "model", "scheme", "defense", "attack", "command"])
def test_escapes_what_records_say(key: str) -> None:
    rows = [make_record(**{key: EVIL}), make_record(trial=1, **{key: EVIL}, batch_size=8)]
    page = render(rows, source=EVIL)
    assert "<script" not in page.lower()
    assert "&lt;script&gt;" in page


def test_escapes_extra_keys_and_flags() -> None:
    extra = {"init": EVIL, EVIL: EVIL, "model_fingerprint": EVIL}
    assert "<script" not in render([make_record(extra=extra, flags=(EVIL,))], source="x").lower()


def test_same_records_give_the_same_bytes(grid: list[Record], page: str) -> None:
    again = render(list(reversed(grid)), source="runs/digits/records.jsonl")
    assert again == page


def test_the_verdict_is_the_worst_case_and_its_numbers_are_those_of_the_records(
    grid: list[Record], page: str
) -> None:
    said = Reader(page).said()
    cells = worst_cases(grid)
    verdict = reach_verdict(grid)
    worst, judged = verdict.worst, verdict.judged
    assert worst is not None
    assert judged is not None
    assert worst.advantage is not None
    ends = [c.advantage.high for c in headline_cells(cells) if c.advantage]
    assert worst.advantage.high == max(ends)
    told = strongest_records(grid)
    own = [
        r.asr
        for r in told
        if (r.threat_model, r.batch_size) == (worst.server, 32)
        and (r.scheme, r.training_steps) == (judged.scheme, judged.training_steps)
    ]
    named = labels_named(sum(own) / len(own), 32)
    assert f"names {named} on average; the best guess without the update names" in said
    low, high = number(worst.advantage.low), number(worst.advantage.high)
    assert f"Advantage {number(worst.advantage.mean)} (95 % interval {low} to {high})" in said


def test_the_terminal_says_one_sentence_a_server(grid: list[Record]) -> None:
    cells = worst_cases(grid)
    for cell, text in zip(judged_cells(cells), headline(cells), strict=True):
        assert f"names {labels_named(cell.asr.mean, 32)} on average; the best guess" in text
        assert cell.advantage is not None
        assert f"advantage {number(cell.advantage.mean)} (" in text


def test_of_a_model_as_given_nothing_is_said_of_its_training() -> None:
    extra = {"init": "as given", "victims": "unseen"}
    rows = make_records(
        attacks=("llg",), schemes=("iid",), batch_sizes=(8,), initialisations=1, extra=extra
    )
    said = Reader(render(rows, source="x")).said()
    for phrase in ("Model as given, scheme iid", "Model as given after 200 training steps"):
        assert phrase in said
    assert "audited as given" in said
    assert "as given; how they were trained is not known" in said
    for phrase in ("ntrained, iid", "ntrained model", "is untrained", "unseen", "already been"):
        assert phrase not in said


def test_says_what_is_missing() -> None:
    rows = make_records(
        attacks=("llg",), stages=(0,), schemes=("iid",), batch_sizes=(8,), initialisations=1
    )
    said = Reader(render(rows, source="x")).said()
    for phrase in (
        "A server that also holds the model.",
        "Trained models: every model here is untrained.",
        "Several local steps before",
        "single initialisation here",
        "There is one model only",
        "no proof of safety",
        "labelleak audit --data digits",
        "labelleak report x",
    ):
        assert phrase in said
    seen = [
        make_record(training_steps=5, local_steps=2, defense="noise", extra={"victims": "seen"})
    ]
    said = Reader(render(seen, source="x")).said()
    assert "Untrained models, on which" in said
    assert "already been trained on" not in said
    assert "Several local steps before" not in said


def test_what_an_attack_expects_stands_beside_what_came() -> None:
    rows = [
        make_record(attack="shadow", trial=t, asr=0.5, extra={"expected_asr": 0.625})
        for t in range(3)
    ]
    said = Reader(render([*rows, make_record(attack="llg")], source="r.jsonl")).said()
    assert "Expected" in said
    assert "62.5" in said
    assert "Expected asr" not in said
    assert "Expected" not in Reader(render([make_record()], source="r.jsonl")).said()


def test_flags_are_listed_with_counts() -> None:
    rows = [make_record(trial=t, flags=("features go below zero",)) for t in range(3)]
    said = Reader(render([*rows, make_record(trial=3)], source="x")).said()
    assert re.search(r"features go below zero ?LLG: 3 of 4 runs", said)
    known = [make_record(flags=("no_bias",), extra={"flag_figures": {"no_bias": 1.0}})]
    said = Reader(render(known, source="x")).said()
    assert "The head has no bias" in said
    assert "What to do: use attacks on the weight gradient" in said
    assert "figure 1" in said
    assert "Flags raised" not in Reader(render([make_record()], source="x")).said()


@pytest.mark.parametrize(
    ("rows", "phrase"),
    [
        ([make_record(attack="free", threat_model="none")], "no leak was measured"),
        ([make_record(batch_size=1, num_samples=1, asr=1.0)], "The single label of a batch"),
        ([make_record(asr=1.0)], "names all 32; the best"),
        ([make_record(asr=0.9999)], "names more than 31.9 on average"),
        ([make_record(asr=0.0, advantage=-1.5)], "A single update has no interval"),
        ([make_record(asr_free=1.0, advantage=None)], "measures no leak"),
        (
            [make_record(num_classes=2, model_accuracy=None, extra={})],
            "Advantage 0.38, where 0 means",
        ),
        ([make_record(local_steps=4, num_samples=128)], "Of 128 labels in 4 local steps"),
        (
            [
                make_record(trial=t, asr=a, advantage=b)
                for t, a, b in ((0, 0.5, -0.25), (1, 0.7, 0.25))
            ],
            "The interval includes 0",
        ),
    ],
)
def test_odd_inputs_are_said_truly(rows: list[Record], phrase: str) -> None:
    said = Reader(render(rows, source="x")).said()
    assert phrase in said


def test_many_attacks_are_drawn_apart() -> None:
    base = make_records(batch_sizes=(8, 32), stages=(0,), schemes=("iid",), trials=1)
    names = [f"attack_{n}" for n in range(9)]
    rows = base + [
        make_record(attack=name, threat_model=("update", "model")[i % 2], batch_size=size)
        for i, name in enumerate(names)
        for size in (8, 32)
    ]
    page = render(rows, source="x")
    assert page.count("<svg") == 1 + 3
    assert "scheme iid: holds the model" in page


def test_no_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no records"):
        render([], source="x")
    empty = tmp_path / "records.jsonl"
    empty.write_text("")
    with pytest.raises(BadInput, match="holds no records"):
        write_report(empty, tmp_path / "report.html")
    with pytest.raises(BadInput, match="cannot read"):
        write_report(tmp_path / "absent.jsonl", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_write_report_replaces_whole_files(tmp_path: Path) -> None:
    source, out = tmp_path / "records.jsonl", tmp_path / "report.html"
    append_records(source, [make_record(trial=t) for t in range(3)])
    out.write_text("old")
    write_report(source, out)
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records.jsonl", "report.html"]
    with pytest.raises(BadInput, match="cannot write"):
        write_report(source, tmp_path / "absent" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="cannot write"):
        write_report(source, tmp_path / "folder")
    assert len(list(tmp_path.iterdir())) == 3


def test_needs_no_torch(tmp_path: Path) -> None:
    source = tmp_path / "records.jsonl"
    append_records(source, [make_record()])
    code = (
        "import sys; from pathlib import Path; import labelleak.report as report;"
        "early = {'matplotlib', 'jinja2', 'rich'} & set(sys.modules);"
        f"report.write_report(Path({str(source)!r}), Path({str(tmp_path / 'a.html')!r}));"
        "print(sorted(early), 'torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False False"


def test_a_page_of_many_models_draws_some_and_lists_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelleak.report.page.MOST_FIGURES", 3)
    rows = [make_record(model=f"m{k}", trial=t) for k in range(9) for t in range(2)]
    text = render(rows, source="r.jsonl")
    assert text.count("<svg") == 1 + 3
    assert text.count("Not drawn") == 6
    assert all(f"m{k}" in text for k in range(9))
    few = render(rows[:6], source="r.jsonl")
    assert few.count("<svg") == 1 + 3
    assert "Not drawn" not in few
