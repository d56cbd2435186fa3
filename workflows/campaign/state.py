"""What a campaign knows: everything that its journal tells, as one frozen record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from dynft_core.assessment.convergence import (
    AuditScore,
    ConvergenceRecord,
    FitPoint,
    WalkerProgress,
    assess,
    audits_suffice,
    bayesian_share,
)
from dynft_core.assessment.diagnosis import better, diagnosis, leaving
from dynft_core.assessment.scores import Score
from dynft_core.assessment.validation import ErrorSummary, Validation
from dynft_core.assessment.verdict import Verdict, together
from dynft_core.dynamics.walk_records import WalkJob
from dynft_core.reference.failures import Failure, FailureKind
from dynft_core.reference.label_job import LabelJob
from dynft_core.tasks.jobs import (
    ChooseOutcome,
    Evaluation,
    FitJob,
    FitOutcome,
    TruncationOutcome,
    pooled_rmse,
)
from workflows.campaign import jobs
from workflows.campaign.actions import Action
from workflows.campaign.ledger import TRAINING, Ledger
from workflows.campaign.pace import Pace
from workflows.campaign.relaxations import Relaxed
from workflows.campaign.walks import ValidationWalks, Walks
from workflows.campaign_file.groups import WalkerGroup
from workflows.campaign_file.schema import Campaign

Phase = Literal["harmonic", "initial", "walking", "validation", "test", "complete"]


@dataclass(frozen=True)
class Setbacks:
    """How often an outstanding task failed or was lost, and what that has cost (see `campaign.reduce.MAX_LOSSES`)."""

    cost: float = 0.0
    failed: int = 0
    lost: int = 0

    @property
    def words(self) -> str:
        """'failed 3 times', 'was lost twice and failed once'."""
        times = {1: "once", 2: "twice"}
        counts = {"was lost": self.lost, "failed": self.failed}
        return " and ".join(f"{what} {times.get(n, f'{n} times')}" for what, n in counts.items() if n)


@dataclass(frozen=True)
class State:
    """All that the journal tells. Mappings are never changed in place.

    Attributes:
        run_dir: where the run folder is now.
        walks: how the walkers have fared in training; validation_walks: with training off.
        tasks: outstanding tasks, by id; what a resumed driver has to submit again.
        walking: batches with an outstanding walk; labelling: keys with an outstanding label.
        setbacks: how often outstanding tasks failed or were lost, by id.
        ledger: all structures chosen for a label, and what became of them.
        pending: keys in the newest force field's covariance alone.
        selections: number of batch selections finished; selected_labels: how many labels were fitted at the latest.
        born: the Born charges that the campaign was to compute are there.
        fits: force fields from version 1; harmonic: version 0 is there.
        truncation: what larger expansions make of the labels, once that has been tried.
        tried_labels: how many labels there were when that was last tried.
        relaxations: how those of the campaign file stand, by name.
        choice: the expansion that the labels chose last, where they do, choice_labels: how many there were.
        failed_since: classes of failure of the labels that failed since the latest that did not, or the driver's start.
        pace: how fast it goes, and what it cost.
        failure: why the campaign cannot go on; reason: how it ended, in a sentence.
        stopped: why the driver has gone, when it did so in an orderly way.
        waits: what the scheduler says of executors that wait for their blocks, by their labels.
        again: outstanding tasks to be submitted once more; planned: nothing has happened since tasks were planned.
        judged: what the checks say of the fits, the walkers and the campaign's bounds; None: not asked since one of
            these has changed.
    """

    campaign: Campaign
    run_dir: str
    phase: Phase
    walks: Walks
    validation_walks: ValidationWalks
    tasks: Mapping[str, Action] = field(default_factory=dict)
    walking: frozenset[int] = frozenset()
    labelling: frozenset[str] = frozenset()
    setbacks: Mapping[str, Setbacks] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    pending: frozenset[str] = frozenset()
    selections: int = 0
    selected_labels: int = 0
    born: bool = False
    harmonic: bool = False
    fits: tuple[FitOutcome, ...] = ()
    truncation: TruncationOutcome | None = None
    tried_labels: int = 0
    choice: ChooseOutcome | None = None
    relaxations: Mapping[str, Relaxed] = field(default_factory=dict)
    choice_labels: int = 0
    failed_since: tuple[FailureKind, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    pace: Pace = field(default_factory=Pace)
    failure: Failure | None = None
    reason: str = ""
    stopped: str = ""
    waits: Mapping[str, str] = field(default_factory=dict)
    again: tuple[str, ...] = ()
    planned: bool = False
    judged: Verdict | None = field(default=None, compare=False)

    @classmethod
    def new(cls, campaign: Campaign, run_dir: str) -> State:
        """A campaign of which nothing has happened yet."""
        phase: Phase = "harmonic" if campaign.initial.method == "phonons" else "initial"
        nobody = (None,) * campaign.n_walkers
        walks = Walks.none(len(nobody), len(jobs.batches(campaign)))
        return cls(campaign, run_dir, phase, walks, ValidationWalks(nobody))

    def with_tasks(self, actions: Iterable[Action]) -> State:
        """With these tasks outstanding, too: it is planned."""
        new = {action.id: action for action in actions}
        if not new:
            return replace(self, planned=True, again=())
        walking = self.walking.union(self._batch(a.job) for a in new.values() if isinstance(a.job, WalkJob))
        labelling = self.labelling.union(a.job.structure.key for a in new.values() if isinstance(a.job, LabelJob))
        tasks = {**self.tasks, **new}
        return replace(self, tasks=tasks, walking=walking, labelling=labelling, planned=True, again=())

    def without_task(self, name: str) -> State:
        """With one task fewer outstanding, its setbacks forgotten: what follows is to be planned."""
        tasks, setbacks = dict(self.tasks), dict(self.setbacks)
        action = tasks.pop(name, None)
        setbacks.pop(name, None)
        job = action.job if action is not None else None
        walking = self.walking - {self._batch(job)} if isinstance(job, WalkJob) else self.walking
        labelling = self.labelling - {job.structure.key} if isinstance(job, LabelJob) else self.labelling
        return replace(
            self, tasks=tasks, setbacks=setbacks, walking=walking, labelling=labelling, planned=False
        )  # fmt: skip

    def _batch(self, job: WalkJob) -> int:
        return jobs.batch_of(self.campaign, job.walkers[0].walker)

    def is_being_fitted(self, key: str) -> bool:
        """Whether an outstanding fit has this label."""
        fits = [a.job for a in self.tasks.values() if isinstance(a.job, FitJob)]
        return any(ref.key == key for fit in fits for ref in fit.labels)

    @property
    def ended(self) -> bool:
        """Nothing more will happen: complete or failed."""
        return self.phase == "complete" or self.failure is not None

    @property
    def ending(self) -> str:
        """Why it failed, or else how it ended, in a sentence."""
        return self.failure.sentence if self.failure else self.reason

    @property
    def force_field(self) -> str:
        """The newest full force field."""
        return self.fits[-1].path

    @property
    def n_fitted(self) -> int:
        """Labels in the newest force field; 0 before the first."""
        return self.fits[-1].n_labels if self.fits else 0

    @property
    def cutoffs_A(self) -> tuple[float, ...]:
        """Of the next force field, where the labels choose; () before the first."""
        fitted = self.fits[-1].cutoffs_A if self.fits else ()
        return (self.choice.cutoffs_A if self.choice else ()) or fitted

    @property
    def grown(self) -> bool:
        """Whether the labels have chosen another expansion than the newest force field's."""
        return bool(self.campaign.automatic and self.fits and self.cutoffs_A != self.fits[-1].cutoffs_A)

    @property
    def n_labels(self) -> int:
        """Labels to train on: neither those of the harmonic fit or the test set, nor those set aside."""
        aside = frozenset(key for fit in self.fits for key in fit.set_aside)
        return sum(
            e.status == "accepted" and e.structure.role in TRAINING and e.structure.key not in aside
            for e in self.ledger.entries.values()
        )

    @property
    def final_evaluations(self) -> tuple[Evaluation, ...]:
        """The last force field's scores on the test sets, group by group."""
        last = max((e.force_field for e in self.evaluations), default="")
        found = {e.group: e for e in self.evaluations if e.force_field == last}
        return tuple(found[group.name] for group in self.campaign.groups if group.name in found)

    @property
    def test_rmse_eV_A(self) -> float:
        """The last force field's error on all test structures; nan without any."""
        return pooled_rmse(self.final_evaluations)

    @property
    def least_walked_ps(self) -> float:
        """Walked time of the walker that walked least, ps."""
        steps = min(w.step if w else 0 for w in self.walks.walkers)
        return steps * self.campaign.dynamics.timestep_fs / 1000

    @property
    def record(self) -> ConvergenceRecord:
        """What convergence is judged by, of all walkers together."""
        return self._record(range(len(self.walks.walkers)), self._audits, self._walked())

    def record_of(self, group: WalkerGroup) -> ConvergenceRecord:
        """What convergence is judged by, of one group of walkers."""
        if len(self.campaign.groups) == 1:
            return self.record
        scores = [score for score in self._audits if group.has(score.temperature_K, score.cell)]
        return self._record(group.walkers, scores, self._walked(group.name))

    def audits_suffice(self, group: WalkerGroup) -> bool:
        """Whether the audits of a group of walkers tell its error as well as is asked for."""
        return audits_suffice(self.record_of(group), jobs.convergence_settings(self.campaign))

    @property
    def _audits(self) -> tuple[Score, ...]:
        """Of the newest force field, with those of the other labels."""
        return self.fits[-1].left_out if self.fits else ()

    def _walked(self, *groups: str) -> tuple[float, ...]:
        """How hard the structures are that these groups, or all, walk through."""
        walked = self.fits[-1].walked_difficulty if self.fits else {}
        return tuple(value for name in groups or walked for value in walked.get(name, ()))

    def _record(self, walkers: Iterable[int], scores: Iterable[Score], walked: tuple[float, ...]) -> ConvergenceRecord:
        audits, others = list[AuditScore](), list[AuditScore]()
        for s in scores:
            own = AuditScore(s.rmse_eV_A, s.predicted_eV_A, s.temperature_K, s.difficulty)
            (audits if s.role == "audit" else others).append(own)
        stop, ps = self.campaign.convergence.stop_when, self.campaign.dynamics.timestep_fs / 1000
        wanted, latest = stop.property if stop else None, self.walks.walkers
        return ConvergenceRecord(
            tuple(
                FitPoint(f.n_labels, f.beta_inv_sqrt_eV_A, f.property_error if f.property_name == wanted else math.nan)
                for f in self.fits
                if not self.campaign.automatic or f.cutoffs_A == self.fits[-1].cutoffs_A
            ),
            tuple(audits),
            tuple(
                WalkerProgress(i, w.step * ps, w.mean_error_eV_A, ps * (w.step - max(w.last_flag_step, 0)))
                if (w := latest[i])
                else WalkerProgress(i, 0.0, math.nan)
                for i in walkers
            ),
            walked,
            tuple(others),
            self.fits[-1].explained if self.fits else 0.0,
        )

    @property
    def diagnosis(self) -> str:
        """What limits the error, in a sentence; "" while nothing stands out."""
        tried = self.truncation
        present, trials = (tried.present, tried.trials) if tried else (None, ())
        left = leaving(self.walks.departures, self.walks.recent)
        return diagnosis(self.bayesian_share, self.campaign.convergence.max_bayesian_share, present, trials, left)

    @property
    def bayesian_share(self) -> float:
        """The largest μ_k[ε_B] β^(1/2) of the walkers."""
        return bayesian_share(self.record)

    @property
    def labels_suffice(self) -> bool:
        """Whether ε_B no longer limits the error."""
        return self.bayesian_share <= self.campaign.convergence.max_bayesian_share

    @property
    def truncated(self) -> bool:
        """Whether a larger expansion is worth more than further labels, as far as that has been tried."""
        tried = self.truncation
        return bool(tried and tried.present and better(tried.present, tried.trials))

    @property
    def validation(self) -> Validation | None:
        """What the validation walk found; None before its end."""
        walks, validated = self.walks, self.validation_walks
        starts = [(w.step, v.step) for w, v in zip(walks.walkers, validated.walkers, strict=True) if w and v]
        if len(starts) < len(walks.walkers):
            return None
        walked_ps = sum(after - before for before, after in starts) * self.campaign.dynamics.timestep_fs / 1000
        return Validation(
            ErrorSummary.of(validated.errors), ErrorSummary.of(walks.errors), walked_ps, validated.explosions
        )

    @property
    def problem(self) -> str:
        """What the validation walk has against the campaign; "" when nothing, or before its end."""
        return self.validation.problem if self.validation else ""

    @property
    def converged(self) -> bool:
        """Whether all checks hold, and the validation walk does not contradict them."""
        broken_off = any(relaxed.left for relaxed in self.relaxations.values())
        return self.verdict.converged and not self.problem and not broken_off

    @property
    def may_end(self) -> bool:
        """Whether a verdict is worth its time: not before every walker has walked min_walk_ps."""
        bounds = self.campaign.convergence
        least = min(bounds.min_walk_ps, bounds.max_walk_ps) * 1000 / self.campaign.dynamics.timestep_fs
        return not any(w is None or w.step < least * (1 - 1e-9) for w in self.walks.walkers)

    @property
    def verdict(self) -> Verdict:
        """What the checks say."""
        settings = jobs.convergence_settings(self.campaign)
        if self.judged:
            return self.judged
        whole, groups = self.record, self.campaign.groups
        return together({g.name: assess(self.record_of(g), settings, whole) for g in groups}, settings.max_walk_ps)

    def judge(self) -> tuple[State, Verdict]:
        """The state that keeps its verdict, and the verdict."""
        verdict = self.verdict
        return (self if self.judged else replace(self, judged=verdict)), verdict
