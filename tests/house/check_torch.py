"""Try the oldest and the newest torch, each in an environment of its own: self-test and tests.

Run as ``python tests/house/check_torch.py [VERSION ...]``. The environments lie in build/torch, see
the packages of the Python that runs this, and hold beside them only that torch. It comes from
TORCH_INDEX, by default the index of its makers' CPU builds: those of PyPI bring gigabytes for GPUs.
"""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
TESTS = ("tests/core", "tests/files", "tests/contract/test_attacks.py")


def main(versions: list[str]) -> None:
    """Try every version, print a line for each, and end with 1 if one failed."""
    failed = []
    for version in versions or [oldest(), ""]:
        name = version or "newest"
        try:
            python = install(name, version)
            print(f"torch {version_in(python)}: {trial(python)}", flush=True)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"torch {name} failed:\n{error.stdout}{error.stderr}", flush=True)
    sys.exit(f"failed with torch {', '.join(failed)}" if failed else 0)


def oldest() -> str:
    """Return the oldest torch of the range in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = [one for one in project["dependencies"] if one.startswith("torch>=")]
    return wanted.removeprefix("torch>=")


def install(name: str, version: str) -> Path:
    """Make the environment of a release, and return its Python."""
    home = ROOT / "build" / "torch" / name
    python, note = home / "bin" / "python", home / "installed"
    if not note.exists():
        venv.create(home, with_pip=True, clear=True)
        own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
        (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        index = os.environ.get("TORCH_INDEX", CPU_BUILDS)
        place = ["--index-url", index] if index else []
        wanted = f"torch=={version}.*" if version else "torch"
        run(python, "-m", "pip", "install", "-q", "-I", "--no-deps", *place, wanted)
        note.touch()
    return python


def trial(python: Path) -> str:
    """Run the self-test and the tests, and return the last line."""
    run(python, "-m", "labelleak", "selftest")
    return run(python, "-m", "pytest", "-q", *TESTS).splitlines()[-1]


def version_in(python: Path) -> str:
    """Return the release that an environment imports."""
    return run(python, "-c", "import torch; print(torch.__version__)")


def run(*command: str | Path) -> str:
    """Return what a command prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    ).stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
