"""What every test shares: one thread, no network, the folder of real data where it is there."""

import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job in a shell's background is started deaf to Ctrl-C, and its children would be, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The first example loads what its code needs, and machines that are busy are slow.
settings.register_profile("labelleak", deadline=None)
settings.load_profile("labelleak")

SHARED = Path(__file__).parents[2] / "shared"


# Doctests that need an extra; they are skipped in an environment that has the core only.
NEEDS_DATASETS = {
    "labelleak.simulation.data.columns.import_datasets",
    "labelleak.simulation.data.columns.parts_from_rows",
    "labelleak.simulation.data.folders.read_image_folder",
}


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Iterator[None]:
    """Look for examples in the sources alone, since looking here would hide what is broken.

    A test file that cannot be imported is passed over by who looks for examples in it, who leaves
    it half imported; who looks for tests then finds it empty, and nothing fails.
    """
    found: Any = yield
    return [one for one in found if type(one) is pytest.Module]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("datasets") is None:
        for item in items:
            if item.name in NEEDS_DATASETS:
                item.add_marker(pytest.mark.skip(reason="needs labelleak[data]"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference vectors beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the folder of real data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def grid() -> list[object]:
    """Records of a small made-up grid, for what reads records."""
    from report.samples import make_records

    return list(make_records())
