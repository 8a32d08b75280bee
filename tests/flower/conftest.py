"""What every test of this room needs, whichever of them run, and in whatever order."""

from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session", autouse=True)
def _messages_can_be_made():
    """Let tests make messages by themselves, which newer Flower lets only a task do."""
    if find_spec("flwr") is None:
        return
    from flwr.clientapp import ClientApp

    from labelleak import flower

    flower.InProcessGrid(ClientApp(), 1)
