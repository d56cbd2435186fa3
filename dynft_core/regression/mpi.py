"""Statistics summed over the processes of an MPI run. The only door to mpi4py, opened when there are several."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.regression.statistics import Statistics

T = TypeVar("T")

_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
"""Where the mpiexec of MPICH and Intel MPI, Open MPI and MVAPICH says how many processes it started."""


@dataclass(frozen=True)
class Ranks:
    """The processes that share a fit; `Ranks()` is this one alone.

    Attributes:
        rank, size: which one this is, of how many.
        communicator: mpi4py's, or None for one process.
    """

    rank: int = 0
    size: int = 1
    communicator: Any = None

    @classmethod
    def world(cls) -> Ranks:
        """All processes that mpiexec started; one where there was no mpiexec, and then mpi4py is not needed.

        Raises:
            InputError: several processes, but no working mpi4py.
        """
        if all(int(os.environ.get(name, "1")) == 1 for name in _SIZES):
            return cls()
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, an MPI library is not
            raise InputError(
                "mpiexec",
                "an MPI library that mpi4py can load",
                str(error).splitlines()[0],
                "load the MPI module that mpiexec belongs to, or run dynft without mpiexec",
            ) from error
        communicator = MPI.COMM_WORLD
        if communicator.size == 1:
            raise InputError(
                "mpiexec",
                "one MPI run of several processes",
                "processes that do not see each other",
                "use the mpiexec of the MPI library that mpi4py loads",
            )
        return cls(communicator.rank, communicator.size, communicator)

    @property
    def first(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    @property
    def own(self) -> slice:
        """Which of any list of structures fall to this process: every size-th one."""
        return slice(self.rank, None, self.size)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What each process does on its own inside: an error on one is raised on all, where others would wait for it.

        Nothing inside may speak to the other processes.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:  # whatever it is, the others must hear of it
            error = raised
        errors = [error] if self.communicator is None else self.communicator.allgather(_sendable(error))
        for found in [error, *errors]:  # its own error first, which has a traceback
            if found is not None:
                raise found

    def sum(self, own: Statistics) -> Statistics:
        """Statistics of the structures of all processes, the same on each."""
        if self.communicator is None:
            return own
        gram, moment = np.empty_like(own.gram), np.empty_like(own.moment)
        for row, total in zip(own.gram, gram, strict=True):  # row by row: messages of any length, no second matrix
            self.communicator.Allreduce(row, total)
        self.communicator.Allreduce(own.moment, moment)
        square, rows, structures = self.add(np.array([own.square, own.n_rows, own.n_structures]))
        return Statistics(gram, moment, float(square), round(rows), round(structures))

    def add(self, own: NDArray[np.float64]) -> NDArray[np.float64]:
        """A few numbers summed over all processes, the same on each."""
        return own if self.communicator is None else np.asarray(self.communicator.allreduce(own))

    def broadcast(self, value: T) -> T:
        """The value of the first process, on each."""
        return value if self.communicator is None else self.communicator.bcast(value)


def _sendable(error: Exception | None) -> Exception | None:
    """The error, or one with its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # any class may fail in its own way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
