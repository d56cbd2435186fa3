"""One rank of a fit: `LAUNCHER python -m dynft_core.tasks.mpi_rank`, as `dynft_core.tasks.mpi_launch` starts it."""

from __future__ import annotations

import pickle
import sys

from dynft_core.errors import DynftError
from dynft_core.regression.mpi import Ranks
from dynft_core.tasks.jobs import FitJob, FitOutcome
from dynft_core.tasks.mpi_launch import answer_line
from dynft_core.tasks.tasks import explained, fit_as_rank


def main() -> None:
    """Take part in the fit; the first rank tells the outcome. A rank that fails alone ends the others with it."""
    ranks = Ranks.world()
    sent: FitJob | None = pickle.load(sys.stdin.buffer) if ranks.first else None
    job = ranks.broadcast(sent)
    assert job is not None
    try:
        outcome = fit_as_rank(job, ranks)
    except (DynftError, OSError) as error:
        failure = explained(error)
        if not ranks.first:
            raise SystemExit(failure.sentence) from error
        outcome = FitOutcome(False, job.version, failure=failure)
    if ranks.first:
        sys.stdout.buffer.write(answer_line(outcome))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
