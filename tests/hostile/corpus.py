"""Hostile inputs for every reader of text and tensors: values, bytes and things that are no files.

A case writes one input and names the reader that meets it; which cases there are follows from
nothing but this file.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save

from files import hostile as tensors
from report.samples import make_record

ESCAPE = "\x1b[2J\x1b]0;x\x07\u202e\u2028\x00"
# As JSON, since Python could not write all of them.
VALUES = {
    "nested": "[" * 200 + "]" * 200,
    "nested without end": "[" * 200_000,
    "objects in objects": '{"a":' * 60 + "1" + "}" * 60,
    "5,000 digits": "9" * 5000,
    "39 digits": "9" * 39,
    "minus 39 digits": "-" + "9" * 39,
    "400-digit float": "9" * 400 + ".5",
    "overflow": "1e999",
    "largest float": "1.7e308",
    "tiny": "5e-324",
    "NaN": "NaN",
    "infinity": "-Infinity",
    "negative": "-5",
    "very negative": "-1e9",
    "zero": "0",
    "minus zero": "-0.0",
    "seven": "7",
    "half": "0.5",
    "null": "null",
    "true": "true",
    "false": "false",
    "empty text": '""',
    "escapes": json.dumps(ESCAPE),
    "surrogate": '"\\ud800"',
    "formula": '"$\\\\frac$ $x^$"',
    "markup": '"[bold red]</script><script>x</script>"',
    "300 letters": '"' + "W" * 300 + '"',
    "long text": '"' + "x" * 100_000 + '"',
    "list": "[]",
    "list of text": json.dumps([ESCAPE, "a"]),
    "long list": "[" + ",".join(["1"] * 30_000) + "]",
    "odd list": '[null, {}, [], true, 1e3, "x"]',
    "object": "{}",
    "odd object": '{"": null, "a": [], "llg": {}, "no_bias": "x"}',
}
_EXTRA = """
init victims mode part round clients client defended action policy chosen chosen_adaptive
attack_title privacy concerned_by defense_remarks defense_off flag_figures not_applicable
expected_asr accuracy_cost wire_bytes seconds_ratio epsilon data_fingerprint counts
presence_chances lr optimizer against kind"""
_NOTE = """
labelleak part head batch_size local_steps lr momentum weight_decay clip_norm class_weights
label_smoothing notes loss loss_scale num_samples optimiser doubtful gradient_scale"""
_POLICY = """
max_advantage max_advantage.update min_trials must_run flags flags.no_bias cells
cells.batch_sizes cells.schemes cells.per cells.clients cells.defended cells.left on_refuted"""
_GRID = "data model batch_sizes trials seed lr training_steps part quick figure title"
EXTRA, NOTE, POLICY, GRID = (words.split() for words in (_EXTRA, _NOTE, _POLICY, _GRID))
TOML = {name: text for name, text in VALUES.items() if text not in ("null", "NaN", "-Infinity")}


@dataclass(frozen=True)
class Case:
    """One input: who reads it, what it is, and how it is put at a path."""

    reader: str
    name: str
    write: Callable[[Path], object]


def records(count: int = 6) -> list[dict[str, object]]:
    """Return records that leak, so that no honest gate of 0.1 passes them."""
    return [
        json.loads(
            make_record(trial=t, initialisation=t % 3, extra={"round": 1, "client": "a"}).to_json()
        )
        for t in range(count)
    ]


def text_of(rows: list[dict[str, object]], key: str, value: str, places: set[int]) -> str:
    """Write rows with a key's value, given as JSON, in some of them."""
    lines = []
    for place, row in enumerate(rows):
        if place in places:
            kept = {name: item for name, item in row.items() if name != key}
            lines.append(json.dumps(kept)[:-1] + f", {json.dumps(key)}: {value}}}")
        else:
            lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"


def _record_cases() -> Iterator[Case]:
    rows = records()
    everywhere = set(range(len(rows)))
    for key in [*rows[0], *EXTRA, ESCAPE]:
        for name, value in VALUES.items():
            # One record alone, or all of them, in turns.
            places = everywhere if len(key + name) % 2 else {3}
            content = text_of(rows, key, value, places).encode()
            yield Case("records", f"{key!r}: {name}", lambda p, c=content: p.write_bytes(c))


def _mangled(reader: str, content: bytes, count: int, seed: int) -> Iterator[Case]:
    """Cut, flip, repeat and recode good content."""
    chance = random.Random(seed)
    fixed = {
        "empty": b"",
        "newlines": b"\n" * 100_000,
        "zeros": bytes(100_000),
        "UTF-16": content.decode("utf-8", "replace").encode("utf-16"),
        "Latin-1": content + b"\xe9\xff\n",
        "one long line": b"[" + b"1," * 200_000,
        "doubled": content + content,
        "mark and carriage returns": b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
        "glued": content[:-1] + content,
    }
    for name, changed in fixed.items():
        yield Case(reader, name, lambda p, c=changed: p.write_bytes(c))
    for number in range(count):
        start = chance.randrange(len(content))
        end = min(len(content), start + chance.randrange(1, 40))
        piece = chance.choice(
            [b"", b"\0", b"[[[[", b"\xff", b'"', b"9" * 400, content[:50], b"1e999"]
        )
        changed = content[:start] + piece + content[end:]
        yield Case(reader, f"mangled {number}", lambda p, c=changed: p.write_bytes(c))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**42)


def _odd_files(reader: str) -> Iterator[Case]:
    """Give what is no regular file, or never ends."""
    yield Case(reader, "pipe", os.mkfifo)
    yield Case(reader, "folder", Path.mkdir)
    yield Case(reader, "4 TiB", _sparse)
    yield Case(reader, "hanging link", lambda p: p.symlink_to("nowhere"))
    yield Case(reader, "link to itself", lambda p: p.symlink_to(p.name))
    for device in ("/dev/zero", "/dev/null", "/dev/tty", "/proc/kmsg", "/proc/self/mem"):
        yield Case(reader, device, lambda p, d=device: p.symlink_to(d))


def toml_of(key: str, value: str) -> str:
    """Write a TOML document with a dotted key's value."""
    *tables, last = key.split(".")
    head = f"[{'.'.join(tables)}]\n" if tables else ""
    return f"{head}{last} = {value}\n"


def _toml_cases() -> Iterator[Case]:
    for reader, keys in (("policy", POLICY), ("grid", GRID)):
        for key in keys:
            for name, value in TOML.items():
                text = toml_of(key, value)
                yield Case(reader, f"{key}: {name}", lambda p, t=text: p.write_text(t, "utf-8"))
        deep = "a." * 100_000 + "b = 1\n"
        yield Case(reader, "dotted key", lambda p, t=deep: p.write_text(t))
        many = "".join(f"{'a.' * 200}b{n} = 1\n" for n in range(500))
        yield Case(reader, "dotted keys", lambda p, t=many: p.write_text(t))


def _note_cases() -> Iterator[Case]:
    import numpy as np

    update = {"fc.weight": np.ones((3, 4), np.float32), "fc.bias": np.ones(3, np.float32)}
    good = {"part": "gradient", "batch_size": 8, "local_steps": 2, "lr": 0.1, "head": "fc"}

    def noted(text: str) -> bytes:
        return save(update, metadata={"labelleak": text})

    for key in NOTE:
        for name, value in VALUES.items():
            rest = {k: v for k, v in good.items() if k != key}
            text = json.dumps(rest)[:-1] + f", {json.dumps(key)}: {value}}}"
            yield Case("note", f"{key}: {name}", lambda p, t=text: p.write_bytes(noted(t)))


def _mark_cases() -> Iterator[Case]:
    for key in ("asked", "done", "held", "found", "found_digest"):
        for name, value in VALUES.items():
            good = {"asked": {"a": 1}, "done": [], "held": [], "found": {}}
            good.pop(key, None)
            text = json.dumps(good)[:-1] + f', "{key}": {value}}}'
            yield Case("mark", f"{key}: {name}", lambda p, t=text: p.write_text(t))


def evidence() -> dict[str, object]:
    """Return evidence of good records, but for their digest."""
    from labelleak.records.record import Record
    from labelleak.report.evidence import make_evidence, to_text

    rows = [Record.from_json(json.dumps(row)) for row in records()]
    made = make_evidence(rows, Path(__file__), when="2026-11-28")
    return dict(json.loads(to_text(made)))


def _evidence_cases() -> Iterator[Case]:
    good = evidence()
    for key in (*good, "odd"):
        rest = json.dumps({k: v for k, v in good.items() if k != key})[:-1]
        for name, value in VALUES.items():
            for kind, form in (("", "{}"), (" in a list", "[{}]"), (" in words", '{{"word": {}}}')):
                text = f'{rest}, "{key}": {form.format(value)}}}'
                yield Case("evidence", f"{key}: {name}{kind}", lambda p, t=text: p.write_text(t))


def _truth_cases() -> Iterator[Case]:
    for form in ("{}", '{{"labels": {}}}', '{{"counts": {}}}', "[{}, 1, 2]", '{{"labels": [{}]}}'):
        for name, value in VALUES.items():
            text = form.format(value)
            yield Case("truth", f"{form}: {name}", lambda p, t=text: p.write_text(t))


def _prior_cases() -> Iterator[Case]:
    for form in ("{}", '{{"frequencies": {}}}', "[{}, 1, 2]", '{{"frequencies": [1, {}, 2]}}'):
        for name, value in VALUES.items():
            text = form.format(value)
            yield Case("prior", f"{form}: {name}", lambda p, t=text: p.write_text(t))


def _table_cases() -> Iterator[Case]:
    """Write tables of numbers, of labels and of images with odd names and cells."""
    for form in ("x,label\n{0},1\n1,0\n", "x,label\n1,{0}\n2,1\n", "x,label:a\n1,{0}\n2,1\n",
                 "path,a\n{0},1\n", "{0},label\n1,1\n2,0\n", "x,label:{0}\n1,1\n"):  # fmt: skip
        for name, value in {**VALUES, "up": "../x.png", "root": "/etc/passwd", "NUL": "\0"}.items():
            quoted = value if "," not in value else '"' + value.replace('"', '""') + '"'
            rows = form.format(quoted)
            for more, times in (("", 1), (" often", 30)):
                head, *rest = rows.split("\n")
                text = "\n".join([head, *rest * times])
                yield Case("table", f"{form!r}: {name}{more}", lambda p, t=text: p.write_text(t))
    wide = ",".join(f"c{n}" for n in range(5000)) + ",label\n" + "1," * 5000 + "1\n"
    yield Case("table", "wide", lambda p: p.write_text(wide))
    classes = "x,label\n" + "".join(f"1,{n}\n" for n in range(200_000))
    yield Case("table", "many classes", lambda p: p.write_text(classes))


def _tensor_cases() -> Iterator[Case]:
    for reader in ("tensors", "weights", "data"):
        for name in tensors.FILES:
            yield Case(reader, name, lambda p, n=name: tensors.write(n, p))


def _data_cases() -> Iterator[Case]:
    """Alter the arrays of a data set: shapes, kinds, labels; or pack what unpacks to much."""
    import numpy as np

    x, y = np.ones((8, 4), np.float32), np.arange(8) % 2
    good = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    odd = {
        "none": np.zeros(0), "scalar": np.float32(1), "text": np.array(["a\x1b[2J"] * 8),
        "objects": np.array([{}] * 8, object), "NaN": np.full((8, 4), np.nan, np.float32),
        "complex": np.ones((8, 4), complex), "dates": np.zeros(8, "M8[s]"),
        "negative": -np.arange(8), "huge": np.full(8, 2**62), "halves": np.full(8, 0.5),
        "short": np.ones(3), "long": np.ones((9, 9, 9, 9)), "records": np.zeros(8, "f4,i4"),
        "one class": np.zeros(8, int), "infinite": np.full((8, 4), np.inf),
    }  # fmt: skip
    for key in (*good, "class_names"):
        for name, value in odd.items():
            arrays = {**good, key: value}
            yield Case("data", f"{key}: {name}", lambda p, a=arrays: _save_npz(p, a))
    bomb = {**good, "x_train": np.zeros((2**20, 128), np.bool_)}  # 512 MiB as float32
    yield Case("data", "bomb", lambda p: _save_npz(p, bomb, packed=True))


def _save_npz(path: Path, arrays: dict[str, object], packed: bool = False) -> None:
    import numpy as np

    with path.open("wb") as file:
        (np.savez_compressed if packed else np.savez)(file, **arrays)


def cases() -> list[Case]:
    """Return the whole corpus."""
    lines = "".join(json.dumps(row) + "\n" for row in records()).encode()
    policy = b"min_trials = 2\n[max_advantage]\nupdate = 0.1\n"
    found = [*_record_cases(), *_toml_cases(), *_note_cases(), *_mark_cases(), *_truth_cases()]
    found += [*_tensor_cases(), *_data_cases(), *_evidence_cases()]
    found += [*_prior_cases(), *_table_cases()]
    whole = {"records": lines, "watch": lines, "policy": policy, "truth": b"[0, 1, 2]"}
    whole |= {"prior": b"[1, 2, 3]", "table": b"x,label\n" + b"1,0\n2,1\n" * 20}
    whole["evidence"] = json.dumps(evidence()).encode()
    for seed, (reader, content) in enumerate(whole.items()):
        found += _mangled(reader, content, 60, seed)
    for reader in dict.fromkeys(case.reader for case in found if case.reader != "tensors"):
        found += _odd_files(reader)
    return found
