"""`labelleak selftest`: the auditor's own controls, known to leak and known not to."""

from __future__ import annotations

import typer

from labelleak.cli.options import command
from labelleak.cli.results import Shown, print_json


@command
def selftest(shown: Shown) -> None:
    """Audit the auditor: updates known to leak and known not to must be told apart."""
    from labelleak.audits.controls import run_controls

    controls = []
    for control in run_controls():
        controls.append(control)
        if not shown.json:
            print(control)
    failed = sum(not control.passed for control in controls)
    if shown.json:
        told = {str(control): control.passed for control in controls}
        print_json({"passed": not failed, "controls": told})
    else:
        print(f"selftest {'FAILED' if failed else 'PASSED'}: {failed} of {len(controls)} failed")
    if failed:
        raise typer.Exit(1)


__all__ = ["selftest"]
