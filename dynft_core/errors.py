"""The exception tree. Every error names the argument, what was expected, what came and the remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import TracebackType


class DynftError(Exception):
    """Base of every error that dynft raises on purpose; its text is one line for the user."""


class InputError(DynftError):
    """A value that the user gave cannot be used.

    Survives pickling, so that a worker can send it to the driver.
    """

    def __init__(self, argument: str, expected: str, got: str, remedy: str) -> None:
        super().__init__(argument, expected, got, remedy)
        self.argument = argument
        self.expected = expected
        self.got = got
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.argument}: expected {self.expected}, got {self.got}; {self.remedy}"


class CombinedInputError(InputError):
    """Several values that cannot be used, found together; its text has a line for each."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        first = errors[0]
        super().__init__(first.argument, first.expected, first.got, first.remedy)
        self.args = (tuple(errors),)  # what pickle makes it anew from
        self.errors = tuple(errors)

    def __str__(self) -> str:
        lines = [f"({i}) {error}" for i, error in enumerate(self.errors, start=1)]
        return "\n".join([f"{len(lines)} things to mend", *lines])


class Problems:
    """What is wrong with some input, gathered check by check: `with problems:` around each, then `refuse()`."""

    def __init__(self) -> None:
        self._found: list[InputError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if isinstance(error, InputError):
            self._found += error.errors if isinstance(error, CombinedInputError) else (error,)
        return isinstance(error, InputError)

    def refuse(self) -> None:
        """Raise all that was found, if anything was.

        Raises:
            InputError: the only one found, or `CombinedInputError`.
        """
        if self._found:
            raise self._found[0] if len(self._found) == 1 else CombinedInputError(self._found)


def nearest(name: str, known: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """A remedy for a misspelt name: the known one that it resembles, whatever its case, if there is one."""
    by_lower = {k.lower(): k for k in sorted(known)}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return f"did you mean '{by_lower[near[0]]}'?" if near else otherwise


class FileFormatError(InputError):
    """A file is not what it should be: missing, truncated, of another kind or of a newer format."""


class StructureError(InputError):
    """A structure does not belong to the crystal: no supercell, other species, displaced too far."""


class RunFolderError(InputError):
    """A run folder cannot be used: another campaign's, not writable, or in use by a running driver."""


class CampaignFailedError(DynftError):
    """A campaign cannot go on (for example every label fails); the text says why."""


def about_file(error: OSError) -> str:
    """A file, folder or disk that does not do what is wanted of it, in a line like those of `InputError`."""
    name = f"'{error.filename}'" if error.filename else "the output"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room, or write elsewhere" if full else "check path and permissions, or choose another"
    got = os.strerror(error.errno) if error.errno else str(error)  # libraries have long words of their own
    return f"{name}: expected a file or folder to read and write, got {got}; {remedy}"


def in_words(error: Exception) -> str:
    """What a library's exception means, for a sentence about a file: 'KeyError: 'D'' tells nobody anything."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        return f"{text}, which is unknown or missing"
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are no text"
    if isinstance(error, EOFError | StopIteration | IndexError):
        return "an end before all is told, or a line that is too short"
    if isinstance(error, AttributeError | AssertionError | NotImplementedError) or not text:
        return "something unexpected" + (f" ({text})" if text else "")
    return text
