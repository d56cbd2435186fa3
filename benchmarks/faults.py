"""Random faults in running campaigns: `python benchmarks/faults.py --faults 200` says what was lost.

Campaigns of silicon (16 atoms, short walks, 'continue', over 100 labels each) run one after the other on this machine
with real walks, fits and labels, each label in a process of its own. At random moments something is killed, stopped,
filled up or made to lie. When all faults are spent the last campaign goes on to its end. Then, of each campaign:

    lost       structures chosen that have no accepted label, after `dynft labels retry`
    repeated   structures whose calculation was finished more than once
    wrong      accepted labels whose forces are not the reference's
    orphans    processes that outlive their driver
    posterior  largest difference between the last force field and one fitted anew to the accepted labels, relative
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from mischievous_reference import MODES

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.errors import RunFolderError
from dynft_core.jobs import ReferenceSettings
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import Label, read_label, relative_label_path, run_label
from dynft_core.storage.journal import read_journal
from dynft_core.storage.structures import read_perfect_structure
from workflows import driver, engine
from workflows.campaign_jobs import PRIMITIVE, SUPERCELL, label_job
from workflows.campaign_state import State
from workflows.config import Campaign, parse_campaign
from workflows.requests import ask
from workflows.run_folder import state_of, take_requests

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
CUTOFFS_A = [3.0, 3.0]
LABEL_S, TIMEOUT_S, GRACE_S = 0.2, 25.0, 15.0
PATIENCE_S = 180.0
"""How long a campaign may make no progress before that counts as a hang, and its driver is started anew."""


def campaign(seed: int, mischief: Path, walk_ps: float) -> Campaign:
    """About 14 labels for each 0.05 ps."""
    structure = REPOSITORY / "workflows" / "builtin" / "si.xyz"
    parameters = {"mischief": str(mischief), "seconds": LABEL_S}
    return parse_campaign({
        "name": "faults",
        "crystal": {"structure": str(structure), "supercell": [2, 1, 1]},
        "expansion": {"cutoffs_A": CUTOFFS_A},
        "dynamics": {"walkers": 4, "segment_ps": 0.04, "max_task_minutes": 0.5, "seed": seed},
        "selection": {
            "criterion": "fixed", "threshold_meV_A": 1e-3, "break_factor": 1e9, "policy": "continue", "min_gain": 0.0,
            "max_pending": 30,
        },
        "initial": {"structures": 2},
        "convergence": {"min_walk_ps": walk_ps, "max_walk_ps": walk_ps},
        "reference": {
            "calculator": "mischievous_reference:Mischievous", "parameters": parameters, "timeout_s": TIMEOUT_S,
        },
    })  # fmt: skip


def drive(run_dir: Path, seed: int, walk_ps: float) -> None:
    """One driver, in a process of its own."""
    engine.GRACE_S = GRACE_S
    settings = campaign(seed, run_dir.parent / "mischief", walk_ps)
    try:
        state = driver.run_campaign(settings, "# faults\n", run_dir, "local", lambda *_: None)
    except RunFolderError as error:
        sys.exit(str(error))
    print("ended:", state.phase, state.failure or state.reason or state.stopped, flush=True)


@dataclass
class Course:
    """One campaign under attack."""

    folder: Path
    seed: int
    walk_ps: float
    log: Path
    driver: subprocess.Popen[bytes] | None = None
    orphans: int = 0
    hangs: int = 0
    tasks_seen: dict[str, float] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def environment(self) -> dict[str, str]:
        path = [str(self.folder / "site"), str(HERE), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ, "PYTHONPATH": os.pathsep.join(path), "DYNFT_CLOCK": str(self.folder / "clock"),
            "DYNFT_COURSE": str(self.folder), "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip

    def prepare(self) -> None:
        (self.folder / "site").mkdir(parents=True)
        (self.folder / "site" / "sitecustomize.py").write_text(
            "import os, sys\n"
            "if 'DYNFT_CLOCK' in os.environ:\n"
            f"    sys.path.insert(0, {str(HERE)!r})\n"
            "    from jumping_clock import install\n"
            "    install(os.environ['DYNFT_CLOCK'])\n"
        )

    def start(self) -> None:
        command = [sys.executable, __file__, "--drive", str(self.run_dir), str(self.seed), str(self.walk_ps)]
        with self.log.open("ab") as output:
            self.driver = subprocess.Popen(command, stdout=output, stderr=output, env=self.environment)

    def running(self) -> bool:
        return self.driver is not None and self.driver.poll() is None

    def kill_driver(self, number: int) -> None:
        """End the driver, and see that nothing outlives it."""
        assert self.driver is not None
        self.driver.send_signal(number)
        self.driver.wait(60)
        deadline = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.orphans += len(left)
        for process in left:
            print(f"orphan: {' '.join(process.cmdline())[:300]}", flush=True)
            with suppress(psutil.Error):
                process.kill()

    def processes(self, *words: str) -> list[psutil.Process]:
        """This campaign's processes, those alone whose command line has one of the words."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                # The interchange has another title, which hides its environment; a zombie has neither.
                if str(self.folder) not in line and process.environ().get("DYNFT_COURSE") != str(self.folder):
                    continue
                if not words or any(word in line for word in words):
                    found.append(process)
        return found

    def events(self) -> int:
        journal = self.run_dir / "journal.jsonl"
        return journal.read_bytes().count(b'"outcome"') if journal.exists() else 0

    def state(self) -> State | None:
        try:
            return state_of(self.run_dir)
        except RunFolderError:
            return None

    def complete(self) -> bool:
        state = self.state()
        return state is not None and state.phase == "complete"


# Each fault returns whether it hit anything.


def kill_driver(course: Course, rng: random.Random) -> bool:
    course.kill_driver(signal.SIGKILL)
    return True


def stop_driver(course: Course, rng: random.Random) -> bool:
    course.kill_driver(rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
    return True


def kill_interchange(course: Course, rng: random.Random) -> bool:
    assert course.driver is not None
    children = psutil.Process(course.driver.pid).children()  # it has another title, which hides its environment
    return _kill([p for p in children if "interchange" in " ".join([p.name(), *p.cmdline()])], rng)


def kill_manager(course: Course, rng: random.Random) -> bool:
    pools = course.processes("process_worker_pool")
    return _kill([p for p in pools if p.ppid() not in {q.pid for q in pools}], rng)


def kill_worker(course: Course, rng: random.Random, busy: bool) -> bool:
    workers = course.processes("spawn_main")
    return _kill([p for p in workers if _busy(p) == busy], rng)


def _busy(process: psutil.Process) -> bool:
    try:
        return bool(process.children()) or process.cpu_percent(0.05) > 20
    except psutil.Error:
        return False


def kill_label(course: Course, rng: random.Random) -> bool:
    return _kill(course.processes("calculation_child"), rng)


def _kill(processes: list[psutil.Process], rng: random.Random) -> bool:
    if processes:
        with suppress(psutil.Error):
            rng.choice(processes).kill()
            return True
    return False


def fill_disk(course: Course, rng: random.Random) -> bool:
    """A file takes all the space that is left in the file system of the campaign, for a while."""
    filler = course.folder / "filler"
    if not course.folder.is_mount():
        return False
    with filler.open("wb") as file, suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
            file.flush()
    time.sleep(rng.uniform(1, 4))
    filler.unlink()
    return True


def read_only(course: Course, rng: random.Random) -> bool:
    """No file can be made in the run folder for a while."""
    folders = [str(course.run_dir), *(str(p) for p in course.run_dir.glob("*") if p.is_dir())]
    folders += [str(p) for p in course.run_dir.glob("walkers/*")]
    command = ["chattr", "+i", *folders] if os.geteuid() == 0 else ["chmod", "a-w", *folders]
    if subprocess.run(command, capture_output=True).returncode:
        return False
    time.sleep(rng.uniform(1, 4))
    back = ["chattr", "-i", *folders] if os.geteuid() == 0 else ["chmod", "u+w", *folders]
    subprocess.run(back, check=True)
    return True


def bad_answer(course: Course, rng: random.Random, modes: tuple[str, ...]) -> bool:
    mischief = course.folder / "mischief"
    mischief.with_suffix(".new").write_text(rng.choice(modes))
    mischief.with_suffix(".new").rename(mischief)
    deadline = time.monotonic() + 30
    while mischief.exists() and time.monotonic() < deadline and course.running():
        time.sleep(0.05)
    taken = not mischief.exists()
    mischief.unlink(missing_ok=True)
    return taken


def answer_twice(course: Course, rng: random.Random) -> bool:
    """The same label is computed here too, as by a worker that an older driver left behind."""
    state = course.state()
    if state is None or not state.ledger.open:
        return False
    entry = state.ledger.entries[rng.choice(sorted(state.ledger.open))]
    run_label(label_job(state.campaign, str(course.run_dir), entry.structure))
    return True


def jump_clock(course: Course, rng: random.Random) -> bool:
    (course.folder / "clock").write_text(str(rng.choice([-86400, -3600, -60, 60, 3600, 86400]) * rng.random()))
    return True


def second_driver(course: Course, rng: random.Random) -> bool:
    """Another driver in the same folder must be refused."""
    first, journal = course.driver, course.run_dir / "journal.jsonl"
    if not (course.run_dir / "driver.lock").exists():
        return False
    course.start()
    second = course.driver
    assert first is not None and second is not None
    while second.poll() is None:
        if first.poll() is not None:
            return False  # the first one came to its end: the second one goes on
        time.sleep(0.1)
    course.driver = first
    refused = second.returncode == 1 and f"'pid': {second.pid}" not in journal.read_text().replace('"', "'")
    if not refused and first.poll() is None:
        raise AssertionError(f"a second driver worked beside the first, see {course.log}")
    return refused


Fault = Callable[[Course, random.Random], bool]
FAULTS: dict[str, Fault] = {
    "driver killed": kill_driver,
    "driver told to stop": stop_driver,
    "interchange killed": kill_interchange,
    "manager killed": kill_manager,
    "busy worker killed": lambda c, r: kill_worker(c, r, True),
    "idle worker killed": lambda c, r: kill_worker(c, r, False),
    "label process killed": kill_label,
    "disk full": fill_disk,
    "folder read-only": read_only,
    "label hangs": lambda c, r: bad_answer(c, r, ("hang",)),
    "label answers nonsense": lambda c, r: bad_answer(c, r, MODES[1:]),
    "label answers twice": answer_twice,
    "clock jumps": jump_clock,
    "second driver": second_driver,
}


@contextmanager
def small_disk(folder: Path) -> Any:
    """A file system of its own in `folder`, where that is possible (as root); else a plain folder."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(folder)], capture_output=True)
    try:
        yield
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def attack(course: Course, rng: random.Random, kinds: list[str], counts: Counter[str], budget: int) -> int:
    """Faults until the campaign is complete or the budget is spent; returns the faults that hit."""
    hit, deck = 0, []
    while hit < budget and not course.complete():
        ensure_progress(course)
        if not course.running():
            continue
        time.sleep(rng.uniform(0, 1.5))
        deck = deck or rng.sample(kinds, len(kinds))
        kind = deck.pop()
        if course.running() and FAULTS[kind](course, rng):
            hit += 1
            counts[kind] += 1
            print(f"{time.strftime('%H:%M:%S')} {hit:4d} {kind}; {course.events()} answers", flush=True)
    return hit


def ensure_progress(course: Course) -> None:
    """Wait for a new answer in the journal; start the driver when none runs."""
    if not course.running():
        course.start()
    before, deadline = course.events(), time.monotonic() + PATIENCE_S
    while course.running() and course.events() == before:
        if time.monotonic() > deadline:
            course.hangs += 1
            print(f"no progress within {PATIENCE_S:g} s", flush=True)
            course.kill_driver(signal.SIGKILL)
            return
        time.sleep(0.1)


def finish(course: Course) -> None:
    """To the end without faults; what failed on the way is tried again."""
    while True:
        while not course.complete():
            ensure_progress(course)
        if course.running():
            assert course.driver is not None
            course.driver.wait(60)
        given_up = list(state_of(course.run_dir).ledger.failed)
        if not given_up:
            return
        for key in given_up:
            ask(course.run_dir, {"event": "label_retried", "key": key})
        assert take_requests(course.run_dir)


def verdict(course: Course) -> dict[str, Any]:
    """The counts of a finished campaign."""
    deadline = time.monotonic() + 20
    while (left := course.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    state = state_of(course.run_dir)
    finished = Counter(p.parent.parent.name for p in course.run_dir.glob("labels/*/attempt-*/calculation.h5") if _ok(p))
    labels = {key: read_label(course.run_dir / relative_label_path(key)) for key in state.ledger.accepted}
    events = read_journal(course.run_dir / "journal.jsonl")
    answers = Counter(event["key"] for event in events if event["event"] == "label_finished")
    return {
        "labels": len(labels),
        "lost": sum(e.status not in ("accepted", "dropped") for e in state.ledger.entries.values())
        + len(labels.keys() ^ answers.keys()),
        "repeated": sum(n > 1 for n in finished.values()),
        "wrong": sum(_wrong(label) for label in labels.values()),
        "orphans": course.orphans + len(left),
        "hangs": course.hangs,
        "drivers": sum(event["event"] == "driver_started" for event in events),
        "posterior": posterior_difference(course.run_dir, state, labels),
    }


def _ok(calculation: Path) -> bool:
    """A calculation that finished, and was not refused."""
    from dynft_core.reference.calculation import LabelError, finished_calculation

    try:
        return finished_calculation(calculation.parent) is not None and not (calculation.parent / "failed.txt").exists()
    except LabelError:
        return False


def _wrong(label: Label) -> bool:
    from ase import Atoms

    atoms = Atoms(numbers=label.numbers, positions=label.positions, cell=label.cell, pbc=True)
    atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), Path())
    return bool(np.abs(atoms.get_forces() - label.forces).max() > 1e-9)


def posterior_difference(run_dir: Path, state: State, labels: dict[str, Label]) -> float:
    """Of mean and covariance, relative to their largest element, from a force field fitted in one go."""
    last = ForceField.load(run_dir / state.force_field)
    assert not last.pending
    chosen = state.ledger.labels("initial", "flagged", "audit")
    assert sorted(last.labels) == sorted(ref.key for ref in chosen)
    crystal = Crystal(read_perfect_structure(run_dir / PRIMITIVE))
    basis = ForceConstantBasis.build(crystal, dict(enumerate(CUTOFFS_A, start=2)))
    cell = Supercell.match(basis.crystal, read_perfect_structure(run_dir / SUPERCELL))
    u, f = (np.array([getattr(labels[ref.key], name) for ref in chosen]) for name in ("displacements", "forces"))
    anew = fit(basis, cell, u, f, prior=state.campaign.expansion.prior)
    differences = []
    for name in ("mean", "covariance"):
        one, other = getattr(last.posterior, name), getattr(anew.posterior, name)
        differences.append(np.abs(one - other).max() / np.abs(other).max())
    return float(max(differences))


def main() -> int:
    """Returns 0 when nothing was lost, repeated, accepted though wrong or left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--walk-ps", type=float, default=0.6, help="length of the walks: 0.6 ps give over 100 labels")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=list(FAULTS), choices=list(FAULTS), metavar="KIND")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(Path(options.drive[0]), int(options.drive[1]), float(options.drive[2]))
        return 0
    rng, counts, verdicts = random.Random(options.seed), Counter(), []
    base = Path(tempfile.mkdtemp(prefix="dynft-faults-"))
    hit = 0
    while hit < options.faults:
        folder = base / f"{len(verdicts):02d}"
        with small_disk(folder):
            course = Course(folder, options.seed + len(verdicts), options.walk_ps, base / f"{folder.name}.log")
            course.prepare()
            hit += attack(course, rng, options.kinds, counts, options.faults - hit)
            finish(course)
            verdicts.append(verdict(course))
            print(json.dumps(verdicts[-1]), flush=True)
            if options.keep:
                shutil.copytree(course.run_dir, base / f"{folder.name}-run")
    print(table(counts, verdicts))
    if not options.keep:
        shutil.rmtree(base)
    failed = sum(v[name] for v in verdicts for name in ("lost", "repeated", "wrong", "orphans", "hangs"))
    return int(bool(failed) or max(v["posterior"] for v in verdicts) > 1e-10)


def table(counts: Counter[str], verdicts: list[dict[str, Any]]) -> str:
    """What was done, and what came of it."""
    lines = [f"{kind:24s}{counts[kind]:6d}" for kind in FAULTS if counts[kind]]
    lines += [f"{'faults':24s}{sum(counts.values()):6d}", ""]
    names = list(verdicts[0])
    lines.append("campaign" + "".join(f"{name:>11s}" for name in names))
    for number, v in enumerate(verdicts, start=1):
        lines.append(f"{number:8d}" + "".join(f"{v[n]:11.1e}" if n == "posterior" else f"{v[n]:11d}" for n in names))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
