"""What the twofold symmetry in the force kernel pays (docs/kernels.md): `python -m benchmarks.kernel_symmetry`.

Silicon, 216 atoms, cutoffs 8, 5, 5 Å, with the kernel as it is and with one in which every group of sites has no
symmetry but the identity. Best of several rounds in turn, CPU time on one core; it fails when forces disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.crystals import Case, silicon
from benchmarks.monitored_md import WALKERS, labelled, operations, require, walked, warm
from benchmarks.timing import times
from dynft_core import ForceField
from dynft_core.dynamics.langevin import Langevin
from dynft_core.models.force_constants.expansion import folding
from dynft_core.models.force_constants.expansion.involutions import Action

Floats = NDArray[np.float64]
ROUNDS, STEPS = 4, 200
PRECISIONS = (("double", np.float64, WALKERS), ("single", np.float32, 2 * WALKERS))


def without_symmetry(force_field: ForceField) -> ForceField:
    """The same force field, folded anew with H = {identity} everywhere."""
    every = Action.involutions
    with patch.object(Action, "involutions", lambda self, group: every(self, group)[:1]):
        folding._folded.cache_clear()
        found = replace(force_field)
        found.potential.batch_forces(np.zeros((found.supercell.n_atoms, 3, 1)))  # lays the kernel's tables out
    return found


def tasks(case: Case, force_field: ForceField, md: Langevin) -> dict[str, tuple[int, Callable[[], object]]]:
    """By name: what is timed, and how many walkers or walker-steps it is."""
    found: dict[str, tuple[int, Callable[[], object]]] = {}
    for name, dtype, walkers in PRECISIONS:
        forces = force_field.potential.in_precision(dtype).batch_forces
        u, v = (np.repeat(x, walkers // WALKERS, axis=2) for x in (md.displacements, md.velocities))
        moving = Langevin(
            case.thermostat(), md.masses, forces, u.transpose(2, 0, 1), v.transpose(2, 0, 1),
            [(2, w) for w in range(walkers)], [0] * walkers,
        )  # fmt: skip
        found[f"forces, {name} precision"] = walkers, partial(forces, u)
        found[f"walker-step, {name} precision"] = STEPS * walkers, partial(moving.advance, STEPS)
    found["walker-step with ε_B, sketch"] = STEPS * WALKERS, walked(case, force_field, "sketch", STEPS)
    found["walker-step with ε_B, exact"] = 5 * WALKERS, walked(case, force_field, "exact", 5)
    return found


def main() -> None:
    case = silicon(3, {2: 8.0, 3: 5.0, 4: 5.0})
    as_it_is = labelled(case, 3)
    md = warm(case, as_it_is)
    force_fields = as_it_is, without_symmetry(as_it_is)
    with_it, without = (f.potential.batch_forces(md.displacements) for f in force_fields)
    require(np.allclose(with_it, without, rtol=0, atol=1e-12 * np.abs(without).max()), "forces with and without")
    print("operations of the forces on one structure:", *(operations(f.potential) for f in force_fields))
    both = [tasks(case, f, md) for f in force_fields]
    best: dict[str, list[float]] = defaultdict(lambda: [np.inf, np.inf])
    for _ in range(ROUNDS):
        for name in both[0]:
            for k, own in enumerate(both):
                each, work = own[name]
                best[name][k] = min(best[name][k], times(work, 3, each).best)
    for name, (first, second) in best.items():
        print(f"{name:36} {1e3 * first:8.4f} ms, without {1e3 * second:8.4f} ms: {second / first:.2f} ×")


if __name__ == "__main__":
    main()
