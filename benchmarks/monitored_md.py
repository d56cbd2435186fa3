"""Monitored molecular dynamics against hiPhive and ASE, as ratios in one run: `python -m benchmarks.monitored_md`.

The table has parts, all of which are printed unless --rows names some: `silicon` (216 atoms, cutoffs 8, 5, 5 Å, against
hiPhive and ASE, which the extra `benchmark` brings), `tin-selenide` (768 atoms, order 6), `atoms` (cost an atom from 64
to 8,000) and `processes` (two against one). Times are smallest / median / largest: CPU time, to be measured with
OPENBLAS_NUM_THREADS=1 on one core; of a refit the wall time, with as many threads as it is given. There are no time
limits; it fails when results disagree.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin as AseLangevin
from numpy.typing import NDArray

from benchmarks.crystals import Case, silicon, tin_selenide
from benchmarks.timing import Times, dgemm_rate, fma_rate, times
from dynft_core import ForceField, Supercell, fit
from dynft_core.dynamics.langevin import Langevin
from dynft_core.dynamics.monitor import SURVEY_INTERVAL, make_monitor
from dynft_core.dynamics.state import WalkState
from dynft_core.dynamics.walk import walk
from dynft_core.dynamics.walker import WalkSettings
from dynft_core.interop.export import export
from dynft_core.models.force_constants.expansion.cell_energy import KINDS
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.models.force_constants.fitting import refit
from dynft_core.vocabulary import CriterionSettings, MonitorName
from workflows.user_files.trajectory import FrameFormat

Floats = NDArray[np.float64]
WALKERS = 8
WARM_STEPS = 300


def line(name: str, measured: Times, against: Times | None = None) -> None:
    """A row of the table."""
    ratio = f"{against.best / measured.best:9.1f} ×" if against else ""
    print(f"{name:58} {measured!s:32} {ratio}", flush=True)


def require(agree: bool, what: str) -> None:
    if not agree:
        raise SystemExit(f"results disagree: {what}")


def labelled(case: Case, count: int) -> ForceField:
    """A force field of the case's reference."""
    basis = case.basis()
    cell = case.supercell(basis)
    return fit(basis, cell, *case.labels(cell, count))


def warm(case: Case, force_field: ForceField, walkers: int = WALKERS) -> Langevin:
    """A batch of walkers at temperature."""
    cell = force_field.supercell
    still = np.zeros((walkers, cell.n_atoms, 3))
    md = Langevin(
        case.thermostat(),
        cell.masses,
        force_field.potential.batch_forces,
        still,
        still,
        [(1, w) for w in range(walkers)],
        [0] * walkers,
    )
    md.advance(WARM_STEPS)
    return md


def peers(case: Case, force_field: ForceField, u: Floats) -> tuple[Times, Times, Times]:
    """hiPhive's force call, a step of ASE's Langevin with it, and its sensing matrix, for the same force field."""
    from hiphive import ClusterSpace, ForceConstants, StructureContainer
    from hiphive.calculators import ForceConstantCalculator

    with tempfile.TemporaryDirectory() as folder:
        (path,) = export(force_field, "hiphive", Path(folder))
        constants = ForceConstants.read(str(path))
    cell = force_field.supercell
    atoms = cell.atoms(u)
    calculator = ForceConstantCalculator(constants)
    atoms.calc = calculator
    ours = force_field.forces(u)
    require(np.allclose(atoms.get_forces(), ours, atol=1e-9 * np.abs(ours).max()), "forces of hiPhive and dynft")
    call = times(lambda: _moved_forces(atoms))
    md = AseLangevin(
        atoms, units.fs, temperature_K=case.temperature_K, friction=0.01 / units.fs, rng=np.random.default_rng(1)
    )
    step = times(lambda: md.run(5), 3, 5)
    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        space = ClusterSpace(case.primitive, list(case.cutoffs_A.values()))
    require(space.n_dofs >= force_field.basis.size, "number of parameters of hiPhive and dynft")
    moved = cell.atoms()
    moved.new_array("displacements", u)
    moved.new_array("forces", ours)
    matrix = times(lambda: StructureContainer(space).add_structure(moved), 1)
    return call, step, matrix


def _moved_forces(atoms: Atoms) -> Floats:
    atoms.positions += 1e-9  # so that ASE asks again
    return np.asarray(atoms.get_forces())


def walked(case: Case, force_field: ForceField, monitor: MonitorName, n_steps: int) -> Callable[[], None]:
    """A monitored walk of WALKERS warm walkers, ready to be timed."""
    cell = force_field.supercell
    settings = WalkSettings(case.thermostat(), CriterionSettings(gamma=3.0), "wait", n_steps, cell.max_displacement_A)
    fresh = [WalkState.at_rest(w, 1, cell.n_atoms, 1000) for w in range(WALKERS)]
    watching = make_monitor("sketch", force_field)
    warming = replace(settings, n_steps=WARM_STEPS)
    states, _ = walk(fresh, force_field.potential.batch_forces, watching, warming, cell.masses, str)

    def run() -> None:
        watch = make_monitor(monitor, force_field)
        _, reports = walk(states, force_field.potential.batch_forces, watch, settings, cell.masses, str)
        require(all(report.ended == "finished" for report in reports), "a walk was to finish")

    return run


def one_process(steps: int) -> float:
    """Walker-steps a second of wall time of one process."""
    case = silicon(3, {2: 5.4, 3: 3.9, 4: 2.5})
    md = warm(case, labelled(replace(case, repeat=2), 2).on(case.supercell(case.basis())))
    _BARRIER.wait()
    start = time.perf_counter()
    md.advance(steps)
    return WALKERS * steps / (time.perf_counter() - start)


def _with_barrier(barrier: Barrier) -> None:
    global _BARRIER
    _BARRIER = barrier


_BARRIER: Barrier


def processes(count: int, steps: int) -> float:
    """Walker-steps a second of `count` processes together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with context.Pool(count, _with_barrier, (barrier,)) as pool:
        return sum(pool.map(one_process, [steps] * count, chunksize=1))


def operations(potential: Potential) -> int:
    """Floating-point operations of the forces on one structure, a multiply-add counting as two."""
    cell, index = potential.folded.energy(tuple(potential.folded.blocks))
    kinds = [KINDS[kind] for kind in cell.parts[:, 0]]
    orbits = cell.parts[:, 3]
    contractions = sum(4 * sum(kind) * n + 3 * sum(kind) for kind, n in zip(kinds, orbits, strict=True))
    butterflies = sum(_additions(len(kind)) * n for kind, n in zip(kinds, orbits, strict=True)) + 6 * len(cell.sums)
    products = sum(9 if a != b else 6 for a, b, _ in cell.pairs) + len(cell.triples)
    n_cells, n_sites = index.shape
    return int(n_cells * (contractions + butterflies + 5 * products + 3 * n_sites))


def _additions(n: int) -> int:
    """Of the sums and differences of n columns, and of their adjoints."""
    return 2 * n * (n.bit_length() - 1)


def force_rows(case: Case, force_field: ForceField, md: Langevin, steps: int, peer: Times | None) -> Times:
    """Forces and walker-steps of a batch, in both precisions; returns the walker-step in double precision."""
    peak, count = fma_rate(), operations(force_field.potential)
    found = []
    for name, dtype, walkers in (("double", np.float64, WALKERS), ("single", np.float32, 2 * WALKERS)):
        forces = force_field.potential.in_precision(dtype).batch_forces
        batch = np.repeat(md.displacements, walkers // WALKERS, axis=2)
        each = times(lambda f=forces, u=batch: f(u), 10, walkers)  # type: ignore[misc]
        line(f"forces, {walkers} walkers, {name} precision, for each", each)
        rate, most = 1e-9 * count / each.best, peak * 8 / np.dtype(dtype).itemsize
        print(f"{'    GFLOP/s, part of the peak of multiply-adds':58} {rate:.1f}, {rate / most:.0%}")
        moving = Langevin(
            case.thermostat(),
            md.masses,
            forces,
            batch.transpose(2, 0, 1),
            np.repeat(md.velocities, walkers // WALKERS, axis=2).transpose(2, 0, 1),
            [(2, w) for w in range(walkers)],
            [0] * walkers,
        )
        found.append(times(partial(moving.advance, steps), 5, steps * walkers))
        line(f"walker-step: forces + Langevin, {name} precision", found[-1], peer)
    expected = force_field.potential.batch_forces(md.displacements)
    close = force_field.potential.in_precision(np.float32).batch_forces(md.displacements)
    require(np.abs(close - expected).max() < 1e-5 * np.abs(expected).max(), "forces in single and double precision")
    return found[0]


def error_rows(force_field: ForceField, u: Floats, repeats: int) -> None:
    """Exact ε_B against a product of matrices."""
    rows, size = u.size, force_field.basis.size
    exact = times(lambda: force_field.error.structure(u), repeats)
    line("exact ε_B of one structure", exact)
    a, h = force_field.sensing_matrix(u), force_field.posterior.half
    product = times(lambda: a @ h, repeats)
    line(f"DGEMM {rows} × {size} × {size}", product)
    reference = float(np.sqrt(np.sum((a @ h) ** 2) / rows))
    require(abs(force_field.error.structure(u) / reference - 1) < 1e-9, "exact ε_B and |A H|")
    print(f"{'exact ε_B ÷ DGEMM':58} {exact.best / product.best:.2f}")


def watched_row(
    case: Case, force_field: ForceField, monitor: MonitorName, steps: int, plain: Times, peer: Times | None
) -> None:
    """Walker-steps with ε_B at every step, against those without; with the sketch, from survey to survey."""
    if monitor == "sketch":
        steps = SURVEY_INTERVAL * -(-steps // SURVEY_INTERVAL)
    watched = times(walked(case, force_field, monitor, steps), 3, steps * WALKERS)
    line(f"walker-step watched, monitor '{monitor}'", watched, peer)
    print(f"{'    ÷ without ε_B':58} {watched.best / plain.best:.2f}", flush=True)


def refit_row(case: Case, force_field: ForceField) -> None:
    u, f = case.labels(force_field.supercell, 1, seed=4)
    line(
        "refit after one label, wall time",
        times(lambda: refit(force_field, u, f, ["new"]), 3, clock=time.perf_counter),
    )


def introduce(case: Case, force_field: ForceField) -> None:
    rows, size = 3 * force_field.supercell.n_atoms, force_field.basis.size
    rates = f"FMA {fma_rate():.1f}, DGEMM {dgemm_rate(rows, size):.1f} GFLOP/s"
    print(f"{case.name}, {size} parameters; peak: {rates}", flush=True)


def silicon_rows(steps: int) -> None:
    case = silicon(3, {2: 8.0, 3: 5.0, 4: 5.0})
    force_field = labelled(case, 3)
    md = warm(case, force_field)
    u = md.structure(0)
    u -= u.mean(axis=0)
    introduce(case, force_field)
    call, ase_step, matrix = peers(case, force_field, u)
    line("hiPhive: force call", call)
    line("hiPhive + ASE: Langevin step", ase_step)
    line("hiPhive: sensing matrix", matrix)
    atoms = force_field.supercell.atoms(u)
    atoms.calc = force_field.calculator()
    line("force call through ASE, one walker", times(lambda: _moved_forces(atoms), 20), call)
    plain = force_rows(case, force_field, md, steps, ase_step)
    line("sensing matrix", times(lambda: force_field.sensing_matrix(u), 5), matrix)
    error_rows(force_field, u, 7)
    watched_row(case, force_field, "sketch", steps, plain, ase_step)
    watched_row(case, force_field, "exact", 10, plain, ase_step)
    layout, zero = FrameFormat(force_field.supercell), np.zeros_like(u)
    frame = times(lambda: layout.frame(u, zero, zero, {"energy": force_field.expansion.energy(u)}), 20)
    line("frame of a trajectory", frame)
    print(f"{'    part of 100 walker-steps':58} {frame.best / (100 * plain.best):.1%}")
    refit_row(case, force_field)


def tin_selenide_rows(steps: int) -> None:
    case, steps = tin_selenide(), max(1, steps // 4)
    force_field = labelled(case, 3)
    md = warm(case, force_field)
    introduce(case, force_field)
    plain = force_rows(case, force_field, md, steps, None)
    error_rows(force_field, md.structure(0), 2)
    watched_row(case, force_field, "sketch", steps, plain, None)
    refit_row(case, force_field)


def atoms_rows(steps: int) -> None:
    case = silicon(2, {2: 5.4, 3: 3.9, 4: 2.5})
    force_field = labelled(case, 3)
    print("cost of a walker-step an atom:")
    for repeat in (2, 3, 6, 10):
        larger = force_field.on(Supercell.match(force_field.basis.crystal, case.conventional.repeat(repeat)))
        moving, n = warm(case, larger), max(1, steps * 27 // repeat**3)
        taken = times(partial(moving.advance, n), 3, n * WALKERS * larger.supercell.n_atoms)
        print(f"    {larger.supercell.n_atoms:5} atoms {1e9 * taken.best:8.1f} ns", flush=True)


def processes_rows(steps: int) -> None:
    one, two = processes(1, 40 * steps), processes(2, 40 * steps)
    print(f"{'two processes ÷ one':58} {two / one:.2f}")


ROWS: dict[str, Callable[[int], None]] = {
    "silicon": silicon_rows,
    "tin-selenide": tin_selenide_rows,
    "atoms": atoms_rows,
    "processes": processes_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Monitored molecular dynamics against hiPhive and ASE.")
    parser.add_argument("--steps", type=int, default=200, help="MD steps of a timed walk")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS], help="default: all")
    arguments = parser.parse_args()
    for name in arguments.rows:
        ROWS[name](arguments.steps)


if __name__ == "__main__":
    main()
