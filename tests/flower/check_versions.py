"""Run the Flower tests against several releases of Flower, each in an environment of its own.

Run as ``python tests/flower/check_versions.py [--slow] [VERSION ...]``, where a version is
a minor release such as 1.36. The environments lie in build/flower, see the packages of the Python
that runs this, and hold beside them only what the release wants otherwise.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
MINORS = ("1.36", "1.37", "1.38", "1.39", "1.40", "1.41", "1.42")
INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def main(arguments: list[str]) -> None:
    """Test every version, print a line for each, and end with 1 if a test failed."""
    slow = "--slow" in arguments
    failed = []
    for minor in [one for one in arguments if one != "--slow"] or MINORS:
        python, how = install(minor)
        result = run_tests(python, slow)
        failed += [minor] if result.returncode else []
        print(f"flwr {version_in(python)} ({how}): {summary(result.stdout)}", flush=True)
        if result.returncode:
            print(result.stdout + result.stderr, flush=True)
    sys.exit(f"failed with flwr {', '.join(failed)}" if failed else 0)


def install(minor: str) -> tuple[Path, str]:
    """Make the environment of a minor release; give its Python, and how it was installed."""
    home = ROOT / "build" / "flower" / minor
    python = home / "bin" / "python"
    note = home / "installed"
    if not note.exists():
        venv.create(home, with_pip=True, clear=True)
        own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
        (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        wanted = f"flwr[simulation]=={minor}.*"
        resolved = subprocess.run([python, *INSTALL, wanted], capture_output=True, check=False)
        if resolved.returncode:  # what it needs may be newer than anything to be had
            run(python, *INSTALL, "--no-deps", f"flwr=={minor}.*")
        note.write_text("forced, --no-deps" if resolved.returncode else "resolved")
    return python, note.read_text()


def run_tests(python: Path, slow: bool) -> subprocess.CompletedProcess[str]:
    """Run the tests of the Flower adapter, the slow ones only where asked."""
    command = [python, "-m", "pytest", "-q", "tests/flower"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [*command, "-m", "slow or not slow"] if slow else command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )


def version_in(python: Path) -> str:
    """Give the release that an environment imports."""
    return run(python, "-c", "import importlib.metadata as m; print(m.version('flwr'))")


def run(*command: str | Path) -> str:
    """Run a command that must succeed, and give what it prints."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def summary(output: str) -> str:
    """Take pytest's last line."""
    return re.sub(r"^=+ | =+$", "", output.strip().splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1:])
