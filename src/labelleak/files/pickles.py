"""Walk through a pickle without running it: what it names, and what it would build."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from labelleak.errors import BadInput

# What stands on the unpickler's stack, as far as its safety needs it.
_PLAIN, _FLAT, _NESTED, _DICT, _OTHER = "plain", "flat tuple", "nested tuple", "dict", "other"
_NAMED = "name "
_ORDERED = f"{_NAMED}collections OrderedDict"

_PUSHES = {
    **dict.fromkeys(("NONE", "NEWFALSE", "NEWTRUE", "BINFLOAT", "LONG1"), _PLAIN),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINUNICODE", "SHORT_BINSTRING"), _PLAIN),
    "EMPTY_TUPLE": _FLAT,
    "EMPTY_LIST": _OTHER,
    "EMPTY_DICT": _DICT,
}
# Opcodes of a byte that build an object of some hundred; torch.save needs two a tensor.
_HEAVY = frozenset(("EMPTY_LIST", "EMPTY_DICT", "REDUCE"))
_MOST_HEAVY = 2**15
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def names_called(content: bytes) -> Iterator[str]:
    """List every global that a pickle names, by disassembling it."""
    strings: list[str] = []
    for code, argument, _ in pickletools.genops(content):
        if code.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif code.name == "STACK_GLOBAL":
            yield " ".join(strings[-2:])
        elif code.name.startswith("EXT"):
            yield f"copyreg extension {argument}"
        elif isinstance(argument, str):
            strings = [*strings[-1:], argument]


def check_structure(content: bytes, where: str) -> None:
    """Refuse a pickle whose unpickling could take the process down without calling anything.

    A tuple inside a tuple, many times over, costs the interpreter its stack as soon as it is
    hashed, and one that holds another twice takes for ever (60 levels need 200 bytes). So
    nothing but plain values may be a key or stand in the tuple that names a storage; an
    OrderedDict is made empty, and only such a one is given attributes.

    Args:
        content: the pickle, in the protocol 2 that torch.save writes.
        where: the file's name, for the sentence.

    Raises:
        BadInput: naming what it would build.
        IndexError, KeyError, ValueError: if the pickle is broken.
    """
    stack = _Stack(where)
    for code, argument, _ in pickletools.genops(content):
        stack.take(code.name, argument)


class _Stack:
    """The unpickler's stack, with kinds in place of values."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._heavy = 0
        self._kinds: list[str] = []
        self._marks: list[int] = []
        self._memo: dict[int, str] = {}

    def take(self, name: str, argument: Any) -> None:
        """Do to the kinds what an opcode does to the values."""
        self._heavy += name in _HEAVY
        if self._heavy > _MOST_HEAVY:
            raise self._refusal("would build far more objects than an update has")
        if name in _PUSHES:
            self._kinds.append(_PUSHES[name])
        elif name in _TUPLES:
            self._kinds.append(_tuple_of([self._kinds.pop() for _ in range(_TUPLES[name])]))
        elif name == "GLOBAL":
            self._kinds.append(f"{_NAMED}{argument}")
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._kinds[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._kinds.append(self._memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        else:
            raise self._refusal(f"holds {name}, a pickle instruction that torch.save never writes")

    def _cut(self) -> list[str]:
        start = self._marks.pop()
        taken = self._kinds[start:]
        del self._kinds[start:]
        return taken

    def _mark(self) -> None:
        self._marks.append(len(self._kinds))

    def _tuple(self) -> None:
        self._kinds.append(_tuple_of(self._cut()))

    def _append(self) -> None:
        self._kinds.pop()

    def _append_all(self) -> None:
        self._cut()

    def _pass(self) -> None:
        """Do nothing: the opcode leaves the stack as it is."""

    def _set_item(self) -> None:
        self._kinds.pop()
        self._check_keys([self._kinds.pop()])

    def _set_items(self) -> None:
        self._check_keys(self._cut()[::2])

    def _check_keys(self, kinds: list[str]) -> None:
        if any(kind != _PLAIN for kind in kinds):
            raise self._refusal("names a tensor by something else than text")

    def _refusal(self, what: str) -> BadInput:
        return BadInput(f"{self._where} {what}; save the state dict alone")

    def _storage(self) -> None:
        if self._kinds.pop() != _FLAT:
            raise self._refusal("names a storage in a way that torch.save does not")
        self._kinds.append(_OTHER)

    def _call(self) -> None:
        given, called = self._kinds.pop(), self._kinds.pop()
        if not called.startswith(_NAMED) or (called == _ORDERED and given != _FLAT):
            raise self._refusal("builds something in a way that torch.save does not")
        self._kinds.append(_DICT if called == _ORDERED else _OTHER)

    def _build(self) -> None:
        given = self._kinds.pop()
        if (given, self._kinds[-1]) != (_DICT, _DICT):
            raise self._refusal("sets attributes of something else than a state dict")


_ACTIONS: dict[str, Callable[[_Stack], None]] = {
    "PROTO": _Stack._pass,
    "STOP": _Stack._pass,
    "MARK": _Stack._mark,
    "TUPLE": _Stack._tuple,
    "APPEND": _Stack._append,
    "APPENDS": _Stack._append_all,
    "SETITEM": _Stack._set_item,
    "SETITEMS": _Stack._set_items,
    "BINPERSID": _Stack._storage,
    "REDUCE": _Stack._call,
    "BUILD": _Stack._build,
}


def _tuple_of(kinds: list[str]) -> str:
    plain = all(kind == _PLAIN or kind.startswith(_NAMED) for kind in kinds)
    return _FLAT if plain else _NESTED
