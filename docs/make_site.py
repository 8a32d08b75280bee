"""Build the documentation site: the pages of this folder and those made from the catalogues.

Run as ``python docs/make_site.py FOLDER``; the site is FOLDER/html. It needs labelleak[docs], no
network, and ends with 1 at a warning, a link that leads nowhere or a request to the outside.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import normpath, relpath
from urllib.parse import unquote, urlsplit

import catalogue_pages

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Pages that stand at the top of the repository, where its visitors look for them.
TOP = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
# Shown as they stand beside the pages that tell what they say.
TABLES = re.compile(r"_tables$|^verdicts_mnist$")


def main(folder: Path) -> None:
    """Write the pages, build the site and check it."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    for name, text in site_pages().items():
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        (pages / name).write_text(text, encoding="utf-8")
    for picture in (p for p in DOCS.rglob("*") if p.suffix in {".svg", ".png", ".json"}):
        target = pages / picture.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, target)
    settings = site_settings().replace("@root", relpath(str(ROOT), str(folder.resolve())))
    (folder / "zensical.toml").write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode or "warning" in said.lower():
        sys.exit(said)
    faults = list(check_site(folder / "html"))
    if faults:
        sys.exit("\n".join(faults))
    print(f"{len(list((folder / 'html').rglob('*.html')))} pages in {folder / 'html'}")


def site_pages() -> dict[str, str]:
    """Return every page of the site: its path in the site, and its Markdown."""
    pages = {}
    for source in [*(ROOT / name for name in TOP), *sorted(DOCS.rglob("*.md"))]:
        name = _place(str(source.relative_to(ROOT)))
        pages[name] = moved_links(source.read_text(encoding="utf-8"), source)
    for kind in catalogue_pages.KINDS:
        pages.update(catalogue_pages.pages_of(kind))
    return pages


def moved_links(text: str, source: Path) -> str:
    """Point the links of a file of the repository at pages of the site.

    What the site does not hold (tests, sources) is left as plain words.
    """
    here = str(source.relative_to(ROOT))

    def move(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or urlsplit(target).scheme:
            return found[0]
        place = normpath(str(Path(here).parent / path))
        if not (place.startswith("docs/") or place in TOP):
            return words
        moved = relpath(_place(place), str(Path(_place(here)).parent))
        return f"{picture}[{words}]({moved}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(move, text)


def site_settings() -> str:
    """Return the settings, with generated pages in their places."""
    text = (DOCS / "site.toml").read_text(encoding="utf-8")
    named = set(re.findall(r'"([\w/]+\.md)"', text))
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    findings = sorted(written - named, key=lambda name: (bool(TABLES.search(name[:-3])), name))
    titled = [(_title(DOCS / name), name) for name in findings]
    text = text.replace('"@findings"', _listed(titled))
    for kind in catalogue_pages.KINDS:
        text = text.replace(f'"@{kind}"', _listed(catalogue_pages.titles_of(kind)))
    return text


def check_site(folder: Path) -> Iterator[str]:
    """Yield a sentence for each link that leads nowhere and each request to the outside."""
    # The page of a link that is wrong may be shown anywhere, so its own links are absolute.
    pages = {p: _read(p) for p in folder.rglob("*.html") if p.name != "404.html"}
    for page, found in pages.items():
        name = page.relative_to(folder)
        for request in found.requests:
            if urlsplit(request).netloc:
                yield f"{name} asks {request} of another host"
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                yield f"{name} links to {link}, which is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name} links to {link}, which has no such heading"


class _Found(HTMLParser):
    """The links, requests and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.requests: list[str] = []
        self.anchors = {""}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to, asks for or is called."""
        held = {name: value or "" for name, value in attrs}
        self.anchors |= {held[key] for key in ("id", "name") if key in held}
        if tag == "a" and "href" in held:
            self.links.append(held["href"])
        if tag == "link" and held.get("rel") not in {"canonical", "next", "prev"}:
            self.requests.append(held.get("href", ""))
        if "src" in held:
            self.requests.append(held["src"])


def _read(page: Path) -> _Found:
    found = _Found()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def _place(path: str) -> str:
    return path.removeprefix("docs/")


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()


def _listed(pages: list[tuple[str, str]]) -> str:
    entries = [f"{{ {json.dumps(title)} = {json.dumps(name)} }}" for title, name in pages]
    return "[" + ", ".join(entries) + "]"


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main(Path(sys.argv[1]))
