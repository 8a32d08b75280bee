"""Appending leaves whole lines whatever happens; locks and whole files touch nothing else."""

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest
from filelock import Timeout

from labelleak.errors import BadInput
from labelleak.records import files
from labelleak.records.files import alone_at, append_lines, lock_of, write_whole


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b'{"b": 2}\n'),
        (b'{"a": 1}\n', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": 1}\n{"a": 2, "c', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": 1}', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": ' + b"9" * 200_000, b'{"b": 2}\n'),
        (b'{"a": 1}\n' + b"\0" * 70_000, b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": 1}\n' + b"[" * 90_000, b'{"a": 1}\n{"b": 2}\n'),
    ],
)
def test_appending_starts_on_a_fresh_line(tmp_path, before, after):
    path = tmp_path / "x.jsonl"
    path.write_bytes(before)
    append_lines(path, '{"b": 2}\n')
    assert path.read_bytes() == after


@pytest.mark.parametrize("stops", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_is_taken_back(tmp_path, monkeypatch, stops):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n')

    def fail(handle):
        assert path.stat().st_size > 9
        raise stops

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BadInput if isinstance(stops, OSError) else KeyboardInterrupt):
        append_lines(path, '{"b": 2}\n')
    assert path.read_bytes() == b'{"a": 1}\n'


def test_a_file_that_may_not_grow_keeps_whole_lines(tmp_path):
    """As on a full disk: the system takes a part of what is written and refuses the rest."""
    program = (
        "import resource, signal, sys, pathlib\n"
        "from labelleak.errors import BadInput\n"
        "from labelleak.records.files import append_lines\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "append_lines(path, '1\\n' * 400)\n"
        "try:\n    append_lines(path, '2\\n' * 400)\n"
        "except BadInput as error:\n    print(error)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "x")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "File too large" in done.stdout, done.stderr
    assert (tmp_path / "x").read_text() == "1\n" * 400


def test_pipes_and_devices_are_not_appended_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
        with pytest.raises(BadInput, match="cannot write"):
            append_lines(path, "1\n")


def test_what_holds_the_truth_is_its_owners(tmp_path):
    append_lines(tmp_path / "a", "1\n", private=True)
    write_whole(tmp_path / "b", "1", private=True)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    append_lines(tmp_path / "c", "1\n")  # open to all, until the truth comes in
    append_lines(tmp_path / "c", "1\n", private=True)
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["link", "hanging link", "pipe", "folder"])
def test_a_lock_touches_no_other_file(tmp_path, what):
    (tmp_path / "precious").write_text("kept")
    lock = tmp_path / "run.lock"
    if what == "pipe":
        os.mkfifo(lock)
    elif what == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(tmp_path / ("precious" if what == "link" else "none"))
    with pytest.raises(BadInput, match="no plain file"):
        lock_of(lock)
    with pytest.raises(BadInput, match="no plain file"), alone_at(lock):
        pass
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("ways", [(lock_of, lock_of), (alone_at, lock_of), (alone_at, alone_at)])
def test_two_writers_take_turns_whichever_way_each_locks(tmp_path, ways):
    def write(name, way):
        for _ in range(50):
            with way(tmp_path / ".lock"):
                append_lines(tmp_path / "x", f'"{name * 100}"\n', durable=False)

    threads = [threading.Thread(target=write, args=pair) for pair in zip("ab", ways, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "x").read_text().splitlines()
    assert sorted(lines) == [f'"{"a" * 100}"'] * 50 + [f'"{"b" * 100}"'] * 50


def test_a_lock_that_is_held_is_waited_for_and_let_go_of_after_an_error(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with alone_at(lock):  # makes the folder
        assert lock.is_file()

    def fail():
        with alone_at(lock):
            with pytest.raises(Timeout):
                lock_of(lock).acquire(timeout=0)
            raise KeyError

    for _ in range(3):
        with pytest.raises(KeyError):
            fail()
    done = threading.Event()

    def wait():
        with alone_at(lock):
            done.set()

    with lock_of(lock):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not done.wait(0.1)
    waiter.join(10)
    assert done.is_set()


def test_a_lock_file_that_is_removed_while_it_is_waited_for_is_not_taken(tmp_path):
    lock, order = tmp_path / ".lock", []

    def wait():
        with alone_at(lock):
            order.append(lock.exists())

    with alone_at(lock):
        pass
    with alone_at(lock):
        waiter = threading.Thread(target=wait)
        waiter.start()
        waiter.join(0.1)
        lock.unlink()
    waiter.join(10)
    assert order == [True]  # another one was made


def test_where_the_system_locks_no_files_the_other_way_is_taken(tmp_path, monkeypatch):
    def missing(file, what):
        raise OSError(errno.ENOSYS, "not there")

    with alone_at(tmp_path / ".lock"):
        pass
    asked = []
    monkeypatch.setattr(files, "lock_of", lambda path: asked.append(path) or lock_of(path))
    for way in (missing, None):  # None: there is no fcntl
        monkeypatch.setattr(files, "flock", way)
        with alone_at(tmp_path / ".lock"):
            pass
    assert asked == [tmp_path / ".lock"] * 2
