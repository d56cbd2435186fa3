"""Born charges and dielectric tensors from files: phonopy's BORN and yaml, the output of VASP and of ph.x."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import ase.io
import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from dynft_core.errors import DynftError, FileFormatError, InputError, StructureError
from dynft_core.lattice.crystal import Crystal, strain
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.dipoles.born_file import NUMBER, read_born
from dynft_core.reference.vasp_output import occupations, tensors
from dynft_core.symmetry.space_group import primitive, symmetrised

Floats = NDArray[np.float64]

OTHER_CELL = 0.01
"""Strain up to which charges computed in one cell serve the crystal in another: outputs round, relaxations differ."""
PH_X_DIGITS_A = 1e-3
"""To how much ph.x's output gives positions."""


@dataclass(frozen=True, eq=False)
class _Found:
    """Tensors (3, 3) and (atoms, 3, 3) of a file, and the atoms whose charges they are."""

    dielectric: Floats
    charges: Floats
    atoms: Atoms


def read_born_charges(path: Path, crystal: Crystal | None = None) -> BornCharges:
    """Born charges and dielectric tensor from a file, or from the folder of a calculation.

    Args:
        path: BORN, phonopy_params.yaml, vasprun.xml, OUTCAR, the output of ph.x, or a folder with one of them.
        crystal: whose charges they are to be; None: that of the file's own structure.

    Raises:
        InputError: nothing of that kind, of another crystal, and as `BornCharges.of`.
    """
    file = _in_folder(path) if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        got = f"'{path}' ({error.strerror})"
        raise FileFormatError("Born charges", "a file that can be read", got, "check the path") from error
    if (reader := _reader(file, text)) is None:
        if crystal is None:
            raise InputError("--structure", "the crystal of a BORN file, which does not name it", "none", "give it")
        return read_born(file, crystal)
    try:
        found = reader(text, file)
    except DynftError:
        raise
    except (ValueError, IndexError, KeyError, AttributeError, ElementTree.ParseError) as error:
        raise FileFormatError(
            str(file),
            "a complete file with Born charges and dielectric tensor",
            f"one that lacks something ({error})",
            "compute them: LEPSILON = .TRUE. in VASP, epsil = .true. in ph.x",
        ) from error
    of = crystal or primitive(Crystal(found.atoms))
    return BornCharges.of(of, found.dielectric, _on_sites(of, found.atoms, found.charges, str(file)), str(file))


def _in_folder(folder: Path) -> Path:
    for name in ("vasprun.xml", "OUTCAR", "BORN", "phonopy_params.yaml"):
        if (folder / name).is_file():
            return folder / name
    for file in sorted(folder.glob("*.out")):
        if "Program PHONON" in file.read_text(encoding="utf-8", errors="replace")[:4000]:
            return file
    raise FileFormatError(
        "RUN",
        "a folder with vasprun.xml, OUTCAR, BORN, phonopy_params.yaml or the output of ph.x",
        f"'{folder}'",
        "name the file itself",
    )


def _reader(file: Path, text: str) -> Callable[[str, Path], _Found] | None:
    """What reads a file; None: it is a BORN file, or nothing."""
    if file.suffix in (".yaml", ".yml"):
        return _phonopy_yaml
    if text.lstrip()[:200].startswith("<?xml"):
        return _vasprun
    if "Program PHONON" in text[:4000]:
        return _ph_x
    if text.lstrip()[:200].startswith("vasp.") or "BORN EFFECTIVE CHARGES" in text:
        return _outcar
    return None


def _phonopy_yaml(text: str, file: Path) -> _Found:
    charges = _numbers(_block(text, "born_effective_charge")).reshape(-1, 3, 3)
    dielectric = _numbers(_block(text, "dielectric_constant")).reshape(3, 3)
    cell = _block(text, "primitive_cell")
    symbols = re.findall(r"symbol:\s*([A-Z][a-z]?)", cell)
    scaled = _numbers("\n".join(re.findall(r"coordinates:(.*)", cell)))
    lattice = _numbers(_block(cell, "lattice")).reshape(3, 3)
    return _Found(dielectric, charges, Atoms(symbols, scaled_positions=scaled.reshape(-1, 3), cell=lattice, pbc=True))


def _block(text: str, key: str) -> str:
    """The lines of a key of phonopy's yaml: those after it that are indented more, or are items of a list."""
    start = re.search(rf"^( *){key}:.*\n", text, re.MULTILINE)
    if start is None:
        raise ValueError(f"no {key}")
    inside = re.match(rf"(?:(?:{start[1]} .*|{start[1]}- .*|\s*)\n)*", text[start.end() :] + "\n")
    return "" if inside is None else inside[0]


def _numbers(text: str) -> Floats:
    """Those in the brackets of each line."""
    return np.array([float(x) for line in re.findall(r"\[(.*?)\]", text) for x in line.split(",")])


def _vasprun(text: str, file: Path) -> _Found:
    root = ElementTree.fromstring(text)
    final = [step for step in root.findall("calculation") if step.find("array[@name='born_charges']") is not None]
    if not final:
        raise ValueError("no Born charges")
    _refuse_partial(occupations(root), file)
    found = tensors(final[-1])
    atoms = ase.io.read(file, format="vasp-xml")
    assert isinstance(atoms, Atoms)
    return _Found(found["dielectric"], found["born_charges"], atoms)


def _refuse_partial(found: list[float], file: Path) -> None:
    partial = sum(0.05 < x < 0.95 for x in found)
    if partial:
        raise InputError(
            str(file),
            "a crystal with a gap",
            f"{partial} partly occupied states",
            "a metal has no Born charges: fit it without; else compute it with ISMEAR = 0 and a small SIGMA",
        )


def _outcar(text: str, file: Path) -> _Found:
    tables = re.split(r"BORN EFFECTIVE CHARGES.*\n", text)
    if len(tables) < 2:
        raise ValueError("no Born charges")
    rows = re.findall(rf"^ +[123] +({NUMBER}) +({NUMBER}) +({NUMBER}) *$", _until_blank(tables[-1]), re.MULTILINE)
    where = r"MACROSCOPIC STATIC DIELECTRIC TENSOR \(including local field effects[^\n]*\n *-+\n"
    dielectric = re.split(where, text)[-1].splitlines()[:3]
    kinds = re.findall(r"VRHFIN\s*=\s*([A-Z][a-z]?)", text)
    counts = [int(n) for n in re.findall(r"ions per type\s*=(.*)", text)[0].split()]
    symbols = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    cell = text.split("direct lattice vectors")[1].splitlines()[1:4]
    scaled = text.split("position of ions in fractional coordinates")[1].splitlines()[1 : len(symbols) + 1]
    vectors, places = (np.array([row.split()[:3] for row in part], dtype=float) for part in (cell, scaled))
    atoms = Atoms(symbols, cell=vectors, scaled_positions=places, pbc=True)
    charges = np.array(rows, dtype=float).reshape(-1, 3, 3)
    return _Found(np.array([line.split() for line in dielectric], dtype=float), charges, atoms)


def _until_blank(text: str) -> str:
    return re.split(r"\n\s*\n", text, maxsplit=1)[0]


def _ph_x(text: str, file: Path) -> _Found:
    if "JOB DONE" not in text:
        raise ValueError("it did not end with JOB DONE")
    rows = r"((?:\s*(?:[EP][xyz])?\s*\([^()]*\)){3})"
    dielectric = re.findall(rf"Dielectric constant in cartesian axis\s*{rows}", text)[-1]
    table = re.split(r"Effective charges \(d Force / dE\) in cartesian axis.*\n", text)
    table = table if len(table) > 1 else re.split(r"Effective charges \(d P / du\) in cartesian axis.*\n", text)
    charges = re.findall(rf"atom\s+\d+\s+\w+.*\n{rows}", table[1].split("Effective charges")[0])
    symbols, positions = zip(
        *re.findall(r"^ +\d+ +([A-Z][a-z]?)\w* +\S+ +tau\( *\d+\) = \((.*)\)", text, re.MULTILINE), strict=True
    )
    alat = float(re.findall(r"lattice parameter \(alat\)\s*=\s*(\S+)", text)[0]) * units.Bohr
    axes = re.findall(r"^ +a\([123]\) = \((.*)\)", text, re.MULTILINE)[:3]
    cell, tau = (alat * np.array([row.split() for row in part], dtype=float) for part in (axes, positions))
    rough = Atoms(symbols[: len(charges)], cell=cell, positions=tau[: len(charges)], pbc=True)
    of_all = np.array([re.findall(NUMBER, entry) for entry in charges], dtype=float).reshape(-1, 3, 3)
    exact = symmetrised(Crystal(rough), PH_X_DIGITS_A).atoms()
    return _Found(np.array(re.findall(NUMBER, dielectric), dtype=float).reshape(3, 3), of_all, exact)


def _on_sites(crystal: Crystal, atoms: Atoms, charges: Floats, source: str) -> Floats:
    """Charges (n, 3, 3) of the crystal's atoms from those of `atoms`, a cell of it of any size and order.

    Raises:
        InputError: not as many charges as atoms, or another crystal.
    """
    if len(charges) != len(atoms):
        raise InputError(source, f"{len(atoms)} Born charges", f"{len(charges)}", "check that the calculation ended")
    try:
        perfect = np.rint(np.asarray(atoms.cell[:]) @ np.linalg.inv(crystal.cell)) @ crystal.cell
        if abs(np.linalg.det(perfect)) < 1e-3 or strain(np.asarray(atoms.cell[:]), perfect) > OTHER_CELL:
            raise StructureError("cell", "", "", "")
        snapped = Atoms(atoms.numbers, cell=perfect, scaled_positions=atoms.get_scaled_positions(), pbc=True)
        sites = Supercell.match(crystal, snapped).basis_index
    except StructureError as error:
        raise InputError(
            source,
            f"Born charges of this crystal, {crystal.formula}, in its orientation",
            f"those of {atoms.get_chemical_formula()} in another cell",
            "give those of this crystal",
        ) from error
    return np.array([charges[sites == k].mean(axis=0) for k in range(crystal.n_atoms)])
