"""Output of pw.x as versions 6.8 and 7.2 lay it out, with Tersoff's energy and forces: runs, steps, settings."""

from __future__ import annotations

from dataclasses import dataclass, field

import ase.units
import numpy as np
from ase import Atoms
from standin_vasp import tersoff

VERSIONS = ("6.8", "7.2")
RY_BOHR = ase.units.Rydberg / ase.units.Bohr


@dataclass
class PwRun:
    """One run; `steps` are its structures, of which those in `unconverged` ran out of iterations."""

    version: str
    steps: list[Atoms]
    ecutwfc_Ry: float = 30.0
    ecutrho_Ry: float = 120.0
    conv_thr: float = 1e-8
    functional: str = "PBE"
    enforced: bool = False
    pseudopotential: str = "Si.pbe.UPF"
    spins: int = 1
    smearing: str = ""
    degauss_Ry: float = 0.0
    charge: float = 0.0
    dispersion: str = ""
    hubbard_U_eV: float = 0.0
    points: list[tuple[float, float, float]] = field(default_factory=lambda: [(0.0, 0.0, 0.0)])
    unconverged: tuple[int, ...] = ()
    done: bool = True


NUMBERS = {"PBE": "1 4 3 4 0 0 0", "PBESOL": "1 4 10 8 0 0 0", "SLA PZ NOGX NOGC": "1 1 0 0 0 0 0"}


def output(run: PwRun) -> str:
    """The text of a run."""
    first = run.steps[0]
    alat_A = float(np.linalg.norm(first.cell[0]))
    axes = "".join(f"               a({i + 1}) = ({''.join(f'{x:11.6f}' for x in row)} )  \n"
                   for i, row in enumerate(first.cell[:] / alat_A))  # fmt: skip
    sites = "".join(
        f"{i + 1:10d}           Si  tau({i + 1:4d}) = ({''.join(f'{x:12.7f}' for x in row)}  )\n"
        for i, row in enumerate(first.positions / alat_A)
    )
    reciprocal = np.linalg.inv(first.cell[:] / alat_A).T
    listed = np.array(run.points) @ reciprocal
    points = "".join(
        f"        k({i + 1:5d}) = ({''.join(f'{x:12.7f}' for x in k)}), wk =   1.0\n" for i, k in enumerate(listed)
    )
    smearing = f"  {run.smearing} smearing, width (Ry)= {run.degauss_Ry:7.4f}" if run.smearing else ""
    xc = f"     Exchange-correlation= {run.functional}\n                           ({run_numbers(run)})\n"
    enforced = f"     IMPORTANT: XC functional enforced from input :\n{xc}\n" if run.enforced else ""
    magnetic = "     Starting magnetic structure \n     atomic species   magnetization\n" if run.spins == 2 else ""
    species = "     atomic species   valence    mass     pseudopotential\n        Si   4.00    28.0855     Si( 1.00)\n"
    k_points = f"     number of k points= {len(run.points):5d}{smearing}\n             cart. coord. in units 2pi/alat\n"
    return (
        f"\n     Program PWSCF v.{run.version} starts on 30Nov2026 at 15:50:16 \n\n{enforced}"
        f"     bravais-lattice index     =            0\n"
        f"     lattice parameter (alat)  = {alat_A / ase.units.Bohr:12.4f}  a.u.\n"
        f"     number of atoms/cell      = {len(first):12d}\n     number of atomic types    =            1\n"
        f"     number of electrons       = {4 * len(first) - run.charge:12.2f}\n"
        f"     kinetic-energy cutoff     = {run.ecutwfc_Ry:12.4f}  Ry\n"
        f"     charge density cutoff     = {run.ecutrho_Ry:12.4f}  Ry\n"
        f"     scf convergence threshold = {run.conv_thr:12.1E}\n{xc}\n"
        f"     celldm(1)= {alat_A / ase.units.Bohr:10.6f}  celldm(2)=   0.000000  celldm(3)=   0.000000\n\n"
        f"     crystal axes: (cart. coord. in units of alat)\n{axes}\n"
        f"     PseudoPot. # 1 for Si read from file:\n     /pseudo/{run.pseudopotential}\n"
        f"     MD5 check sum: {32 * 'a'}\n\n"
        f"{species}\n{magnetic}{hubbard(run)}   Cartesian axes\n\n"
        f"     site n.     atom                  positions (alat units)\n{sites}\n{k_points}{points}\n"
        + "".join(step(run, number, atoms) for number, atoms in enumerate(run.steps))
        + ("=------=\n   JOB DONE.\n=------=\n" if run.done else "")
    )  # fmt: skip


def run_numbers(run: PwRun) -> str:
    """The functional's numbers."""
    return "".join(f"{int(n):4d}" for n in NUMBERS[run.functional].split())


def hubbard(run: PwRun) -> str:
    """How U is told: by a table up to 6.8, by manifolds since 7.0."""
    if not run.hubbard_U_eV:
        return ""
    if run.version.startswith("6"):
        return (
            "     Simplified LDA+U calculation (l_max = 1) with parameters (eV):\n"
            "     atomic species    L          U    alpha       J0     beta\n"
            f"        Si             1 {run.hubbard_U_eV:10.4f}   0.0000   0.0000   0.0000\n\n"
        )
    return (
        "     Hubbard projectors: atomic\n     Hubbard parameters of DFT+U (Dudarev formulation) in eV:\n"
        f"     U(Si-3p) = {run.hubbard_U_eV:7.4f}\n\n"
    )


def step(run: PwRun, number: int, atoms: Atoms) -> str:
    """One structure: its cycle, its energy and forces."""
    energy, forces, _ = tersoff(atoms)
    moved = "" if number == 0 else "\nATOMIC_POSITIONS (angstrom)\n" + "".join(
        f"Si  {''.join(f'{x:16.10f}' for x in row)}\n" for row in atoms.positions
    )  # fmt: skip
    cycle = f"{moved}\n     Self-consistent Calculation\n\n     iteration #  1     ecut= {run.ecutwfc_Ry:9.2f} Ry\n"
    if number in run.unconverged:
        return (
            cycle
            + "     End of self-consistent calculation\n     convergence NOT achieved after   2 iterations: stopping\n"
        )
    table = "".join(
        f"     atom {i + 1:4d} type  1   force = {''.join(f'{x:14.8f}' for x in row)}\n"
        for i, row in enumerate(forces / RY_BOHR)
    )
    smeared = "     smearing contrib. (-TS)   =      -0.00100000 Ry\n" if run.smearing else ""
    kind = {"d2": "Dispersion Correction    ", "d3": "DFT-D3 Dispersion        "}.get(run.dispersion)
    dispersion = f"     {kind} =      -0.03429000 Ry\n" if kind else ""
    magnetic = "     total magnetization       =     0.00 Bohr mag/cell\n" if run.spins == 2 else ""
    return (
        f"{cycle}     End of self-consistent calculation\n\n"
        f"!    total energy              = {energy / ase.units.Rydberg:16.8f} Ry\n"
        f"     estimated scf accuracy    <          1.6E-09 Ry\n{smeared}{dispersion}{magnetic}\n"
        f"     convergence has been achieved in   7 iterations\n\n"
        f"     Forces acting on atoms (cartesian axes, Ry/au):\n\n{table}\n     Total force =     0.003605\n\n"
    )
