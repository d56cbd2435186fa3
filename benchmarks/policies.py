"""Walking on while labels are computed against waiting for them, paired by seed.

    OPENBLAS_NUM_THREADS=1 nice -n 10 python -m benchmarks.policies [--seeds 12] [--label-walks 5] [--processes 1]

Silicon, 64 atoms, the embedded Tersoff potential as truth, 300 K, cutoffs 5.4, 4 and 4 Å, γ = 1.3, four walkers of
5 ps, no audits. Each campaign runs in this process, without Parsl, as if a label took as long as `--label-walks` walks
and all else no time. All force fields of a seed are scored on one test set of 60 structures, that of the run which
waits. Ratios are those of `dynft compare`, and labels to the larger of both last RMSEs.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from benchmarks.in_process import run
from dynft_core.assessment.convergence import error_interval
from dynft_core.dynamics.walk_records import WalkJob
from dynft_core.reference.label_job import LabelJob
from dynft_core.storage.json_values import json_text
from dynft_core.tasks.jobs import EvaluateJob
from dynft_core.tasks.tasks import evaluate
from workflows.campaign.actions import Action
from workflows.campaign.jobs import convergence_settings
from workflows.campaign.paths import SUPERCELL, force_field_path
from workflows.campaign.state import State
from workflows.campaign_file.reading import BUILT_IN, parse_campaign
from workflows.commands.compare import CONTINUING, CompareSettings, variant
from workflows.views.criteria_comparison import (
    Curve,
    as_values,
    labels_at_equal_error,
    labels_to_reach,
    rmse_at_equal_labels,
    summary,
    summary_lines,
)

WAIT = "trajectory_average@1.3"
NAMES = (WAIT, WAIT + CONTINUING)
CAMPAIGN = parse_campaign({
    "name": "policies",
    "crystal": {"structure": str(BUILT_IN / "si.xyz"), "supercell": [2, 2, 2]},
    "expansion": {"cutoffs_A": [5.4, 4.0, 4.0]},
    "selection": {"monitor": "exact"},  # chooses the same as a sketch, and sooner in a cell so small
    "reference": {"calculator": "tersoff-si"},
})  # fmt: skip


def curve_of(name: str, seed: int, state: State, run_dir: Path, test: State, test_dir: Path) -> Curve:
    """All force fields of a run on the test set of another."""
    paths = tuple(str(run_dir / force_field_path(version)) for version in range(1, len(state.fits) + 1))
    outcome = evaluate(EvaluateJob(str(test_dir), paths, test.ledger.labels("test"), SUPERCELL))
    assert outcome.ok, outcome.failure
    return Curve.of(name, seed, outcome.evaluations, error_interval(state.record, convergence_settings(state.campaign)))


def pair(label_walks: float, seed: int) -> tuple[Curve, Curve]:
    """One seed under both policies."""

    def duration(action: Action) -> float:
        return label_walks if isinstance(action.job, LabelJob) else float(isinstance(action.job, WalkJob))

    settings = CompareSettings(NAMES, walk_ps=5.0, test_structures=60)
    with tempfile.TemporaryDirectory() as folder:
        dirs = [Path(folder) / name for name in NAMES]
        campaigns = [variant(CAMPAIGN, name, seed, settings) for name in NAMES]
        states = [run(campaign, own, duration) for campaign, own in zip(campaigns, dirs, strict=True)]
        assert not any(state.failure for state in states), states
        wait, go_on = (curve_of(n, seed, s, d, states[0], dirs[0]) for n, s, d in zip(NAMES, states, dirs, strict=True))
    return wait, go_on


def ratios(wait: Curve, go_on: Curve) -> tuple[float, float, float]:
    """'continue' over 'wait': RMSE at equal labels, labels at equal ε_B, labels to the larger of their last RMSEs."""
    target = max(wait.rmse_eV_A[-1], go_on.rmse_eV_A[-1])
    needed = [labels_to_reach(curve.n_labels, curve.rmse_eV_A, target) for curve in (go_on, wait)]
    equal = rmse_at_equal_labels(go_on, wait)
    return float(equal.mean()) if len(equal) else np.nan, labels_at_equal_error(go_on, wait), needed[0] / needed[1]


def _line(*both: Curve) -> str:
    """The seed, and how its runs ended."""
    ends = (
        ", ".join(f"{curve.n_labels[-1]:.0f}" for curve in both),
        ", ".join(f"{1e3 * curve.rmse_eV_A[-1]:.3f}" for curve in both),
        ", ".join(f"{1e3 * curve.bayesian_error_eV_A[-1]:.3f}" for curve in both),
    )
    return f"{both[0].seed:4d}" + "".join(end.rjust(20) for end in ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--label-walks", type=float, default=5.0, help="how many walks a label takes as long as")
    parser.add_argument("--processes", type=int, default=1, help="seeds at one time")
    parser.add_argument("--json", type=Path, help="also write all numbers there")
    arguments = parser.parse_args()
    titles = ("labels", "RMSE, meV/Å", "ε_B, meV/Å", "RMSE, equal labels", "labels, equal ε_B", "labels, last RMSE")
    print("wait, continue; then continue / wait")
    print("seed" + "".join(title.rjust(20) for title in titles))
    curves, found = [], []
    with Pool(arguments.processes) as pool:
        for both in pool.imap(partial(pair, arguments.label_walks), range(1, arguments.seeds + 1)):
            curves += both
            found.append(ratios(*both))
            print(_line(*both) + "".join(f"{ratio:20.3f}" for ratio in found[-1]), flush=True)
    logs = np.log(np.array(found))
    means = np.exp(np.nanmean(logs, axis=0))
    errors = np.nanstd(logs, axis=0, ddof=1) / np.sqrt(np.isfinite(logs).sum(axis=0))
    cells = [f"{m:.3f} ± {m * e:.3f}" for m, e in zip(means, errors, strict=True)]
    print("geometric mean".ljust(64) + "".join(cell.rjust(20) for cell in cells))
    table = summary(curves)
    print("\n".join(summary_lines(table)))
    if arguments.json:
        arguments.json.write_text(json_text(as_values(curves, table)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
