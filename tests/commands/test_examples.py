"""The example of every command is one that it takes."""

from __future__ import annotations

import shlex

import pytest
import typer

from workflows.commands.app import app, main
from workflows.commands.examples import EXAMPLES, FIRST_STEPS

COMMAND = typer.main.get_command(app)


def parsed(arguments: list[str]) -> str:
    """The command that takes these arguments; nothing runs."""
    command, names = COMMAND, list[str]()
    while hasattr(command, "commands"):
        names.append(arguments[0])
        command, arguments = command.commands[arguments[0]], arguments[1:]
    with command.make_context(" ".join(names), list(arguments)) as context:
        assert not context.args
    return " ".join(names)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_taken_and_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(EXAMPLES[name])
    assert program == "dynft" and parsed(arguments) == name
    assert main([*name.split(), "--help"]) == 0
    assert " ".join(capsys.readouterr().out.replace("│", " ").split()).count(f"Example: {EXAMPLES[name]}") == 1


def test_alone_it_shows_commands_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == FIRST_STEPS + "\n"
    lines = [line[2:].split("  ")[0] for line in FIRST_STEPS.splitlines() if line.startswith("  dynft ")]
    assert len(lines) == 6
    for line in lines:
        parsed(shlex.split(line)[1:])
