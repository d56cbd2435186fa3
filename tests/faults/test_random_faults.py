"""The short form of `benchmarks/faults.py`: one real campaign under a few random faults, and nothing is lost."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import faults
import psutil
import pytest

pytestmark = pytest.mark.faults
KINDS = ["driver killed", "interchange killed", "busy worker killed", "label process killed", "label answers twice"]


@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes by Linux's /proc")
def test_random_faults_lose_nothing(tmp_path: Path) -> None:
    course = faults.Course(tmp_path, seed=5, walk_ps=0.1, log=tmp_path / "log")
    course.prepare()
    counts: Counter[str] = Counter()
    try:
        hit = faults.attack(course, random.Random(5), KINDS, counts, len(KINDS))
        course.finish()
        found = faults.verdict(course)
    finally:
        for process in course.processes():
            if process.pid != psutil.Process().pid:
                process.kill()
    assert hit >= 3 and found["labels"] > 10, (counts, course.log.read_text())
    assert {name: found[name] for name in ("lost", "repeated", "wrong", "orphans", "hangs")} == {
        "lost": 0, "repeated": 0, "wrong": 0, "orphans": 0, "hangs": 0,
    }  # fmt: skip
    assert found["posterior"] < 1e-10
