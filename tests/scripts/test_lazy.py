"""Commands come when they are called, and the help says of each what it says of itself."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from typer.testing import CliRunner

from scripts import cli
from scripts.audit import command as audit
from scripts.gate import command as gate
from scripts.lazy import Place, lazy, load
from scripts.site import command as site

TABLES = {
    "": cli.COMMANDS,
    "audit": audit.COMMANDS,
    "gate": gate.COMMANDS,
    "gate policy": gate.POLICY,
    "site": site.COMMANDS,
}
PLACES = [
    pytest.param(name, place, id=f"{group} {name}".strip())
    for group, places in TABLES.items()
    for name, place in places.items()
]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_the_line_in_the_help_is_the_commands_own(name: str, place: Place) -> None:
    own = (load(name, place).help or "").split("\n\n")[0].replace("\n", " ")
    assert own == place.help


@pytest.mark.parametrize(
    "words", ["--help", "gate --help", "gate approvals --help", "audit --help", "site --help",
              "site status --help", "config show --help", "data --help", "runs --help"],
)  # fmt: skip
def test_help_and_the_gate_wait_for_no_training_code(words: str) -> None:
    code = (
        "import sys; sys.argv[1:] = " + repr(words.split()) + "\n"
        "try:\n    from scripts.cli import main; main()\nexcept SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert not {'torch', 'timm', 'sklearn'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def every(command: click.Command, words: str = "") -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with what is typed for each."""
    yield words, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every(inner, f"{words} {name}".strip())


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_every_argument_has_its_help(name: str, place: Place) -> None:
    for words, command in every(load(name, place), name):
        for argument in command.params:
            if isinstance(argument, click.Argument):
                assert getattr(argument, "help", None), (words, argument.name)


def test_an_optional_argument_says_what_it_is_without() -> None:
    found = CliRunner().invoke(cli.app, ["study", "watch", "--help"], env={"COLUMNS": "200"})
    assert "Run folder. Default: the latest one." in found.output


def test_a_slip_is_answered_with_what_was_meant() -> None:
    found = CliRunner().invoke(cli.app, ["predit"])
    assert found.exit_code == 2
    assert found.output.count("Did you mean 'predict'?") == 1


def test_a_group_of_functions_and_groups() -> None:
    inner = lazy("Inner.", {"runs": Place("scripts.runs", "runs", "Line.")})
    outer = lazy("Outer.", {"bench": Place("scripts.bench.command", "bench", "Bench line.")})
    told = CliRunner().invoke(outer, ["--help"]).output
    assert "Outer." in told
    assert "Bench line." in told
    assert "List runs" in CliRunner().invoke(inner, ["runs", "--help"]).output
