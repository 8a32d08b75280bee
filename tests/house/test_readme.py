"""What the README tells a newcomer to type works, and what it links to is there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from labelleak.cli.app import app

sys.path.insert(0, str(Path(__file__).parent))
from blocks import help_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
CONSOLE = "".join(re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line.split("#")[0].strip() for line in CONSOLE.splitlines()]


@pytest.mark.parametrize("snippet", PYTHON, ids=["model", "update"])
def test_python_snippets_run(snippet, tmp_path):
    assert len(snippet.strip().splitlines()) <= 8
    # torch's compiler takes 2 s to load, and nothing here compiles.
    program = snippet + "\nimport sys; assert 'torch._dynamo' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "names" in done.stdout or "label counts (4, 0, 0)" in done.stdout
    assert ("labelleak.audit" in snippet) == (tmp_path / "report.html").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/start/federation.md"])
def test_the_door_to_a_federation_runs(tmp_path, monkeypatch, page):
    pytest.importorskip("flwr")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text("utf-8")
    (door,) = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    assert len(door.strip().splitlines()) <= 10
    names = {"build_model": dict}
    exec(compile(door, page, "exec"), names)
    assert names["auditor"].batch_size == 16
    assert names["auditor"].model is dict  # every server of a federation holds it
    assert type(names["app"]).__name__ == "ClientApp"


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("labelleak")])
def test_commands_and_their_options_are_there(line):
    _, command, *words = shlex.split(line)
    shown = help_of(command)
    assert all(word in shown for word in words if word.startswith("--"))


def test_the_options_on_the_page_of_forms_are_there():
    named = set(re.findall(r"(?<=[ `])--[a-z-]+", (ROOT / "docs" / "forms.md").read_text()))
    shown = help_of("attack")
    assert len(named) > 8
    assert all(option in shown for option in named)


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_are_there(line):
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_every_listed_attack_is_in_the_readme_or_listed_by_its_command():
    from labelleak.attacks import ATTACKS

    done = CliRunner().invoke(app, ["list", "attacks"])
    # A line that is too long goes on below, set in.
    listed = {line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert listed == set(ATTACKS)
