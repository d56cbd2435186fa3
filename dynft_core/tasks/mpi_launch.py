"""A fit over MPI ranks: a worker starts them with its site's launcher and waits for the outcome of the first."""

from __future__ import annotations

import base64
import pickle
import shlex
import subprocess
import sys

from dynft_core.reference.failures import Failure
from dynft_core.tasks.jobs import FitJob, FitOutcome

LAUNCHER = "DYNFT_MPI_LAUNCHER"
"""Environment variable of a worker: the words before a program that start it on the ranks of the worker's block."""
ANSWER = b"dynft-outcome "
"""Begins the line on the first rank's standard output that holds the outcome."""


def fit_over_ranks(job: FitJob, launcher: str) -> FitOutcome:
    """The fit of `job` by the processes that the words `launcher` start.

    Job and outcome go through the standard input and output of the first rank, pipes between processes of one user in
    one block, not through files that somebody else could write.
    """
    command = [*shlex.split(launcher), sys.executable, "-m", "dynft_core.tasks.mpi_rank"]
    done = subprocess.run(command, input=pickle.dumps(job), capture_output=True)
    answers = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if not answers:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())[-400:]
        why = f"'{shlex.join(command)}' ended with {done.returncode}: {said}"
        return FitOutcome(False, job.version, failure=Failure("crashed", why))
    outcome: FitOutcome = pickle.loads(base64.b64decode(answers[-1].removeprefix(ANSWER)))
    return outcome


def answer_line(outcome: FitOutcome) -> bytes:
    """The line that `fit_over_ranks` waits for."""
    return ANSWER + base64.b64encode(pickle.dumps(outcome)) + b"\n"
