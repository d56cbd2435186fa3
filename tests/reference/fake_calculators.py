"""Calculators for the tests of the label job, named as 'fake_calculators:Springs' and so on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

STIFFNESS_EV_A2 = 2.0


def spring_forces(atoms: Atoms) -> np.ndarray:
    """Forces (N, 3) eV/Å of springs between all pairs, which have no net force."""
    return -STIFFNESS_EV_A2 * len(atoms) * (atoms.positions - atoms.positions.mean(axis=0))


class Springs(Calculator):
    """Springs between all pairs; `fault` makes it fail in one of the ways that real codes do."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, fault: str = "", fault_file: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault = fault if not fault_file or Path(fault_file).exists() else ""
        self.converged = True

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str] = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        forces = spring_forces(atoms)
        energy = -0.5 * float((forces * atoms.positions).sum())
        match self.fault:
            case "raises":
                raise RuntimeError("the cycle\ndiverged")
            case "nan":
                forces[0, 0] = np.nan
            case "nan energy":
                energy = np.nan
            case "shape":
                forces = forces[:-1]
            case "net force":
                forces = forces + 0.02
            case "unconverged":
                self.converged = np.bool_(False)
            case "relaxes":
                atoms.positions[0, 0] += 0.01
            case "reorders":
                atoms.numbers[:] = atoms.numbers[::-1].copy()
            case "exits":
                os._exit(3)
            case "is killed":
                print("some last words", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            case "hangs":
                self._hang()
            case "is slow":
                time.sleep(1.0)
            case "reads input":
                # As a code that reads its input from the terminal when a file is missing.
                assert subprocess.run(["cat"], stdout=subprocess.PIPE, timeout=5, check=True).stdout == b""
        self.results = {"energy": energy, "forces": forces}

    def _hang(self) -> None:
        """Two processes that ignore SIGTERM or have a process group of their own, as under an MPI launcher."""
        stubborn = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
        ranks = subprocess.Popen(["sleep", "300"], process_group=0)
        partial = Path(self.directory) / "pids.tmp"
        partial.write_text(f"{os.getpid()} {stubborn.pid} {ranks.pid}")
        partial.rename(Path(self.directory) / "pids")
        ranks.wait()


def with_folder(directory: str) -> Springs:
    """Takes the working directory."""
    (Path(directory) / "made_here").write_text("")
    return Springs(directory=directory)


def keeps_parameters(**parameters: Any) -> Springs:
    """Takes any parameter, but no directory of its own accord."""
    assert "directory" not in parameters, parameters
    return Springs()


def no_calculator() -> dict[str, int]:
    """Gives something else."""
    return {}


NUMBER = 3
