"""The pages of the site: their code runs, their commands are there, every link leads somewhere."""

import re
import sys
from pathlib import Path
from posixpath import normpath

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from blocks import blocks, commands, missing_options, run_python, run_shell

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(page.relative_to(DOCS)): page.read_text("utf-8") for page in DOCS.rglob("*.md")}
EXECUTED = [name for name, text in PAGES.items() if blocks(text, "python", "bash")]
NEEDS_FLOWER = {"start/federation.md", "howto/flower.md"}


@pytest.fixture(scope="module")
def site():
    sys.path.insert(0, str(DOCS))
    import make_site

    return make_site


@pytest.mark.parametrize("name", sorted(EXECUTED))
@pytest.mark.filterwarnings("ignore:Deprecated:DeprecationWarning")
def test_every_block_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    if name in NEEDS_FLOWER:
        pytest.importorskip("flwr")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    printed, names = "", {"__name__": name.replace(".", "_")}
    for kind, code in blocks(PAGES[name], "python", "bash"):
        if kind == "python":
            run_python(code, names)
        else:
            printed += run_shell(code)
    printed += capsys.readouterr().out
    for said in re.findall(r"It prints `([^`]+)`|  # ([\d.]+)$", PAGES[name], re.MULTILINE):
        assert "".join(said) in printed


def test_no_two_blocks_for_newcomers_write_into_one_folder():
    named = {}
    for name, text in PAGES.items():
        if name.startswith(("start/", "howto/")):
            for place, (_, code) in enumerate(blocks(text, "python", "bash", "py")):
                for out in re.findall(r"--out (\S+)|folder=\"([^\"]+)", code):
                    named.setdefault("".join(out), set()).add((name, place))
    shared = {out: places for out, places in named.items() if len(places) > 1}
    # What the pages print for a user's own app is no run of the page.
    assert {out for out in shared if out not in ("client", "server")} == set()
    assert len(named) > 6


def test_options_and_targets_on_every_page_are_there(site):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    lines = [
        words
        for text in site.site_pages().values()
        for _, code in blocks(text, "console")
        for words in commands(code)
    ]
    assert len(lines) > 100
    targets = {words[1] for words in lines if words[0] == "make"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    typed = [w for w in lines if w[0] == "labelleak" and not w[1].startswith("-")]
    assert [w for w in typed if missing_options(w)] == []


def test_every_attack_defense_and_flag_has_a_page(site):
    from labelleak.attacks import ATTACKS
    from labelleak.defenses import DEFENSES
    from labelleak.records.flags import FLAGS

    pages = site.site_pages()
    for kind, names in {"attacks": ATTACKS, "defenses": DEFENSES, "flags": FLAGS}.items():
        listed = pages[f"catalogue/{kind}/index.md"]
        for name in names:
            assert f"catalogue/{kind}/{name}.md" in pages
            assert f"]({name}.md)" in listed
    assert ATTACKS["rlu"].cite in pages["catalogue/attacks/rlu.md"]
    assert FLAGS["no_bias"].advice in pages["catalogue/attacks/llbg.md"]
    assert "**When it is raised.** The head has no bias" in pages["catalogue/flags/no_bias.md"]
    assert "::: labelleak.audits.audit.audit" in pages["catalogue/api/labelleak.md"]


def test_every_link_of_the_site_leads_to_a_page_or_a_file(site):
    pages = site.site_pages()
    for name, text in pages.items():
        for picture, _, target in site.LINK.findall(re.sub(r"`[^`]*`", "", text)):
            path = target.partition("#")[0]
            if path and "://" not in target:
                place = normpath(str(Path(name).parent / path))
                assert place in pages or (DOCS / place).is_file(), (name, picture, target)


def test_the_menu_names_every_page_that_is_written_by_hand(site):
    menu = site.site_settings()
    assert "@" not in menu.partition("[project.theme]")[0].partition("nav = ")[2]
    assert [name for name in PAGES if f'"{name}"' not in menu] == []


def test_links_out_of_the_documentation_become_words(site):
    text = "[a](../../tests/x.py) [b](../../SECURITY.md#what) [c](../limits.md) [d](https://x.org)"
    moved = site.moved_links(text, DOCS / "start" / "x.md")
    assert moved == "a [b](../SECURITY.md#what) [c](../limits.md) [d](https://x.org)"


def test_a_link_that_leads_nowhere_and_a_request_are_found(site, tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#here"></a><a href="c.html"></a><a href="#top"></a>'
        '<script src="https://elsewhere.example/x.js"></script><a href="https://fine.example"></a>'
    )
    (tmp_path / "b.html").write_text("<p></p>")
    found = list(site.check_site(tmp_path))
    assert [words for words in ("another host", "no such heading", "not there") if
            not any(words in fault for fault in found)] == []  # fmt: skip
    assert len(found) == 3


def test_tables_stand_behind_the_findings_that_they_belong_to(site):
    menu = site.site_settings()
    assert menu.index('"tune.md"') < menu.index('"compression.md"') < menu.index('_tables.md"')


def test_findings_give_their_answer_first(site):
    menu = site.site_settings().partition('"Findings"')[2].partition('"API"')[0]
    pages = [n for n in re.findall(r'"(\w+)\.md"', menu) if not site.TABLES.search(n)]
    assert len(pages) > 8
    for name in pages:
        _, _, first = PAGES[f"{name}.md"].split("\n")[:3]
        assert re.match(r"\*\*Answer|1\. \*\*|[A-Z]", first), name


def test_lines_of_pages_written_by_hand_are_short():
    for folder in ("start", "concepts", "howto"):
        for page in (DOCS / folder).glob("*.md"):
            for line in page.read_text("utf-8").splitlines():
                assert len(line) <= 115 or line.startswith("|"), (page.name, line)
