"""Files and functions stay small enough to be read at once; code is counted without its prose."""

import ast
import io
import statistics
import tokenize
from functools import cache
from pathlib import Path

import pytest

import labelleak

SOURCE = Path(labelleak.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
PROSE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def lines_of(path):
    """Return the numbers of the lines that hold code: no docstring, comment or blank line."""
    text = path.read_text(encoding="utf-8")
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in PROSE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


@cache
def functions_of(path):
    """Return the lines of code of each function of a file, by name."""
    lines = lines_of(path)
    return [
        (node.name, sum(node.lineno <= line <= node.end_lineno for line in lines))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, FUNCTIONS)
    ]


def test_prose_does_not_count(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(
        '"""Prose."""\n\n\ndef f():\n    """More."""\n    # why\n    return (\n        1\n    )\n'
    )
    assert lines_of(path) == {4, 7, 8, 9}
    assert functions_of(path) == [("f", 4)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_and_no_function_outgrows_its_reader(path):
    assert len(lines_of(path)) <= 250
    assert [(name, size) for name, size in functions_of(path) if size > 50] == []


def test_half_of_the_functions_have_at_most_eight_lines():
    sizes = [size for path in FILES for _, size in functions_of(path)]
    assert statistics.median(sizes) <= 8
