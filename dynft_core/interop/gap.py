"""A training set for gap_fit (QUIP) with adaptive σ: Allen and Bartók, J. Phys. Mater. 2022, §3.3, Table 2.

Each component of forces and virials has a σ of its own, a share of its absolute value and never below a floor. gap_fit
takes the nine σ of a virial from a comment line only as nine plain numbers: a 3 × 3 array is ignored without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io.extxyz import write_extxyz
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.interop.common import write_text
from dynft_core.storage.files import replacing

Floats = NDArray[np.float64]

TRAINING = "training.xyz"
COMMAND = "gap_fit.sh"


@dataclass(frozen=True)
class GapSettings:
    """Regularisation and descriptor of the paper's Table 2 (its column for silicon).

    Attributes:
        energy_sigma_eV: of the energy of each configuration.
        force_share, force_floor_eV_A: Δ_F and σ_F^min; virial_share, virial_floor_eV: Δ_V and σ_V^min.
        cutoff_A, n_max, l_max, atom_sigma_A, n_sparse, delta_eV, zeta: of the SOAP descriptor and its kernel.
    """

    energy_sigma_eV: float = 1e-3
    force_share: float = 1e-2
    force_floor_eV_A: float = 1e-3
    virial_share: float = 1e-2
    virial_floor_eV: float = 1e-3
    cutoff_A: float = 6.0
    n_max: int = 8
    l_max: int = 6
    atom_sigma_A: float = 0.5
    n_sparse: int = 1400
    delta_eV: float = 2.0
    zeta: int = 4


def write_gap(frames: Sequence[Atoms], folder: Path, settings: GapSettings | None = None) -> list[Path]:
    """Write the training set and the command that fits it into `folder`; returns the files.

    `frames`: structures with energy (eV), forces (eV/Å) and, where they have one, stress (eV/Å³) as their calculator's
    results.

    Raises:
        InputError: a frame without energy or forces.
    """
    settings = settings or GapSettings()
    prepared = [_prepared(frame, i, settings) for i, frame in enumerate(frames)]
    with replacing(folder / TRAINING) as temporary, temporary.open("w", encoding="utf-8") as stream:
        columns = ["symbols", "positions", "dft_force", "force_component_sigma"]
        write_extxyz(stream, prepared, columns=columns)
    return [folder / TRAINING, write_text(folder / COMMAND, _command(settings))]


def _prepared(frame: Atoms, index: int, settings: GapSettings) -> Atoms:
    """The frame with the names that gap_fit is told, and its σ."""
    try:
        energy, forces = frame.get_potential_energy(), frame.get_forces()
    except (PropertyNotImplementedError, RuntimeError) as error:  # ASE's, where there is no calculator
        raise InputError(
            "data",
            "energy and forces of every structure",
            f"frame {index} without them",
            "write energy= and a column forces:R:3, or leave the frame out",
        ) from error
    found = Atoms(frame.symbols, positions=frame.positions, cell=frame.cell, pbc=True)
    found.arrays["dft_force"] = forces
    sigma = np.maximum(settings.force_share * np.abs(forces), settings.force_floor_eV_A)
    found.arrays["force_component_sigma"] = sigma
    found.info |= {"dft_energy": float(energy), "energy_sigma": settings.energy_sigma_eV}
    try:
        virial = -frame.get_stress(voigt=False) * frame.get_volume()
    except (PropertyNotImplementedError, RuntimeError):
        return found
    floor = np.maximum(settings.virial_share * np.abs(virial), settings.virial_floor_eV)
    found.info |= {"dft_virial": virial.ravel(), "virial_component_sigma": floor.ravel()}
    return found


def _command(s: GapSettings) -> list[str]:
    """The command line; sparse points by CUR decomposition, energies above their average per atom."""
    soap = (
        f"soap l_max={s.l_max} n_max={s.n_max} atom_sigma={s.atom_sigma_A:g} zeta={s.zeta} cutoff={s.cutoff_A:g} "
        f"delta={s.delta_eV:g} n_sparse={s.n_sparse} sparse_method=cur_points covariance_type=dot_product add_species=T"
    )
    defaults = f"{s.energy_sigma_eV:g} {s.force_floor_eV_A:g} {s.virial_floor_eV:g} 1.0"
    return [
        "#!/bin/sh",
        f"# fits {TRAINING}; GAP is under the Academic Software Licence, for non-commercial use",
        f"gap_fit at_file={TRAINING} gap={{{soap}}} default_sigma={{{defaults}}} e0_method=average \\",
        "  energy_parameter_name=dft_energy force_parameter_name=dft_force virial_parameter_name=dft_virial \\",
        "  sparse_jitter=1e-8 do_copy_at_file=F sparse_separate_file=F gp_file=gap.xml",
    ]
