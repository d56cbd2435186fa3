"""Why something failed: one class of failure and one sentence; for labels, from what a code left behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TAIL_LINES = 3
TAIL_BYTES = 20_000
REFUSES = "I REFUSE TO CONTINUE"
"""How VASP's errors end."""
MOST_SAID = 400
"""Letters of what a code printed that a failure repeats."""

FailureKind = Literal[
    "setup", "settings", "licence",
    "timeout", "killed", "crashed", "memory", "disk", "calculator",
    "incomplete", "contradiction", "not converged", "not finite", "moved", "net force", "magnetic state", "implausible",
    "busy", "storage", "input", "unexpected", "lost", "unstable",
]  # fmt: skip
"""Classes of failure.

Of a reference's setup: 'setup' (calculator unknown, not installed, bad parameters), 'settings' (other settings,
pseudopotentials or version than the campaign's first label), 'licence'. Of its run: 'timeout', 'killed' (from outside),
'crashed' (by itself), 'memory', 'disk', 'calculator' (it raised or printed an error). Of its output: 'incomplete',
'contradiction' (two of its files differ), 'not converged', 'not finite', 'moved' (positions, cell or species differ
from those sent), 'net force', 'magnetic state', 'implausible'. Of any task: 'busy' (another process holds the label for
too long), 'storage' (a file cannot be read or written), 'input' (a value that cannot be used), 'unexpected' (a defect
of dynft), 'lost' (nobody answered). Of a campaign: 'unstable' (walkers explode or leave the crystal).
"""


@dataclass(frozen=True)
class Failure:
    """Why something failed; the sentence is for people, what follows from a failure follows from its class."""

    kind: FailureKind
    sentence: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.sentence}"


class LabelError(Exception):
    """A label failed. Survives pickling."""

    def __init__(self, kind: FailureKind, sentence: str) -> None:
        super().__init__(kind, sentence)
        self.failure = Failure(kind, " ".join(sentence.split())[:600])

    def __str__(self) -> str:
        return str(self.failure)


Message = tuple[FailureKind, str, str]
"""Class of failure, pattern of what a code prints, what it means."""

Kinds = frozenset[FailureKind]
STORAGE: Kinds = frozenset({"storage", "disk"})
"""Of files and disks, which the next try may not meet: a file system that was away, a full disk."""
SETUP: Kinds = STORAGE | {"setup", "settings", "licence"}
"""What the next label will meet, too, until somebody mends the cause."""
NOT_RETRIED: Kinds = SETUP | {"busy", "timeout", "memory"}
"""What other settings of the self-consistency cycle cannot mend."""
REFUSED: Kinds = frozenset({"not converged", "not finite", "moved", "net force"})
"""Of a calculation that ended, with a result that is no label."""
MENDABLE: Kinds = SETUP | {"input", "implausible"}
"""What the user can change, as an `InputError`; 'implausible' because of references in other units."""

_SRUN = (
    "Unable to (?:create step|allocate resources|confirm allocation)", "Invalid ", "Unrecognized ",
    "Application launch failed", "Task launch for .* failed", "Requested node", "Job request",
)  # fmt: skip
_MPI = (
    "There are not enough slots available", r"It looks like (?:orte|opal|pmix|prte|MPI)_\w*(?i:init)\w* failed",
    r"The application appears to have been direct launched using \"srun\"", "No components were able to be opened",
)  # fmt: skip

LAUNCHER: tuple[Message, ...] = (
    ("setup", r"^(mpi(?:run|exec) has detected an attempt to run as root)", "the launcher refused to start"),
    ("setup", r"^srun: fatal: (.+)", "srun refused to start"),
    ("setup", rf"^srun: error: ((?:{'|'.join(_SRUN)}).*)", "srun refused to start"),
    ("setup", r"^srun: ((?:unrecognized|invalid) option.*)", "srun refused to start"),
    ("setup", r"^\[?(?:mpi|prte)\w+.*?(un(?:recognized|known) (?:argument|option).*)", "MPI did not start"),
    ("setup", rf"^((?:{'|'.join(_MPI)})[^\n]*(?:\n[^\n]+)*)", "MPI did not start"),
)
"""What srun and MPI's launchers print when they start nothing, as they will for the next label: the first sentence."""

_MESSAGES: tuple[tuple[FailureKind, str], ...] = (
    ("memory", r"out of memory|oom[-_ ]?kill|cannot allocate memory|bad_alloc|MemoryError|insufficient virtual memory"),
    ("disk", r"no space left on device|disk quota exceeded|Errno 28\b|Errno 122\b"),
    ("licence", r"licen[sc]e.{0,60}(?:expired|fail|denied|error|invalid|not found|unable|cannot)|not licen[sc]ed"),
    ("setup", r"command not found|: not found\b|exec format error|error while loading shared libraries"),
    ("setup", r"\bexecv\w*(?:\(\):| error)|unable to (?:find|launch|run) the specified|module\(s\) are unknown"),
    ("killed", r"due to time limit|slurmstepd: error: .*cancelled|\bterminated by signal|killed by signal|^Killed\b"),
    ("crashed", r"segmentation fault|SIGSEGV|SIGBUS|SIGFPE|SIGABRT|core dumped|MPI_ABORT"),
)
"""What programs and the system print, by class of failure; the first that is found names the failure."""

_SIGNALS = {6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
_ENDED_FROM_OUTSIDE = {9, 15}


def classified(texts: list[str], exit_code: int | None = None) -> FailureKind | None:
    """The class of failure that the printed `texts`, or else the exit code, tell; None when they tell nothing."""
    text = "\n".join(texts)
    for kind, pattern in _MESSAGES:
        if re.search(pattern, text, re.IGNORECASE | re.MULTILINE):
            return kind
    number = signal_number(exit_code)
    if number:
        return "killed" if number in _ENDED_FROM_OUTSIDE else "crashed"
    return None


def named(texts: list[str], messages: tuple[Message, ...]) -> LabelError | None:
    """The failure that a code's own messages tell, or its launcher's, with the pattern's group or its line.

    What stands in boxes is read as one line (see `unboxed`). None when there is no failure.
    """
    plain = [unboxed(text) for text in texts]
    for kind, pattern, meaning in (*messages, *LAUNCHER):
        for text in plain:
            found = re.search(pattern, text, re.MULTILINE)
            if found:
                line = text[text.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0].strip()
                said = " ".join((found[1] if found.lastindex else line).split())
                return LabelError(kind, f"{meaning}: {said[:MOST_SAID]}")
    return None


def unboxed(text: str) -> str:
    """Text in which each box of VASP is one line: its kind, 'ERROR: ' or 'WARNING: ' or …, and its first paragraph.

    A box is of lines between bars: a title in letters made of letters, paragraphs, and in VASP's errors I REFUSE ….
    """
    return _BOX.sub(lambda box: _first_paragraph(box[0]), text)


_BOX = re.compile(r"(?:^ *\|.*$\n?)+", re.MULTILINE)
_TITLES = {"E": "ERROR: ", "W": "WARNING: ", "A": "ADVICE: ", "B": "BUG: "}
"""By the first letter of the title."""


def _first_paragraph(box: str) -> str:
    lines = "\n".join(line.strip().strip("|").strip() for line in box.splitlines())
    parts = [" ".join(part.split()) for part in re.split(r"\n{2,}", lines.strip())]
    said = next((part for part in parts if re.search(r"[a-z]{2}", part)), "")
    kind = _TITLES.get(parts[0][:1], "") if parts[0] != said else ""
    return f"{_TITLES['E'] if REFUSES in box else kind}{said or ' '.join(parts)}\n"


def signal_number(exit_code: int | None) -> int:
    """The signal that ended a process; 0: none. A shell tells its child's death by 128 + signal."""
    if exit_code is None:
        return 0
    if exit_code < 0:
        return -exit_code
    return exit_code - 128 if exit_code - 128 in _SIGNALS else 0


def how_it_ended(exit_code: int) -> str:
    """'exit code 3' or 'signal 11, SIGSEGV'."""
    number = signal_number(exit_code)
    return f"signal {number}, {_SIGNALS.get(number, 'unknown')}" if number else f"exit code {exit_code}"


_NAMES_AN_ERROR = re.compile(r"\b(?:error|fatal|severe|failed|cannot|illegal)\b", re.IGNORECASE)


def tail(path: Path) -> str:
    """The line at the end of a text file that first names an error, else its last lines; "" when there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    cause = next((line for line in lines if _NAMES_AN_ERROR.search(line)), "")
    return cause[:300] or " | ".join([line for line in lines if line][-TAIL_LINES:])[-300:]
