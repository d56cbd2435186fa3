"""What looks wrong in a fit's input, said before the work starts: units, duplicates, missing energies, memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.supercell import Supercell
from dynft_core.selection.batch_for_model import selection_bytes
from dynft_core.symmetry.size import basis_sizes

Floats = NDArray[np.float64]

RY_BOHR_EV_A = 25.711
"""1 Ry/bohr in eV/Å; 1 hartree/bohr is twice that."""
UNITS_EV_A = {
    "Ry/bohr": RY_BOHR_EV_A, "hartree/bohr": 2 * RY_BOHR_EV_A, "kcal/mol/Å": 0.043364, "kJ/mol/Å": 0.010364,
    "meV/Å": 1e-3,
}  # fmt: skip
"""Other units of force that files come in."""
LEAST, MOST = 5.0, 250.0
"""Between these is nearly every crystal's stiffness, in units of ħ²/mₑ Ω^(-4/3), Ω the volume of an atom: CsPbI₃ 17,
NaCl 19, SrTiO₃ 22, Si 40 to 117 in DFT data; solid argon and the alkali metals are at the lower end."""
HBAR2_M_EV_A2 = 7.62
"""ħ²/mₑ in eV Å²."""
STIFFEST_EV_A2 = 300.0
"""No bond's: that of N₂, the stiffest, has 143 eV/Å², and twice that when both its atoms move."""
UNLIKE = 8.0
"""Factor between stiffnesses that displacements do not explain, and other units do."""
SAME_DIRECTION = 0.9
"""Cosine between forces beyond which nothing but their size differs."""
_DUPLICATE_A = 1e-6
UNDISPLACED_A = 1e-4
"""No atom of a structure is displaced by less than this on purpose: files round."""


MAX_NET_FORCE_EV_A = 0.01
"""Largest |Σ F| / N that passes without a word, or the rms force component where that is larger."""


def data_warnings(
    displacements: Floats, forces: Floats, energies: Sequence[float | None], atom_volume_A3: float
) -> list[str]:
    """Sentences on what is suspicious in structures (S, N, 3) Å with forces (S, N, 3) eV/Å.

    `atom_volume_A3`: the crystal's volume by atom, which tells how stiff it can be.
    """
    found = [*_unit_warnings(displacements, forces, atom_volume_A3), *_duplicate_warnings(displacements, forces)]
    net = float(np.linalg.norm(forces.mean(axis=1), axis=1).max(initial=0.0))
    if net > max(MAX_NET_FORCE_EV_A, float(np.sqrt(np.mean(forces**2)))):  # forces in other units have another word
        found.append(
            f"warning: the forces of a frame sum to {net:.3g} eV/Å per atom, in a crystal they sum to zero: check them "
            "(an external field, atoms held fixed, a calculation that has not converged)"
        )
    without = sum(e is None for e in energies)
    if without:
        found.append(f"note: {without} of {len(energies)} frames have no energy; only forces are fitted")
    return found


def refuse_zero_forces(argument: str, displacements: Floats, forces: Floats) -> None:
    """Refuse structures (S, N, 3) Å whose forces (S, N, 3) eV/Å are all zero though atoms are displaced.

    Raises:
        InputError: such a file lost its forces.
    """
    moved = np.abs(displacements).max(axis=(1, 2)) > 1e-3
    if moved.any() and not forces[moved].any():
        raise InputError(argument, "forces on displaced atoms", "zeros alone", "give the file with the forces computed")


def refuse_other_units(argument: str, forces: Floats, predicted: Floats) -> None:
    """Refuse forces (S, N, 3) eV/Å that point where the `predicted` ones do, but are of quite another size.

    Raises:
        InputError: no crystal is so wrong by one factor alone; forces in other units are.
    """
    product, square = float(np.vdot(forces, predicted)), float(np.vdot(predicted, predicted))
    if not square > 0 or product <= SAME_DIRECTION * math.sqrt(square * float(np.vdot(forces, forces))):
        return
    if not 1 / UNLIKE < product / square < UNLIKE:
        raise InputError(
            argument,
            "forces of about the size that the force field gives for these displacements",
            f"{product / square:.3g} times as large ones",
            f"give eV/Å (1 Ry/bohr = {RY_BOHR_EV_A:.2f} eV/Å, 1 hartree/bohr = {2 * RY_BOHR_EV_A:.2f} eV/Å)",
        )


def refuse_unphysical(argument: str, displacements: Floats, forces: Floats, atom_volume_A3: float) -> None:
    """Refuse also forces that push displaced atoms away from their sites, or that no crystal has.

    Raises:
        InputError: saying which.
    """
    refuse_zero_forces(argument, displacements, forces)
    # Where the reference is not at rest, as at the start of a trajectory, forces push; their changes pull all the same.
    change = displacements - displacements.mean(axis=0), forces - forces.mean(axis=0)
    pushed = np.median(np.einsum("sic,sic->s", displacements, forces)) > 0
    if pushed and (len(forces) == 1 or float(np.vdot(*change)) > 0):
        raise InputError(
            argument,
            "forces that pull displaced atoms back to their sites",
            "forces that push them away",
            "are these gradients? change their sign; or the reference is not the relaxed structure",
        )
    each = stiffness(displacements, forces)
    if np.isfinite(each).any() and (middle := float(np.nanmedian(each))) > STIFFEST_EV_A2:
        raise InputError(
            argument,
            f"forces in eV/Å: no bond's stiffness exceeds {STIFFEST_EV_A2:g} eV/Å²",
            f"{middle:.3g} eV/Å²",
            f"convert them{_in_other_units(middle, *_usual_stiffness(atom_volume_A3))}",
        )


def stiffness(displacements: Floats, forces: Floats) -> Floats:
    """-Σ u·F / Σ u·u of each frame, (S,) eV/Å²; nan where nothing is displaced."""
    square = np.einsum("sic,sic->s", displacements, displacements)
    square = np.where(square > 1e-12, square, np.nan)
    return np.asarray(-np.einsum("sic,sic->s", displacements, forces) / square)


def of_another_size(found: Floats, known: Floats) -> list[int]:
    """Which of the stiffnesses `found` are not those of `known`, by more than a factor `UNLIKE`."""
    middle = float(np.median(known[np.isfinite(known)])) if np.isfinite(known).any() else 0.0
    if middle <= 0:
        return []
    return [k for k, x in enumerate(found / middle) if np.isfinite(x) and not 1 / UNLIKE < x < UNLIKE]


def _unit_warnings(displacements: Floats, forces: Floats, atom_volume_A3: float) -> list[str]:
    """The stiffness of each frame: against the other frames, and against crystals as they are."""
    low, high = _usual_stiffness(atom_volume_A3)
    each = stiffness(displacements, forces)
    if not np.isfinite(each).any():
        return ["warning: no frame has a displaced atom: nothing can be learnt from these forces"]
    middle = float(np.nanmedian(each))
    found = []
    if middle <= 0:
        found.append(
            f"warning: forces do not pull atoms back to their sites (mean stiffness {middle:.2g} eV/Å²): "
            "is the reference the relaxed structure, are these forces and not gradients?"
        )
    elif not low < middle < high:
        found.append(
            f"warning: a stiffness of {middle:.2g} eV/Å² is hardly any crystal's of {atom_volume_A3:.3g} Å³ an atom "
            f"({low:.2g} to {high:.2g}): are the forces in eV/Å?{_in_other_units(middle, low, high)}"
        )
    else:
        odd = of_another_size(each, each)
        if odd:
            found.append(
                f"warning: {_frames(odd)} have forces of another size than the rest for their displacements "
                f"(stiffness {', '.join(f'{f:.3g}' for f in each[odd[:3]] / middle)} times "
                f"the median): other units? (1 Ry/bohr = {RY_BOHR_EV_A:.2f} eV/Å)"
            )
    return found


def _usual_stiffness(atom_volume_A3: float) -> tuple[float, float]:
    """Bounds of a crystal's mean stiffness, eV/Å²."""
    scale = HBAR2_M_EV_A2 * atom_volume_A3 ** (-4 / 3)
    return LEAST * scale, MOST * scale


def _in_other_units(stiffness_eV_A2: float, low: float, high: float) -> str:
    """' (from Ry/bohr × 25.71: 10 eV/Å²; …)': what would bring the stiffness between the bounds."""
    found = [
        f"from {unit} × {factor:.4g}: {factor * stiffness_eV_A2:.2g} eV/Å²" for unit, factor in UNITS_EV_A.items()
        if low < factor * stiffness_eV_A2 < high
    ]  # fmt: skip
    return f" ({'; '.join(found)})" if found else ""


def _duplicate_warnings(displacements: Floats, forces: Floats) -> list[str]:
    rounded = np.rint(displacements.reshape(len(displacements), -1) / _DUPLICATE_A).astype(np.int64) + 0
    _, first, inverse = np.unique(rounded, axis=0, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]
    again = np.flatnonzero(original != np.arange(len(rounded)))
    if len(again) == 0:
        return []
    worst = float(np.abs(forces[again] - forces[original[again]]).max())
    text = f"warning: {_frames(again)} repeat earlier ones: they count twice and make the fit too sure of itself"
    if worst > 1e-6:
        text += f"; the forces of a pair differ by up to {worst:.2g} eV/Å"
    return [text]


def _frames(indices: Sequence[int] | NDArray[np.int64]) -> str:
    named = ", ".join(str(i) for i in indices[:5]) + (", …" if len(indices) > 5 else "")
    return f"{len(indices)} frames ({named})" if len(indices) > 1 else f"frame {named}"


def check_memory(
    supercell: Supercell,
    cutoffs_A: Mapping[int, float],
    processes: int = 1,
    available_GiB: float | None = None,
    argument: str = "--cutoffs",
    n_candidates: int = 0,
) -> str:
    """A warning when the fit by `processes` of one machine may take more than half the memory, else ''.

    `available_GiB`: default, what the machine and the job's limits leave; `argument`: what asked for the cutoffs;
    `n_candidates`: structures of the largest selection beside the fit, 0 where there is none.

    Raises:
        InputError: it would not suffice.
    """
    free = (available_memory_GiB() if available_GiB is None else available_GiB) / processes
    sizes = basis_sizes(supercell.crystal, cutoffs_A)
    m = sum(s.parameters for s in sizes.values())
    classes = sum(min(2**29, 15 * 8 * s.parameters**2) for s in sizes.values())
    columns = sum(1.3 * s.coefficients for s in sizes.values())
    own = sum(1.3 * s.coefficients * s.parameters for s in sizes.values())
    clusters = sum(s.clusters * n for n, s in sizes.items()) * 16 * supercell.n_atoms
    needed = (8 * (6 * m**2 + 2 * own + 2 * 3 * supercell.n_atoms * columns) + classes + clusters) / 2**30
    if n_candidates:
        needed += selection_bytes(3 * supercell.n_atoms, m, n_candidates) / 2**30
    if needed < 0.5 * free:
        return ""
    finite = f"about {needed:.1f} GiB for some {m:.0f} parameters"
    estimate = finite if np.isfinite(needed) else "more than any machine's"
    if needed > free:
        largest = max(sizes, key=lambda n: sizes[n].parameters)
        raise InputError(
            argument,
            f"a basis for {free:.1f} GiB of memory",
            estimate,
            f"shorten the cutoff of order {largest}, or leave it out",
        )
    what = "the fit and a selection beside it" if n_candidates else "the fit"
    return f"warning: {what} will take {estimate}, of {free:.1f} GiB free"


def available_memory_GiB() -> float:
    """Memory this process can still have, within the machine's and the control group's limits."""
    free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            free = float(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, float(limit.read_text()) - float(used.read_text()))
    return free / 2**30
