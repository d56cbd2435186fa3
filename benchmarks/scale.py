"""A campaign of any size: real event loop, fold and journal, with tasks that answer from a model of their times.

    python benchmarks/scale.py                     1,000 walkers, 10,000 labels: events a second, memory, replay
    python benchmarks/scale.py --idle              64 walkers, labels 100 times slower than a walk: their idle share
    python benchmarks/scale.py --replay 1000000    how long a journal of so many events takes to read again

The clock is virtual: it jumps to the end of the next task, and besides runs on by what the driver itself takes.
"""

from __future__ import annotations

import argparse
import heapq
import queue
import random
import shutil
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dynft_core.assessment.scores import Score
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkJob, WalkOutcome
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.storage.journal import Journal
from dynft_core.tasks.jobs import (
    EvaluateJob,
    FitJob,
    FitOutcome,
    Job,
    Outcome,
    ProposeJob,
    ProposeOutcome,
    SelectJob,
    SelectOutcome,
    TruncationJob,
    TruncationOutcome,
)
from dynft_core.vocabulary import StructureRef
from workflows.campaign.actions import TASKS
from workflows.campaign.events import started_event
from workflows.campaign.fold import start
from workflows.campaign.paths import JOURNAL
from workflows.campaign_file.reading import parse_campaign
from workflows.campaign_file.schema import Campaign
from workflows.driver.event_loop import EventLoop
from workflows.run_folder.snapshot import SNAPSHOT, Snapshots

STRUCTURE = Path(__file__).resolve().parent.parent / "workflows" / "campaign_file" / "builtin" / "si.xyz"


@dataclass(frozen=True)
class Model:
    """How long tasks take (s, virtual), how many of a kind run at one time, and how often a walk flags a structure."""

    walk_s: float = 60.0
    label_s: float = 6000.0
    fit_s: float = 20.0
    other_s: float = 2.0
    label_slots: int = 2000
    flags: float = 0.2
    flags_fade: float = float("inf")
    """Labels after which flags are rarer by a factor e."""

    def seconds(self, job: Job, rng: random.Random) -> float:
        """Of one task, with a spread of a fifth."""
        mean = {WalkJob: self.walk_s, LabelJob: self.label_s, FitJob: self.fit_s}.get(type(job), self.other_s)
        return mean * max(0.1, rng.gauss(1, 0.2))


class VirtualExecutors:
    """Executors and the event loop's inbox in one: tasks end in the order of their virtual times."""

    labels = dict.fromkeys((name for name, _ in TASKS.values()), "walkers")
    leftovers = ()

    def __init__(self, model: Model) -> None:
        self.model = model
        self.rng = random.Random(1)
        self.now = 0.0
        self.walking_s = 0.0
        self.idle_s = 0.0
        self.ended: dict[int, float] = {}
        self.n_labels = 0
        self._running: list[tuple[float, int, Job, Future[Outcome]]] = []
        self._label_queue: deque[tuple[Job, Future[Outcome]]] = deque()
        self._labels_running = self._count = 0
        self._inbox: deque[Any] = deque()
        self._seen = time.perf_counter()

    # what the event loop asks of executors
    def submit(self, kind: str, job: Job) -> Future[Outcome]:
        self._pass()
        future: Future[Outcome] = Future()
        if isinstance(job, LabelJob) and self._labels_running >= self.model.label_slots:
            self._label_queue.append((job, future))
        else:
            self._begin(job, future)
        return future

    def is_up(self, label: str) -> bool:
        return True

    has_workers = is_up

    def trouble(self, label: str) -> None:
        return None

    def waiting_words(self, label: str) -> str:
        return ""

    def close(self) -> None:
        pass

    # what it asks of its inbox
    def put(self, message: Any) -> None:
        self._inbox.append(message)

    def get(self, timeout: float) -> Any:
        """The next answer."""
        self._pass()
        while not self._inbox:
            if not self._running:
                raise queue.Empty
            self._end_next()
        self._seen = time.perf_counter()
        while self._running and self._running[0][0] <= self.now:
            self._end_next()
        return self._inbox.popleft()

    def _pass(self) -> None:
        """The driver's own time passes on the virtual clock too."""
        seen, self._seen = self._seen, time.perf_counter()
        self.now += self._seen - seen

    def get_nowait(self) -> Any:
        """What came while the driver was busy."""
        if not self._inbox:
            raise queue.Empty
        return self._inbox.popleft()

    def _begin(self, job: Job, future: Future[Outcome]) -> None:
        seconds = self.model.seconds(job, self.rng)
        if isinstance(job, LabelJob):
            self._labels_running += 1
        if isinstance(job, WalkJob):
            self.walking_s += seconds
            for walker in job.walkers:
                self.idle_s += self.now - self.ended.get(walker.walker, self.now)
        self._count += 1
        heapq.heappush(self._running, (self.now + seconds, self._count, job, future))

    def _end_next(self) -> None:
        end, _, job, future = heapq.heappop(self._running)
        self.now = max(self.now, end)
        if isinstance(job, LabelJob):
            self._labels_running -= 1
            self.n_labels += 1
            if self._label_queue:
                self._begin(*self._label_queue.popleft())
        if isinstance(job, WalkJob):
            self.ended |= {walker.walker: end for walker in job.walkers}
        future.set_result(self._outcome(job))

    def _outcome(self, job: Job) -> Outcome:
        match job:
            case ProposeJob():
                refs = (self._ref(job.output, i, job.role) for i in range(job.n_structures))
                return ProposeOutcome(True, structures=tuple(refs))
            case LabelJob():
                return LabelOutcome(True, job.structure.key, f"labels/{job.structure.key}/label.h5", seconds=1.0)
            case WalkJob():
                walks = tuple(self._walked(job, start) for start in job.walkers)
                return WalkOutcome(True, walks, job.force_field, self.n_labels, len(job.pending))
            case SelectJob():
                keys = tuple(ref.key for ref in job.candidates)[: job.n_max]
                return SelectOutcome(True, chosen=keys, gains=(1.0,) * len(keys))
            case FitJob():
                scores = tuple(Score(ref.key, ref.role, 3e-3, 3e-3, 1e-3) for ref in job.labels) if job.base else ()
                return FitOutcome(True, job.version, job.output, self.n_labels, len(job.pending), 3e-3, 1.0, scores)
            case TruncationJob():
                return TruncationOutcome(True)
            case EvaluateJob():
                raise AssertionError("no test set")
        raise AssertionError(job)

    def _walked(self, job: WalkJob, start: Any) -> WalkerOutcome:
        before = 0 if start.state is None else self._steps[start.walker]
        rate = self.model.flags * 2.718281828 ** (-self.n_labels / self.model.flags_fade)
        refs = (self._ref(start.output, 0, "flagged"),) if self.rng.random() < rate else ()
        self._steps[start.walker] = before + job.n_steps
        return WalkerOutcome(
            start.walker, start.output, before + job.n_steps, job.n_steps, "finished", refs, 1e-3, 1e-4, 300.0
        )

    @property
    def _steps(self) -> dict[int, int]:
        return self.__dict__.setdefault("steps", {})

    def _ref(self, segment: str, index: int, role: Any) -> StructureRef:
        return StructureRef(f"{self.rng.getrandbits(96):024x}", segment, index, role, "model")


def campaign(walkers: int, n_walks: int, policy: str, max_pending: int) -> Campaign:
    """Each walker walks `n_walks` times a picosecond."""
    return parse_campaign({
        "name": "scale",
        "crystal": {"structure": str(STRUCTURE), "supercell": [1, 1, 1]},
        "expansion": {"cutoffs_A": [3.0]},
        "dynamics": {"walkers": walkers, "walkers_per_task": 1, "segment_ps": 1.0},
        "selection": {"policy": policy, "max_pending": max_pending},
        "audit": {"first_ps": 1.0, "ratio": 1e6},
        "convergence": {"min_walk_ps": n_walks, "max_walk_ps": n_walks},
        "reference": {"calculator": "model", "max_concurrent": 10**6},
    })  # fmt: skip


def simulate(settings: Campaign, model: Model, run_dir: Path, n_walks: int, every: float = 0.1) -> VirtualExecutors:
    """Run the campaign to its end; prints what lies behind and at which rate the latest part of it came."""
    run_dir.mkdir(parents=True)
    snapshots = Snapshots(run_dir)
    executors = VirtualExecutors(model)
    total = settings.dynamics.walkers * n_walks
    n_events, n_lines, process = 0, 0, psutil.Process()
    last = 0, time.perf_counter(), time.process_time()

    def on_event(state: Any, event: Any) -> None:
        nonlocal n_events, n_lines, last
        n_events += 1
        if sum(state.walks.finished) >= (n_lines + 1) * every * total or state.ended:
            n_lines += 1
            now = n_events, time.perf_counter(), time.process_time()
            new, seconds, cpu_seconds = (b - a for a, b in zip(last, now, strict=True))
            last = now
            print(f"{sum(state.walks.finished):9d} walks {executors.n_labels:7d} labels "
                  f"{len(state.ledger.open):6d} waiting "
                  f"{len(state.fits):6d} fits {n_events:8d} events, the latest {new / seconds:6.0f} a second, "
                  f"{new / cpu_seconds:6.0f} a CPU second {process.memory_info().rss / 1e6:6.0f} MB",
                  flush=True)  # fmt: skip

    with Journal.open(run_dir / JOURNAL) as journal:
        state, _ = start(settings, str(run_dir))
        journal.append(started_event(settings))
        event_loop = EventLoop(state, journal, snapshots, lambda: executors, on_event)  # type: ignore[arg-type, return-value]
        event_loop._inbox = executors  # type: ignore[assignment]
        final = event_loop.run("model")
    assert final.phase == "complete", final.failure
    return executors


def idle_share(executors: VirtualExecutors) -> float:
    """Part of the walkers' time, from their first walk to their last, in which they stood still."""
    return executors.idle_s / (executors.idle_s + executors.walking_s)


def replay(run_dir: Path, n_events: int) -> None:
    """Time to the state, from a journal of `n_events` made of the one there, with and without its snapshot."""
    journal = run_dir / JOURNAL
    # Events about tasks that are not outstanding change nothing: copies make the journal long, and keep it true.
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    answers = [line for line in lines if b'"walk_finished"' in line]
    with journal.open("ab") as file:
        for first in range(0, n_events - len(lines), len(answers)):
            file.writelines(answers[: n_events - len(lines) - first])
    size = journal.stat().st_size
    begin = time.perf_counter()
    whole = Snapshots(run_dir)
    (run_dir / SNAPSHOT).unlink(missing_ok=True)
    state = whole.restore()
    without = time.perf_counter() - begin
    assert state is not None
    Snapshots(run_dir).write(state)
    begin = time.perf_counter()
    again = Snapshots(run_dir).restore()
    seconds = time.perf_counter() - begin
    assert again is not None and again.ledger.counts == state.ledger.counts and again.walks == state.walks
    snapshot = (run_dir / SNAPSHOT).stat().st_size
    print(f"journal of {n_events} events, {size / 1e6:.0f} MB: replay {without:.1f} s; "
          f"with a snapshot of {snapshot / 1e6:.1f} MB {seconds:.1f} s")  # fmt: skip


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walkers", type=int, default=1000)
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--replay", type=int, default=1_000_000)
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="dynft-scale-"))
    try:
        if options.idle:
            print("policy     walkers idle   labels   virtual hours")
            for policy in ("continue", "wait"):
                model = Model(label_slots=64, flags=0.3, flags_fade=100)
                found = simulate(campaign(64, 100, policy, 100), model, base / policy, 100, every=2)
                print(f"{policy:10s}{idle_share(found):13.3%}{found.n_labels:9d}{found.now / 3600:16.1f}")
        else:
            n_walks = max(1, round(options.labels / (Model.flags * options.walkers)))
            settings = campaign(options.walkers, n_walks, "continue", max_pending=2000)
            # Short tasks: 100 walks and 20 labels a second, 1,000 labels under way.
            model = Model(walk_s=10.0, label_s=50.0, fit_s=5.0, other_s=1.0, label_slots=options.walkers)
            found = simulate(settings, model, base / "run", n_walks)
            replay(base / "run", options.replay)
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
