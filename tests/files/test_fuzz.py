"""Files broken at random: each is read, or refused in one line; nothing else happens.

Longer: LABELLEAK_FUZZ=100 runs a hundred times as many files; see CONTRIBUTING.md.
"""

import io
import os
import signal
import struct
import sys
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from files import hostile
from labelleak.core.head import locate_head
from labelleak.errors import BadInput
from labelleak.files.notes import KEY
from labelleak.files.tensors import read_tensors
from labelleak.files.update import gather_update

FILES = 120 * int(os.environ.get("LABELLEAK_FUZZ", "1"))
SECONDS = 10
# What a pickle would do if one were run; the interpreter itself reports them.
FORBIDDEN = {
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect"),
    *("os.remove", "os.rename", "os.mkdir", "pickle.find_class", "ctypes.dlopen"),
}
NOTE = '{"part": "gradient", "batch_size": 8, "local_steps": 2, "lr": 0.1, "head": "fc"}'


def good(kind):
    """Write the same small update in one of the formats."""
    torch.manual_seed(0)
    state = {"fc.weight": torch.rand(3, 4), "fc.bias": torch.rand(3), "n": torch.tensor(7)}
    if kind == "safetensors":
        return save(state, metadata={KEY: NOTE})
    if kind == "pt":
        return hostile.saved(state)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: t.numpy() for name, t in state.items()})
    return buffer.getvalue()


GOOD = {kind: good(kind) for kind in ("safetensors", "npz", "pt")}
TEXT = st.sampled_from(
    [b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY", b"(2, 3)", b"inf", b"1e999", b'"shape"', b"-1"]
)
NUMBERS = st.sampled_from([0, 1, 22, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1])
PIECES = st.one_of(
    st.binary(max_size=12),
    TEXT,
    NUMBERS.map(lambda n: struct.pack("<Q", n)),
    NUMBERS.map(lambda n: struct.pack("<I", n % 2**32)),
    st.sampled_from(
        [b")" + b"\x85" * 9, b"q\x00h\x00\x86" * 40, b"cos\nsystem\n", b"R", b"Q", b"b"]
    ),
)


@st.composite
def broken(draw, content):
    """Flip, cut, overwrite, insert, or splice in a piece of another format's file."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["flip", "cut", "overwrite", "insert", "splice", "drop"]))
        if how == "flip" and content:
            bit = 1 << draw(st.integers(0, 7))
            content = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
        elif how == "cut":
            content = content[:place]
        elif how == "drop":
            content = content[:place] + content[place + draw(st.integers(1, 64)) :]
        elif how == "splice":
            other = GOOD[draw(st.sampled_from(sorted(GOOD)))]
            start = draw(st.integers(0, len(other) - 1))
            content = content[:place] + other[start : start + draw(st.integers(1, 200))]
        else:
            piece = draw(PIECES)
            over = len(piece) if how == "overwrite" else 0
            content = content[:place] + piece + content[place + over :]
    return content


@st.composite
def packed_anew(draw, kind):
    """Break one entry inside an archive whose directory stays whole, checksums included."""
    with zipfile.ZipFile(io.BytesIO(GOOD[kind])) as file:
        entries = [
            (f"a/{n.partition('/')[2]}" if kind == "pt" else n, file.read(n))
            for n in file.namelist()
        ]
    place = draw(st.integers(0, len(entries) - 1)) if draw(st.booleans()) else 0
    entries[place] = entries[place][0], draw(broken(entries[place][1]))
    return hostile.archive(entries)


@st.composite
def new_header(draw):
    """Break the text of a safetensors header and give its true length."""
    content = GOOD["safetensors"]
    (length,) = struct.unpack_from("<Q", content)
    return hostile.header(
        None, raw=draw(broken(content[8 : 8 + length])), data=content[8 + length :]
    )


class Stuck(BaseException):
    """Not an Exception, so that no reader takes it for a fault of the file."""


class Ran(BaseException):
    """The file did something."""


watched = []


def look(event, arguments):
    if watched and event in FORBIDDEN:
        raise Ran(f"{event} {arguments!r}"[:200])


@contextmanager
def watching():
    """Stop whoever hangs, and whoever does what a hostile pickle would."""

    def stop(*_):
        raise Stuck

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    watched.append(True)
    try:
        yield
    finally:
        watched.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no interval timer")
    sys.addaudithook(look)  # there is no taking it away; it sleeps outside `watching`
    return tmp_path_factory.mktemp("fuzz") / "file"


def read(path):
    """Take a file as far as `labelleak attack` takes it before the attacks."""
    update = gather_update(gradient=path)
    return update.observe(locate_head(update.tensors, name=update.head).name)


def judge(path, content):
    path.write_bytes(content)
    with watching():
        try:
            found = read(path)
        except BadInput as error:
            sentence = str(error)
            assert sentence.isprintable()
            assert 10 < len(sentence) < 900
        else:
            assert all(torch.isfinite(t).all() for t in (found.weight, found.bias) if t is not None)


quick = settings(
    max_examples=FILES,
    derandomize=FILES == 120,  # the suite is the same every time; longer runs look elsewhere
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_the_files_that_are_broken_are_good_at_first(place, kind):
    place.write_bytes(GOOD[kind])
    assert read(place).num_classes == 3
    assert read_tensors(place).tensors["n"] == 7


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_any_broken_file_is_read_or_refused_in_one_line(place, kind):
    @quick
    @given(broken(GOOD[kind]))
    def judge_all(content):
        judge(place, content)

    judge_all()


@pytest.mark.parametrize("kind", ["npz", "pt"])
def test_any_broken_entry_is_read_or_refused_in_one_line(place, kind):
    @quick
    @given(packed_anew(kind))
    def judge_all(content):
        judge(place, content)

    judge_all()


def test_any_broken_header_is_read_or_refused_in_one_line(place):
    @quick
    @given(new_header())
    def judge_all(content):
        judge(place, content)

    judge_all()


def test_the_watch_sees_what_it_should(place):
    with pytest.raises(Ran), watching():
        os.system("true")
