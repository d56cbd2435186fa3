"""What the stand-in for VASP can do wrong. Each fault changes what is about to be written, or said."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import ase.units
import numpy as np
import standin_vasp
from standin_vasp import Run

Fault = Callable[[Run], None]


def ends(code: int, stderr: str = "", stdout: str = "", written: bool = False) -> Fault:
    """The program ends with this exit code (below zero: by a signal), having printed this."""

    def fault(run: Run) -> None:
        run.exit_code, run.written = code, written
        run.stderr += stderr
        run.stdout += stdout

    return fault


def prints(stdout: str) -> Fault:
    """A complete output and exit code 0, but a message in between."""
    return ends(0, stdout=stdout, written=True)


def cut(name: str, mark: str, behind: int = 0) -> Fault:
    """A file ends at the last occurrence of `mark`."""

    def shortened(content: bytes) -> bytes:
        return content[: content.rindex(mark.encode()) + behind]

    return lambda run: run.edits.append((name, shortened))


def replaced(name: str, content: bytes | None) -> Fault:
    """A file holds something else, or is not there (None)."""
    return lambda run: run.edits.append((name, lambda _: content))


def sets(tag: str, value: str) -> Fault:
    """Computed with another value of an INCAR tag."""
    return lambda run: run.incar.update({tag: value})


def forces(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """Other forces, in all files alike."""

    def fault(run: Run) -> None:
        run.forces = change(run.forces.copy())

    return fault


def pair(force_eV_A: float, axis: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Two opposite forces on the first two atoms: no net force."""

    def change(f: np.ndarray) -> np.ndarray:
        f[0, axis] += force_eV_A
        f[1, axis] -= force_eV_A
        return f

    return change


def attribute(name: str, value: object) -> Fault:
    """Another value of what is about to be written."""
    return lambda run: setattr(run, name, value)


def energy(change: Callable[[float], float]) -> Fault:
    """Another energy, in all files alike."""

    def fault(run: Run) -> None:
        run.energy_eV = change(run.energy_eV)

    return fault


def strained(factor: float) -> Fault:
    return lambda run: run.atoms.set_cell(run.atoms.cell * factor, scale_atoms=True)


def moved(run: Run) -> None:
    run.atoms.positions[3] += 0.01


def another_structure(run: Run) -> None:
    """All files are those of another structure of the same crystal."""
    run.atoms.rattle(0.05, seed=7)
    run.energy_eV, run.forces, _ = standin_vasp.tersoff(run.atoms)


def forces_of_another(run: Run) -> None:
    """The right structure with energy and forces of another one."""
    other = run.atoms.copy()
    other.rattle(0.15, seed=8)
    run.energy_eV, run.forces, _ = standin_vasp.tersoff(other)


def in_one_file(name: str, fault: Fault) -> Fault:
    """A fault that shows in one file alone; the others are right."""

    def done(run: Run) -> None:
        other = copy.deepcopy(run)
        fault(other)
        text = {"OUTCAR": standin_vasp.outcar, "vasprun.xml": standin_vasp.vasprun}[name](other)
        run.edits.append((name, lambda _: text.encode()))

    return done


def reordered(run: Run) -> None:
    """The first species' atoms and the second's have changed places, with their forces."""
    order = np.argsort(run.atoms.numbers, kind="stable")
    run.atoms, run.forces = run.atoms[order], run.forces[order]
    run.species.reverse()
    run.titles.reverse()


def swapped(run: Run) -> None:
    """Two atoms of one species have changed places, with their forces."""
    order = [1, 0, *range(2, len(run.atoms))]
    run.atoms, run.forces = run.atoms[order], run.forces[order]


def fewer(run: Run) -> None:
    run.atoms, run.forces = run.atoms[:-1], run.forces[:-1]


def more(run: Run) -> None:
    run.atoms += run.atoms[-1:]
    run.forces = np.vstack([run.forces, run.forces[-1:]])


def other_element(run: Run) -> None:
    """Computed for germanium in the place of silicon."""
    run.species = ["Ge" if s == "Si" else s for s in run.species]
    run.atoms.symbols[run.atoms.symbols == "Si"] = "Ge"


def unconverged(run: Run) -> None:
    run.n_electronic_steps, run.last_change_eV = int(run.incar["NELM"]), 7.5e-3


def refuses(*lines: str) -> Fault:
    """VASP says in a box why it cannot go on."""
    return ends(1, stdout=standin_vasp.box(*lines))


def overflow(content: bytes) -> bytes:
    """The last force has outgrown its column."""
    return re.sub(rb"\S+ </v>(\s+</varray>\s+<varray name=\"stress\")", rb"****** </v>\1", content)


def polar(run: Run) -> None:
    """Born charges and the dielectric tensor are there too, as after LEPSILON: atom i has charges i, 2 i and 3 i."""
    ions = "".join(f"<set>\n{standin_vasp.rows(np.diag([i, 2.0 * i, 3.0 * i]))}</set>\n" for i in range(len(run.atoms)))
    run.xml_extra = (
        f'<varray name="epsilon" >\n{standin_vasp.rows(np.diag([6.0, 7.0, 8.0]))}</varray>\n'
        f'<array name="born_charges" >\n<dimension dim="1">ion</dimension>\n{ions}</array>\n'
    )


def magnetic(moment: float) -> Fault:
    """A total moment, all of it on the first atom of VASP's order."""

    def fault(run: Run) -> None:
        run.moment = moment
        run.moments = (moment, *(0.0 for _ in run.atoms[1:]))

    return fault


def unless_all(fault: Fault) -> Fault:
    """A fault that ALGO = All gets around."""
    return lambda run: fault(run) if run.incar["ALGO"] != "All" else None


RYDBERG_BOHR = ase.units.Rydberg / ase.units.Bohr

FAULTS: dict[str, Fault] = {
    # It ends badly.
    "segfault": ends(-11),
    "segfault under a shell": ends(139, "forrtl: severe (174): SIGSEGV, segmentation fault occurred\n"),
    "floating-point exception": ends(-8),
    "MPI_ABORT": ends(1, "MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD\n"),
    "killed": ends(-9),
    "killed while writing": lambda run: (
        ends(-9, written=True)(run),
        cut("vasprun.xml", "<varray")(run),
        cut("OUTCAR", "POSITION")(run),
    )[0],
    "killed by the batch system": ends(143, "slurmstepd: error: *** STEP 1.0 CANCELLED DUE TO TIME LIMIT\n"),
    "out-of-memory killer": ends(137, "slurmstepd: error: Detected 1 oom-kill event(s) in step 1.0\n"),
    "allocation failed": ends(134, "terminate called after throwing an instance of 'std::bad_alloc'\n"),
    "memory of Fortran": ends(41, "forrtl: severe (41): insufficient virtual memory\n"),
    "full disk": ends(1, "forrtl: No space left on device, unit 20, file OUTCAR\n", written=True),
    "quota": ends(1, "forrtl: Disk quota exceeded\n"),
    "licence": ends(1, "Error: the licence of this program has expired\n"),
    "command not found": ends(127, "/bin/sh: 1: vasp_std: not found\n"),
    "command not found by srun": ends(2, "slurmstepd: error: execve(): vasp_std: No such file or directory\n"),
    "command not found by Open MPI": ends(134, "mpirun was unable to find the specified executable file\n"),
    "command not found by MPICH": ends(255, "HYDU_create_process: execvp error on file vasp_std (No such file)\n"),
    "missing library": ends(127, "vasp_std: error while loading shared libraries: libmkl_intel.so\n"),
    "exit code 1, output complete": ends(1, written=True),
    "exit code 1, nothing said": ends(1),
    "standard error alone": ends(0, "Fatal error in PMPI_Init_thread: Other MPI error\n"),
    "silent": ends(0),
    # It says that it went wrong.
    "EDDDAV": ends(1, stdout=" Error EDDDAV: Call to ZHEGV failed. Returncode =  20 1 32\n"),
    "EDDDAV, output complete": prints(" Error EDDDAV: Call to ZHEGV failed. Returncode =   7 2  32\n"),
    "EDDRMM": prints(" WARNING in EDDRMM: call to ZHEGV failed, returncode =   6  3     10\n"),
    "sub-space matrix": prints(" WARNING: Sub-Space-Matrix is not hermitian in DAV            3\n"),
    "ZPOTRF": ends(1, stdout=" LAPACK: Routine ZPOTRF failed!\n"),
    "BRMIX": prints(" BRMIX: very serious problems\n  the old and the new charge density differ\n"),
    "ZBRENT": prints(" ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF\n"),
    "too few bands": prints("|     TOO FEW BANDS!! Your highest band is occupied!     |\n"),
    "sick job": ends(1, stdout=" I REFUSE TO CONTINUE WITH THIS SICK JOB ... BYE!!!\n"),
    "NCORE in a box": refuses("The PEAD routines do not work for NCORE /= 1", "(or NPAR /= NCPU)."),
    "k-points in a box": refuses("k-point generating vectors and reciprocal lattice are", "incommensurate."),
    "left-handed": refuses("The triple product of the basis vectors is negative."),
    "srun refuses": ends(1, "srun: error: Unable to create step for job 7: More processors requested than permitted\n"),
    "mpirun as root": ends(1, "-----\nmpirun has detected an attempt to run as root.\n\nThat is discouraged.\n-----\n"),
    "no slots": ends(1, "There are not enough slots available in the system to satisfy the 64\nslots requested\n"),
    "very bad news": ends(1, stdout=" VERY BAD NEWS! internal error in subroutine IBZKPT:\n"),
    "STOPCAR": prints(" hard stop encountered!  aborting job ...\n"),
    "INCAR not understood": ends(0, stdout=" Error reading item 'SIGMA' from file INCAR.\n"),
    # The output is not complete.
    "unconverged": unconverged,
    "unconverged in one file": in_one_file("OUTCAR", unconverged),
    "stopped before EDIFF": attribute("last_change_eV", 1e-4),
    "another number of iterations": in_one_file("OUTCAR", attribute("n_electronic_steps", 11)),
    "machine-learned forces": attribute("machine_learned", True),
    "fixed density": sets("ICHARG", "11"),
    "no vasprun.xml": replaced("vasprun.xml", None),
    "no OUTCAR": replaced("OUTCAR", None),
    "empty vasprun.xml": replaced("vasprun.xml", b""),
    "empty OUTCAR": replaced("OUTCAR", b""),
    "zeros of a lost disk block": replaced("vasprun.xml", bytes(4096)),
    "cut before the forces": cut("vasprun.xml", '<varray name="forces"'),
    "cut before the energy": cut("vasprun.xml", "<energy>"),
    "cut in the eigenvalues": cut("vasprun.xml", "<r>", 6),
    "cut at the very end": cut("vasprun.xml", "</modeling>"),
    "OUTCAR without its end": cut("OUTCAR", " General timing"),
    "OUTCAR cut in its end": cut("OUTCAR", "Elapsed time", 30),
    "overflow in print": lambda run: run.edits.append(("vasprun.xml", overflow)),
    "NaN force": forces(lambda f: np.where(np.arange(f.size).reshape(f.shape) == 4, np.nan, f)),
    "NaN energy": energy(lambda e: float("nan")),
    "infinite energy": energy(lambda e: float("inf")),
    # Another structure.
    "other cell": strained(1.02),
    "slightly other cell": strained(1.00001),
    "positions drifted": moved,
    "ions moved": lambda run: (moved(run), setattr(run, "ionic_steps", 3))[0],
    "atoms swapped": swapped,
    "species in another order": reordered,
    "another element": other_element,
    "an atom fewer": fewer,
    "an atom more": more,
    "stale files": another_structure,
    "stale OUTCAR": in_one_file("OUTCAR", another_structure),
    "stale vasprun.xml": in_one_file("vasprun.xml", another_structure),
    # Other numbers.
    "no forces": forces(np.zeros_like),
    "forces in Ry/bohr": forces(lambda f: f / RYDBERG_BOHR),
    "forces in Ry/bohr in one file": in_one_file("vasprun.xml", forces(lambda f: f / RYDBERG_BOHR)),
    "energy in Ry": energy(lambda e: e / ase.units.Rydberg),
    "forces of the other sign": forces(np.negative),
    "forces in another order": forces(lambda f: np.roll(f, 1, axis=0)),
    "forces of another structure": forces_of_another,
    "net force": forces(lambda f: f + 0.05),
    "drift taken away": attribute("drift", np.array([0.9, 0.0, 0.0])),
    "huge force": forces(pair(500.0)),
    "wrong force on two atoms": forces(pair(30.0)),
    "absurd energy": energy(lambda e: e + 1e4),
    "energy of another cycle": energy(lambda e: e + 5.0),
    # Other settings.
    "other ENCUT": sets("ENCUT", "300.0"),
    "other ISMEAR": sets("ISMEAR", "1"),
    "other SIGMA": sets("SIGMA", "0.2"),
    "spin": sets("ISPIN", "2"),
    "other functional": sets("GGA", "PE"),
    "other POTCAR": attribute("titles", ["PAW_PBE Si_sv 26Mar2001", "PAW_PBE C 08Apr2002"]),
    "plus U": sets("LDAU", ".TRUE."),
    "hybrid": sets("LHFCALC", ".TRUE."),
    "dispersion": sets("IVDW", "12"),
    "other PREC": sets("PREC", "Normal"),
    "loose EDIFF": sets("EDIFF", "1E-4"),
    "other mesh": attribute("mesh", [1, 1, 1]),
    "other version": attribute("version", "5.3.5"),
    # Not wrong.
    "partial occupations": attribute("partial", True),
    "other LASPH": sets("LASPH", ".FALSE."),
    "polar": polar,
    "unconverged with Davidson": unless_all(unconverged),
    "wrong force on two atoms with Davidson": unless_all(forces(pair(4.0, axis=2))),
    "wrong force on two atoms, again": forces(pair(4.0, axis=2)),
    "moment 2": magnetic(2.0),
    "moment -2": magnetic(-2.0),
}
