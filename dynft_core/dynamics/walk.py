"""The monitored walk: molecular dynamics that knows at every step how wrong its forces may be.

A batch of walkers moves together, each step is watched together, and each walker judges for itself (`walker`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynft_core.dynamics.graded_walker import GradedWalker
from dynft_core.dynamics.langevin import Langevin
from dynft_core.dynamics.protocols import ErrorMonitor, Forces, Spacing, Watched
from dynft_core.dynamics.state import WalkReport, WalkState
from dynft_core.dynamics.walker import Walker, WalkSettings
from dynft_core.errors import InputError

Floats = NDArray[np.float64]

LABELLED_INTERVAL = 10
"""MD steps from one ε_B by the labels alone to the next: it decides nothing, and in fewer ε_B hardly changes."""


def walk(
    states: Sequence[WalkState],
    forces: Forces,
    monitor: ErrorMonitor,
    settings: WalkSettings,
    masses: ArrayLike,
    name_structure: Callable[[Floats], str],
    audit_steps: Collection[tuple[int, int]] = (),
    labelled: ErrorMonitor | None = None,
    spacing: Spacing | None = None,
) -> tuple[tuple[WalkState, ...], tuple[WalkReport, ...]]:
    """Walk a batch: (states, ...) → (states, reports), both in the order given.

    Under the policy 'wait' a walker's numbers are the same, bit for bit, in whatever batch it walks and in however many
    pieces, as far as `forces` and `monitor` treat walkers and pieces alike (a sketch's estimates do not). Under
    'continue' the batch shares what its walkers flag.

    Args:
        states: the walkers, each with a window of `settings.criterion.window` steps.
        forces: of the batch, (N, 3, W) Å → (N, 3, W) eV/Å.
        monitor: ε_B of the batch.
        masses: (N,) amu.
        name_structure: displacements (N, 3) Å → content hash.
        audit_steps: (walker, absolute step) pairs at which a structure is taken.
        labelled: ε_B by the labels alone, for the reports: what is pending guides the walkers, and may fail. Without
            it the reports tell what the walkers see.
        spacing: how near atoms may be; None: as near as they like.

    Raises:
        InputError: states that do not fit the settings.
    """
    for state in states:
        if len(state.window) != settings.criterion.window:
            raise InputError(
                "window",
                f"{settings.criterion.window} steps, as the criterion says",
                f"{len(state.window)}",
                "start the walkers anew when the window changes",
            )
    deadline = time.monotonic() + settings.max_seconds
    md = Langevin(
        settings.thermostat,
        masses,
        forces,
        [s.displacements for s in states],
        [s.velocities for s in states],
        [(s.seed, s.walker) for s in states],
        [s.step for s in states],
    )
    kind = GradedWalker if settings.criterion.name == "grade" else Walker
    walkers = [kind(s, settings, md.masses, name_structure, audit_steps, labelled, spacing) for s in states]
    for walker in walkers:
        walker.after_refit(monitor)
    moving = walkers
    for n in range(settings.n_steps):
        md.step()
        if labelled is not None and n % LABELLED_INTERVAL == 0:
            for walker, error in zip(moving, _watch(labelled, md).errors_eV_A, strict=True):
                walker.labelled_error_eV_A = float(error)
        watched = None
        for lane, walker in enumerate(moving):
            if watched is None and walker.due(md.steps[lane]):
                watched = _watch(monitor, md)
            before, monitor = monitor, walker.look(md, lane, monitor, watched)
            if monitor is not before:
                watched = None
        if time.monotonic() > deadline:
            for lane, walker in enumerate(moving):
                walker.stop_at(md, lane, "walltime", f"the walk's {settings.max_seconds:g} s are over")
        if any(walker.ended for walker in moving):
            md.keep([lane for lane, walker in enumerate(moving) if not walker.ended])
            moving = [walker for walker in moving if not walker.ended]
            if not moving:
                break
    for lane, walker in enumerate(moving):
        walker.stop_at(md, lane, "finished", f"{settings.n_steps} steps walked")
    return tuple(w.state() for w in walkers), tuple(w.report() for w in walkers)


def _watch(monitor: ErrorMonitor, md: Langevin) -> Watched:
    with np.errstate(over="ignore", invalid="ignore"):  # of walkers that have exploded
        return monitor.watch(md.displacements)
