"""The exception tree. Every error names the argument, what was expected, what came and the remedy."""

from __future__ import annotations


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
