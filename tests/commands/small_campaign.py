"""A campaign of silicon that takes seconds, for the tests of commands that run one."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from ase.build import bulk

from workflows.commands.app import main
from workflows.run_folder.folder import state_of

SMALL = """
name = "small"
[crystal]
structure = "prim.xyz"
supercell = [3, 3, 3]
[expansion]
cutoffs_A = [4.0, 3.0]
[dynamics]
temperature_K = 200.0
friction_per_ps = 200.0
walkers = 2
walkers_per_task = 1
segment_ps = 0.05
[selection]
window_steps = 40
[initial]
structures = 1
[audit]
first_ps = 0.03
[convergence]
min_walk_ps = 0.1
max_walk_ps = 0.15
audits = 1
audit_ratio = [0.5, 2.0]
max_error_change = 0.5
[reference]
calculator = "tersoff-si"
[test]
structures = 3
equilibration_ps = 0.05
interval_ps = 0.02
"""


def write_campaign(folder: Path, text: str) -> Path:
    ase.io.write(folder / "prim.xyz", bulk("Si", "diamond", a=5.432), format="extxyz")
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


def check_ended(run: Path, code: int, converged: bool | None = None) -> None:
    """A campaign has run to its end: every walker walked the least time asked for, and unless it converged the most.

    `converged`: what it must be, where that is certain (a walk too short for the audits that are asked for cannot).
    """
    state = state_of(run)
    settings, dynamics = state.campaign.convergence, state.campaign.dynamics
    walked_ps = [walk.step * dynamics.timestep_fs / 1000 for walk in state.walks.walkers if walk]
    least_ps = settings.min_walk_ps if code == 0 else settings.max_walk_ps
    assert state.phase == "complete" and state.fits and len(walked_ps) == dynamics.walkers
    assert least_ps - 1e-9 <= min(walked_ps) and max(walked_ps) <= settings.max_walk_ps + 1e-9
    assert code in ({0, 1} if converged is None else {int(not converged)})


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that bad input gets, whatever was printed before it."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said.err
