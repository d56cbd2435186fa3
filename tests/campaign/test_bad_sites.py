"""Sites on which no campaign can run: told in the words of whoever refused, and the campaign goes on once mended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fake_tasks
import pytest
from fake_driver import campaign

from dynft_core.errors import CampaignFailedError
from workflows.campaign_state import State
from workflows.driver import run_campaign
from workflows.run_folder import status_of

# Parsl leaves sockets to the garbage collector when its clean-up could not end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def go(run_dir: Path, site: str = "local") -> State:
    return run_campaign(campaign(), "# fake\n", run_dir, site, lambda state, event: None, fake_tasks)


def local_site(folder: Path, line: str) -> str:
    """The local site with one line that spoils its pool of workers."""
    path = folder / "bad.py"
    path.write_text(
        "from site_configs import local\n"
        "def config(run_dir):\n"
        "    found = local.config(run_dir)\n"
        "    pool = found.executors[0]\n"
        f"    {line}\n"
        "    return found\n"
    )
    return str(path)


def test_workers_that_do_not_start(tmp_path: Path) -> None:
    site = local_site(tmp_path, "pool.provider.worker_init = 'echo no module load here >&2; exit 3'")
    with pytest.raises(CampaignFailedError, match="no module load here"):
        go(tmp_path / "run", site)
    status = status_of(tmp_path / "run")
    assert status["state"] == "paused" and "no module load here" in status["reason"]
    assert go(tmp_path / "run").phase == "complete"  # with a site that works


def test_a_package_that_the_workers_lack(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "fake_tasks.py").write_text("import no_such_package\n")
    path = os.pathsep.join([str(tmp_path / "bare"), os.environ.get("PYTHONPATH", "")])
    state = go(tmp_path / "run", local_site(tmp_path, f"pool.provider.worker_init += '\\nexport PYTHONPATH={path}'"))
    assert "No module named 'no_such_package'" in state.failure
    assert status_of(tmp_path / "run")["state"] == "failed"
    assert go(tmp_path / "run").phase == "complete"


def may_mount() -> bool:
    """Whether this user may give a process file systems of its own."""
    if sys.platform != "linux":
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs unshare -m, that is root on Linux")
def test_a_run_folder_that_the_workers_do_not_see(tmp_path: Path) -> None:
    hidden = f"unshare -m sh -c 'mount -t tmpfs none {tmp_path} && exec \"$@\"' sh "
    with pytest.raises(CampaignFailedError, match=f"No such file or directory.*{tmp_path / 'run'}"):
        go(tmp_path / "run", local_site(tmp_path, f"pool.launch_cmd = {hidden!r} + pool.launch_cmd"))
    assert status_of(tmp_path / "run")["state"] == "paused"
    assert go(tmp_path / "run").phase == "complete"
