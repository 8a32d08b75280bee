"""Texts as sequences of tokens: .txt, .jsonl and .npz files, by words or by a tokenizer's file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from labelleak.errors import BadInput, shown_path
from labelleak.simulation.data.npz import read_arrays
from labelleak.simulation.data.parts import TEST_SHARE, Parts, check_size, present_file
from labelleak.simulation.data.text_form import MADE_UP, TextForm

UNKNOWN, END = "[UNK]", "[EOS]"
BY_WORDS, AS_GIVEN = "words", "token ids as given"
# Bytes of a file of texts that are read.
MAX_BYTES = 2**28
MOST_TOKENS = 1_000_000
_ENDS = (END, "<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>")
_WORDS = re.compile(r"\w+|[^\w\s]")

Encode = Callable[[Sequence[str]], list[list[int]]]


def read_texts(path: str, form: TextForm, names: Sequence[str] | None = None) -> Parts:
    """Read texts as rows of token ids, with the token that comes next as the label of each.

    Texts are shuffled once and put one after the other, an end token after each, and cut into
    rows (as Hugging Face's ``group_texts`` does, and packing), so that every position has a label.
    Rows of token ids that are there already stay as they are.

    Args:
        path: ``.txt`` (a text a line), ``.jsonl`` (objects with "text"), or ``.npz`` with x_train
            and, if you like, x_test: strings, or whole numbers ``texts x length``.
        form: how.
        names: the tokens of a vocabulary that was made before, in place of a new one.

    Raises:
        BadInput: if it cannot be read, or holds less than ten rows.
    """
    file = Path(path)
    train: list[str] | np.ndarray
    test: list[str] | np.ndarray | None
    if path == MADE_UP:
        train, test = _made_up(), None
    elif present_file(path).suffix.lower() == ".npz":
        train, test = _read_npz(file)
    else:
        train, test = _read_lines(file), None
    if test is None:
        train, test = _split(train)
    if not isinstance(train, list):
        return _given_ids(train, test, file)
    assert isinstance(test, list)
    encode, tokens, how = _encoder(form, [*train, *test], names)
    rows = [_pack(encode(part), tokens, form.length, file) for part in (train, test)]
    return _as_parts(rows[0], rows[1], tokens, how)


def _as_parts(train: np.ndarray, test: np.ndarray, names: Sequence[str], how: str) -> Parts:
    (x, y), (x_test, y_test) = ((rows[:, :-1], rows[:, 1:]) for rows in (train, test))
    x, y, x_test, y_test = (np.ascontiguousarray(one) for one in (x, y, x_test, y_test))
    return Parts(x, y, x_test, y_test, tuple(names), how)


def _read_npz(file: Path) -> tuple[list[str] | np.ndarray, list[str] | np.ndarray | None]:
    arrays = read_arrays(file, ("x_train",), ("x_test",))
    train, test = arrays["x_train"], arrays.get("x_test")
    kinds = {"text" if one.dtype.kind == "U" else one.dtype.kind for one in arrays.values()}
    if kinds == {"text"} and all(one.ndim == 1 for one in arrays.values()):
        rng = np.random.default_rng(0)
        train = train[rng.permutation(len(train))]
        return [str(one) for one in train], None if test is None else [str(one) for one in test]
    if not kinds <= {"i", "u"} or any(one.ndim != 2 for one in arrays.values()):
        raise BadInput(
            f"x_train of {shown_path(file)} must hold strings, or token ids as whole numbers, "
            f"texts x length; it is {train.dtype} of shape {train.shape}"
        )
    return train, test


def _read_lines(file: Path) -> list[str]:
    if file.stat().st_size > MAX_BYTES:
        raise BadInput(f"{shown_path(file)} has more than {MAX_BYTES // 2**20} MiB of text")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{shown_path(file)} cannot be read as UTF-8 text") from error
    lines = [line for line in lines if line.strip()]
    if file.suffix.lower() == ".jsonl":
        lines = [_text_of(line, number, file) for number, line in enumerate(lines, start=1)]
    order = np.random.default_rng(0).permutation(len(lines))
    return [lines[place] for place in order]


def _made_up() -> list[str]:
    """Write sentences of words that are Zipfian, where a word is often followed by its own few."""
    rng, words = np.random.default_rng(0), 20_000
    often = 1 / (2.7 + np.arange(words))
    drawn = rng.choice(words, (9000, 30), p=often / often.sum())
    followed = rng.random(drawn.shape) < 0.5
    turn = rng.integers(4, size=drawn.shape)
    for place in range(1, drawn.shape[1]):
        after = (drawn[:, place - 1] * 31 + 7 * turn[:, place]) % 4000
        drawn[:, place] = np.where(followed[:, place], after, drawn[:, place])
    return [" ".join(f"w{word}" for word in row) for row in drawn]


def _text_of(line: str, number: int, file: Path) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise BadInput(f'line {number} of {shown_path(file)} is no object with a "text"')
    return text


def _split(whole: list[str] | np.ndarray) -> tuple[list[str] | np.ndarray, list[str] | np.ndarray]:
    kept = len(whole) - round(TEST_SHARE * len(whole))
    return whole[:kept], whole[kept:]


def _given_ids(train: np.ndarray, test: object, file: Path) -> Parts:
    assert isinstance(test, np.ndarray)
    least, most = (int(fold(fold(train), fold(test))) for fold in (_least, _most))
    if least < 0 or most >= MOST_TOKENS or train.shape[1] < 2 or test.shape[1] != train.shape[1]:
        raise BadInput(
            f"{shown_path(file)} must hold rows of one length, at least 2, of token ids from 0 to "
            f"{MOST_TOKENS - 1}"
        )
    rows = [part.astype(np.int64) for part in (train, test)]
    rows[0] = rows[0][np.random.default_rng(0).permutation(len(train))]
    _enough(len(train), file)
    return _as_parts(rows[0], rows[1], [str(k) for k in range(most + 1)], AS_GIVEN)


def _least(*parts: np.ndarray | int) -> int:
    return min(int(np.min(one)) if np.size(one) else 0 for one in parts)


def _most(*parts: np.ndarray | int) -> int:
    return max(int(np.max(one)) if np.size(one) else 0 for one in parts)


def _encoder(
    form: TextForm, texts: Sequence[str], names: Sequence[str] | None
) -> tuple[Encode, Sequence[str], str]:
    """Return what turns texts into token ids, the tokens, and how in words."""
    if form.tokenizer is not None:
        encode, tokens = _load_tokenizer(Path(form.tokenizer))
        return encode, tokens, Path(form.tokenizer).name
    words = _common_words(texts, form.vocabulary) if names is None else list(names)
    return (
        partial(_encode_words, {word: place for place, word in enumerate(words)}),
        words,
        BY_WORDS,
    )


def _common_words(texts: Iterable[str], most: int) -> list[str]:
    seen = Counter(word for text in texts for word in _WORDS.findall(text))
    return [UNKNOWN, END, *(word for word, _ in seen.most_common(most - 2))]


def _encode_words(places: dict[str, int], texts: Sequence[str]) -> list[list[int]]:
    return [[places.get(word, 0) for word in _WORDS.findall(text)] for text in texts]


def _load_tokenizer(file: Path) -> tuple[Encode, list[str]]:
    try:
        Tokenizer = import_module("tokenizers").Tokenizer  # noqa: N806
    except ImportError:
        raise BadInput('a tokenizer needs more: pip install "labelleak[text]"') from None
    present_file(file)
    try:
        found = Tokenizer.from_file(str(file))
        pairs = found.get_vocab(with_added_tokens=True)
    except Exception as error:  # its parser raises Exception itself
        raise BadInput(f"{shown_path(file)} is no tokenizer.json") from error
    size = max(pairs.values(), default=-1) + 1
    if not 2 <= size <= MOST_TOKENS:
        raise BadInput(f"{shown_path(file)} has {size} tokens; 2 to {MOST_TOKENS} are read")
    names = [""] * size
    for name, place in pairs.items():
        names[place] = name

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [one.ids for one in found.encode_batch(list(texts), add_special_tokens=False)]

    return encode, names


def _pack(texts: list[list[int]], names: Sequence[str], length: int, file: Path) -> np.ndarray:
    """Put texts one after the other, with an end after each where there is one, and cut them."""
    end = next((names.index(one) for one in _ENDS if one in names), None)
    between = [] if end is None else [end]
    stream = np.array([token for text in texts for token in (*text, *between)], dtype=np.int64)
    rows = len(stream) // (length + 1)
    check_size(2 * rows * (length + 1), shown_path(file))
    _enough(rows, file)
    return stream[: rows * (length + 1)].reshape(rows, length + 1)


def _enough(rows: int, file: Path) -> None:
    if rows < 2:
        raise BadInput(
            f"{shown_path(file)} holds too little text: {rows} rows in one part; give more, or a "
            "smaller `sequence_length`"
        )


__all__ = ["read_texts"]
