"""Flags with the sketch against flags with the exact ε_B at every step: `python -m benchmarks.flags`.

The same molecular dynamics is walked twice, watched by each monitor, with posteriors of few, some and many labels and
for several γ, so that there are many flags to compare. A flag is missed when the exact walk has it and the other has
none within NEAR steps; it fails when over 1 % are missed, or in excess. --walk-steps cuts walks as a campaign does,
each with a monitor of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.crystals import Case, argon, perovskite, silicon
from dynft_core import ForceField
from dynft_core.dynamics.monitor import ExactMonitor, SketchMonitor
from dynft_core.dynamics.protocols import ErrorMonitor, Watched
from dynft_core.dynamics.state import WalkState
from dynft_core.dynamics.walk import walk
from dynft_core.dynamics.walker import WalkSettings
from dynft_core.vocabulary import CriterionSettings

Floats = NDArray[np.float64]
Counts = tuple[int, int, int]
WALKERS = 8
NEAR = 10
"""MD steps between two flags that are one: a fraction of the fastest vibration."""
CASES = {
    "si": lambda: silicon(2, {2: 5.4, 3: 3.9, 4: 2.5}),
    "ar": lambda: argon(2, {2: 7.7, 3: 5.5, 4: 3.9}),
    "sto": lambda: perovskite(2, {2: 5.6, 3: 3.95, 4: 2.8}),
}


class Exact(ExactMonitor):
    """Watches with the exact value itself, and remembers those it has computed: the walks are repeated."""

    def __init__(self, force_field: ForceField) -> None:
        super().__init__(force_field)
        self._known: dict[bytes, float] = {}
        self.sketch_calls = 0

    def watch(self, displacements: Floats) -> Watched:
        return Watched(np.array([self.exact(u) for u in displacements.transpose(2, 0, 1)]))

    def exact(self, displacements: Floats) -> float:
        key = displacements.tobytes()
        if key not in self._known:
            self._known[key] = super().exact(displacements)
        return self._known[key]


class Sketched(SketchMonitor):
    """Takes its exact values from `exact`, and counts them there."""

    def __init__(self, exact: Exact) -> None:
        super().__init__(exact.model)
        self._exact = exact

    def exact(self, displacements: Floats) -> float:
        self._exact.sketch_calls += 1
        return self._exact.exact(displacements)


@dataclass(frozen=True)
class Walked:
    """Flags as (walker, step), and ε_B of every step (W, n) eV/Å."""

    flags: set[tuple[int, int]]
    errors_eV_A: Floats


def walked(
    case: Case, mover: ForceField, monitor: Callable[[], ErrorMonitor], gamma: float, n_steps: int, walk_steps: int
) -> Walked:
    """Walk until each walker has made `n_steps`, at most `walk_steps` in one walk. After a flag the walker goes on."""
    cell = mover.supercell
    criterion = CriterionSettings(gamma=gamma)
    states = [WalkState.at_rest(w, 1, cell.n_atoms, criterion.window) for w in range(WALKERS)]
    flags: set[tuple[int, int]] = set()
    traces: list[list[Floats]] = [[] for _ in states]
    forces = mover.potential.batch_forces
    while (first := min(state.step for state in states)) < n_steps:
        moving = [w for w, state in enumerate(states) if state.step == first]
        left = n_steps - first
        settings = WalkSettings(case.thermostat(), criterion, "wait", min(walk_steps, left), cell.max_displacement_A)
        after, reports = walk([states[w] for w in moving], forces, monitor(), settings, cell.masses, str)
        for w, state, report in zip(moving, after, reports, strict=True):
            if report.ended not in ("finished", "selected"):
                raise SystemExit(f"{case.name}: {report.reason}")
            states[w] = state
            traces[w].append(report.errors_eV_A)
            flags |= {(w, choice.step) for choice in report.choices}
    errors = np.array([np.concatenate(trace) for trace in traces])
    return Walked(flags, errors)


def unmatched(flags: set[tuple[int, int]], others: set[tuple[int, int]]) -> int:
    """How many flags have none of the same walker among `others` within NEAR steps."""
    return sum(not any(w == v and abs(s - t) <= NEAR for v, t in others) for w, s in flags)


def compare(case: Case, counts: tuple[int, ...], gammas: tuple[float, ...], n_steps: int, walk_steps: int) -> Counts:
    """Print a line for each posterior and γ; numbers of flags, of those missed and of those in excess."""
    basis = case.basis()
    cell = case.supercell(basis)
    force_fields = case.force_fields(cell, basis, counts)
    total = np.zeros(3, dtype=int)
    for n, force_field in zip(counts, force_fields, strict=True):
        reference = Exact(force_field)
        for gamma in gammas:
            print(f"{case.name:6} {n:3} labels  γ {gamma:4.2f}", end="  ")
            total += line(case, force_fields[-1], reference, gamma, n_steps, walk_steps)
    return int(total[0]), int(total[1]), int(total[2])


def line(case: Case, mover: ForceField, reference: Exact, gamma: float, n_steps: int, walk_steps: int) -> Counts:
    """Walk twice, and print how the flags compare."""
    exact = walked(case, mover, lambda: reference, gamma, n_steps, walk_steps)
    reference.sketch_calls = 0
    sketch = walked(case, mover, lambda: Sketched(reference), gamma, n_steps, walk_steps)
    missed, excess = unmatched(exact.flags, sketch.flags), unmatched(sketch.flags, exact.flags)
    same = len(exact.flags & sketch.flags)
    ratio = sketch.errors_eV_A / exact.errors_eV_A
    print(
        f"{ratio.size:7} steps  flags {len(exact.flags):4}  same step {same:4}  missed {missed:2}  "
        f"in excess {excess:2}  sketch/exact: mean {ratio.mean():.4f}, rms deviation {ratio.std():.3f}, "
        f"{ratio.min():.2f}-{ratio.max():.2f}  exact at {reference.sketch_calls / ratio.size:.1%} of steps",
        flush=True,
    )
    return len(exact.flags), missed, excess


def main() -> None:
    parser = argparse.ArgumentParser(description="Flags with the sketch against flags with the exact error.")
    parser.add_argument("--crystal", choices=[*CASES], help="default: all")
    parser.add_argument("--steps", type=int, default=3000, help="MD steps of each of the 8 walkers, for each line")
    parser.add_argument("--walk-steps", type=int, default=10**9, help="MD steps of one walk; a campaign's: 500")
    arguments = parser.parse_args()
    totals = [
        compare(CASES[name](), (1, 4, 20), (3.0, 1.5, 1.25), arguments.steps, arguments.walk_steps)
        for name in ([arguments.crystal] if arguments.crystal else CASES)
    ]
    flags, missed, excess = np.sum(totals, axis=0)
    print(f"{flags} flags, {missed / max(flags, 1):.1%} missed, {excess / max(flags, 1):.1%} in excess")
    sys.exit(0 if max(missed, excess) <= 0.01 * flags else "flags differ")


if __name__ == "__main__":
    main()
