"""Find the blocks of code on a page, run them, and hold commands against their help."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache

from typer.testing import CliRunner

_FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Return language and content of each block in one of these languages."""
    return [(kind, code) for kind, code in _FENCE.findall(text) if kind in languages]


def lines_of(code: str) -> list[str]:
    """Return the commands of a shell; what `&&` joins are two."""
    joined = code.replace("\\\n", " ").replace("&&", "\n")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of each line of a shell; comments are left out."""
    for line in lines_of(code):
        if words := shlex.split(line, comments=True):
            yield words


def run_python(code: str, names: dict[str, object]) -> None:
    """Run a block; the blocks of a page share their names."""
    exec(compile(code, str(names["__name__"]), "exec"), names)


def run_shell(code: str) -> str:
    """Run a block line by line in the current folder, and return what it printed."""
    from labelleak.cli.app import app

    printed = []
    for line in lines_of(code):
        words = shlex.split(line, comments=True)
        if words[0] == "labelleak":
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0, f"{line}\n{done.output}{done.exception}"
            printed.append(done.output)
        else:
            subprocess.run(line, shell=True, check=True)
    return "\n".join(printed)


@cache
def help_of(command: str) -> str:
    """Return the help of a command."""
    from labelleak.cli.app import app

    return CliRunner().invoke(app, [command, "--help"]).output


def missing_options(words: list[str]) -> list[str]:
    """Return the options of a labelleak command that its help does not have."""
    _, command, *rest = words
    return [w for w in rest if w.startswith("--") and w.split("=")[0] not in help_of(command)]
