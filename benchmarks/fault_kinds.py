"""The faults of `faults.py`. Each returns whether it hit anything."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
from fault_course import Course
from mischievous_reference import DOUBTFUL, MODES

from dynft_core.reference.calculation import RESULT
from dynft_core.reference.label import run_label
from dynft_core.storage.journal import read_journal
from workflows.campaign.jobs import label_job
from workflows.run_folder import lease


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
    """The process that computes, or the one that ends it when its worker is gone."""
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
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
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


def end_in_second_attempt(course: Course, rng: random.Random) -> bool:
    """A worker ends, as with its block, within the second of two attempts at a label."""
    if not (course.run_dir / "force_fields" / "000001.h5").exists() or not bad_answer(course, rng, (DOUBTFUL,)):
        return False  # without a force field nothing is doubted
    deadline = time.monotonic() + 30
    while course.running() and time.monotonic() < deadline:
        for child in course.processes("calculation_child"):
            with suppress(psutil.Error):
                worker = child.parent()
                here = Path(child.cwd())
                second = not (here / RESULT).exists() and list(here.parent.glob(f"*/{RESULT}"))
                if second and worker and "spawn_main" in " ".join(worker.cmdline()) and _kill([worker], rng):
                    return True
        time.sleep(0.05)
    return False


def stale_file(course: Course, rng: random.Random) -> bool:
    """The file system fails once, when a walk, a fit, a label or another result is put in its place."""
    trigger = course.folder / "stale"
    trigger.touch()
    deadline = time.monotonic() + 30
    while trigger.exists() and time.monotonic() < deadline and course.running():
        time.sleep(0.05)
    taken = not trigger.exists()
    trigger.unlink(missing_ok=True)
    return taken


def take_over(course: Course, rng: random.Random) -> bool:
    """The driver is suspended for longer than its lease lasts; one on another node goes on, then the first wakes up."""
    first, path, journal = course.driver, course.run_dir / lease.LEASE, course.run_dir / "journal.jsonl"
    assert first is not None
    first.send_signal(signal.SIGSTOP)
    try:
        silent = path.stat().st_mtime - 2 * lease.STALE_S
        os.utime(path, (silent, silent))
        course.host = f"login{rng.randrange(10**6)}"
        course.start()
        second = course.driver
        assert second is not None
        while second.poll() is None and not any(e.get("pid") == second.pid for e in read_journal(journal)):
            time.sleep(0.1)
    except FileNotFoundError:  # it has just come to its end, or had not begun
        return False
    finally:
        first.send_signal(signal.SIGCONT)
    first.wait(120)
    events = [e for e in read_journal(journal) if e["event"] in ("driver_started", "driver_stopped")]
    started = next(i for i, e in enumerate(events) if e.get("pid") == second.pid)
    if any(e["event"] == "driver_stopped" for e in events[started + 1 : started + 2]) and second.poll() is None:
        raise AssertionError(f"a driver wrote to the journal that was another's, see {course.log}")
    return first.returncode == 1


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
    if not (course.run_dir / lease.LEASE).exists():
        return False
    course.start()
    second = course.driver
    assert first is not None and second is not None
    while second.poll() is None:
        if first.poll() is not None:
            return False  # the first one came to its end: the second one goes on
        time.sleep(0.1)
    course.driver = first
    events = [e for e in read_journal(journal) if e["event"] in ("driver_started", "driver_stopped")]
    for before, event in pairwise(events):
        if event.get("pid") == second.pid and before["event"] == "driver_started":
            raise AssertionError(f"a second driver worked beside the first, see {course.log}")
    return second.returncode == 1


def cancel_block(course: Course, rng: random.Random) -> bool:
    """scancel of a running block."""
    cluster = course.cluster
    assert cluster is not None
    running = sorted(job for job, text in cluster.jobs().items() if text.endswith("RUNNING"))
    return bool(running) and cluster.run("scancel", rng.choice(running)).returncode == 0


def end_block_by_time(course: Course, rng: random.Random) -> bool:
    """A block comes to its time limit in the middle of its work: Slurm's shortest one is a minute."""
    cluster = course.cluster
    assert cluster is not None
    running = sorted(job for job, text in cluster.jobs().items() if text.endswith("RUNNING"))
    if not running:
        return False
    job = rng.choice(running)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    deadline = time.monotonic() + 120
    while job in cluster.jobs() and course.running() and time.monotonic() < deadline:
        time.sleep(0.5)
    return (
        cluster.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").stdout.strip() == "TIMEOUT"
    )


def kill_slurmd(course: Course, rng: random.Random) -> bool:
    """The daemon of a node with a block dies and comes back, soon or too late; or the node dies with all it runs."""
    cluster = course.cluster
    assert cluster is not None
    nodes = cluster.run("squeue", "--noheader", "--states=running", "--format=%N").stdout.split()
    if not nodes:
        return False
    node = rng.choice(sorted(nodes))
    with_its_jobs, away_s = rng.choice([(False, 1), (False, 30), (True, 30)])  # Slurm gives a node up after 20 s
    cluster.kill_node(node, with_its_jobs)
    time.sleep(away_s)
    cluster.start_node(node)
    return True


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
    "end in second attempt": end_in_second_attempt,
    "stale file": stale_file,
    "driver taken over": take_over,
}

SLURM_FAULTS: dict[str, Fault] = {
    "block cancelled": cancel_block,
    "block's time is up": end_block_by_time,
    "slurmd killed": kill_slurmd,
}
"""Besides, where the campaign runs on a cluster."""
