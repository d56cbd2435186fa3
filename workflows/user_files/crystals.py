"""The user's crystal as it enters: what a model cannot represent is refused or said, roundings are taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols
from ase.io.cif import parse_cif
from ase.io.espresso import get_atomic_species, read_fortran_namelist
from ase.io.formats import filetype
from numpy.typing import NDArray

from dynft_core.errors import InputError, StructureError
from dynft_core.lattice.crystal import CELL_TOLERANCE, SAME_MASS_AMU, Crystal, is_left_handed
from dynft_core.symmetry.space_group import hidden_symmetry, snapped, symmetrised
from workflows.user_files.structures import LabelledFrames, moments_of, read_structure

ONE_SITE_A = 0.1
"""Atoms of one species that a CIF file's operations bring this near to each other are one: no two atoms are so near."""
FULL = 1e-3
"""By how much an occupancy may differ from 1, as files round it."""


@dataclass(frozen=True, eq=False)
class UserCrystal:
    """The crystal of a file, and sentences on what was changed or is not as it seems."""

    crystal: Crystal
    notes: tuple[str, ...]


def read_crystal(
    path: Path, argument: str, symprec_A: float | None = None, largest_strain: float = CELL_TOLERANCE
) -> UserCrystal:
    """The crystal of a structure file: right-handed, on special positions, with its isotopes and magnetic moments.

    Args:
        argument: what the file was given as.
        symprec_A: tolerance to which it is made symmetric; None: only what rounding in the file has cost is mended.
        largest_strain: by how much the cell may be strained for that.

    Raises:
        FileFormatError: missing, unreadable, or several structures.
        StructureError: no crystal, or one that an expansion cannot represent: sites partly occupied or shared, a
            non-collinear magnetic order, atoms on top of each other.
        InputError: a tolerance that is none.
    """
    atoms = read_structure(path, argument)
    refuse_disorder(atoms, argument)
    notes = _from_the_text(path, argument, atoms)
    atoms, merged = _one_atom_a_site(atoms)
    if not atoms.has("initial_magmoms") and (moments := moments_of(atoms)) is not None:
        atoms.set_initial_magnetic_moments(moments)  # those that a calculation gave are those to begin the next with
    crystal = Crystal(atoms)
    notes += [*merged, *_about(atoms, crystal)]
    if symprec_A is not None:
        crystal, changed = _symmetrised(crystal, symprec_A)
    else:
        crystal, changed = _mended(crystal, largest_strain)
    return UserCrystal(crystal, (*notes, *changed))


def refuse_disorder(atoms: Atoms, argument: str) -> None:
    """Refuse sites that are shared or partly empty, as a CIF file's occupancies or a column of that name tell.

    Raises:
        StructureError: naming the first ones.
    """
    sites: Mapping[str, Mapping[str, float | str]] = atoms.info.get("occupancy") or {}
    column = next((atoms.arrays[name] for name in ("occupancy", "occupancies") if name in atoms.arrays), None)
    if not sites and column is not None:
        sites = {str(i): {s: float(x)} for i, (s, x) in enumerate(zip(atoms.symbols, column, strict=True))}
    partly: list[str] = []
    for number, species in enumerate(sites.values(), start=1):
        told = {s: x for s, x in species.items() if not isinstance(x, str)}  # '?' and '.' stand for what is usual: 1
        if len(species) > 1 or any(abs(x - 1) > FULL for x in told.values()):
            partly.append(f"site {number} is {', '.join(f'{s} {100 * x:g} %' for s, x in told.items())}")
    if (atoms.numbers == 0).any():
        partly.append(f"{(atoms.numbers == 0).sum()} sites are X, no element")
    if partly:
        raise StructureError(
            argument,
            "one whole atom on each site, as an expansion needs",
            "; ".join(partly[:3]) + "; …" * (len(partly) > 3),
            "give an ordered cell: a supercell with atoms chosen for these sites, or the nearest ordered crystal",
        )


def symmetry_note(crystal: Crystal, remedy: str) -> list[str]:
    """A sentence when the crystal nearly has a higher symmetry; `remedy`: with {} for the tolerance in Å."""
    hidden = hidden_symmetry(crystal)
    if hidden is None:
        return []
    return [
        f"note: to {hidden.tolerance_A:g} Å it would be {hidden.symbol}, {hidden.ratio:.0f} times as many "
        "operations and far fewer parameters: if it is rattled, of a temperature, or not fully relaxed, "
        + remedy.format(f"{hidden.tolerance_A:g}")
    ]


def moments_note(frames: LabelledFrames) -> list[str]:
    """A sentence when data have moments up and down on atoms that the crystal takes for equal."""
    if frames.moments is None:
        return []
    kinds, n = frames.supercell.crystal.kinds[frames.supercell.basis_index], len(frames.moments)
    up, down = ({int(kinds[i]) for i in range(n) if sign * frames.moments[i] > 0.5} for sign in (1, -1))
    if not up & down:
        return []
    return [
        "note: the data have magnetic moments up and down on atoms that --primitive has as equal, and so they count: "
        "give the magnetic primitive cell, with a column initial_magmoms:R:1"
    ]


def _from_the_text(path: Path, argument: str, atoms: Atoms) -> list[str]:
    """What ASE leaves out of some formats: species that share a site, labels of species, their moments and masses.

    Raises:
        StructureError: sites with two species, or a magnetic order that is not collinear.
    """
    kind = filetype(str(path))
    if kind == "cif":
        _refuse_shared_sites(path, argument, atoms)
    elif kind == "espresso-in":
        return _labels_of_species(path, argument, atoms)
    elif kind == "vasp":
        words = path.read_text(errors="replace").splitlines()[5].split()
        twice = next((x for x, y in pairwise(words) if x == y), None)
        if twice is not None:
            return [
                f"note: {twice} stands twice running in the file: both are one species here; what tells them apart, as "
                "magnetic moments, goes into columns of extended xyz"
            ]
    return []


def _refuse_shared_sites(path: Path, argument: str, atoms: Atoms) -> None:
    """Refuse a CIF file of which `atoms` do not hold every row, or whose moments ASE does not read.

    Raises:
        StructureError: naming the row.
    """
    if "_atom_site_moment" in path.read_text(errors="replace"):
        raise StructureError(
            argument,
            "a structure without magnetic moments in CIF format",
            f"'{path}' with _atom_site_moment",
            "write it as extended xyz with a column initial_magmoms:R:1 (μ_B), if they are along one axis",
        )
    for block in parse_cif(str(path)):
        if not block.has_structure():
            continue
        rows = block.get_unsymmetrized_structure()
        for symbol, x in zip(rows.symbols, rows.get_scaled_positions(), strict=True):
            away = atoms.get_scaled_positions() - x
            nearest = int(np.linalg.norm((away - np.rint(away)) @ atoms.cell[:], axis=1).argmin())
            if atoms.symbols[nearest] != symbol:
                raise StructureError(
                    argument,
                    "one atom on each site",
                    f"{symbol} and {atoms.symbols[nearest]} at {x.tolist()}",
                    "give an ordered cell: a supercell with atoms chosen for these sites",
                )


def _labels_of_species(path: Path, argument: str, atoms: Atoms) -> list[str]:
    """Give `atoms` the masses and moments of a pw.x input's species, Fe1 and Fe2, which ASE takes for one.

    Raises:
        StructureError: a magnetic order that is not collinear.
    """
    with path.open() as file:
        namelists, cards = read_fortran_namelist(file)
    system = namelists["system"]
    if system.get("noncolin"):
        raise StructureError(argument, "collinear moments", "noncolin = .true.", "give collinear moments, or none")
    species = get_atomic_species(cards, n_species=system["ntyp"])
    start = next(i for i, line in enumerate(cards) if line.strip().upper().startswith("ATOMIC_POSITIONS"))
    labels = [line.split()[0] for line in cards[start + 1 :] if line.strip() and line[0] not in "#!"][: len(atoms)]
    number = {label.lower(): i for i, (label, _, _) in enumerate(species)}
    which = [number[label.lower()] for label in labels]
    atoms.set_initial_magnetic_moments([float(system.get(f"starting_magnetization({i + 1})", 0.0)) for i in which])
    masses = np.array([species[i][1] for i in which])
    natural = atomic_masses[atoms.numbers]
    atoms.set_masses(np.where(np.abs(masses / natural - 1) > 5e-3, masses, natural))  # of tables that round otherwise
    notes = []
    if atoms.get_initial_magnetic_moments().any():
        notes.append("note: starting_magnetization is taken as moments in μ_B, which structure files hold")
    for symbol in dict.fromkeys(atoms.symbols):
        own = {i for i, s in zip(which, atoms.symbols, strict=True) if s == symbol}
        if len({(system.get(f"starting_magnetization({i + 1})", 0.0), species[i][1]) for i in own}) < len(own):
            names = " and ".join(species[i][0] for i in sorted(own))
            notes.append(f"note: {names} have one moment and mass: they are one species here, {symbol}")
    return notes


def _one_atom_a_site(atoms: Atoms) -> tuple[Atoms, list[str]]:
    """Without the atoms that a CIF file's operations make twice, where it rounds the special position of the first."""
    if "spacegroup" not in atoms.info or len(atoms) < 2:
        return atoms, []
    distances = atoms.get_all_distances(mic=True)
    twin = (distances < ONE_SITE_A) & (atoms.numbers[:, None] == atoms.numbers)
    first = twin.argmax(axis=1)
    if np.array_equal(first, np.arange(len(atoms))):
        return atoms, []
    kept = np.unique(first)
    positions = []
    for i in kept:
        own = np.flatnonzero(first == i)
        positions.append(atoms.positions[i] + atoms.get_distances(i, own, mic=True, vector=True).mean(axis=0))
    found = atoms[kept]
    found.set_positions(positions)
    apart = float(distances[first != np.arange(len(atoms)), first[first != np.arange(len(atoms))]].max())
    return found, [
        f"note: the file rounds special positions, which made {len(atoms)} atoms of {len(kept)}: those up to "
        f"{apart:.2g} Å apart are one"
    ]


def _about(atoms: Atoms, crystal: Crystal) -> list[str]:
    """Sentences on handedness, moments, masses and fixed atoms."""
    notes = []
    if is_left_handed(atoms):
        notes.append("note: the lattice vectors are left-handed; all three are inverted, which gives the same lattice")
    if np.any(crystal.moments):
        notes.append(
            f"magnetic moments {_values(crystal.numbers, crystal.moments, '+g')} μ_B: atoms of different moment count "
            "as different, and calculations start from these moments"
        )
    other = np.abs(crystal.masses - atomic_masses[crystal.numbers]) > SAME_MASS_AMU
    if other.any():
        notes.append(
            f"masses of the file {_values(crystal.numbers[other], crystal.masses[other], 'g')} amu, not the natural "
            "ones: with them atoms move and phonons are computed"
        )
    if atoms.constraints:
        notes.append("note: the file fixes atoms (selective dynamics); here all of them move")
    return notes


def _values(numbers: NDArray[np.int64], values: NDArray[np.float64], form: str) -> str:
    named = [f"{chemical_symbols[z]} {float(x):{form}}" for z, x in zip(numbers, values.round(4), strict=True)]
    distinct = list(dict.fromkeys(named))
    return ", ".join(distinct[:6]) + ", …" * (len(distinct) > 6)


def _mended(crystal: Crystal, largest_strain: float) -> tuple[Crystal, list[str]]:
    """The crystal on the special positions that rounding in its file has moved it from, and how far that was."""
    found = snapped(crystal, largest_strain)
    if found is None:
        return crystal, []
    return found.crystal, [
        f"note: the file rounds coordinates: atoms are moved by up to {found.moved_A:.2g} Å onto the special positions "
        f"of {found.symbol}"
    ]


def _symmetrised(before: Crystal, symprec_A: float) -> tuple[Crystal, list[str]]:
    """The structure made symmetric to a tolerance, and what that changed."""
    if not 0 < symprec_A < before.nearest_neighbour_distance / 2:
        half = f"{before.nearest_neighbour_distance / 2:.2g}"
        raise InputError("--symprec", f"more than 0 and less than {half} Å", f"{symprec_A:g}", "for example 0.05")
    after = symmetrised(before, symprec_A)
    moved = float(np.linalg.norm(after.positions - before.positions, axis=1).max())
    return after, [f"symmetrised to {symprec_A:g} Å: atoms moved by up to {moved:.3g} Å"]
