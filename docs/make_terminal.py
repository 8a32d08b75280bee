"""Draw the README's picture of the terminal: a command as it was run, and what it printed.

Run as ``python docs/make_terminal.py docs/terminal.svg``. The picture asks for no font of the web.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 88
COMMANDS = (
    "labelleak audit --data digits --model mlp --batch-sizes 32 --schemes unbalanced "
    "--training-steps 0,200 --trials 40 --initialisations 4 --attacks rules --out audit",
)


def main(picture: Path) -> None:
    """Run the commands in a folder of their own, and write what they print as a picture."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold"))
            console.print(Text.from_ansi(printed(command, folder)))
    drawn = console.export_svg(title="labelleak")
    # rich names a font of the web; the reader's own does as well.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    drawn = "\n".join(line.rstrip() for line in drawn.splitlines() if line.strip()) + "\n"
    picture.write_text(drawn, encoding="utf-8")


def printed(command: str, folder: str) -> str:
    """Return what a command of labelleak prints on a terminal of this width."""
    words = [sys.executable, "-m", *command.split()]
    env = {**os.environ, "COLUMNS": str(WIDTH)}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
