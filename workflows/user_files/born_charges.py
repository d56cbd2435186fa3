"""Born charges that a user gives, and what they should know of dipole-dipole forces that there are or may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from dynft_core.lattice.crystal import Crystal
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference.born_files import read_born_charges
from dynft_core.symmetry.space_group import primitive

TOLD_NET_CHARGE = 1e-4
"""Net charge of the cell (e) from which on it is told that it was taken out."""
IN_CAMPAIGN = 'say born = "BORN" (a file that dynft born makes), born = "compute" or metal = true in [crystal]'
FIT_AGAIN = "fit again with --born BORN (dynft born makes that file), or with --metal"


def campaign_born_charges(file: str | None, crystal: Crystal) -> BornCharges | None:
    """Those that `crystal.born` of a campaign names, if it names a file; `crystal`: primitive or not.

    Raises:
        InputError: none that can be used.
    """
    return None if file in (None, "compute") else read_born_charges(Path(str(file)), primitive(crystal))


def charge_lines(born: BornCharges) -> list[str]:
    """Dielectric tensor, mean charge of each set of equivalent atoms, and what the sum rule took."""
    lowest, *_, highest = np.linalg.eigvalsh(born.dielectric)
    means = {k: np.trace(born.charges[k]) / 3 for k in born.independent}
    charges = ", ".join(f"{chemical_symbols[born.crystal.numbers[k]]} {mean:+.3f}" for k, mean in means.items())
    constant = f"{lowest:.3f}" if highest - lowest < 5e-4 else f"{lowest:.3f} to {highest:.3f}"
    lines = [f"dielectric constant {constant}, Born charges {charges} e"]
    if born.net_charge > TOLD_NET_CHARGE:
        lines.append(f"they sum up to {born.net_charge:.4f} e instead of 0: shared out among the atoms")
    return lines


def fit_lines(crystal: Crystal, dipoles: Dipoles | None, nonpolar: bool) -> list[str]:
    """What a fit says: which dipoles it has as its baseline, or that it may need some."""
    if dipoles is not None:
        first, *others = charge_lines(dipoles.born)
        return [f"baseline of dipole-dipole forces: {first}", *others]
    remedy = "give their file by --born BORN (dynft born makes it), or say --metal"
    return [note for note in [polar_note(crystal, nonpolar, remedy)] if note]


def polar_note(crystal: Crystal, settled: bool, remedy: str) -> str:
    """A sentence where a crystal may be polar and nothing is known of its dipoles; else ''.

    `settled`: they are known, or there are none.
    """
    if settled or len(set(crystal.numbers)) < 2:
        return ""
    return (
        f"note: no Born charges of {crystal.formula} are known: unless it is a metal, the splitting of longitudinal "
        "and transverse optical modes near Γ is not included, and forces in larger cells than the labels' are less "
        f"right; {remedy}"
    )


def force_field_note(force_field: ForceField, remedy: str = FIT_AGAIN) -> str:
    """The same of a force field."""
    settled = force_field.nonpolar or force_field.baseline is not None
    return polar_note(force_field.basis.crystal, settled, remedy)


def larger_cell_note(force_field: ForceField, n_atoms: int) -> list[str]:
    """The same where it is used in a cell of more atoms than that of its labels."""
    note = force_field_note(force_field) if n_atoms > force_field.supercell.n_atoms else ""
    return [note] if note else []


def baseline_lines(force_field: ForceField) -> list[str]:
    """What `dynft info` says of it."""
    if (baseline := force_field.baseline) is None:
        return []
    about = charge_lines(baseline.born)[0] if isinstance(baseline, Dipoles) else baseline.describe()
    return [f"baseline            {'dipole-dipole forces: ' if isinstance(baseline, Dipoles) else ''}{about}"]
