"""Options are declared once: every option of every command is one field of one dataclass."""

import ast
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import labelleak
from labelleak.audits.options import AuditOptions, check_options
from labelleak.cli.app import app
from labelleak.cli.commands import load_all
from labelleak.cli.options import command
from labelleak.core.training import LocalTraining, TrainingFacts
from labelleak.errors import BadInput
from labelleak.records.options import Option, Options, declared

COMMANDS = load_all()


def dataclasses_of(kind):
    for sub in kind.__subclasses__():
        yield sub
        yield from dataclasses_of(sub)


FIELDS = [
    (owner, name, option)
    for owner in (*dict.fromkeys(dataclasses_of(Options)), TrainingFacts)
    if owner.__module__.startswith("labelleak.")
    for name, _, option in declared(owner)
    if option is not None
]


def flags_of(name):
    return [p for p in COMMANDS[name].params if isinstance(p, typer.core.TyperOption)]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_is_a_field(name):
    options = [option for option in flags_of(name) if option.name != "help"]
    assert options
    flags = {f"--{(o.flag or field).replace('_', '-')}": o for _, field, o in FIELDS}
    for option in options:
        flag, *others = option.opts
        assert len(others) <= 1
        assert flag in flags
        assert not option.secondary_opts


def test_no_command_has_options_beside_its_dataclasses():
    for path in (Path(labelleak.__file__).parent / "cli").glob("*.py"):
        made = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option"
        ]
        # The number of the version is an option of no command.
        assert len(made) == (path.name in ("app.py", "options.py")), path.name


def test_what_an_option_means_is_written_once():
    declared_by_help = defaultdict(set)
    for _, _, option in FIELDS:
        declared_by_help[option.help].add(id(option))
    assert [text for text, found in declared_by_help.items() if len(found) > 1] == []


def test_an_option_of_a_grid_is_one_of_an_audit():
    audit = {option.opts[0] for option in flags_of("audit")}
    names = [name for name, _, _ in declared(AuditOptions)]
    assert {f"--{name.replace('_', '-')}" for name in names} <= audit


@dataclass(frozen=True, kw_only=True)
class Drawn(Options):
    sizes: Annotated[tuple[int, ...], Option("Samples.", min=1)] = (1, 8)
    rate: Annotated[float | None, Option("Given up with `sizes`.", above=0)] = None
    keep_all: Annotated[bool, Option("Keep all.")] = False
    kind: Annotated[str, Option("Which.", flag="sort")] = "plain"


def drawn(*words):
    seen, small = [], typer.Typer()

    @small.command()
    @command
    def draw(name: Annotated[str, typer.Argument()], asked: Drawn) -> None:
        """Draw."""
        seen.append((name, asked))
        if asked.kind == "none":
            raise BadInput("`kind` and `sizes` do not fit `name` nor `keep_all`")

    return seen, CliRunner().invoke(small, words)


def test_what_is_typed_reaches_the_dataclass():
    seen, done = drawn("one", "--sizes", "4, 2", "--rate", "0.5", "--keep-all", "--sort", "x")
    assert done.exit_code == 0, done.output
    assert seen == [("one", Drawn(sizes=(4, 2), rate=0.5, keep_all=True, kind="x"))]
    assert drawn("one")[0] == [("one", Drawn())]


def test_messages_spell_options_as_the_command_line_does():
    assert str(drawn("a", "--sizes", "0")[1].exception) == "--sizes 0: must be at least 1"
    assert str(drawn("a", "--sizes", ",")[1].exception) == "--sizes is empty; name at least one"
    said = str(drawn("a", "--sort", "none")[1].exception)
    assert said == "--sort and --sizes do not fit `name` nor --keep-all"
    assert drawn("a", "--rate", "fast")[1].exit_code == 2
    text = drawn("a", "--help")[1].output
    assert "[default: 1,8]" in text
    assert "[x>0]" in text
    assert "Given up with --sizes." in text
    assert "--no-keep-all" not in text


def test_python_and_the_command_line_refuse_in_the_same_words():
    with pytest.raises(BadInput) as caught:
        check_options(batch_sizes=[1, -4])
    typed = CliRunner().invoke(app, ["audit", "--batch-sizes", "1,-4"]).exception
    assert str(caught.value).replace("`batch_sizes`", "--batch-sizes") == str(typed)
    with pytest.raises(BadInput, match="unknown option 'batchsizes'; did you mean 'batch_sizes'"):
        labelleak.audit(batchsizes=[1])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tune"], "say what must hold by either --target-advantage or --accuracy-budget"),
        (["tune", "--target-advantage", "0.2", "--users", "0"], "--users 0: must be at least 1"),
        (["attack", "--batch-size", "0"], "--batch-size must be a whole number of at least 1, not"),
        (["attack", "--init", "xavier"], "--init needs --model"),
        (["attack", "--input-shape", "1,x"], "--input-shape takes whole numbers, not 'x'"),
        (["attack", "--save", "x.jsonl"], "--save needs --truth"),
        (["capture", "--lr", "0"], "--lr 0.0: must be above 0"),
        (["run", "x.toml", "--address", "auto"], "add --executor ray"),
        (["paper", "home", "--quick"], "'home' takes no --quick"),
        (["paper", "noise", "--model", "cnn"], "'noise' takes no --model"),
        (["watch", "x.jsonl", "--every", "0"], "--every 0.0: must be at least 0.1"),
    ],
)
def test_each_command_refuses_in_one_sentence(tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, BadInput), done.output
    assert sentence in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_every_fact_of_a_training_can_be_told_on_the_command_line():
    told = {flag.opts[0] for flag in flags_of("attack")}
    facts = [name for name, _, _ in declared(TrainingFacts)]
    assert {f"--{name.replace('_', '-')}" for name in facts} <= told
    seen = []

    def run(training: LocalTraining) -> None:
        seen.append(training)

    one = typer.Typer()
    one.command()(command(run))
    words = ["--class-weights", "1, 0.5", "--clip-norm", "inf", "--nesterov", "--dampening", "0"]
    done = CliRunner().invoke(one, words)
    assert done.exit_code == 0, done.output
    assert seen == [
        LocalTraining(
            class_weights=(1.0, 0.5), clip_norm=float("inf"), nesterov=True, dampening=0.0
        )
    ]
    for bad, said in (("1,x", "takes numbers"), ("1,0", "one a class")):
        told = CliRunner().invoke(one, ["--class-weights", bad])
        assert str(told.exception).startswith("--class-weights "), bad
        assert said in str(told.exception)
