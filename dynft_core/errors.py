"""The exception tree. Every error names the argument, what was expected, what came and the remedy."""

from __future__ import annotations

import errno
import os


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


class FileFormatError(InputError):
    """A file is not what it should be: missing, truncated, of another kind or of a newer format."""


class StructureError(InputError):
    """A structure does not belong to the crystal: no supercell, other species, displaced too far."""


class RunFolderError(InputError):
    """A run folder cannot be used: another campaign's, not writable, or in use by a running driver."""


class CampaignFailedError(DynftError):
    """A campaign cannot go on (for example every label fails); the text says why."""


FILES = "files: "
"""How a task's error begins that is one of files or disk: what the user can mend, as `InputError`."""


def about_file(error: OSError) -> str:
    """A file, folder or disk that does not do what is wanted of it, in a line like those of `InputError`."""
    name = f"'{error.filename}'" if error.filename else "the output"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room, or write elsewhere" if full else "check path and permissions, or choose another"
    got = os.strerror(error.errno) if error.errno else str(error)  # libraries have long words of their own
    return f"{name}: expected a file or folder to read and write, got {got}; {remedy}"
