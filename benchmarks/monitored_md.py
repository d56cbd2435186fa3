"""Monitored molecular dynamics against hiPhive and ASE, as ratios in one run: `python -m benchmarks.monitored_md`.

Silicon of 216 atoms, cutoffs 8, 5, 5 Å; times are CPU times, smallest / median / largest, on one core. Needs the extra
`benchmark`. There are no time limits; it fails when results disagree.
"""

from __future__ import annotations

import argparse
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

from benchmarks.crystals import Case, silicon
from benchmarks.timing import Times, dgemm_rate, fma_rate, times
from dynft_core import ForceField, Supercell, fit
from dynft_core.dynamics.langevin import Langevin
from dynft_core.dynamics.monitor import make_monitor
from dynft_core.dynamics.state import WalkState
from dynft_core.dynamics.walk import WalkSettings, walk
from dynft_core.interop.export import export
from dynft_core.jobs import CriterionSettings, MonitorName

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
        case.thermostat(), cell.masses, force_field.potential.batch_forces, still, still,
        [(1, w) for w in range(walkers)], [0] * walkers,
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


def table(steps: int) -> None:
    case = silicon(3, {2: 8.0, 3: 5.0, 4: 5.0})
    force_field = labelled(case, 3)
    md = warm(case, force_field)
    u, batch = md.structure(0), md.displacements.copy()
    u -= u.mean(axis=0)
    rows, size = u.size, force_field.basis.size
    print(f"{case.name}, {size} parameters; peak: FMA {fma_rate():.1f}, DGEMM {dgemm_rate(rows, size):.1f} GFLOP/s")
    call, ase_step, matrix = peers(case, force_field, u)
    line("hiPhive: force call", call)
    line("hiPhive + ASE: Langevin step", ase_step)
    line("hiPhive: sensing matrix", matrix)

    atoms = force_field.supercell.atoms(u)
    atoms.calc = force_field.calculator()
    line("force call through ASE, one walker", times(lambda: _moved_forces(atoms), 20), call)
    forces = force_field.potential.batch_forces
    line(f"forces, {WALKERS} walkers, for each", times(lambda: forces(batch), 10, WALKERS), call)
    plain = times(lambda: md.advance(steps), 5, steps * WALKERS)
    line("walker-step: forces + Langevin", plain, ase_step)
    line("sensing matrix", times(lambda: force_field.sensing_matrix(u), 5), matrix)

    error = force_field.error
    exact = times(lambda: error.structure(u), 7)
    line("exact ε_B of one structure", exact)
    a, h = force_field.sensing_matrix(u), force_field.posterior.half
    product = times(lambda: a @ h, 7)
    line(f"DGEMM {rows} × {size} × {size}", product)
    reference = float(np.sqrt(np.sum((a @ h) ** 2) / rows))
    require(abs(error.structure(u) / reference - 1) < 1e-9, "exact ε_B and |A H|")
    print(f"{'exact ε_B ÷ DGEMM':58} {exact.best / product.best:.2f}")
    monitors: dict[MonitorName, int] = {"sketch": steps, "exact": 10}
    for monitor, n in monitors.items():
        watched = times(walked(case, force_field, monitor, n), 3, n * WALKERS)
        line(f"walker-step watched, monitor '{monitor}'", watched, ase_step)
        print(f"{'    ÷ without ε_B':58} {watched.best / plain.best:.2f}", flush=True)

    labels = case.labels(force_field.supercell, 4, seed=4)
    line("refit after one label", times(lambda: force_field.refit(labels[0][:1], labels[1][:1], ["new"]), 3))
    print("cost of a walker-step an atom:")
    for repeat in (2, 3, 6, 10):
        larger = force_field.on(Supercell.match(force_field.basis.crystal, case.conventional.repeat(repeat)))
        moving, n = warm(case, larger, WALKERS), max(1, 20 * 27 // repeat**3)
        taken = times(partial(moving.advance, n), 3, n * WALKERS * larger.supercell.n_atoms)
        print(f"    {larger.supercell.n_atoms:5} atoms {1e9 * taken.best:8.1f} ns", flush=True)
    one, two = processes(1, 40 * steps), processes(2, 40 * steps)
    print(f"{'two processes ÷ one':58} {two / one:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Monitored molecular dynamics against hiPhive and ASE.")
    parser.add_argument("--steps", type=int, default=200, help="MD steps of a timed walk")
    table(parser.parse_args().steps)


if __name__ == "__main__":
    main()
