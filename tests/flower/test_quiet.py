"""Nothing phones home, and nothing of Flower is loaded unless asked for."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).parents[1]
ENVIRONMENT = TESTS.parent / "src" / "labelleak" / "flower" / "environment.py"
WATCHED = """
import os, socket, sys
for name in list(os.environ):
    if name.startswith(("FLWR_", "RAY_")):
        del os.environ[name]
asked = []
real = socket.getaddrinfo
def watch(host, *args, **options):
    asked.append(host)
    return real("127.0.0.1", *args, **options)
socket.getaddrinfo = watch
real_connect = socket.socket.connect
def connect(self, address):
    asked.append(address)
    return real_connect(self, address)
socket.socket.connect = connect
sys.path.insert(0, {tests!r})
"""


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )


def test_a_federation_looks_up_no_name():
    pytest.importorskip("flwr")
    code = WATCHED.format(tests=str(TESTS)) + (
        "from labelleak import flower\n"
        "from flower import federation\n"
        "from pathlib import Path; import tempfile, time\n"
        "folder = Path(tempfile.mkdtemp())\n"
        "auditor = federation.make_auditor(folder)\n"
        "federation.run(federation.make_app(flower.audit_mod(auditor, 'record')), rounds=1,\n"
        "    wrap=lambda grid: flower.observe(grid, auditor))\n"
        "assert (folder / 'records.jsonl').exists()\n"
        "print('telemetry', os.environ['FLWR_TELEMETRY_ENABLED'])\n"
        "time.sleep(1)\n"  # telemetry would be sent by another thread
        "outside = [a for a in asked if a not in ('127.0.0.1', 'localhost')]\n"
        "print('asked', outside)\n"
    )
    done = python(code)
    assert "telemetry 0" in done.stdout, done.stderr
    assert "asked []" in done.stdout, done.stdout


def test_the_watch_would_see_a_name_looked_up():
    code = WATCHED.format(tests=str(TESTS)) + (
        "import urllib.request\n"
        "try: urllib.request.urlopen('http://telemetry.invalid:9', timeout=2)\n"
        "except OSError: pass\n"
        "print(asked)"
    )
    assert "telemetry.invalid" in python(code).stdout


@pytest.mark.parametrize(
    ("read", "now", "warned"),
    [
        ("1", None, True),
        ("1", "0", True),
        ("1", "1", False),
        ("0", None, False),
        (None, "0", False),
    ],
)
def test_flower_imported_first_is_warned_of(read, now, warned, monkeypatch, caplog):
    """What Flower read at its import decides, not what the variable says by now."""
    telemetry = "flwr.supercore.telemetry"
    assert pytest.importorskip(telemetry).FLWR_TELEMETRY_ENABLED in ("0", "1")
    monkeypatch.delitem(sys.modules, telemetry)
    if read is not None:
        module = SimpleNamespace(FLWR_TELEMETRY_ENABLED=read)
        monkeypatch.setitem(sys.modules, telemetry, module)
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    if now is not None:
        monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", now)
    runpy.run_path(str(ENVIRONMENT))
    assert ("telemetry is on" in caplog.text) == warned


def test_the_face_loads_flower_only_when_asked():
    done = python("import sys, labelleak; print('flwr' in sys.modules)")
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("code", ["import labelleak.flower", "import labelleak; labelleak.flower"])
def test_without_flower_one_sentence_says_what_to_install(code):
    done = python(f"import sys; sys.modules['flwr'] = None; {code}")
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("Flower is not installed; install labelleak[flower]")
