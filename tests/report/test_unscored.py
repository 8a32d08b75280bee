"""The page and the view of answers without a score: no verdict, no figure, and what to do."""

import json
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app
from labelleak.errors import BadInput
from labelleak.records.unscored import Unscored
from labelleak.report.unscored import render_unscored, say_counts, say_flags
from records.test_unscored import line


@pytest.fixture
def estimates(tmp_path):
    path = tmp_path / "estimates.jsonl"
    path.write_text(line() + line(client="<b>8", attack="llbg", counts=[1, 0, 3]))
    return path


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_report_says_that_nothing_is_scored_and_writes_a_page(estimates):
    done = run("report", estimates, "--title", "Ward 3")
    assert done.exit_code == 0
    assert "none of them scored" in " ".join(done.output.split())
    page = estimates.with_name("report.html").read_text()
    assert "<h1>Ward 3</h1>" in page
    assert "Not decided" in page
    assert "1 (3 times) and 2" in page
    assert "&lt;b&gt;8" in page
    assert "<b>8" not in page
    assert not estimates.with_name("evidence.json").exists()


def test_the_page_is_whole_and_asks_for_nothing(estimates):
    rows = [Unscored.from_json(text) for text in estimates.read_text().splitlines()]
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))
    parser.feed(render_unscored(rows, "estimates.jsonl"))
    assert [tag for tag, _ in tags if tag in {"script", "link", "img"}] == []
    assert [tag for tag, _ in tags if tag in {"h1", "h2", "h3"}] == ["h1", "h2", "h2"]


def test_report_as_json_and_two_files_of_them(estimates):
    found = json.loads(run("report", estimates, "--json").output)
    assert found["unscored"] == 2
    done = run("report", estimates, estimates)
    assert isinstance(done.exception, BadInput)
    assert "cannot be compared" in str(done.exception)


def test_watch_shows_them_and_keeps_their_page(estimates, tmp_path):
    page = tmp_path / "watched.html"
    done = run("watch", estimates, "--once", "--page", page)
    assert done.exit_code == 0
    assert "LLBG" in done.output
    assert "0 records" not in done.output
    assert "Not decided" in page.read_text()
    found = json.loads(run("watch", estimates, "--once", "--json").output)
    assert (found["records"], found["unscored"], found["unreadable"]) == (0, 2, 0)


def test_answers_of_two_runs_in_one_file_are_told(estimates):
    assert "runs in this file" not in run("report", estimates).output
    estimates.write_text(line(run="71") + line(run="71", client="b") + line(run="72"))
    for command in (("report", estimates), ("watch", estimates, "--once")):
        said = " ".join(run(*command).output.split())
        assert "Flower numbers 2 runs in this file: give each run a folder of its own" in said


def test_many_classes_and_many_clients_are_cut_short():
    rows = [Unscored.from_json(line(client=str(client), counts=[1] * 300)) for client in range(500)]
    assert say_counts(rows[0]).endswith("and 292 more")
    assert "100 further answers left out" in render_unscored(rows, "x")
    assert say_flags(rows) == "flags: momentum (500)"
    assert say_counts(Unscored.from_json(line(counts=[0, 0]))) == "none"
