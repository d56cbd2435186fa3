"""A reference that is a program of MPI ranks: each computes the forces of its own atoms, the first one writes them.

As a calculator: 'mpi_forces:MpiForces', which starts `$DYNFT_MPI_LAUNCHER python mpi_forces.py STRUCTURE`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from dynft_core.reference.calculators import make_calculator
from dynft_core.tasks.probe import node_name
from dynft_core.vocabulary import ReferenceSettings

RANKS = "ranks.json"


class MpiForces(Calculator):  # type: ignore[misc]
    """Runs the program in its folder."""

    implemented_properties = ("energy", "forces")

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.folder = Path(directory)

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        path = self.folder / "sent.xyz"
        ase.io.write(path, atoms, format="extxyz")
        launcher = shlex.split(os.environ["DYNFT_MPI_LAUNCHER"])
        subprocess.run([*launcher, sys.executable, __file__, str(path)], check=True)
        found = json.loads((self.folder / RANKS).read_text())
        self.results = {"energy": found["energy"], "forces": np.array(found["forces"])}


def main(path: Path) -> None:
    """One rank."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    atoms = ase.io.read(path)
    atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), path.parent)
    own = np.zeros((len(atoms), 3))
    own[world.rank :: world.size] = atoms.get_forces()[world.rank :: world.size]
    forces = world.allreduce(own)
    nodes = world.gather(node_name())
    if world.rank == 0:
        found = {"energy": atoms.get_potential_energy(), "forces": forces.tolist(), "nodes": nodes}
        (path.parent / RANKS).write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
