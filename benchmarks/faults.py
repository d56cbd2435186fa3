"""Random faults in running campaigns: `python benchmarks/faults.py --faults 200 --slurm` says what was lost.

Campaigns of silicon (16 atoms, short walks, 'continue', over 100 labels each) run one after the other on this machine
with real walks, fits and labels, each label in a process of its own; with --slurm the first, third, … in blocks of a
Slurm cluster that is started for them. At random moments something is killed, stopped, filled up or made to lie. When
all faults are spent the last campaign goes on to its end. Then, of each campaign:

    lost       structures chosen that have no accepted label, after `dynft labels retry`
    repeated   structures whose calculation came out right more than once, and was computed again all the same
    wrong      accepted labels whose forces are not the reference's
    orphans    processes that outlive their driver
    posterior  largest difference between the last force field and one fitted anew to the accepted labels, relative
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from fault_course import Cluster, Course, small_disk
from fault_kinds import FAULTS, SLURM_FAULTS
from fault_verdict import verdict

ALL_FAULTS = FAULTS | SLURM_FAULTS


def attack(course: Course, rng: random.Random, kinds: list[str], counts: Counter[str], budget: int) -> int:
    """Faults until the campaign is complete or the budget is spent; returns the faults that hit."""
    hit, deck = 0, []
    while hit < budget and not course.complete():
        course.ensure_progress()
        if not course.running():
            continue
        time.sleep(rng.uniform(0, 1.5))
        deck = deck or rng.sample(kinds, len(kinds))
        kind = deck.pop()
        if course.running() and ALL_FAULTS[kind](course, rng):
            hit += 1
            counts[kind] += 1
            print(f"{time.strftime('%H:%M:%S')} {hit:4d} {kind}; {course.events()} answers", flush=True)
    return hit


def main() -> int:
    """Returns 0 when nothing was lost, repeated, accepted though wrong or left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--slurm", action="store_true", help="every second campaign on a Slurm cluster of its own")
    parser.add_argument("--walk-ps", type=float, default=0.6, help="length of the walks: 0.6 ps give over 100 labels")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=list(ALL_FAULTS), choices=list(ALL_FAULTS), metavar="KIND")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="dynft-faults-"))
    rng, counts, verdicts = random.Random(options.seed), Counter[str](), []
    with slurm(base / "slurm") if options.slurm else nullcontext() as cluster:
        while (left := options.faults - counts.total()) > 0:
            folder = base / f"{len(verdicts):02d}"
            own_cluster = None if len(verdicts) % 2 else cluster
            kinds = [kind for kind in options.kinds if kind in FAULTS or own_cluster]
            with small_disk(folder):
                seed, log = options.seed + len(verdicts), folder.with_suffix(".log")
                course = Course(folder, seed, options.walk_ps, log, own_cluster)
                course.prepare()
                attack(course, rng, kinds, counts, left)
                course.finish()
                verdicts.append(verdict(course))
                print(json.dumps(verdicts[-1]), flush=True)
                if options.keep:
                    shutil.copytree(course.run_dir, base / f"{folder.name}-run")
    print(table(counts, verdicts))
    if not options.keep:
        shutil.rmtree(base)
    failed = sum(v[name] for v in verdicts for name in ("lost", "repeated", "wrong", "orphans", "hangs"))
    return int(bool(failed) or max(v["posterior"] for v in verdicts) > 1e-10)


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """A Slurm cluster for as long as the block lasts."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def table(counts: Counter[str], verdicts: list[dict[str, Any]]) -> str:
    """What was done, and what came of it."""
    lines = [f"{kind:24s}{counts[kind]:6d}" for kind in ALL_FAULTS if counts[kind]]
    lines += [f"{'faults':24s}{counts.total():6d}", ""]
    names = list(verdicts[0])
    lines.append("campaign" + "".join(f"{name:>11s}" for name in names))
    for number, v in enumerate(verdicts, start=1):
        cells = (v[n] if isinstance(v[n], int | str) else f"{v[n]:.1e}" for n in names)
        lines.append(f"{number:8d}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
