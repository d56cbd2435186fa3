"""One walker of a batch: how ε_B is judged at every step, what is chosen, and the way back.

Each step: move, watch ε_B, and let the criterion judge. What can happen to a walker:

- *flag*: ε_B passes the select threshold; the structure is chosen for a label. Under the policy 'wait' the walker stops
  there until the refit; under 'continue' the structure enters the covariance at once and the walker goes on.
- *audit*: at a scheduled step the structure is chosen whatever its ε_B. The walker goes on.
- *break*: ε_B passes the break threshold. The walker goes back to its last good snapshot, and its walk ends.
- *explosion*: a number that is not finite, an atom that has left its site, or a temperature far beyond the target.
  Looked for before a structure can be chosen. The walker goes back as after a break.

*What is decided is exact.* The monitor may watch with an estimate. Where that comes within its margin of the threshold,
the exact ε_B is computed and compared, and for EXACT_STEPS steps after that, whatever their estimates, the exact values
enter the window. Its mean is right to half a percent, and better where a walk stays near the threshold: a walk selects
and breaks where it would with the exact ε_B at every step.

*Going back without going round in circles.* The step count, and with it the noise, goes on, so that the walker takes
another way out of the snapshot. Something is learnt each time where that is safe: the structure of the break itself
when the walker was still calm, else, once, that of the snapshot, from which the force field led astray. A snapshot that
was gone back to MAX_BREAKS times in a row is given up: the walker starts again from the perfect crystal at rest. And as
steps are only ever counted forwards, walks end at the campaign's longest walk.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.departure import departure
from dynft_core.dynamics.langevin import Langevin, Thermostat, thermal_speed
from dynft_core.dynamics.protocols import ErrorMonitor, Spacing, Watched
from dynft_core.dynamics.state import ChosenStructure, Ending, WalkReport, WalkRole, WalkState
from dynft_core.dynamics.window import Window
from dynft_core.selection.criteria import N_MINIMA, Decision, Memory, decide
from dynft_core.vocabulary import CriterionSettings, Policy

Floats = NDArray[np.float64]

SNAPSHOT_INTERVAL = 50
"""MD steps between good snapshots."""
PASSED_INTERVAL = 50
"""MD steps between structures that a warm walker leaves behind whatever ε_B: some periods of a crystal's vibrations."""
TEMPERATURE_INTERVAL = 10
"""MD steps between looks at the temperature (which is also looked at before any structure is chosen)."""
HEATED = 0.9
"""A walker has been heated once its kinetic temperature reached this part of the thermostat's."""
CALM = 0.8
"""Part of the limits of an explosion up to which a structure may be learnt from after a break, or be a snapshot."""
EXACT_STEPS = 5
"""Looks at ε_B that are exact after one near the threshold."""
MAX_BREAKS = 3
"""Breaks in a row after which a snapshot is given up."""


@dataclass(frozen=True)
class WalkSettings:
    """How a batch walks.

    Attributes:
        max_displacement_A: half the nearest-neighbour distance; beyond it an atom has left its site.
        n_steps: MD steps of the walk; max_seconds: wall time after which it ends at the next step.
        monitor_every: MD steps from one look at ε_B to the next; in between the latest value stands.
    """

    thermostat: Thermostat
    criterion: CriterionSettings
    policy: Policy
    n_steps: int
    max_displacement_A: float
    max_seconds: float = math.inf
    monitor_every: int = 1

    def max_temperature_K(self, n_atoms: int) -> float:
        """Kinetic temperature beyond which a walker has exploded: 3 T and 8 standard deviations of its fluctuation."""
        target = self.thermostat.temperature_K
        return target * (3 + 8 * math.sqrt(2 / (3 * n_atoms - 3))) if target else math.inf


class Walker:
    """One walker of a batch while it walks: its memory, its traces, and what it has chosen.

    `labelled_error_eV_A`: the latest ε_B by the labels alone, which the walk sets where reports tell that.
    """

    def __init__(
        self,
        state: WalkState,
        settings: WalkSettings,
        masses: Floats,
        name_structure: Callable[[Floats], str],
        audit_steps: Collection[tuple[int, int]],
        labelled: ErrorMonitor | None = None,
        spacing: Spacing | None = None,
    ) -> None:
        self._start = state
        self._settings = settings
        self._max_temperature_K = settings.max_temperature_K(len(masses))
        self._name_structure = name_structure
        self._audit_steps = {step for walker, step in audit_steps if walker == state.walker}
        self.ended: Ending | None = None
        self._reason = ""
        self._step = state.step
        self._now = state.displacements, state.velocities  # where the next walk starts; set when this one ends
        self._snapshot = state.snapshot_displacements, state.snapshot_velocities
        self._snapshot_step = state.snapshot_step
        self._breaks = state.breaks
        self._window = Window(state.window, state.window_count)
        # Without a thermostat nothing heats the walker: it is as warm as it was started.
        heats = settings.thermostat.friction_per_ps > 0 and settings.thermostat.temperature_K > 0
        self._begins_heated = settings.criterion.while_heating or not heats
        self._heated = state.heated or self._begins_heated
        self._minima = deque((float(e) for e in state.minima_eV_A), maxlen=N_MINIMA)
        self._awaiting_refit = state.awaiting_refit
        self._last_flag_step = state.last_flag_step
        self._labelled = labelled
        self._spacing = spacing
        self.labelled_error_eV_A = math.nan
        self._errors: list[float] = []
        self._latest: float | None = None
        self._watched = math.nan
        self._exact_left = 0
        self._warm_errors: list[float] = []
        self._watch_deviation = math.nan
        self._temperatures: list[tuple[int, float]] = []
        self._choices: list[ChosenStructure] = []
        self._passed: list[tuple[int, Floats]] = []

    def after_refit(self, monitor: ErrorMonitor) -> None:
        """Note ε_min: ε_B right after a refit, at the structure that caused it."""
        if self._awaiting_refit:
            self._minima.append(monitor.exact(self._start.displacements))
            self._awaiting_refit = False

    def due(self, step: int) -> bool:
        """Whether ε_B is looked at at this MD step."""
        every = self._settings.monitor_every
        return self._latest is None or step % every == 0 or step in self._audit_steps

    def look(self, md: Langevin, lane: int, monitor: ErrorMonitor, watched: Watched | None) -> ErrorMonitor:
        """Judge the step just taken. Returns the monitor, with what was chosen pending under 'continue'.

        `watched`: ε_B of the batch at this step; not needed where the walker is not due.
        """
        self._step = md.steps[lane]
        n_chosen = len(self._choices)
        u = md.structure(lane)
        audit = self._step in self._audit_steps
        distress = self._displacement_ratio(u)
        if self._step % TEMPERATURE_INTERVAL == 0:
            distress = _worse(distress, self._look_at_temperature(md.temperature(lane)))
        if distress < 1 and self._heated and self._step % PASSED_INTERVAL == 0:
            self._passed.append((self._step, u))
        if distress < 1 and (crowd := self._crowd(u)):
            self._latest = monitor.exact(u)
            self._errors.append(self._told)
            self._go_back("broken", crowd, u, monitor)
            return monitor
        if distress < 1 and not self.due(self._step):
            self._note_latest()
            return monitor
        # No ε_B of a structure beyond the expansion's reach: the kernels may overflow.
        decision = self._judge(u, lane, monitor, watched, audit) if distress < 1 else None
        if decision is None or ((decision.select or audit) and not self._distress(md, lane, u) < 1):
            self._errors.append(math.nan)
            self._explode(md, lane, monitor)
        else:
            self._follow(decision, audit, md, lane, monitor)
        if self._settings.policy == "continue":
            for choice in self._choices[n_chosen:]:
                monitor = monitor.condition(choice.displacements, choice.key)
            if decision and decision.select and not self.ended:
                self._minima.append(monitor.exact(u))
        return monitor

    def _judge(
        self, u: Floats, lane: int, monitor: ErrorMonitor, watched: Watched | None, audit: bool
    ) -> Decision | None:
        """Decide about a sane structure, on exact values where it matters. None: ε_B is not finite."""
        assert watched is not None
        self._watch_deviation = watched.deviation
        error = self._watched = float(watched.errors_eV_A[lane])
        highest = error * (1 + watched.margin)
        decision = self._decide(highest)
        if decision is not None:
            near = highest > decision.threshold_eV_A
            if near or audit or self._exact_left:
                error = monitor.exact(u)  # whatever is chosen or left is decided on this value
                decision = self._decide(error)
            if self._exact_left:
                self._watched = error
            self._exact_left = EXACT_STEPS if near and self._wants_exact_mean(watched) else max(0, self._exact_left - 1)
        self._latest = error
        return decision

    def _wants_exact_mean(self, watched: Watched) -> bool:
        return self._settings.criterion.name == "trajectory_average" and watched.estimated

    def _decide(self, error: float) -> Decision | None:
        return decide(self._settings.criterion, self._memory(), error) if math.isfinite(error) else None

    def _look_at_temperature(self, temperature_K: float) -> float:
        """Trace it, and return it against its limit."""
        self._temperatures.append((self._step, temperature_K))
        self._heated = self._heated or temperature_K >= HEATED * self._settings.thermostat.temperature_K
        return temperature_K / self._max_temperature_K

    def _follow(self, decision: Decision, audit: bool, md: Langevin, lane: int, monitor: ErrorMonitor) -> None:
        """Do what was decided about a sane structure."""
        assert self._latest is not None
        u, error = md.structure(lane), self._latest
        if decision.break_:
            self._errors.append(self._told)
            calm = self._distress(md, lane, u) < CALM
            self._go_back("broken", decision.reason, u if calm else None, monitor)
            return
        if audit or decision.select:
            flag = f"{decision.reason}, largest at atom {np.argmax(monitor.per_atom(u))}" if decision.select else ""
            reason = "; ".join(text for text in ("audit on schedule" if audit else "", flag) if text)
            self._choose("audit" if audit else "flagged", self._step, u, error, reason)
        self._note_latest()
        if decision.select:
            self._last_flag_step = self._step
            if self._settings.policy == "wait":
                self._awaiting_refit = True
                self.stop_at(md, lane, "selected", decision.reason)
        elif self._step - self._snapshot_step >= SNAPSHOT_INTERVAL and self._distress(md, lane, u) < CALM:
            self._snapshot, self._snapshot_step, self._breaks = (u, md.velocity(lane)), self._step, 0

    def _choose(self, role: WalkRole, step: int, u: Floats, error: float, reason: str) -> None:
        still = u - u.mean(axis=0)
        error = error if self._labelled is None else self._labelled.exact(u)
        self._choices.append(ChosenStructure(self._name_structure(still), role, step, still, error, reason))

    def _memory(self) -> Memory:
        since = self._step - self._last_flag_step if self._last_flag_step >= 0 else None
        return Memory(self._window.mean, len(self._window.held), not self._heated, since, tuple(self._minima))

    def _note_latest(self) -> None:
        """The latest ε_B into the trace and, once the walker is warm, as it was watched into the window.

        An exact value that is computed because the estimate is high stays out of the window: put in the place of high
        estimates alone it would make the mean too small.
        """
        assert self._latest is not None
        self._errors.append(self._told)
        if self._heated:
            self._window.remember(self._watched)
            self._warm_errors.append(self._told)

    @property
    def _told(self) -> float:
        """The ε_B that the report tells of this step, eV/Å."""
        assert self._latest is not None
        return self._latest if self._labelled is None else self.labelled_error_eV_A

    def _explode(self, md: Langevin, lane: int, monitor: ErrorMonitor) -> None:
        limit = self._settings.max_displacement_A
        ratio, temperature = self._displacement_ratio(md.structure(lane)), md.temperature(lane)
        thermal = thermal_speed(md.masses, self._settings.thermostat.temperature_K)[:, None]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            kinetic_kT = 0.5 * np.sum((md.velocity(lane) / thermal) ** 2, axis=1)
            left = departure(md.structure(lane), kinetic_kT, limit)
        if left:
            self._go_back("left", f"step {self._step}: {left}", None, monitor)
            return
        if not ratio < 1:
            cause = f"an atom displaced by {ratio * limit:.2f} Å, beyond half the nearest-neighbour distance"
        elif not temperature < self._max_temperature_K:
            cause = f"kinetic temperature {temperature:.0f} K, beyond {self._max_temperature_K:.0f} K"
        else:
            cause = "ε_B not finite"
        self._go_back("exploded", f"exploded at step {self._step}: {cause}", None, monitor)

    def _go_back(self, ended: Ending, reason: str, structure: Floats | None, monitor: ErrorMonitor) -> None:
        """End the walk at the last good snapshot, or at rest when that has failed too often.

        `structure`: (N, 3) Å where the walker is, when that is safe to learn from.
        """
        origin = self._snapshot[0]
        if structure is not None:
            self._choose("flagged", self._step, structure, monitor.exact(structure), reason)
            self._last_flag_step = self._step
        elif self._breaks == 0 and np.any(origin):
            why = f"last good snapshot before a walk that was given up ({reason})"
            self._choose("flagged", self._snapshot_step, origin, monitor.exact(origin), why)
            self._last_flag_step = self._step
        self._breaks += 1
        if self._breaks == MAX_BREAKS:
            self._snapshot = np.zeros_like(origin), np.zeros_like(origin)
            self._breaks, self._heated = 0, self._begins_heated
            self._window.forget()
        self._snapshot_step = self._step
        self._now = self._snapshot
        self.ended, self._reason = ended, reason

    def stop_at(self, md: Langevin, lane: int, ended: Ending, reason: str) -> None:
        """End the walk where the walker is, unless it has ended already."""
        if self.ended is None:
            self.ended, self._reason = ended, reason
            self._now = md.structure(lane), md.velocity(lane)
            if not self._temperatures:
                self._temperatures.append((self._step, md.temperature(lane)))

    def _crowd(self, u: Floats) -> str:
        """That two atoms are too near to each other, in words; "" when none are."""
        if self._spacing is None:
            return ""
        shortest_A, least_A = self._spacing.shortest_distance_A(u), self._spacing.min_distance_A
        return f"two atoms {shortest_A:.2f} Å apart, nearer than {least_A:g} Å" if shortest_A < least_A else ""

    def _displacement_ratio(self, u: Floats) -> float:
        """Largest displacement against its limit; nan when one is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            largest = math.sqrt(np.einsum("ic,ic->i", u, u).max())
        return largest / self._settings.max_displacement_A

    def _distress(self, md: Langevin, lane: int, u: Floats) -> float:
        """How near an explosion: the largest of displacement and temperature against their limits; nan beyond all."""
        hot = md.temperature(lane) / self._max_temperature_K
        return _worse(self._displacement_ratio(u), hot)

    def state(self) -> WalkState:
        """The walker after the walk."""
        return replace(
            self._start,
            step=self._step,
            displacements=self._now[0],
            velocities=self._now[1],
            window=self._window.values,
            window_count=self._window.count,
            heated=self._heated,
            minima_eV_A=np.array(self._minima),
            awaiting_refit=self._awaiting_refit,
            last_flag_step=self._last_flag_step,
            snapshot_displacements=self._snapshot[0],
            snapshot_velocities=self._snapshot[1],
            snapshot_step=self._snapshot_step,
            breaks=self._breaks,
        )

    def report(self) -> WalkReport:
        """What the walker met."""
        assert self.ended is not None
        window = self._window.held
        if self._labelled is not None:
            window = np.array(self._warm_errors[-len(self._window.values) :])
        steps, temperatures = zip(*self._temperatures, strict=True) if self._temperatures else ((), ())
        return WalkReport(
            walker=self._start.walker,
            ended=self.ended,
            reason=self._reason,
            first_step=self._start.step + 1,
            errors_eV_A=np.array(self._errors),
            temperature_steps=np.array(steps, dtype=np.int64),
            temperatures_K=np.array(temperatures, dtype=np.float64),
            choices=tuple(self._choices),
            passed=tuple(self._passed),
            mean_error_eV_A=float(window.mean()) if len(window) else math.nan,
            watch_deviation=self._watch_deviation,
            std_error_eV_A=float(window.std()) if len(window) else math.nan,
        )


def _worse(first: float, second: float) -> float:
    """The larger one, not a number being the largest of all."""
    return first if math.isnan(first) or first > second else second
