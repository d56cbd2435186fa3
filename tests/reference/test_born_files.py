"""Born charges out of the files of phonopy, VASP and ph.x."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import phonopy
import pytest
import standin_vasp
from ase import Atoms
from ase.build import bulk
from phonopy.structure.atoms import PhonopyAtoms

from dynft_core import Crystal
from dynft_core.errors import InputError
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.dipoles.born_file import read_born, write_born
from dynft_core.models.dipoles.ewald import EwaldSum
from dynft_core.phonons.dynamical_matrix import THZ
from dynft_core.reference.born_files import read_born_charges
from dynft_core.reference.espresso import DEBIAN_PSEUDOPOTENTIALS

OXIDE = bulk("MgO", "rocksalt", a=4.2)
CRYSTAL = Crystal(OXIDE)
EPSILON, CHARGE = 3.1, 1.97

PH_X = """
     Program PHONON v.7.2 starts on  1Jan2025 at 12: 0: 0

     lattice parameter (alat)  =       7.9368  a.u.
     crystal axes: (cart. coord. in units of alat)
               a(1) = ( -0.5000  0.0000  0.5000 )
               a(2) = (  0.0000  0.5000  0.5000 )
               a(3) = ( -0.5000  0.5000  0.0000 )

     Atoms inside the unit cell:
     Cartesian axes
     site n.  atom      mass           positions (alat units)
        1     O   15.9990   tau(    1) = (   -0.50000    0.50000    0.50000  )
        2     Mg  24.3050   tau(    2) = (    0.00000    0.00000    0.00000  )

          Dielectric constant in cartesian axis

          (       3.105000000       0.000000000      -0.000000000 )
          (       0.000000000       3.100000000       0.000000000 )
          (      -0.000000000       0.000000000       3.095000000 )

          Effective charges (d Force / dE) in cartesian axis without acoustic sum rule applied (asr)

           atom      1   O   Mean Z*:       -1.95000
      Ex  (       -1.95000        0.00000       -0.00000 )
      Ey  (        0.00000       -1.95000       -0.00000 )
      Ez  (       -0.00000       -0.00000       -1.95000 )
           atom      2   Mg  Mean Z*:        1.99000
      Ex  (        1.99000        0.00000       -0.00000 )
      Ey  (        0.00000        1.99000       -0.00000 )
      Ez  (       -0.00000       -0.00000        1.99000 )

          Effective charges (d Force / dE) in cartesian axis with asr applied:

           atom      1   O   Mean Z*:       -9.00000
      Ex  (       -9.00000        0.00000       -0.00000 )
      Ey  (        0.00000       -9.00000       -0.00000 )
      Ez  (       -0.00000       -0.00000       -9.00000 )

   JOB DONE.
"""


def vasp_run(folder: Path, atoms: Atoms, name: str = "epsilon", partial: bool = False) -> None:
    """vasprun.xml and OUTCAR of a calculation with LEPSILON, or in a finite field, as VASP lays them out."""
    charges = [(CHARGE if s == "Mg" else -CHARGE) * np.eye(3) for s in atoms.symbols]
    species, rows = sorted(set(atoms.symbols)), standin_vasp.rows
    ions = "".join(f"<set>\n{rows(z)}</set>\n" for z in charges)
    run = standin_vasp.Run(
        folder, {"ISMEAR": "0", "SIGMA": "0.05", "NELM": "60"}, atoms, species, [f"PAW_PBE {s}" for s in species],
        [4, 4, 4], np.zeros((len(atoms), 3)), -12.0, np.zeros((3, 3)), partial=partial,
        xml_extra=(
            f'<varray name="{name}" >\n{rows(EPSILON * np.eye(3))}</varray>\n'
            f'<array name="born_charges" >\n<dimension dim="1">ion</dimension>\n{ions}</array>\n'
        ),
    )  # fmt: skip
    (folder / "vasprun.xml").write_text(standin_vasp.vasprun(run))


def outcar(folder: Path, atoms: Atoms) -> None:
    """What of an OUTCAR is read, as VASP lays it out."""
    symbols = list(dict.fromkeys(atoms.symbols))
    pairs = zip(atoms.cell[:], np.linalg.inv(atoms.cell[:]).T, strict=True)
    cell = "".join("  " + "".join(f"{x:13.9f}" for x in (*v, *w)) + "\n" for v, w in pairs)
    places = "".join("   " + "".join(f"{x:12.8f}" for x in row) + "\n" for row in atoms.get_scaled_positions())
    tensor = "".join("  " + "".join(f"{x:12.6f}" for x in row) + "\n" for row in EPSILON * np.eye(3))
    ions = "".join(
        f" ion {i:4d}\n" + "".join(f"{k + 1:5d}" + "".join(f"{x:12.5f}" for x in row) + "\n" for k, row in enumerate(z))
        for i, z in enumerate(((CHARGE if s == "Mg" else -CHARGE) * np.eye(3) for s in atoms.symbols), start=1)
    )
    (folder / "OUTCAR").write_text(
        " vasp.6.4.2 20Jul23 complex\n"
        + "".join(f"   VRHFIN ={s}: test\n" for s in symbols)
        + f"   ions per type =            {' '.join(str(list(atoms.symbols).count(s)) for s in symbols)}\n"
        f"      direct lattice vectors                 reciprocal lattice vectors\n{cell}\n"
        f" position of ions in fractional coordinates (direct lattice)\n{places}\n"
        " MACROSCOPIC STATIC DIELECTRIC TENSOR (including local field effects in DFT)\n"
        f" {'-' * 70}\n{tensor} {'-' * 70}\n\n"
        " BORN EFFECTIVE CHARGES (including local field effects) (in |e|, cummulative output)\n"
        f" {'-' * 70}\n{ions}\n\n"
    )


def check(found: BornCharges, epsilon: float = EPSILON) -> None:
    signs = np.where(found.crystal.numbers == 12, CHARGE, -CHARGE)
    np.testing.assert_allclose(found.charges, signs[:, None, None] * np.eye(3), atol=1e-6)
    np.testing.assert_allclose(found.dielectric, epsilon * np.eye(3), atol=1e-6)


def test_phonopy_reads_what_is_written_and_the_reverse(tin_selenide_born: BornCharges, tmp_path: Path) -> None:
    born = tin_selenide_born
    crystal = born.crystal
    write_born(born, tmp_path / "BORN")
    cell = PhonopyAtoms(numbers=crystal.numbers, cell=crystal.cell, scaled_positions=crystal.scaled_positions)
    theirs = phonopy.Phonopy(cell, supercell_matrix=np.eye(3), primitive_matrix=np.eye(3))
    theirs.nac_params = phonopy.file_IO.parse_BORN(theirs.primitive, filename=tmp_path / "BORN")
    np.testing.assert_allclose(theirs.nac_params["born"], born.charges, atol=1e-7)
    theirs.save(tmp_path / "phonopy_params.yaml", settings={"force_constants": False})
    for found in (read_born(tmp_path / "BORN", crystal), read_born_charges(tmp_path / "phonopy_params.yaml", crystal)):
        np.testing.assert_allclose(found.charges, born.charges, atol=1e-7)
        np.testing.assert_allclose(found.dielectric, born.dielectric, atol=1e-7)


@pytest.mark.parametrize("first", ["14.400", "default", "# epsilon and Z* of atoms 1 2"])
def test_a_born_file_begins_with_anything(first: str, tmp_path: Path) -> None:
    rows = [EPSILON * np.eye(3), CHARGE * np.eye(3), -CHARGE * np.eye(3)]
    lines = [first, *(" ".join(f"{x:.8f}" for x in row.ravel()) for row in rows)]
    (tmp_path / "BORN").write_text("\n".join(lines))
    check(read_born_charges(tmp_path / "BORN", CRYSTAL))


@pytest.mark.parametrize("name", ["epsilon", "epsilon_scf", "dielectric_dft"])
def test_vasp_s_xml_in_another_order_of_atoms(name: str, tmp_path: Path) -> None:
    vasp_run(tmp_path, OXIDE[[1, 0]], name)
    check(read_born_charges(tmp_path, CRYSTAL))
    check(read_born_charges(tmp_path / "vasprun.xml"))


def test_vasp_s_outcar_of_the_conventional_cell(tmp_path: Path) -> None:
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    outcar(tmp_path, atoms[np.argsort(atoms.numbers)])
    check(read_born_charges(tmp_path, CRYSTAL))
    check(read_born_charges(tmp_path / "OUTCAR"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:phonopy[.].*")
def test_ph_x_before_it_applies_the_sum_rule(tmp_path: Path) -> None:
    (tmp_path / "ph.out").write_text(PH_X)
    found = read_born_charges(tmp_path)
    check(found)
    assert found.net_charge == pytest.approx(0.04)
    turned = Crystal(Atoms("MgO", cell=[[-2.1, 0, 2.1], [0, 2.1, 2.1], [-2.1, 2.1, 0]],
                           positions=[[0, 0, 0], [-2.1, 2.1, 2.1]], pbc=True))  # fmt: skip
    check(read_born_charges(tmp_path / "ph.out", turned))


def test_files_that_are_of_no_use_are_refused_in_one_line(tmp_path: Path) -> None:
    other = Crystal(bulk("MgO", "rocksalt", a=4.5))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("to be or\nnot to be\n")
    (tmp_path / "cut.out").write_text(PH_X[: PH_X.index("Effective")])
    (tmp_path / "metal").mkdir()
    vasp_run(tmp_path / "metal", OXIDE, partial=True)
    vasp_run(tmp_path, OXIDE)
    refused = {
        "no such file": (tmp_path / "absent", CRYSTAL, "No such file"),
        "empty folder": (tmp_path / "empty", CRYSTAL, "vasprun.xml, OUTCAR"),
        "no file of that kind": (tmp_path / "text", CRYSTAL, "nine numbers"),
        "ph.x that was cut off": (tmp_path / "cut.out", CRYSTAL, "JOB DONE"),
        "a metal": (tmp_path / "metal", CRYSTAL, "gap"),
        "another crystal": (tmp_path / "vasprun.xml", other, "in another cell"),
    }
    for what, (path, crystal, words) in refused.items():
        with pytest.raises(InputError, match=words) as refusal:
            read_born_charges(path, crystal)
        assert "\n" not in str(refusal.value), what
    write_born(read_born_charges(tmp_path / "vasprun.xml"), tmp_path / "BORN")
    with pytest.raises(InputError, match="--structure"):
        read_born_charges(tmp_path / "BORN")


@pytest.mark.dft
@pytest.mark.skipif(shutil.which("ph.x") is None, reason="needs ph.x: apt-get install quantum-espresso")
def test_ph_x_of_aluminium_arsenide(tmp_path: Path) -> None:
    """The splitting of its optical modes, with the macroscopic field along x, is what dynmat.x finds."""
    if not (DEBIAN_PSEUDOPOTENTIALS / "As.pz-bhs.UPF").is_file():
        pytest.skip("needs Debian's pseudopotentials: apt-get install quantum-espresso-data")
    inputs = {
        "scf": f"""&control
 calculation='scf', prefix='a', outdir='./tmp', pseudo_dir='{DEBIAN_PSEUDOPOTENTIALS}'
/
&system
 ibrav=0, nat=2, ntyp=2, ecutwfc=14
/
&electrons
 conv_thr=1e-9
/
ATOMIC_SPECIES
Al 26.98 Al.pz-vbc.UPF
As 74.92 As.pz-bhs.UPF
CELL_PARAMETERS angstrom
0.0 2.805 2.805
2.805 0.0 2.805
2.805 2.805 0.0
ATOMIC_POSITIONS crystal
Al 0 0 0
As 0.25 0.25 0.25
K_POINTS automatic
4 4 4 1 1 1
""",
        "ph": "x\n&inputph\n prefix='a', outdir='./tmp', epsil=.true., fildyn='dyn'\n/\n0 0 0\n",
    }
    inputs["dynmat"] = "&input\n fildyn='dyn', asr='simple', q(1)=1.0\n/\n"
    for program, text in zip(("pw.x", "ph.x", "dynmat.x"), inputs.values(), strict=True):
        with (tmp_path / f"{program[:2]}.out").open("w") as out:
            subprocess.run([program], input=text, text=True, stdout=out, cwd=tmp_path, check=True)
    born = read_born_charges(tmp_path)
    field = EwaldSum.of(born).force_constants(np.zeros((2, 3)), [[0, 0, 0], [-1, 1, 1]])  # the second: Cartesian x
    weights = 1 / np.sqrt(np.repeat(born.crystal.atoms().get_masses(), 3))
    added = np.linalg.eigvalsh((field[1] - field[0]) * weights[:, None] * weights)[-1]
    found = re.findall(r"^ +[456] +\S+ +(\S+)", (tmp_path / "dy.out").read_text(), re.MULTILINE)
    transverse, _, longitudinal = (float(x) for x in found)
    assert np.sqrt(transverse**2 + added / THZ**2) == pytest.approx(longitudinal, abs=2e-3)
