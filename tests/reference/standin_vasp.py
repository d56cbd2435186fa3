"""Stands in for vasp_std: reads INCAR, KPOINTS, POSCAR and POTCAR of its folder, computes with Tersoff's potential, and
writes vasprun.xml, OUTCAR, CONTCAR and OSZICAR as VASP lays them out.

As a program it takes the fault from the environment variable STANDIN_FAULT and the version from STANDIN_VERSION; in a
test's own process, `run` does the same but tells signals by its exit code, as `subprocess` does.

What differs by version: up to 6.2 vasprun.xml names NELM twice (1 for the response functions); VASP 5 says that EDIFF
is reached whenever its cycle ends; VASP 6 prints INCAR at the head of OUTCAR; since 6.4 some names end with blanks.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import TersoffBrenner
from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import Tersoff_PRB_39_5566_Si_C

KBAR_EV_A3 = 6.241509125883258e-4
TIMING = """
 General timing and accounting informations for this job:
 ========================================================

                  Total CPU time used (sec):       12.345
                         Elapsed time (sec):       13.456

                   Maximum memory used (kb):       54321.
                 Voluntary context switches:          678
"""


VERSIONS = ("5.4.4", "6.1.0", "6.3.2", "6.5.0")


@dataclass
class Run:
    """What is about to be written; faults change it."""

    folder: Path
    incar: dict[str, str]
    atoms: Atoms
    species: list[str]
    titles: list[str]
    mesh: list[int]
    forces: np.ndarray
    energy_eV: float
    stress_kbar: np.ndarray
    version: str = field(default_factory=lambda: os.environ.get("STANDIN_VERSION", "6.3.2"))
    n_electronic_steps: int = 12
    last_change_eV: float = 1e-9
    machine_learned: bool = False
    shift: tuple[float, ...] = (0.0, 0.0, 0.0)
    points: tuple[tuple[float, ...], ...] = ((0.0, 0.0, 0.0),)
    listed: bool = False
    drift: np.ndarray = field(default_factory=lambda: np.zeros(3))
    moment: float = 0.0
    moments: tuple[float, ...] = ()
    partial: bool = False
    ionic_steps: int = 1
    xml_extra: str = ""
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    written: bool = True
    edits: list[tuple[str, Callable[[bytes], bytes | None]]] = field(default_factory=list)
    """File and what becomes of its bytes once written; None: no file."""

    @property
    def n_electrons(self) -> float:
        """Valence electrons: four of each atom."""
        return 4.0 * len(self.atoms)


def tersoff(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (eV), forces (eV/Å) and stress (3, 3) eV/Å³."""
    copy = atoms.copy()
    copy.calc = Manybody(**TersoffBrenner(Tersoff_PRB_39_5566_Si_C))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matscipy's, about np.where
        return copy.get_potential_energy(), copy.get_forces(), copy.get_stress(voigt=False)


def read_incar(path: Path) -> dict[str, str]:
    """Tags and values of an INCAR."""
    pairs = [line.split("#")[0].partition("=") for line in path.read_text().splitlines() if "=" in line]
    return {tag.strip().upper(): value.strip() for tag, _, value in pairs}


def read_inputs(folder: Path) -> Run:
    """Read what VASP reads, and compute."""
    incar = read_incar(folder / "INCAR")
    atoms = ase.io.read(folder / "POSCAR", format="vasp")
    titles = [title.strip() for title in re.findall(r"TITEL\s*=(.*)", (folder / "POTCAR").read_text())]
    kpoints = (folder / "KPOINTS").read_text().splitlines()
    energy, forces, stress = tersoff(atoms)
    species = list(dict.fromkeys(atoms.get_chemical_symbols()))
    assert [title.split()[1].split("_")[0] for title in titles] == species, "POTCAR and POSCAR differ"
    mesh = [int(n) for n in kpoints[3].split()]
    return Run(folder, incar, atoms, species, titles, mesh, forces, energy, -stress / KBAR_EV_A3)


def write_outputs(run: Run) -> None:
    """vasprun.xml, OUTCAR, CONTCAR, OSZICAR, and then what the fault does to them."""
    (run.folder / "vasprun.xml").write_text(vasprun(run))
    (run.folder / "OUTCAR").write_text(outcar(run))
    ase.io.write(run.folder / "CONTCAR", run.atoms, format="vasp", direct=True)
    (run.folder / "OSZICAR").write_text(f"   1 F= {run.energy_eV:.8E} E0= {run.energy_eV:.8E}  d E =0.000000E+00\n")
    for name, edit in run.edits:
        content = edit((run.folder / name).read_bytes())
        if content is None:
            (run.folder / name).unlink()
        else:
            (run.folder / name).write_bytes(content)


def rows(array: np.ndarray) -> str:
    """Lines of three numbers, eight digits behind the point."""
    return "".join("    <v>" + "".join(f"{x:17.8f}" for x in row) + " </v>\n" for row in np.atleast_2d(array))


def structure(run: Run, name: str = "") -> str:
    """A structure as vasprun.xml has it: positions in the unit cell."""
    scaled = run.atoms.get_scaled_positions(wrap=True)
    return (
        f' <structure{name}>\n  <crystal>\n   <varray name="basis" >\n{rows(run.atoms.cell[:])}   </varray>\n'
        f'  </crystal>\n  <varray name="positions" >\n{rows(scaled)}  </varray>\n </structure>\n'
    )


def energies(energy_eV: float) -> str:
    """An <energy> block."""
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "<energy>\n" + "".join(f'<i name="{n}">{energy_eV:16.8f} </i>\n' for n in names) + "</energy>\n"


def cycle(run: Run) -> list[float]:
    """Free energy (eV) after each electronic iteration; none where the machine-learned force field gave the forces."""
    n = 0 if run.machine_learned else run.n_electronic_steps
    changes = [run.last_change_eV * 10.0 ** min(k, 9) for k in range(n)]
    return [run.energy_eV + sum(changes[:k]) for k in reversed(range(n))]


def older(run: Run, version: tuple[int, int]) -> bool:
    """Whether the run is of an earlier version."""
    major, minor = run.version.split(".")[:2]
    return (int(major), int(minor)) < version


def parameters(run: Run) -> str:
    """The <parameters> of vasprun.xml, in its sections."""
    incar = run.incar
    electronic = {
        "PREC": incar.get("PREC", "Normal")[:6].lower(), "ENMAX": float(incar.get("ENCUT", 300)),
        "EDIFF": float(incar.get("EDIFF", 1e-4)), "NELECT": run.n_electrons,
    }  # fmt: skip
    parts = {
        "electronic smearing": {"ISMEAR": incar["ISMEAR"], "SIGMA": float(incar["SIGMA"])},
        "electronic projectors": {"LREAL": "F" if incar.get("LREAL", "F").strip(".")[0] == "F" else "T"},
        "electronic spin": {"ISPIN": incar.get("ISPIN", "1"), "LSORBIT": "F"},
        "electronic convergence": {"NELM": incar.get("NELM", "60"), "NELMIN": incar.get("NELMIN", "2")},
    }
    exchange = {"GGA    " if not older(run, (6, 4)) else "GGA": incar.get("GGA", "--"), "LHFCALC": "F"}
    response = {"NELM" if older(run, (6, 3)) else "NELMGW": incar.get("NELM", "1") if older(run, (6, 0)) else "1"}
    return (
        "<parameters>\n" + separator("electronic", electronic, "".join(separator(*part) for part in parts.items()))
        + separator("grids", {"ADDGRID": incar.get("ADDGRID", "F").strip(".")[0]})
        + separator("ionic", {"NSW": incar.get("NSW", "0"), "PSTRESS": 0.0})
        + separator("electronic exchange-correlation", exchange) + separator("response functions", response)
        + "</parameters>\n"
    )  # fmt: skip


def separator(name: str, values: dict[str, object], inner: str = "") -> str:
    """A section of the parameters."""
    return f'<separator name="{name}" >\n' + "".join(parameter(*x) for x in values.items()) + inner + "</separator>\n"


def calculation(run: Run) -> str:
    """One ionic step of vasprun.xml."""
    occupied = 2 * len(run.atoms)
    bands = [(0.5 * b - occupied, 1.0 if b < occupied else 0.5 if run.partial else 0.0) for b in range(occupied + 2)]
    eigenvalues = "".join(
        f'<set comment="spin {s + 1}">\n<set comment="kpoint 1">\n'
        + "".join(f"<r>{e:10.4f} {o:9.4f} </r>\n" for e, o in bands)
        + "</set>\n</set>\n"
        for s in range(int(run.incar.get("ISPIN", "1")))
    )
    return (
        " <calculation>\n"
        + "".join("  <scstep>\n" + energies(energy) + "  </scstep>\n" for energy in cycle(run))
        + structure(run)
        + f'  <varray name="forces" >\n{rows(run.forces)}  </varray>\n'
        + f'  <varray name="stress" >\n{rows(run.stress_kbar)}  </varray>\n'
        + energies(run.energy_eV)
        + run.xml_extra
        + "<eigenvalues>\n<array>\n<set>\n" + eigenvalues + "</set>\n</array>\n</eigenvalues>\n"
        + '<dos>\n<i name="efermi">      5.00000000 </i>\n</dos>\n </calculation>\n'
    )  # fmt: skip


def vasprun(run: Run, *later: Run) -> str:
    """The text of vasprun.xml, with further ionic steps."""
    symbols = run.atoms.get_chemical_symbols()
    kinds = [i for i in range(len(run.species)) if run.species[i] in symbols]
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>\n'
        f'<i name="program" type="string">vasp </i>\n<i name="version" type="string">{run.version} </i>\n</generator>\n'
        "<incar>\n" + "".join(f'<i type="string" name="{tag}">{v.strip(".")}</i>\n' for tag, v in run.incar.items())
        + f'</incar>\n<kpoints>\n{k_points(run)}</kpoints>\n' + parameters(run)
        + f'<atominfo>\n<atoms> {len(symbols)} </atoms>\n<array name="atoms" >\n<set>\n'
        + "".join(f"<rc><c>{s:2}</c><c> {run.species.index(s) + 1}</c></rc>\n" for s in symbols)
        + '</set>\n</array>\n<array name="atomtypes" >\n<set>\n'
        + "".join(
            f"<rc><c>{symbols.count(run.species[i])}</c><c>{run.species[i]:2}</c><c> 1.0</c><c> 4.0</c>"
            f"<c>  {run.titles[i]:40}</c></rc>\n"
            for i in kinds
        )
        + "</set>\n</array>\n</atominfo>\n"
        + structure(run, ' name="initialpos" ') + "".join(map(calculation, [run] * run.ionic_steps + list(later)))
        + structure(run, ' name="finalpos" ') + "</modeling>\n"
    )  # fmt: skip


def k_points(run: Run) -> str:
    """The mesh, or the points of a list."""
    mesh = " ".join(str(n) for n in run.mesh)
    generated = (
        f'<generation param="Gamma">\n<v type="int" name="divisions">{mesh} </v>\n'
        f'<v name="shift">{" ".join(str(x) for x in run.shift)}</v>\n</generation>\n'
    )
    points = "".join(f"<v> {a} {b} {c} </v>\n" for a, b, c in run.points)
    weights = f'<varray name="weights" >\n{"<v> 1.0 </v>" * len(run.points)}\n</varray>\n'
    return ("" if run.listed else generated) + f'<varray name="kpointlist" >\n{points}</varray>\n{weights}'


def parameter(name: str, value: object) -> str:
    """A parameter as vasprun.xml has it; since 6.4.3 some names end with blanks."""
    if isinstance(value, float):
        return f'<i name="{name}">{value:16.8f}</i>\n'
    kind = "int" if str(value).lstrip("-").isdigit() else "string"
    return f'<i type="{kind}" name="{name}">{value}</i>\n'


def outcar_head(run: Run) -> str:
    """The head of OUTCAR, up to the first iteration."""
    symbols = run.atoms.get_chemical_symbols()
    titles = "".join(f" POTCAR:    {title}\n" for title in run.titles)
    tags = {"EDIFF": f"{float(run.incar.get('EDIFF', 1e-4)):.1E}", "NELM": run.incar.get("NELM", "60")}
    echoed = "" if older(run, (6, 0)) else " INCAR:\n" + "".join(f"   {t} = {v}\n" for t, v in run.incar.items()) + "\n"
    return (
        f" vasp.{run.version} 20Jul23 (stand-in) complex\n \n{echoed}{titles}{titles}"
        f"   ions per type =  {' '.join(str(symbols.count(s)) for s in dict.fromkeys(symbols))}\n\n"
        f" Startparameter for this run:\n   ISPIN  = {run.incar.get('ISPIN', '1'):>6}    spin polarized calculation?\n"
        f"   PREC   = {run.incar.get('PREC', 'Normal')[:6].lower()}    normal or accurate\n"
        f"   ENCUT  =  {run.incar.get('ENCUT', '300')} eV  72.03 Ry    8.49 a.u.\n"
        f"   ISMEAR = {run.incar['ISMEAR']:>6};   SIGMA  =   {run.incar['SIGMA']}  broadening in eV\n"
        f"   GGA     =    {run.incar.get('GGA', '--')}    GGA type\n"
        f"   NELM   = {tags['NELM']};   NELMIN=  2; NELMDL= -5     # of ELM steps\n"
        f"   EDIFF  = {tags['EDIFF']}   stopping-criterion for ELM\n"
        f"  Ionic Valenz\n   ZVAL   = {' '.join('4.00' for _ in run.species)}\n"
        f"   k-points NKPTS = 1  number of bands    NBANDS= {2 * len(run.atoms) + 2:6d}\n"
    )


def outcar_step(run: Run, number: int) -> str:
    """One ionic step of OUTCAR."""
    reached = older(run, (6, 0)) or run.n_electronic_steps < int(run.incar.get("NELM", "60"))
    end = "because EDIFF is reached" if reached else "EDIFF was not reached (unconverged)"
    x, y, z = run.drift
    table = "".join(
        "".join(f"{x:13.5f}" for x in position) + "    " + "".join(f"{f:14.6f}" for f in force) + "\n"
        for position, force in zip(run.atoms.positions, run.forces, strict=True)
    )
    moments = "".join(f"{i + 1:5d} {0:11.3f} {m:7.3f} {m:7.3f}\n" for i, m in enumerate(run.moments))
    lattice = "".join("".join(f"{x:13.9f}" for x in [*row, *row]) + "\n" for row in run.atoms.cell[:])
    iterations = "".join(
        f"--------------------------------------- Iteration {number:6d}({k:4d})  {'-' * 39}\n"
        f"  free energy    TOTEN  = {energy:19.8f} eV\n" for k, energy in enumerate(cycle(run), start=1)
    )  # fmt: skip
    ml, totens = (" (ML)", " ML ") if run.machine_learned else ("", "   ")
    return (
        iterations
        + ("" if run.machine_learned else f"{'-' * 24} aborting loop {end} {'-' * 40}\n")
        + f" number of electron   {4 * len(run.atoms):.7f} magnetization {run.moment:12.7f}\n"
        + (f"\n magnetization (x)\n\n# of ion       s       p       tot\n{'-' * 34}\n{moments}" if len(moments) else "")
        + f"      direct lattice vectors                 reciprocal lattice vectors\n{lattice}\n"
        + f" POSITION                                       TOTAL-FORCE (eV/Angst){ml}\n " + "-" * 83 + "\n"
        f"{table} " + "-" * 83 + f"\n    total drift:     {x:16.6f} {y:15.6f} {z:15.6f}\n\n"
        f"  free  energy{totens}TOTEN  = {run.energy_eV:18.8f} eV\n"
    )  # fmt: skip


def outcar(run: Run, *later: Run) -> str:
    """The text of OUTCAR, with further ionic steps."""
    steps = (outcar_step(step, number) for number, step in enumerate((run, *later), start=1))
    return outcar_head(run) + "".join(steps) + TIMING


def box(*lines: str) -> str:
    """How VASP prints that it cannot go on."""
    title = ["EEEEEEE  RRRRRR   RRRRRR   OOOOOOO  RRRRRR      ###     ###     ###",
             "E        R     R  R     R  O     O  R     R     ###     ###     ###"]  # fmt: skip
    refuses = "  ---->  I REFUSE TO CONTINUE WITH THIS SICK JOB ... BYE!!! <----"
    text = ["", *title, "", *lines, "", refuses, ""]
    return f" {'-' * 77}\n" + "".join(f"|     {line:72}|\n" for line in text) + f" {'-' * 77}\n"


def run(folder: Path, fault: str) -> tuple[int, str, str]:
    """Compute in `folder`; returns exit code, standard output and standard error.

    `fault`: names joined by "+"; or "one in three": a fault in a third of all calculations, by the input's hash.
    """
    from standin_faults import FAULTS  # which knows this module

    if fault == "one in three":
        draw = random.Random((folder / "POSCAR").read_bytes() + (folder / "INCAR").read_bytes())
        fault = draw.choice(sorted(FAULTS)) if draw.random() < 1 / 3 else ""
    data = read_inputs(folder)
    data.stdout = f" running on    1 total cores\n vasp.{data.version} (stand-in)\n"
    for one in filter(None, fault.split("+")):
        FAULTS[one](data)
    if data.written:
        write_outputs(data)
    return data.exit_code, data.stdout, data.stderr


def main() -> None:
    """As a program, in the working folder."""
    fault = os.environ.get("STANDIN_FAULT", "")
    if fault == "hang":
        print(" running on    1 total cores", flush=True)
        time.sleep(600)
    code, out, err = run(Path.cwd(), fault)
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        os.kill(os.getpid(), signal.Signals(-code))
    sys.exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
