"""How every command ends: its exit code, and one line on stderr when something is wrong."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable

import typer
from typer.exceptions import TyperException

from dynft_core.errors import DynftError, InputError, about_file


def exit_code(command: Callable[[], int | None], help_command: str) -> int:
    """Run a command; returns the exit code.

    0 success, 1 failure, 2 what the user can mend (input, files, a full disk), 130 interrupted, 141 the reader of the
    output went away. Errors that dynft raises on purpose, and those of files, are one line on stderr; anything else is
    a bug and keeps its traceback. `help_command`: what an error of the arguments points to.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without β or Å shall not end a campaign
            stream.reconfigure(errors="replace")
    try:
        code = command()
        sys.stdout.flush()  # or the interpreter would fail to, at its end
        return int(code or 0)
    except TyperException as error:
        message = error.format_message().replace("Value error, ", "")  # pydantic's, which says nothing
        return _refuse(f"{message} See: {help_command}", error.exit_code)
    except InputError as error:
        return _refuse(str(error), 2)
    except DynftError as error:
        return _refuse(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _refuse("interrupted", 130)
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer's way to end then
            return _reader_gone()
        raise
    except OSError as error:
        return _refuse(about_file(error), 2)


def _reader_gone() -> int:
    """The reader of our output (head, less) has seen enough; closing stdout at exit must not fail a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _refuse(message: str, code: int) -> int:
    print(f"dynft: {' '.join(message.split())}", file=sys.stderr)
    return code
