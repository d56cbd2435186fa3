"""Solid and liquid aluminium from an empty training set: a whole campaign, then trajectories with its potential.

    python -m benchmarks.moment_tensor_campaign FOLDER [--level 12] [--trajectories 60] [--time-ps 10]

The reference is ASE's effective medium theory; 108 atoms, fcc and melt, a = 4.0 to 4.25 Å, 700 to 1100 K. A trajectory
is unphysical when two atoms come nearer than the potential knows, or the temperature leaves the thermostat's by half.
Where FOLDER has a potential of an earlier run, the trajectories alone are walked.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin as ReferenceLangevin
from ase.md.velocitydistribution import thermalize_momenta
from in_process import run

from dynft_core.dynamics.langevin import Langevin, Thermostat, maxwell_velocities
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.registry import load_model
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.commands.preflight import check_campaign

CAMPAIGN = """
name = "aluminium"
crystal = {{ structure = "fcc.xyz", supercell = [3, 3, 3] }}
model = {{ family = "moment_tensor", cutoff_A = 5.2, min_distance_A = 1.9, level = {level} }}
dynamics = {{ timestep_fs = 2.0, walkers_per_task = 2, segment_ps = 1.0 }}
convergence = {{ min_walk_ps = {walk_ps}, max_walk_ps = {longest_ps}, audit_ratio = [0.8, 1.25] }}
reference = {{ calculator = "emt" }}
test = {{ structures = 8 }}
walkers = [
    {{ name = "fcc-4.00", count = 1, temperature_K = 700.0 }},
    {{ name = "fcc-4.10", count = 1, temperature_K = 900.0, strain = 0.025 }},
    {{ name = "fcc-4.25", count = 1, temperature_K = 1100.0, strain = 0.0625 }},
    {{ name = "melt-4.10", count = 1, temperature_K = 900.0, structure = "melt.xyz" }},
    {{ name = "melt-4.25", count = 1, temperature_K = 1100.0, structure = "melt.xyz", strain = {more:.6f} }},
]
"""
POTENTIAL = "aluminium.h5"


def write_structures(folder: Path) -> None:
    """The unit cell, and a melt of 108 atoms at a = 4.1 Å: 2 ps at 2500 K, then 1 ps at 1100 K with the reference."""
    folder.mkdir(parents=True, exist_ok=True)
    bulk("Al", cubic=True, a=4.0).write(folder / "fcc.xyz")
    if (folder / "melt.xyz").exists():
        return
    atoms: Atoms = bulk("Al", cubic=True, a=4.1).repeat(3)
    atoms.calc = EMT()
    rng = np.random.default_rng(1)
    thermalize_momenta(atoms, 5000, rng=rng)
    for temperature_K, steps in ((2500, 1000), (1100, 500)):
        ReferenceLangevin(
            atoms, 2 * units.fs, temperature_K=temperature_K, friction=0.01 / units.fs, rng=rng, fixcm=False
        ).run(steps)
    atoms.calc = None
    atoms.set_momenta(np.zeros_like(atoms.positions))
    ase.io.write(folder / "melt.xyz", Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True))


def campaign(folder: Path, level: int, walk_ps: float, longest_ps: float) -> State:
    """Run the campaign and print its way; the potential is kept in the folder."""
    text = CAMPAIGN.format(level=level, more=4.25 / 4.1 - 1, walk_ps=walk_ps, longest_ps=longest_ps)
    (folder / "campaign.toml").write_text(text)
    loaded, _ = load_campaign(folder / "campaign.toml")
    for note in check_campaign(loaded):
        print(note)
    begun = time.process_time()
    state = run(loaded, (folder / "run").absolute())
    print(f"{time.process_time() - begun:.0f} CPU s; {state.reason or state.failure}")
    print(f"{'labels':>7}{'β^(-1/2), meV/Å':>17}")
    for fit in state.fits:
        print(f"{fit.n_labels:7d}{1e3 * fit.beta_inv_sqrt_eV_A:17.1f}")
    audits = sum(e.structure.role == "audit" for e in state.ledger.entries.values())
    dropped = state.ledger.counts["dropped"]
    print(f"{state.n_labels} labels, {audits} of them audits; {dropped} candidates were redundant")
    print(f"{state.walks.steps * 2e-3:.1f} ps walked by {len(state.walks.walkers)} walkers")
    for e in state.final_evaluations:
        predicted = np.hypot(e.beta_inv_sqrt_eV_A, e.mean_bayesian_error_eV_A)
        print(f"{e.group:10} test error {1e3 * e.rmse_eV_A:6.1f} meV/Å, predicted {1e3 * predicted:6.1f}")
    if state.fits and not state.failure:
        load_model(Path(state.run_dir) / state.force_field).save(folder / POTENTIAL)
    return state


def trajectories(folder: Path, count: int, time_ps: float) -> None:
    """Walk `count` trajectories of the groups in turn, with other noise than the campaign's; print what they met."""
    model, groups = load_model(folder / POTENTIAL), load_campaign(folder / "campaign.toml")[0].groups
    lines: dict[str, list[tuple[float, float, float]]] = {}
    failed = 0
    for i in range(count):
        group = groups[i % len(groups)]
        atoms = ase.io.read(folder / "run" / group.cell)
        cell = ReferenceCell.of(atoms)
        on_cell = model.on(cell)
        rng = np.random.default_rng(1000 + i)
        start = maxwell_velocities(cell.masses, 2 * group.temperature_K, rng)
        md = Langevin(
            Thermostat(group.temperature_K, 10.0, 2.0),
            cell.masses,
            on_cell.potential.batch_forces,
            np.zeros((1, cell.n_atoms, 3)),
            start[None],
            [(1000 + i, 0)],
            [0],
        )
        shortest, grade, temperatures = np.inf, 0.0, []
        for step in range(1, round(500 * time_ps) + 1):
            md.step()
            if step % 10 == 0:
                u = md.structure(0)
                if not np.isfinite(u).all():
                    shortest = 0.0
                    break
                shortest = min(shortest, on_cell.shortest_distance_A(u))
                grade = max(grade, float(on_cell.grades(u).max()))
                temperatures.append(md.temperature(0))
        mean_K = float(np.mean(temperatures[len(temperatures) // 5 :]))
        sound = shortest >= model.min_distance_A and abs(mean_K / group.temperature_K - 1) < 0.5
        failed += not sound
        lines.setdefault(group.name, []).append((shortest, grade, mean_K))
    for name, rows in lines.items():
        shortest, grade, mean_K = np.array(rows).T
        print(
            f"{name:10} {len(rows)} × {time_ps:g} ps: shortest distance {shortest.min():.2f} Å, "
            f"largest grade {grade.max():.2f}, mean temperature {mean_K.mean():.0f} K"
        )
    print(f"{failed} of {count} trajectories unphysical")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--level", type=int, default=12)
    parser.add_argument("--walk-ps", type=float, default=5.0, help="without a selection, of each walker")
    parser.add_argument("--longest-ps", type=float, default=30.0)
    parser.add_argument("--trajectories", type=int, default=60)
    parser.add_argument("--time-ps", type=float, default=10.0)
    arguments = parser.parse_args()
    write_structures(arguments.folder)
    if not (arguments.folder / POTENTIAL).exists():
        campaign(arguments.folder, arguments.level, arguments.walk_ps, arguments.longest_ps)
    trajectories(arguments.folder, arguments.trajectories, arguments.time_ps)


if __name__ == "__main__":
    main()
