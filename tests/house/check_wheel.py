"""Check a built wheel: what must be in it is, what must not is not, and it runs on its own.

Run as ``python tests/house/check_wheel.py FOLDER``, where FOLDER holds one wheel.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NEEDED = (
    "labelleak/py.typed",
    "labelleak/cli/app.py",
    "labelleak/report/templates/report.html.j2",
    "labelleak/report/templates/report.css",
    "labelleak/attacks/llg.py",
)
ALLOWED = (".py", ".j2", ".css", ".typed", ".toml")


def main(folder: Path) -> None:
    """Check the one wheel in a folder; exit with a sentence if it is not as it should be."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        missing = [name for name in NEEDED if name not in names]
        strange = [
            name
            for name in names
            if ".dist-info/" not in name
            and (not name.startswith("labelleak/") or not name.endswith(ALLOWED))
        ]
        if missing or strange:
            sys.exit(f"wheel lacks {missing}, holds {strange}")
        if not any(name.endswith("licenses/LICENSE") for name in names):
            sys.exit("wheel holds no licence")
        with tempfile.TemporaryDirectory() as elsewhere:
            archive.extractall(elsewhere)
            program = (
                f"import sys; sys.path.insert(0, {elsewhere!r})\n"
                "import labelleak; assert labelleak.__file__.startswith(sys.path[0])\n"
                "found = labelleak.audit(batch_sizes=[2], schemes=['iid'], attacks=['llg'],\n"
                "    trials=2, initialisations=1, training_steps=[0])\n"
                f"found.write_report({elsewhere!r} + '/page.html')\n"
            )
            subprocess.run([sys.executable, "-c", program], check=True, cwd=elsewhere)
    print(f"{wheel.name}: {len(names)} files, runs on its own")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
