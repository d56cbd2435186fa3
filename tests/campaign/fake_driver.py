"""A driver process with the fake tasks: `fake_driver.py RUN [POLICY [JSON of parameters [SITE [WALKERS]]]]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fake_tasks

from workflows.campaign_file.reading import parse_campaign
from workflows.campaign_file.schema import Campaign
from workflows.driver.driver import run_campaign

FOLDER = Path(__file__).parent


def campaign(policy: str = "wait", parameters: dict[str, object] | None = None, walkers: int = 4) -> Campaign:
    """A small campaign for the fake tasks; `parameters`: how labels behave."""
    table = {
        "name": "fake",
        "crystal": {"structure": str(FOLDER / "si.xyz"), "supercell": [1, 1, 1]},
        "expansion": {"cutoffs_A": [4.0, 3.0]},
        "dynamics": {
            "walkers": walkers,
            "walkers_per_task": 2,
            "segment_ps": 0.1,
            "max_task_minutes": 0.01,
            "friction_per_ps": 100.0,
        },
        "selection": {"policy": policy},
        "audit": {"first_ps": 0.1, "ratio": 1.5},
        "convergence": {"min_walk_ps": 0.6, "max_walk_ps": 3.0},
        "limits": {"propose_minutes": 0.01, "select_minutes": 0.01, "fit_minutes": 0.01},
        "reference": {"calculator": "fake", "parameters": parameters or {}, "timeout_s": 2.0},
        "test": {"structures": 3},
    }
    return parse_campaign(table)


if __name__ == "__main__":
    given = sys.argv[1:]
    run_dir, policy, parameters, site, walkers = given + ["", "wait", "{}", "local", "4"][len(given) :]
    state = run_campaign(
        campaign(policy, json.loads(parameters), int(walkers)), "# fake\n", Path(run_dir), site,
        lambda _, event: print(event["event"], event.get("id", ""), flush=True), fake_tasks,
    )  # fmt: skip
    print("ended:", state.phase, state.ending or state.stopped, flush=True)
