"""Run the program inside the test's own process, which spares the start and the import of torch."""

import contextlib
import io
import sys

from labelleak.cli.app import main


def command(*words: object) -> tuple[int, str, str]:
    """Run the program in this process: status, what it printed, what it said of errors."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["labelleak", *map(str, words)]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = before
    return status, out.getvalue(), err.getvalue()
