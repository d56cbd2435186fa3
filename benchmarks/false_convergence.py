"""Starts that lead a campaign astray: how it ends, and whether the error that it claims is the true one.

    nice -n 10 python benchmarks/false_convergence.py [--seeds 3] [--only "NAME;…"] [--json FILE]

Silicon, the embedded Tersoff potential as truth, 300 K, small cells (64 atoms unless the start says otherwise), so that
a campaign takes half a minute on one core. Each runs in this process, without Parsl. Ratio: predicted over true RMSE,
the true one on 100 structures of a run of its own; "plain": without the scale that its audits gave it; "others": error
over prediction of labels that are no audits, left out, relative to audits. A campaign that did not converge says that
it cannot vouch for its prediction.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from in_process import run

from dynft_core.assessment.convergence import error_interval, recalibration, recalibration_test
from workflows.campaign.jobs import convergence_settings
from workflows.campaign.state import State
from workflows.campaign_file.reading import BUILT_IN, parse_campaign
from workflows.campaign_file.schema import Campaign

BASE: dict[str, Any] = {
    "name": "start",
    "crystal": {"structure": str(BUILT_IN / "si.xyz"), "supercell": [2, 2, 2]},
    "expansion": {"cutoffs_A": [4.6, 3.9, 2.4]},
    "dynamics": {"segment_ps": 0.25},
    "convergence": {"max_walk_ps": 10.0},
    "reference": {"calculator": "tersoff-si"},
    "test": {"structures": 100},
}

STARTS: dict[str, dict[str, dict[str, Any]]] = {
    "phonon modes (default)": {},
    "1 rattled 0.01 Å": {"initial": {"method": "rattled", "structures": 1}},
    "4 rattled 0.01 Å": {"initial": {"method": "rattled", "structures": 4}},
    "60 rattled 0.01 Å": {"initial": {"method": "rattled", "structures": 60}},
    "2 rattled 0.08 Å": {"initial": {"method": "rattled", "structures": 2, "rattle_A": 0.08}},
    "10 rattled 0.15 Å": {"initial": {"method": "rattled", "structures": 10, "rattle_A": 0.15}},
    "2 from 10 K (0.02 Å)": {"initial": {"method": "rattled", "structures": 2, "rattle_A": 0.02}},
    "one walker": {"dynamics": {"walkers": 1, "walkers_per_task": 1}},
    "tiny cell, 8 atoms": {"crystal": {"supercell": [1, 1, 1]}},
    "order 2 alone": {"expansion": {"cutoffs_A": [4.6]}},
    "orders 2 and 3": {"expansion": {"cutoffs_A": [4.6, 3.9]}},
    "shared prior, 1 rattled 0.01 Å": {
        "initial": {"method": "rattled", "structures": 1},
        "expansion": {"prior": "shared"},
    },
}


def campaign_of(start_name: str, seed: int) -> Campaign:
    """The campaign of one start and seed."""
    table = {name: dict(value) if isinstance(value, Mapping) else value for name, value in BASE.items()}
    for section, changes in STARTS[start_name].items():
        table[section] = {**table.get(section, {}), **changes}
    table["dynamics"]["seed"] = seed
    return parse_campaign(table)


def row_of(state: State) -> dict[str, Any]:
    """What the table shows of one campaign (meV/Å)."""
    if state.failure:
        return {"verdict": "failed", "labels": state.n_labels, "reason": state.ending}
    predicted = 1e3 * error_interval(state.record, convergence_settings(state.campaign))[1]
    true = 1e3 * max(state.evaluations, key=lambda e: e.force_field).rmse_eV_A
    return {
        "predicted": predicted, "true": true, "ratio": predicted / true, "labels": state.n_labels,
        "plain": predicted / recalibration(state.record) / true, "others": others_ratio(state),
        "verdict": "converged" if state.verdict.converged else "cannot say", "reason": state.reason,
        "walked_ps": state.walks.steps * state.campaign.dynamics.timestep_fs / 1000,
    }  # fmt: skip


def others_ratio(state: State) -> float:
    """Error / prediction of labels that are no audits over that of the audits; nan without any."""
    record = state.record
    audits = recalibration_test(replace(record, others=()))
    return recalibration_test(replace(record, audits=record.others, others=())).ratio / audits.ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="names of starts, separated by semicolons (default: all)")
    parser.add_argument("--json", type=Path, help="also write all numbers there")
    arguments = parser.parse_args()
    names = arguments.only.split(";") if arguments.only else list(STARTS)
    titles = f"{'predicted':>11s}{'true':>8s}{'ratio':>7s}{'plain':>8s}{'others':>8s}{'labels':>8s}{'ps':>7s}"
    print(f"{'start':<34s}{'seed':>5s}{titles}  verdict")
    rows = []
    for name in names:
        for seed in range(1, arguments.seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                row = {"start": name, "seed": seed, **row_of(run(campaign_of(name, seed), Path(folder) / "run"))}
            rows.append(row)
            numbers = (
                f"{row['predicted']:11.2f}{row['true']:8.2f}"
                f"{row['ratio']:7.2f}{row['plain']:8.2f}{row['others']:8.2f}{row['labels']:8d}{row['walked_ps']:7.1f}"
                if "ratio" in row else f"{'–':>11s}{'–':>8s}{'–':>7s}{'–':>8s}{'–':>8s}{row['labels']:8d}{'–':>7s}"
            )  # fmt: skip
            print(f"{name:<34s}{seed:5d}{numbers}  {row['verdict']}: {row['reason']}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    converged = np.array([r["ratio"] for r in rows if r["verdict"] == "converged"])
    inside = np.sum((converged >= 0.9) & (converged <= 1.15))
    print(f"{len(rows)} campaigns: {len(converged)} converged, {inside} of them with a ratio between 0.9 and 1.15")
    sys.exit(0 if inside == len(converged) else 1)


if __name__ == "__main__":
    main()
