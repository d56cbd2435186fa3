"""One campaign under attack by `faults.py`: its folder, its driver, its processes."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "slurm"))
from cluster import Cluster, site_file

from dynft_core.errors import RunFolderError
from workflows.campaign.state import State
from workflows.campaign_file.schema import Campaign, parse_campaign
from workflows.driver import driver, event_loop, time_limits
from workflows.run_folder import lease
from workflows.run_folder.folder import state_of, take_requests
from workflows.run_folder.requests import ask

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
CUTOFFS_A = [3.0, 3.0]
LABEL_S, TIMEOUT_S, GRACE_S = 0.2, 25.0, 15.0
LOCAL_END_S, BLOCKS_END_S = 20.0, 120.0
"""Within these a driver's death is noticed by its processes here, and by its blocks, which may have to start first."""
PATIENCE_S = 180.0
"""How long a campaign may make no progress before that counts as a hang, and its driver is started anew."""


def campaign(seed: int, mischief: Path, walk_ps: float) -> Campaign:
    """About 14 labels for each 0.05 ps."""
    structure = REPOSITORY / "workflows" / "campaign_file" / "builtin" / "si.xyz"
    parameters = {"mischief": str(mischief), "seconds": LABEL_S}
    return parse_campaign({
        "name": "faults",
        "crystal": {"structure": str(structure), "supercell": [2, 1, 1]},
        "expansion": {"cutoffs_A": CUTOFFS_A, "prior": "shared"},  # refits end where one fit does, to rounding
        "dynamics": {"walkers": 4, "segment_ps": 0.04, "max_task_minutes": 0.5, "seed": seed},
        "selection": {
            "criterion": "fixed", "threshold_meV_A": 1e-3, "break_factor": 1e9, "policy": "continue", "min_gain": 0.0,
            "max_pending": 30,
        },
        "initial": {"structures": 2},
        "limits": {"propose_minutes": 0.5, "select_minutes": 0.5, "fit_minutes": 0.5},
        "convergence": {"min_walk_ps": walk_ps, "max_walk_ps": walk_ps},
        "reference": {
            "calculator": "mischievous_reference:Mischievous", "parameters": parameters, "timeout_s": TIMEOUT_S,
        },
    })  # fmt: skip


def on_host(name: str) -> None:
    """Let drivers of this process be on the node `name`, whose locks end there; "": on this one."""
    if name:
        lease.node, lease.LOCK = lambda: name, f"driver.{name}.lock"
    else:
        lease.node, lease.LOCK = platform.node, "driver.lock"


def drive(run_dir: Path, seed: int, walk_ps: float, site: str) -> None:
    """One driver, in a process of its own."""
    time_limits.GRACE_S, event_loop.FIRST_PAUSE_S = GRACE_S, 2.0
    on_host(os.environ.get("DYNFT_HOST", ""))
    settings = campaign(seed, run_dir.parent / "mischief", walk_ps)
    try:
        state = driver.run_campaign(settings, "# faults\n", run_dir, site, lambda *_: None)
    except RunFolderError as error:
        sys.exit(str(error))
    print("ended:", state.phase, state.ending or state.stopped, flush=True)


@dataclass
class Course:
    """One campaign under attack.

    Attributes:
        folder: all its files, and nobody else's; log: what its drivers print.
        seed, walk_ps: of the campaign.
        cluster: the Slurm cluster that it runs on; None: this machine.
        host: the node that drivers are on, by name (see `on_host`).
        driver: the one that was started last.
        orphans, hangs: found so far.
    """

    folder: Path
    seed: int
    walk_ps: float
    log: Path
    cluster: Cluster | None = None
    host: str = ""
    driver: subprocess.Popen[bytes] | None = None
    orphans: int = 0
    hangs: int = 0

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def environment(self) -> dict[str, str]:
        path = [str(self.folder / "site"), str(HERE), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ, "PYTHONPATH": os.pathsep.join(path), "DYNFT_CLOCK": str(self.folder / "clock"),
            "DYNFT_COURSE": str(self.folder), "DYNFT_HOST": self.host, "OPENBLAS_NUM_THREADS": "1",
            **(self.cluster.environment if self.cluster else {}),
        }  # fmt: skip

    def prepare(self) -> None:
        (self.folder / "site").mkdir(parents=True)
        (self.folder / "site" / "sitecustomize.py").write_text(
            "import os, sys\n"
            "if 'DYNFT_CLOCK' in os.environ:\n"
            f"    sys.path.insert(0, {str(HERE)!r})\n"
            "    from jumping_clock import install\n"
            "    install(os.environ['DYNFT_CLOCK'])\n"
            "    from failing_files import install\n"
            "    install(os.path.join(os.environ['DYNFT_COURSE'], 'stale'))\n"
        )
        if self.cluster is not None:
            site_file(self.folder, WALK_TASKS=2, MAX_WALK_BLOCKS=1, MAX_LABEL_BLOCKS=2, PATIENCE_S=10)

    def start(self) -> None:
        """Start a driver; it goes on where the last one has ended."""
        site = "local" if self.cluster is None else str(self.folder / "my_slurm.py")
        command = [sys.executable, __file__, str(self.run_dir), str(self.seed), str(self.walk_ps), site]
        with self.log.open("ab") as output:
            self.driver = subprocess.Popen(command, stdout=output, stderr=output, env=self.environment)

    def running(self) -> bool:
        return self.driver is not None and self.driver.poll() is None

    def kill_driver(self, number: int) -> None:
        """End the driver, and see that nothing outlives it."""
        assert self.driver is not None
        self.driver.send_signal(number)
        self.driver.wait(60)
        self.count_orphans()

    def count_orphans(self) -> None:
        """Processes and Slurm jobs that outlive their driver, beyond the time in which they notice its end."""
        deadline = time.monotonic() + (LOCAL_END_S if self.cluster is None else BLOCKS_END_S)
        while (left := self.processes()) or self.jobs():
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        jobs = self.jobs()
        if jobs:
            print(f"jobs left: {jobs}", flush=True)
        self.orphans += max(len(left), len(jobs))
        for process in left:
            with suppress(psutil.Error):
                print(f"orphan: {' '.join(process.cmdline())[:300]}", flush=True)
                process.kill()

    def jobs(self) -> list[str]:
        """The Slurm jobs, pending or running; one campaign at a time has the cluster."""
        return [f"{job} {text}" for job, text in self.cluster.jobs().items()] if self.cluster else []

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

    def ensure_progress(self) -> None:
        """Wait for a new answer in the journal; start a driver when none runs."""
        if not self.running():
            self.start()
        before, deadline = self.events(), time.monotonic() + PATIENCE_S
        while self.running() and self.events() == before:
            if time.monotonic() > deadline:
                self.hangs += 1
                print(f"no progress within {PATIENCE_S:g} s", flush=True)
                self.kill_driver(signal.SIGKILL)
                return
            time.sleep(0.1)

    def finish(self) -> None:
        """To the end without faults; labels that failed on the way are tried again."""
        while True:
            while not self.complete():
                self.ensure_progress()
            if self.running():
                assert self.driver is not None
                self.driver.wait(60)
            given_up = list(state_of(self.run_dir).ledger.failed)
            if not given_up:
                self.count_orphans()
                return
            for key in given_up:
                ask(self.run_dir, {"event": "label_retried", "key": key})
            on_host(self.host)
            assert take_requests(self.run_dir)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own in `folder`, where that is possible (as root); else a plain folder."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(folder)], capture_output=True)
    try:
        yield
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


if __name__ == "__main__":
    drive(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
