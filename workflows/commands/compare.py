"""`dynft compare`: one campaign under several criteria and seeds, labels against error (paper, figure 3).

Every pair of criterion and seed is a campaign in a folder of its own, so a comparison that was stopped goes on. All
force fields of one seed are scored on one test set, that of the first criterion's run: the runs are paired.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dynft_core.assessment.convergence import error_interval
from dynft_core.errors import CampaignFailedError, InputError
from dynft_core.storage.files import replacing
from dynft_core.storage.json_values import json_text
from dynft_core.tasks.jobs import EvaluateJob, Evaluation
from dynft_core.tasks.tasks import evaluate
from workflows.campaign.jobs import convergence_settings
from workflows.campaign.paths import force_field_path
from workflows.campaign.state import State
from workflows.campaign_file.reading import campaign_toml, load_campaign
from workflows.campaign_file.schema import Campaign, SelectionSection
from workflows.commands.preflight import check_campaign
from workflows.driver.driver import run_campaign
from workflows.run_folder.checks import check_run_folder
from workflows.run_folder.folder import state_of
from workflows.views.campaign_figures import comparison_figure
from workflows.views.criteria_comparison import Curve, as_values, summary, summary_lines
from workflows.views.progress import Progress

CRITERIA: tuple[str, ...] = get_args(SelectionSection.model_fields["criterion"].annotation)
AUDITED = "+audits"
"""After a criterion's name: with the campaign's audits, and stopped as soon as it has converged."""
CONTINUING = "+continue"
"""After a criterion's name: under the policy 'continue', whatever the campaign's."""
HEATING = "+heating"
"""After a criterion's name: structures are flagged while the crystal is heated, too, as the papers have it."""
_NAME = re.compile(
    rf"(?P<criterion>{'|'.join(CRITERIA)})(@(?P<gamma>\d+(\.\d+)?))?"
    rf"({re.escape(HEATING)})?({re.escape(AUDITED)})?({re.escape(CONTINUING)})?"
)


@dataclass(frozen=True)
class CompareSettings:
    """What to compare.

    Attributes:
        criteria: names, each a criterion, with '@1.5' (another gamma than the campaign's), '+heating', '+audits' and
            '+continue' after it, in this order; the others are set against the first.
        seeds: runs of each; one seed's runs share their test set.
        walk_ps: walked time of each walker; None: the campaign's max_walk_ps.
        test_structures: of each seed's test set.
    """

    criteria: tuple[str, ...]
    seeds: int = 5
    walk_ps: float | None = None
    test_structures: int = 20

    def __post_init__(self) -> None:
        for name in self.criteria:
            if not _NAME.fullmatch(name):
                ends = f"@NUMBER for another gamma, {HEATING}, {AUDITED}, {CONTINUING}"
                raise InputError(
                    "--criteria", f"names among {', '.join(CRITERIA)}, each with any of {ends} after it", f"'{name}'",
                    "for example epsilon_min,trajectory_average@1.5,trajectory_average+audits",
                )  # fmt: skip
        if len(set(self.criteria)) != len(self.criteria) or not self.criteria:
            raise InputError("--criteria", "different names", f"'{','.join(self.criteria)}'", "name each once")
        for option, value in (("--seeds", self.seeds), ("--test-structures", self.test_structures)):
            if value < 1:
                raise InputError(option, "at least 1", str(value), "use 5 seeds and 20 structures")
        if self.walk_ps is not None and not 0 < self.walk_ps < float("inf"):
            raise InputError("--walk-ps", "a time above 0 ps", repr(self.walk_ps), "for example 5")


def compare_campaign(source: str, settings: CompareSettings, site: str, folder: Path, as_json: bool) -> str:
    """Run all campaigns of the comparison, write comparison.json and .png into `folder`; returns what to print.

    Raises:
        InputError: a campaign, criterion or folder that cannot be used; nothing has run then.
        CampaignFailedError: a run failed or was stopped; the same command goes on.
    """
    campaign, _ = load_campaign(source)
    check_campaign(campaign)
    runs = [(name, seed) for seed in range(1, settings.seeds + 1) for name in settings.criteria]
    variants = [variant(campaign, name, seed, settings) for name, seed in runs]
    folders = [folder / name / f"seed-{seed}" for name, seed in runs]
    for own in folders:
        check_run_folder(own)
    curves: list[Curve] = []
    for (name, seed), own_campaign, own in zip(runs, variants, folders, strict=True):
        state = _run(own_campaign, own, site, f"{name}, seed {seed} ({len(curves) + 1} of {len(runs)})")
        first = folder / settings.criteria[0] / f"seed-{seed}"
        evaluations = state.evaluations if own == first else _scored(own, state, first)
        curve = Curve.of(name, seed, evaluations, error_interval(state.record, convergence_settings(own_campaign)))
        curves.append(curve)
        print(
            f"{name}, seed {seed}: {curve.n_labels[-1]:.0f} labels, RMSE {1e3 * curve.rmse_eV_A[-1]:.3f} meV/Å, "
            f"mean ε_B {1e3 * curve.bayesian_error_eV_A[-1]:.3f} meV/Å", file=sys.stderr, flush=True,
        )  # fmt: skip
    found = summary(curves)
    values = json_text(as_values(curves, found))
    with replacing(folder / "comparison.json") as temporary:
        temporary.write_text(values + "\n", encoding="utf-8")
    with replacing(folder / "comparison.png") as temporary:
        comparison_figure(curves).savefig(temporary, format="png", dpi=150)
    written = f"written: {folder / 'comparison.json'}, {folder / 'comparison.png'}"
    return values if as_json else "\n".join([*summary_lines(found), written])


def variant(campaign: Campaign, criterion: str, seed: int, settings: CompareSettings) -> Campaign:
    """The campaign of one run: criterion, seed and length changed; audits and convergence only with '+audits'."""
    parts = _NAME.fullmatch(criterion)
    assert parts is not None  # CompareSettings has seen to it
    walk_ps = settings.walk_ps or campaign.convergence.max_walk_ps
    audited = AUDITED in criterion
    table = campaign.model_dump()
    table["name"] = f"{campaign.name}-{criterion.replace('@', '-')}-{seed}"
    table["dynamics"]["seed"] = campaign.dynamics.seed + 1000 * (seed - 1)
    table["selection"]["criterion"] = parts["criterion"]
    if parts["gamma"]:
        table["selection"]["gamma"] = float(parts["gamma"])
    if HEATING in criterion:
        table["selection"]["while_heating"] = True
    if CONTINUING in criterion:
        table["selection"]["policy"] = "continue"
    table["convergence"]["max_walk_ps"] = walk_ps
    table["convergence"]["min_walk_ps"] = min(walk_ps, campaign.convergence.min_walk_ps) if audited else walk_ps
    if not audited:
        table["audit"]["first_ps"] = 2 * walk_ps * campaign.n_walkers
    table["test"]["structures"] = settings.test_structures if criterion == settings.criteria[0] else 0
    return Campaign.model_validate(table)


def _run(campaign: Campaign, folder: Path, site: str, title: str) -> State:
    """Run, or go on with, one of the campaigns to its end."""
    with Progress(round(1000 * campaign.convergence.max_walk_ps), f"{title}, fs", sys.stderr) as progress:

        def on_event(state: State, event: Mapping[str, Any]) -> None:
            progress.update(round(1000 * state.least_walked_ps), f"{state.n_labels} labels")

        state = run_campaign(campaign, campaign_toml(campaign), folder.absolute(), site, on_event)
    if state.failure or not state.ended:
        raise CampaignFailedError(f"{title}: {state.ending or state.stopped or 'stopped'}; the same command goes on")
    return state


def _scored(run: Path, state: State, first: Path) -> tuple[Evaluation, ...]:
    """All force fields of `run` on the test labels of the run in `first`."""
    test = state_of(first)
    labels = test.ledger.labels("test")
    paths = tuple(str(run.absolute() / force_field_path(v)) for v in range(1, len(state.fits) + 1))
    outcome = evaluate(EvaluateJob(str(first.absolute()), paths, labels))
    if not outcome.ok:
        raise CampaignFailedError(f"scores of '{run}': {outcome.failure}")
    return outcome.evaluations
