"""The command that tries other releases of torch names the oldest that is supported."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import check_torch

ROOT = Path(__file__).parents[2]


def test_the_oldest_is_that_of_the_range():
    assert f"torch>={check_torch.oldest()}" in (ROOT / "pyproject.toml").read_text("utf-8")


def test_a_release_that_fails_is_named_and_ends_with_1(monkeypatch, capsys):
    def refuse(name, version):
        if version == "9.9":
            raise subprocess.CalledProcessError(1, "pip", "", "no such release")
        return Path("python")

    monkeypatch.setattr(check_torch, "install", refuse)
    monkeypatch.setattr(check_torch, "version_in", lambda python: "2.6.0")
    monkeypatch.setattr(check_torch, "trial", lambda python: "9 passed")
    with pytest.raises(SystemExit, match=r"failed with torch 9\.9"):
        check_torch.main(["2.6", "9.9"])
    printed = capsys.readouterr().out
    assert "torch 2.6.0: 9 passed" in printed
    assert "no such release" in printed


def test_the_pictures_of_readme_and_site_ask_for_nothing():
    for picture in [ROOT / "docs/terminal.svg", *(ROOT / "docs/figures/concepts").glob("*.svg")]:
        drawn = picture.read_text("utf-8")
        assert "url(http" not in drawn
        assert "href=" not in drawn
        assert "<svg" in drawn
