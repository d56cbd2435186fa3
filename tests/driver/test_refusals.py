"""Blocks that sbatch refuses: for the moment, they are submitted again; for good, they fail in its own words.

The programs are stand-ins that print what Slurm prints; tests/slurm does the same with a real controller that is away.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from parsl.jobs.states import JobState
from parsl.providers.errors import SubmitException

from site_configs import blocks
from site_configs.blocks import SlurmBlocks

POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
FOR_NOW = [
    "Batch job submission failed: Socket timed out on send/recv operation",
    "Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "Batch job submission failed: Zero Bytes were transmitted or received",
    f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: {POLICY}",
    f"AssocGrpSubmitJobsLimit\nsbatch: error: Batch job submission failed: {POLICY}",
    f"Batch job submission failed: {POLICY}",
    "Slurm temporarily unable to accept job, sleeping and retrying",
    "Batch job submission failed: Resource temporarily unavailable",
    "Batch job submission failed: Slurm backup controller in standby mode",
]
FOR_GOOD = [
    "invalid partition specified: nosuch\nsbatch: error: Batch job submission failed: Invalid partition name specified",
    "Batch job submission failed: Invalid account or account/partition combination specified",
    "You must specify an account (--account)\nsbatch: error: Batch job submission failed: Unspecified error",
    "Batch job submission failed: Requested node configuration is not available",
    "Memory specification can not be satisfied\nsbatch: error: Batch job submission failed: Memory required by task is "
    "not available",
    f"QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: {POLICY}",
    "Batch job submission failed: Invalid qos specification",
    "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
]

SBATCH = """#!/bin/sh
echo x >> "$SLURM_STATE/tries"
if [ "$(wc -l < "$SLURM_STATE/tries")" -le "$REFUSALS" ]; then cat "$SLURM_STATE/words" >&2; exit 1; fi
name=$(sed -n 's/^#SBATCH --job-name=//p' "$1")
echo "77|RUNNING|$name|None" > "$SLURM_STATE/queue"
echo Submitted batch job 77
"""
SQUEUE = '#!/bin/sh\ncat "$SLURM_STATE/queue" 2>/dev/null\nexit 0\n'
SCANCEL = '#!/bin/sh\necho "$@" > "$SLURM_STATE/cancelled"\n'


class Slurm:
    """Its programs, and a provider that uses them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name, text in {
            "sbatch": SBATCH,
            "squeue": SQUEUE,
            "scancel": SCANCEL,
            "sacct": "#!/bin/sh\nexit 1\n",
        }.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        patch.setenv("SLURM_STATE", str(folder))
        self.now = 1000.0
        patch.setattr(blocks.time, "monotonic", lambda: self.now)
        self.patch = patch
        self.blocks = SlurmBlocks(str(folder / "run"), exclusive=False)
        self.blocks.script_dir = str(folder)

    def refuse(self, times: int, words: str) -> None:
        self.patch.setenv("REFUSALS", str(times))
        (self.folder / "words").write_text(f"sbatch: error: {words}\n")

    @property
    def tries(self) -> int:
        return len((self.folder / "tries").read_text().splitlines())


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(tmp_path, monkeypatch)


@pytest.mark.parametrize("words", FOR_NOW)
def test_a_refusal_for_the_moment_is_waited_out_with_growing_intervals(words: str, slurm: Slurm) -> None:
    slurm.refuse(3, words)
    block = slurm.blocks.submit("true", 1, "parsl.walkers.block-0")
    for tries, wait_s in ((1, 15), (2, 30), (3, 60)):
        (status,) = slurm.blocks.status([block])
        assert status.state == JobState.PENDING and f"after {wait_s} s" in status.message
        assert words.partition("\n")[0] in status.message
        slurm.now += wait_s - 1
        slurm.blocks.status([block])
        assert slurm.tries == tries  # not too soon
        slurm.now += 2
        slurm.blocks.status([block])
    assert slurm.tries == 4
    (status,) = slurm.blocks.status([block])
    assert status.state == JobState.RUNNING and "Slurm job 77" in status.message
    assert slurm.blocks.leftovers() == []
    assert slurm.blocks.cancel([block]) == [True]
    assert (slurm.folder / "cancelled").read_text().split() == ["77"]


@pytest.mark.parametrize("words", FOR_GOOD)
def test_a_refusal_for_good_is_told_at_once(words: str, slurm: Slurm) -> None:
    slurm.refuse(1, words)
    with pytest.raises(SubmitException, match="sbatch: error"):
        slurm.blocks.submit("true", 1, "parsl.walkers.block-0")


def test_a_waiting_block_may_be_cancelled_or_refused_for_good_later(slurm: Slurm) -> None:
    slurm.refuse(9, FOR_NOW[0])
    block, other = (slurm.blocks.submit("true", 1, f"parsl.walkers.block-{i}") for i in range(2))
    assert slurm.blocks.cancel([block]) == [True] and not (slurm.folder / "cancelled").exists()
    slurm.refuse(9, FOR_GOOD[0])
    slurm.now += 20
    slurm.blocks.status([block, other])
    first, second = slurm.blocks.status([block, other])
    assert first.state == JobState.CANCELLED
    assert second.state == JobState.FAILED and "invalid partition specified: nosuch" in second.message


def test_a_block_that_is_cancelled_while_it_is_submitted_again_leaves_no_job(slurm: Slurm) -> None:
    slurm.refuse(1, FOR_NOW[0])
    block = slurm.blocks.submit("true", 1, "parsl.walkers.block-0")
    refused = slurm.blocks._refused[block]
    submit = refused.submit

    def cancelled_meanwhile() -> str:
        job = submit()
        slurm.blocks.cancel([block])
        return job

    refused.submit = cancelled_meanwhile
    slurm.now += 20
    slurm.blocks.status([block])
    assert (slurm.folder / "cancelled").read_text().split() == ["77"]


def test_a_job_that_sbatch_took_without_a_word_is_not_submitted_twice(slurm: Slurm) -> None:
    slurm.refuse(1, FOR_NOW[0])
    block = slurm.blocks.submit("true", 1, "parsl.walkers.block-0")
    (slurm.folder / "queue").write_text(f"55|RUNNING|{slurm.blocks.prefix}.walkers.block-0.123.4|None\n")
    slurm.now += 20
    slurm.blocks.status([block])
    (status,) = slurm.blocks.status([block])
    assert status.state == JobState.RUNNING and "Slurm job 55" in status.message and slurm.tries == 1
