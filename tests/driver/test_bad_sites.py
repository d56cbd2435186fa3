"""Sites on which no campaign can run: told in the words of whoever refused, and the campaign goes on once mended."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import fake_tasks
import pytest
from fake_driver import campaign
from test_event_loop import assert_nothing_is_left

from dynft_core.errors import CampaignFailedError
from site_configs.versions import written
from workflows.campaign.state import State
from workflows.commands.site_check import check_site
from workflows.driver.driver import run_campaign
from workflows.views.status import status_of

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
    assert status.state == "paused" and "no module load here" in status.reason
    assert go(tmp_path / "run").phase == "complete"  # with a site that works


def test_a_package_that_the_workers_lack(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "fake_tasks.py").write_text("import no_such_package\n")
    path = os.pathsep.join([str(tmp_path / "bare"), os.environ.get("PYTHONPATH", "")])
    state = go(tmp_path / "run", local_site(tmp_path, f"pool.provider.worker_init += '\\nexport PYTHONPATH={path}'"))
    assert "No module named 'no_such_package'" in state.ending
    assert status_of(tmp_path / "run").state == "failed"
    assert go(tmp_path / "run").phase == "complete"


def other_environment(folder: Path, file: str, text: str) -> str:
    """PYTHONPATH of an environment that is this one with a file more."""
    path = folder / "other" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return os.pathsep.join([str(folder / "other"), os.environ.get("PYTHONPATH", "")])


def test_workers_of_another_parsl_that_the_interchange_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the check keeps logs
    path = other_environment(
        tmp_path, "sitecustomize.py", "import parsl.version\nparsl.version.VERSION = '1999.01.01'\n"
    )
    site = local_site(tmp_path, f"pool.provider.worker_init += '\\nexport PYTHONPATH={path}'")
    words = f"the workers have Parsl 1999.01.01, the driver Parsl {version('parsl')}: use one environment for both"
    with pytest.raises(CampaignFailedError, match=words) as error:
        go(tmp_path / "run", site)
    assert "worker_init" in str(error.value) and "run the same command again" in str(error.value)
    status = status_of(tmp_path / "run")
    assert status.state == "paused" and status.reason == str(error.value)
    assert_nothing_is_left(tmp_path / "run", within_s=10.0)
    lines: list[str] = []
    assert check_site(site, 60.0, say=lines.append) == 1
    assert any(f"wrong: no block: {words}" in line for line in lines)
    assert go(tmp_path / "run").phase == "complete"  # with a site that works


def test_workers_of_a_parsl_so_old_that_they_would_not_understand_the_driver(tmp_path: Path) -> None:
    metadata = "Name: parsl\nVersion: 1999.1.1\n"
    path = other_environment(tmp_path, "parsl-1999.1.1.dist-info/METADATA", metadata)
    site = local_site(tmp_path, f"pool.provider.worker_init += '\\nexport PYTHONPATH={path}'")
    with pytest.raises(CampaignFailedError, match=r"gave up: the workers have Parsl 1999\.1\.1, the driver Parsl 2"):
        go(tmp_path / "run", site)
    assert status_of(tmp_path / "run").state == "paused"
    assert_nothing_is_left(tmp_path / "run", within_s=10.0)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("sitecustomize.py", "import sys\nsys.version_info = (3, 7, 2)\n", "Python 3.7, the driver Python 3."),
        ("dynft-0.0.1.dist-info/METADATA", "Name: dynft\nVersion: 0.0.1\n", "dynft 0.0.1, the driver dynft "),
    ],
)
def test_workers_of_another_python_or_dynft_do_not_start(file: str, text: str, words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "site_configs.versions", written(), "platform"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip()
    environment = {**os.environ, "PYTHONPATH": other_environment(tmp_path, file, text)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"the workers have {words}")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        # as of a pool that a site starts by itself, with options that its Parsl does not know
        ("echo process_worker_pool.py: error: unrecognized arguments: --new=1 >&2; exit 2", "another Parsl than"),
        (f"env -u PYTHONPATH {sys.executable} -S -P -m site_configs.versions", "a Python without dynft, or with an o"),
    ],
)
def test_an_environment_too_far_away_to_tell_its_versions(command: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(CampaignFailedError, match=f"the workers have {words}.*: use one environment for both"):
        go(tmp_path / "run", local_site(tmp_path, f"pool.launch_cmd = {command!r}"))


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
    assert status_of(tmp_path / "run").state == "paused"
    assert go(tmp_path / "run").phase == "complete"
