"""Tasks that take no time, for tests of campaign and event loop: same jobs, same outcomes, small JSON files.

What they write depends on all that they read (a force field on its labels in order, a chosen structure on the force
field it was met with), so two campaigns with the same final force field took the same way.
`reference.parameters` of the campaign tells labels how to behave: see `label`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from dynft_core.assessment.scores import Score
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkJob, WalkOutcome
from dynft_core.models.trial import Trial
from dynft_core.reference.failures import Failure
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.tasks.jobs import (
    BornJob,
    BornOutcome,
    ChooseJob,
    ChooseOutcome,
    EvaluateJob,
    EvaluateOutcome,
    Evaluation,
    FitJob,
    FitOutcome,
    ProposeJob,
    ProposeOutcome,
    RelaxJob,
    RelaxOutcome,
    SelectJob,
    SelectOutcome,
    TruncationJob,
    TruncationOutcome,
    ValidateJob,
    ValidateOutcome,
)
from dynft_core.vocabulary import StructureRef


def digest(*parts: object) -> str:
    """24 hex digits that name these things."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def propose(job: ProposeJob) -> ProposeOutcome:
    """Structures that exist by name alone; those of a test set depend on the force field."""
    force_field = getattr(job.method, "force_field", None)
    source = (Path(job.run_dir) / force_field).read_text() if force_field else ""
    keys = [digest(job.method.name, job.seed, i, source) for i in range(job.n_structures)]
    return ProposeOutcome(True, structures=tuple(StructureRef(k, job.output, i, job.role) for i, k in enumerate(keys)))


def label(job: LabelJob) -> LabelOutcome:
    """A label, one line in attempts for each computation.

    Parameters: `seconds` it takes; `fail` all labels whose key ends in one of these digits; `kill_once`: the first
    label kills its worker, once; `hang_once`: the first one does not answer; `poison_once`: the answer to the first one
    cannot be unpickled by the driver; `away_once`: the first one finds no file system.
    """
    parameters, key = job.reference.parameters, job.structure.key
    folder = Path(job.run_dir) / "labels" / key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "label.json").exists():
            return LabelOutcome(True, key, f"labels/{key}/label.json", harvested=True)
        with (folder / "attempts").open("a") as attempts:
            attempts.write(f"{os.getpid()}\n")
        if (answer := _misbehaviour(parameters, job)) is not None:
            return answer  # type: ignore[return-value]
        time.sleep(float(parameters.get("seconds", 0.0)))  # type: ignore[arg-type]
        if key[-1] in str(parameters.get("fail", "")):
            return LabelOutcome(False, key, failure=Failure("calculator", "it said no"))
        _write(folder / "label.json", {"key": key})
    return LabelOutcome(True, key, f"labels/{key}/label.json")


def _misbehaviour(parameters: dict[str, object], job: LabelJob) -> object | None:
    """What the first label answers instead of a label, once, where the parameters want it."""
    marker = Path(job.run_dir) / "misbehaved"
    wanted = parameters.keys() & {"kill_once", "hang_once", "poison_once", "away_once"}
    if marker.exists() or not wanted:
        return None
    marker.touch()
    if "kill_once" in wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hang_once" in wanted:
        time.sleep(1000)
    if "poison_once" in wanted:
        return Poison()
    return LabelOutcome(False, job.structure.key, failure=Failure("storage", "Stale file handle"))


class Poison:
    """Can be pickled, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytes.fromhex, (1,)


def walk(job: WalkJob) -> WalkOutcome:
    """Each walker flags one structure in its first 100 steps, and takes the audits asked for."""
    run_dir = Path(job.run_dir)
    force_field = (run_dir / job.force_field).read_text()
    walks = []
    for start in job.walkers:
        first = json.loads((run_dir / start.state).read_text())["step"] if start.state else 0
        chosen = [("flagged", first + 50)] if first < 100 else []
        step = first + (50 if chosen and job.policy == "wait" else job.n_steps)
        chosen += [("audit", at) for w, at in job.audit_steps if w == start.walker and at <= step]
        refs = tuple(
            StructureRef(digest(start.walker, at, force_field), start.output, i, role)  # type: ignore[arg-type]
            for i, (role, at) in enumerate(chosen)
        )
        _write(run_dir / start.output, {"step": step, "keys": [r.key for r in refs]})
        ended = "selected" if step < first + job.n_steps else "finished"
        walks.append(
            WalkerOutcome(start.walker, start.output, step, step - first, ended, refs, 1e-3, 1e-4, 300.0)  # type: ignore[arg-type]
        )
    known = json.loads(force_field)
    before = known["pending"] if job.keeps_pending else []
    n_pending = len({*before, *(ref.key for ref in job.pending)})
    return WalkOutcome(True, tuple(walks), job.force_field, len(known["labels"]), n_pending)


def validate(job: ValidateJob) -> ValidateOutcome:
    """Walks with nothing chosen."""
    walks = []
    for start in job.walk.walkers:
        assert start.state is not None
        first = json.loads((Path(job.walk.run_dir) / start.state).read_text())["step"]
        step = first + min(job.walk.n_steps, 200)  # the rest in another walk
        _write(Path(job.walk.run_dir) / start.output, {"step": step, "keys": []})
        walks.append(
            WalkerOutcome(start.walker, start.output, step, step - first, "walltime", (), 1e-3, 1e-4, 300.0,
                          error_counts=((-138, step - first),))
        )  # fmt: skip
    return ValidateOutcome(True, walks=tuple(walks))


def born(job: BornJob) -> BornOutcome:
    """Born charges, in an instant."""
    return BornOutcome(True)


def truncation(job: TruncationJob) -> TruncationOutcome:
    """A larger expansion that is worth nothing."""
    present = Trial("", "", 10, 100.0, 3e-3, 3e-3)
    larger = Trial("order 4 up to 3.00 Å", "expansion.cutoffs_A = [5.0, 5.0, 3.0]", 20, 90.0, 3e-3, 3.1e-3)
    return TruncationOutcome(True, present=present, trials=(larger,))


def choose_expansion(job: ChooseJob) -> ChooseOutcome:
    """Order 2 reaches 1 Å further for every fourth label, to 5 Å at most."""
    n_labels = len(json.loads((Path(job.run_dir) / job.force_field).read_text())["labels"])
    found = (min(3.0 + n_labels // 4, 5.0), 3.0)
    return ChooseOutcome(True, found, f"{found} by {n_labels} labels")


def relax(job: RelaxJob) -> RelaxOutcome:
    """Two structures, which every force field relaxes."""
    return RelaxOutcome(True, 2, relaxed=job.numbers or (0, 1))


def select(job: SelectJob) -> SelectOutcome:
    """Candidates whose key begins with a digit up to 3 are redundant, others are chosen in order."""
    redundant = tuple(ref.key for ref in job.candidates if ref.key[0] <= "3")
    chosen = tuple(ref.key for ref in job.candidates if ref.key not in redundant)[: job.n_max]
    return SelectOutcome(True, chosen=chosen, gains=tuple(10.0 - i for i in range(len(chosen))), redundant=redundant)


def fit_labels(job: FitJob) -> FitOutcome:
    """A force field: its labels in order. Refuses a label that does not exist or is in the base already."""
    run_dir = Path(job.run_dir)
    known = json.loads((run_dir / job.base).read_text())["labels"] if job.base else []
    for ref in job.labels:
        if not (run_dir / "labels" / ref.key / "label.json").exists() or ref.key in known:
            return FitOutcome(False, job.version, failure=Failure("unexpected", f"{ref.key} has no label, or two"))
    labels = known + [ref.key for ref in job.labels]
    pending = [ref.key for ref in job.pending]
    asked = job.model.parameters["cutoffs_A"]
    cutoffs_A = (3.0, 3.0) if asked == "auto" else tuple(asked)
    cutoffs = list(enumerate(cutoffs_A, start=2))
    _write(run_dir / job.output, {"labels": labels, "pending": pending, "cutoffs": cutoffs})
    scores = tuple(Score(ref.key, ref.role, 3e-3, 3.1e-3, 1e-3) for ref in job.labels) if job.base else ()
    return FitOutcome(
        True, job.version, job.output, n_labels=len(labels), n_pending=len(pending), beta_inv_sqrt_eV_A=3e-3,
        log_evidence=1.0, scores=scores,
        left_out=tuple(Score(ref.key, ref.role, 3e-3, 3.1e-3, 1e-3) for ref in job.audits), cutoffs_A=cutoffs_A,
    )  # fmt: skip


def evaluate(job: EvaluateJob) -> EvaluateOutcome:
    """One evaluation for each force field."""
    n = len(job.labels)
    found = [Evaluation(f, 3e-3, 2e-3, 3e-3, 1e-3, _n_labels(job, f), n) for f in job.force_fields]
    return EvaluateOutcome(True, evaluations=tuple(found))


def _n_labels(job: EvaluateJob, force_field: str) -> int:
    return len(json.loads((Path(job.run_dir) / force_field).read_text())["labels"])
