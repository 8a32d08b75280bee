"""The page in a real browser: nothing asked of outside, nothing cut off, readable by everybody."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from labelleak.records.record import append_records
from labelleak.report import render
from labelleak.report.about import About
from labelleak.report.comparison import compare, read_side
from labelleak.report.unscored import render_unscored
from records.test_unscored import unscored_row

from .browser import browser
from .federated import federated_records
from .samples import make_records
from .test_defenses import defended_records
from .test_layer_leaks import make_rows

NAMES = ("audit", "defenses", "federation", "comparison", "layers", "unscored")
WIDTHS = (360, 390, 768, 1440)
LONG = "a_very_long_system_name_without_any_break_" * 3
# Text, its colour and what lies behind it, as the browser computes them; SVG text has a fill.
CONTRAST = """() => {
  const parse = (c) => { const n = c.match(/[\\d.]+/g).map(Number);
    return n.length < 4 ? [...n, 1] : n; };
  const light = (c) => { const f = c.slice(0, 3).map((v) => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0) return c; }
    return [255, 255, 255, 1]; };
  const bad = []; let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest('title, style, defs')) continue;
    const own = getComputedStyle(e), svg = e.closest('svg');
    const ink = parse(svg ? own.fill : own.color), paper = behind(e);
    const pair = [light(ink), light(paper)].sort((a, b) => b - a);
    const large = parseFloat(own.fontSize) >= 24
      || (parseFloat(own.fontSize) >= 18.66 && Number(own.fontWeight) >= 700);
    seen += 1;
    if ((pair[0] + 0.05) / (pair[1] + 0.05) < (large ? 3 : 4.5))
      bad.push(walk.currentNode.data.trim() + ' ' + ink + ' on ' + paper);
  }
  return [seen, bad];
}"""
OPEN_ALL = "() => document.querySelectorAll('details').forEach((d) => { d.open = true; })"
# What sticks out of the page, or is cut off by a box that does not show what is too wide.
OUTSIDE = """() => [document.documentElement.scrollWidth - innerWidth,
  [...document.querySelectorAll('main *, header *')].filter((e) =>
    !e.closest('svg, thead') && e.getBoundingClientRect().right > innerWidth + 0.5
  ).map((e) => e.tagName + ' ' + e.textContent.slice(0, 60))]"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One browser, and the pages that it opens: an audit, defenses, a federation and others."""
    folder = tmp_path_factory.mktemp("pages")
    records: dict[str, list[Any]] = {
        "audit": make_records(flags=("no_bias",), batch_sizes=(8, 32), trials=7),
        "defenses": defended_records(),
        "federation": federated_records(rounds=12, clients=9),
        "layers": make_rows(),
    }
    pages = {}
    for name, rows in records.items():
        text = render(rows, source="records.jsonl", about=About(system=LONG, contact="x@y.org"))
        pages[name] = folder / f"{name}.html"
        pages[name].write_text(text, encoding="utf-8")
    sides = []
    later = make_records(attacks=("llg", "free"), batch_sizes=(8, 32), defense="clip:1|topk:0.1")
    for name, rows in (("before", records["audit"]), ("after", later)):
        path = folder / f"{name}.jsonl"
        append_records(path, rows)
        sides.append(read_side(path))
    pages["comparison"] = folder / "comparison.html"
    pages["comparison"].write_text(compare(*sides), encoding="utf-8")
    pages["unscored"] = folder / "unscored.html"
    answers = [
        unscored_row(client=LONG + str(client), attack=attack, counts=[client] * 40)
        for client in range(3)
        for attack in ("llg", "llbg")
    ]
    text = render_unscored(answers, "estimates.jsonl", About(system=LONG))
    pages["unscored"].write_text(text, encoding="utf-8")
    with browser() as started:
        yield started, pages


def visit(shown: Any, name: str, **options: Any) -> tuple[Any, list[str]]:
    """Open a page; what it asks of outside or complains of is noted."""
    started, pages = shown
    context = started.new_context(**options)
    page, noted = context.new_page(), []
    page.on("console", lambda said: noted.append(said.text))
    page.on("pageerror", lambda error: noted.append(str(error)))
    page.on("request", lambda asked: noted.append(asked.url))
    page.goto(Path(pages[name]).as_uri())
    return page, [one for one in noted if not one.startswith("file://")]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_at_any_width_and_nothing_is_asked_of_outside(
    shown: Any, name: str
) -> None:
    page, noted = visit(shown, name)
    assert noted == []
    page.evaluate(OPEN_ALL)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(OUTSIDE) == [0, []], width
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["audit", "federation", "layers", "unscored"])
def test_all_text_stands_out_from_what_is_behind_it(shown: Any, name: str, scheme: str) -> None:
    page, _ = visit(shown, name, color_scheme=scheme)
    page.evaluate(OPEN_ALL)
    seen, bad = page.evaluate(CONTRAST)
    assert seen > 30
    assert bad == []
    page.context.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_page_prints_on_at_most_four_sheets(shown: Any, name: str) -> None:
    page, _ = visit(shown, name)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 4
    page.context.close()


@pytest.mark.parametrize("name", ["audit", "federation", "comparison", "layers"])
def test_headings_are_in_order_and_pictures_have_words_and_a_table(shown: Any, name: str) -> None:
    page, _ = visit(shown, name)
    page.evaluate(OPEN_ALL)
    levels = page.locator("h1, h2, h3, h4").evaluate_all("hs => hs.map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    tables = page.locator("svg").evaluate_all(
        "all => all.map(s => [s.querySelector('title').textContent.length, "
        "s.closest('section').querySelectorAll('table').length])"
    )
    assert tables
    assert all(words > 20 and number for words, number in tables)
    page.context.close()


def test_the_verdict_and_what_to_do_are_on_the_first_screen(shown: Any) -> None:
    page, _ = visit(shown, "audit", viewport={"width": 1440, "height": 900})
    for name in ("verdict", "tested", "people", "next", "strength"):
        assert page.locator(f"#{name}").bounding_box()["y"] < 800, name
    page.context.close()


def test_the_keyboard_opens_what_is_folded(shown: Any) -> None:
    page, _ = visit(shown, "audit")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")
    page.context.close()


def test_these_checks_see_what_is_wrong(shown: Any) -> None:
    page, _ = visit(shown, "defenses", viewport={"width": 768, "height": 800})
    page.add_style_tag(content="p { color: #aaa } table { width: 1200px }")
    assert page.evaluate(OUTSIDE)[1]
    assert page.evaluate(CONTRAST)[1]
    page.context.close()
