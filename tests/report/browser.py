"""Start Debian's Chromium, which is installed here where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
INSTALL = (
    ["apt-get", "update", "-q"],
    ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"],
)


def find_chromium() -> str:
    """Return the browser's path; CI fails where there is none, elsewhere the test is skipped."""
    if not shutil.which("chromium") and shutil.which("apt-get") and os.geteuid() == 0:
        for words in INSTALL:
            subprocess.run(words, check=False, stdout=subprocess.DEVNULL)
    found = shutil.which("chromium")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no chromium")
    return str(found)


@contextmanager
def browser() -> Iterator[Any]:
    """Start the browser once."""
    if not os.environ.get("CI"):
        pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield started
        started.close()
