"""Commands are loaded one by one: what one of them needs, no other pays for."""

import subprocess
import sys

import click
import pytest

from commands import command
from labelleak.cli.commands import CommandGroup, load_all

LOADED = """
import sys
from labelleak.cli import main
sys.argv = ["labelleak", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print("LOADED", *sorted(name for name in sys.modules if name.startswith("labelleak.cli.")))
"""


@pytest.mark.parametrize("name", load_all())
def test_a_command_loads_no_command_that_it_does_not_use(name):
    words = [sys.executable, "-c", LOADED, name, "--help"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    loaded = {one.rpartition(".")[2] for one in printed.splitlines()[-1].split()[1:]}
    used = {"audit": {"report"}, "paper": {"run"}}  # they end as these do
    others = set(load_all()) - used.get(name, set()) - {name}
    assert loaded & others == set()


def test_the_help_lists_every_command_with_what_it_does():
    status, printed, _ = command("--help")
    assert status == 0
    for name, one in load_all().items():
        assert name == one.name
        [line] = [row for row in printed.splitlines() if row.startswith(f"│ {name} ")]
        assert one.get_short_help_str(20).rstrip(".") in line


def test_a_name_that_is_no_command_is_none():
    group = CommandGroup(name="labelleak")
    context = click.Context(group)
    assert group.list_commands(context) == list(load_all())
    assert group.get_command(context, "__init__") is None
    assert command("adit")[2].startswith("Error: unknown command 'adit'; did you mean 'audit'?")
