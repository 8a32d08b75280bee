"""Imports run downwards only: the floors of the house, and what may not be loaded where."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import labelleak
from labelleak.cli.list_names import Listing

SOURCE = Path(labelleak.__file__).parent
# A module may import from its own floor's lower neighbours and from the floors below.
FLOORS = [
    {"errors"},
    {"records"},
    {"core"},
    {"attacks", "defenses", "files"},
    {"simulation", "report"},
    {"audits", "flower"},
    {"tune", "testing"},
    {"studies"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path):
    """Give the rooms of labelleak that a file imports, type-checking ones left out."""
    tree = tree_of(path)
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in typing_only and node.module:
            parts = node.module.split(".")
            if parts[0] == "labelleak":
                rooms = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
                yield from (room for room in rooms if room in FLOOR_OF)


FILES = [
    path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_downwards(path):
    room = room_of(path)
    assert room in FLOOR_OF, f"give {room} a floor"
    for other in imports_of(path):
        lower = FLOOR_OF[other] < FLOOR_OF[room]
        assert other == room or lower, f"{room} imports {other}"


def test_the_house_has_twelve_rooms_and_four_files_beside_them():
    inside = [p for p in SOURCE.iterdir() if p.name != "__pycache__" and p.suffix != ".typed"]
    assert len([p for p in inside if p.is_dir()]) == 12
    assert sorted(p.name for p in inside if p.is_file()) == [
        "__init__.py",
        "__main__.py",
        "errors.py",
        "testing.py",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_file_opens_with_a_sentence_on_what_it_is(path):
    first = ast.get_docstring(tree_of(path))
    assert first
    assert first.splitlines()[0].endswith(".")


HEAVY = {"torch", "sklearn", "scipy", "matplotlib", "datasets", "pandas", "flwr", "ray"}
MODULES = ("", ".cli", ".attacks", ".defenses", ".report", ".records.record")
COMMANDS = (("--help",), ("gate", "--help"), *(("list", what.value) for what in Listing))


def loaded_by(*steps):
    """Return the heavy modules that a fresh interpreter has loaded after each piece of code."""
    program = (
        "import sys, contextlib, io\n"
        f"for step in {steps!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        exec(step)\n"
        f"    print(sorted({HEAVY} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return list(map(ast.literal_eval, done.stdout.splitlines()))


def test_nothing_heavy_is_loaded_before_it_is_needed():
    steps = [f"import labelleak{module}" for module in MODULES]
    steps += ["list(labelleak.attacks.ATTACKS.values())", "labelleak.cli.commands.load_all()"]
    steps += [f"sys.argv = {['labelleak', *c]}; labelleak.cli.main()" for c in COMMANDS]
    found = dict(zip(steps, loaded_by(*steps), strict=True))
    assert {step: heavy for step, heavy in found.items() if heavy} == {}


def test_the_command_line_loads_no_page_or_parser_before_it_is_asked_for():
    late = {"labelleak.report.page", "pydantic", "concurrent.futures.process"}
    load = "import sys; from labelleak.cli.commands import load_all; load_all()"
    program = f"{load}; print(sorted({late} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_reports_need_no_torch(tmp_path):
    records = tmp_path / "records.jsonl"
    line = (Path(__file__).parents[1] / "report" / "sample.jsonl").read_text()
    records.write_text(line)
    code = (
        "from pathlib import Path; from labelleak.report import write_report\n"
        f"write_report(Path({str(records)!r}), Path({str(tmp_path / 'page.html')!r}))"
    )
    assert "torch" not in loaded_by(code)[0]
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_unsafe_loading_is_nowhere_in_the_source():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                assert "pickle" not in {alias.name for alias in node.names}
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"Unpickler", "loads"} or getattr(node.value, "id", "") in {
                    "json",
                    "tomllib",
                }


def test_a_catalogue_loads_what_is_asked_for_alone():
    steps = (
        "from labelleak.attacks import ATTACKS; n = len(ATTACKS); 'llg' in ATTACKS; ATTACKS['llg']"
    )
    program = f"import sys; {steps}; print(*(m for m in sys.modules if 'labelleak.attacks.' in m))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = {name.rpartition(".")[2] for name in done.stdout.split()}
    assert {"catalogue", "llg"} <= loaded, done.stderr
    assert not loaded & {"bias", "shadow", "text", "layers"}


@pytest.mark.parametrize("name", labelleak.__all__)
def test_every_public_name_is_there_and_stays_what_it_was(name):
    first = getattr(labelleak, name)
    assert getattr(labelleak, name) is first


def test_the_audit_of_a_user_is_no_room():
    import labelleak.audits.run  # a submodule that is loaded must not take a public name's place

    assert callable(labelleak.audit)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_legend_has_a_place(path):
    """A legend that looks for the "best" place warns when the machine is slow, at any time."""
    calls = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)]
    legends = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "legend"]
    assert all(any(k.arg == "loc" for k in call.keywords) for call in legends)
