"""`dynft site check` on a real Slurm: what a good site says, and the scheduler's own words about bad ones."""

from __future__ import annotations

from pathlib import Path

import parsl
import pytest
from cluster import Cluster, Site
from parsl.jobs.states import JobState

from site_configs.blocks import SlurmBlocks
from workflows.commands.site_check import check_site

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def report(site: str, commands: tuple[str, ...] = ()) -> tuple[int, dict[str, str]]:
    """Exit code, and what was said about each executor."""
    lines: list[str] = []
    code = check_site(site, 240.0, commands, lines.append)
    found: dict[str, str] = {}
    label = ""
    for line in lines:
        label = line if line in ("walkers", "ab_initio", "fitter") else label
        found[label] = f"{found.get(label, '')}\n{line}"
    return code, found


def test_a_good_site(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    code, found = report(site(LABEL_WALLTIME="02:00:00"), ("sh",))
    assert code == 0
    assert "worker on n1" in found["walkers"] and "worker on n3" in found["ab_initio"]
    assert f"parsl {parsl.__version__}" in found["walkers"]
    assert "run folders: visible" in found["ab_initio"] and "on the node" in found["ab_initio"]
    assert "command sh: /" in found["ab_initio"] and "command sh" not in found["walkers"]
    assert any(f"walltime left: {minutes} min" in found["ab_initio"] for minutes in (118, 119, 120))
    assert not list(tmp_path.glob("dynft-site-check-*"))


def test_partition_and_account_are_refused_in_slurms_words(cluster: Cluster, site: Site) -> None:
    code, found = report(site(WALK_PARTITION="nosuch", LABEL_PARTITION="closed", ACCOUNT="chemistry"))
    assert code == 1
    assert "invalid partition specified: nosuch" in found["walkers"]
    assert "can't use this partition" in found["ab_initio"]


def test_a_job_that_would_never_start_and_one_whose_set_up_fails(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    code, found = report(site(WALK_PARTITION="short", WORKER_INIT="echo no module vasp here >&2; exit 3"))
    assert code == 1
    assert "it would never start: PartitionTimeLimit" in found["walkers"]
    assert "FAILED (NonZeroExitCode)" in found["ab_initio"] and "no module vasp here" in found["ab_initio"]
    (logs,) = tmp_path.glob("dynft-site-check-*")
    assert str(logs) in found["ab_initio"]
    assert any("no module vasp here" in path.read_text() for path in logs.rglob("*") if path.is_file())


def test_other_versions_and_missing_packages(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    for name, text in (
        ("old/sitecustomize.py", "import parsl.version\nparsl.version.VERSION = '1999.01.01'\n"),
        ("bare/dynft_core.py", ""),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    other = '[ "$SLURM_JOB_PARTITION" = walk ] && other=old || other=bare'
    init = f'{other}; export PYTHONPATH="{tmp_path}/$other:$PYTHONPATH"'
    code, found = report(site(WORKER_INIT=init))
    assert code == 1
    assert "the workers have Parsl 1999.01.01, the driver Parsl 2" in found["walkers"]
    assert "lacks a package" in found["ab_initio"] and "dynft_core" in found["ab_initio"]


def test_blocks_remember_how_they_ended(cluster: Cluster, tmp_path: Path) -> None:
    blocks = SlurmBlocks(str(tmp_path), partition="walk", walltime="00:05:00", exclusive=False)
    blocks.script_dir = str(tmp_path)
    jobs = {end: blocks.submit(command, 1) for end, command in (("failed", "exit 4"), ("cancelled", "sleep 100"))}
    assert set(blocks.leftovers()) == set()
    assert SlurmBlocks(str(tmp_path / "other")).leftovers() == []
    assert set(SlurmBlocks(str(tmp_path)).leftovers()) <= set(jobs.values())
    cluster.run("scancel", jobs["cancelled"])
    assert cluster.drained(60.0)
    for _ in range(2):  # the second question must not make completed ones of them
        found = dict(zip(jobs, blocks.status(list(jobs.values())), strict=True))
        assert found["failed"].state == JobState.FAILED and "NonZeroExitCode" in found["failed"].message
        assert found["cancelled"].state == JobState.CANCELLED
