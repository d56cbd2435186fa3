"""Finding a site, refusing one that cannot serve, and what the local one promises."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parsl.config import Config
from parsl.executors import HighThroughputExecutor

import site_configs
from dynft_core.errors import InputError
from site_configs.blocks import SlurmBlocks
from site_configs.tether import is_running
from workflows.driver.sites import check_scheduler, executor_labels, load_site, site_names, walltime_s

HEADER = (
    "from parsl.config import Config\nfrom parsl.executors import HighThroughputExecutor as E, MPIExecutor as M\n"
    "from parsl.launchers import SimpleLauncher as S\nfrom parsl.providers import LocalProvider as L\n"
)
WALKERS = "E(label='walkers', address='::1')"


def site_file(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(HEADER + body)
    return str(path)


def config_returning(expression: str) -> str:
    return f"def config(run_dir):\n    return {expression}\n"


def test_the_local_site_is_one_pool_for_every_task(tmp_path: Path) -> None:
    assert "local" in site_names()
    config = load_site("local", tmp_path)
    (pool,) = config.executors
    assert isinstance(pool, HighThroughputExecutor)
    assert set(executor_labels(config).values()) == {pool.label} == {"walkers"}
    assert pool.max_workers_per_node == min(16, len(os.sched_getaffinity(0)))
    assert pool.encrypted and pool.address == "127.0.0.1" == pool.loopback_address
    assert config.usage_tracking == 0 and config.retries == 0
    assert config.run_dir == str(tmp_path / "parsl")
    assert not (tmp_path / "parsl").exists()  # nothing is written before the campaign has been accepted


def test_a_run_folder_that_the_shell_would_split_keeps_parsl_elsewhere(tmp_path: Path) -> None:
    folder = Path(load_site("local", tmp_path / "my runs").run_dir)
    assert " " not in str(folder) and folder.is_dir()
    folder.rmdir()


@pytest.mark.parametrize("name", ["slurm", "slurm_mpi"])
def test_the_slurm_sites_are_short_private_and_come_and_go_with_the_tasks(name: str, tmp_path: Path) -> None:
    config = load_site(name, tmp_path)
    labels = executor_labels(config)
    assert labels["walk"] == "walkers" and labels["label"] == "ab_initio"
    assert labels["fit"] == ("fitter" if name == "slurm_mpi" else "walkers")
    for pool in config.executors:
        assert isinstance(pool, HighThroughputExecutor) and isinstance(pool.provider, SlurmBlocks)
        assert pool.encrypted and pool.address and pool.prefetch_capacity == 0
        assert pool.provider.init_blocks == pool.provider.min_blocks == 0
        limit_s = walltime_s(pool)
        assert limit_s is not None and limit_s >= 4 * 3600
    assert len(Path(str(sys.modules[f"site_configs.{name}"].__file__)).read_text().splitlines()) < 90
    with pytest.raises(InputError, match="needs no quotes"):
        load_site(name, tmp_path / "my $(runs)")


@pytest.mark.parametrize("name", ["slurm", "slurm_mpi"])
def test_each_pool_of_a_slurm_site_has_options_of_its_own(name: str, tmp_path: Path) -> None:
    text = Path(f"{site_configs.__path__[0]}/{name}.py").read_text()
    edits = (
        'ACCOUNT, QOS = "ours", "long"\nSCHEDULER_OPTIONS = "#SBATCH --mail-type=FAIL"\nWORKER_INIT = "source env"\n'
        'LABEL = {"account": "dft", "gres": "gpu:1", "constraint": "milan", "mem_per_node": 120}\n'
        'WALK_INIT = "module load python"\n'
    )
    (tmp_path / "mine.py").write_text(text.replace("\n\ndef config(", f"\n{edits}\n\ndef config(", 1))
    walkers, labels = load_site(str(tmp_path / "mine.py"), tmp_path / "run").executors[:2]
    assert isinstance(walkers, HighThroughputExecutor) and isinstance(labels, HighThroughputExecutor)
    for pool, account in ((walkers, "ours"), (labels, "dft")):
        assert isinstance(pool.provider, SlurmBlocks)
        lines = pool.provider.scheduler_options.splitlines()
        assert {f"#SBATCH --account={account}", "#SBATCH --qos=long", "#SBATCH --mail-type=FAIL"} <= set(lines)
        assert {"#SBATCH --gres=gpu:1", "#SBATCH --constraint=milan"} <= set(lines) or pool is walkers
        assert "source env" in pool.provider.worker_init
    assert labels.provider.mem_per_node == 120 and walkers.provider.mem_per_node is None
    assert "module load python" in walkers.provider.worker_init
    assert "module load python" not in labels.provider.worker_init


def test_a_wrong_walltime_is_refused(tmp_path: Path) -> None:
    for walltime in ("24 hours", "24:00", "1:00:00:00"):
        with pytest.raises(ValueError, match="days-"):
            SlurmBlocks(str(tmp_path), walltime=walltime)
    assert SlurmBlocks(str(tmp_path), walltime="2-12:30:00").walltime == "60:30:00"


def test_workers_have_one_thread_and_a_cache_of_their_own_machine(tmp_path: Path) -> None:
    (pool,) = load_site("local", tmp_path).executors
    assert isinstance(pool, HighThroughputExecutor) and pool.provider is not None
    script = f"{pool.provider.worker_init}\nenv"  # type: ignore[attr-defined]
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    lines = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        assert f"{name}=1" in lines
    assert any(line.startswith("NUMBA_CACHE_DIR=/") for line in lines)


def test_each_task_goes_to_the_pool_that_the_site_has_for_it(tmp_path: Path) -> None:
    pools = ", ".join(f"E(label='{label}', address='127.0.0.1')" for label in ("fitter", "ab_initio", "walkers"))
    config = load_site(site_file(tmp_path, config_returning(f"Config(executors=[{pools}])")), tmp_path)
    assert executor_labels(config) == {
        "propose": "walkers", "walk": "walkers", "validate": "walkers", "truncation": "fitter", "choose": "fitter",
        "label": "ab_initio", "select": "walkers", "fit": "fitter", "evaluate": "fitter", "born": "ab_initio",
        "relax": "walkers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x = 1\n", "defines config"),
        ("raise OSError('no such module')\n", "OSError: no such module"),
        (config_returning("1 / 0"), "ZeroDivisionError"),
        (config_returning("'walkers'"), "expected a parsl.Config, got str"),
        (config_returning("Config(executors=[E(label='cpu', address='::1')])"), "label the executor"),
        (config_returning(f"Config(executors=[{WALKERS}, E(label='dft', address='::1')])"), "walkers, dft"),
        (config_returning("Config(executors=[E(label='walkers', address='::1', encrypted=False)])"), "encrypted=True"),
        (config_returning("Config(executors=[E(label='walkers', address='::1', prefetch_capacity=2)])"), "too late"),
        (config_returning(f"Config(executors=[M({WALKERS[2:-1]}, provider=L(launcher=S()))])"), "an MPIExecutor"),
        (config_returning("Config(executors=[E(label='walkers', max_workers_per_node='four')])"), "TypeCheckError"),
        (config_returning(f"Config(executors=[{WALKERS}, {WALKERS}])"), "unique labels"),
        (config_returning(f"Config(executors=[{WALKERS}], retries=2)"), "retries=2"),
    ],
)
def test_a_site_file_that_cannot_serve_is_refused_in_one_line(body: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        load_site(site_file(tmp_path, body), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["192.0.2.1", "no.such.host.invalid"])  # the first is of a range for documentation
def test_an_address_of_another_machine_is_refused_before_anything_starts(address: str, tmp_path: Path) -> None:
    config = load_site(
        site_file(tmp_path, config_returning(f"Config(executors=[E(label='walkers', address='{address}')])")), tmp_path
    )
    with pytest.raises(InputError, match=f"'{address}' .* this machine has .*127.0.0.1"):
        check_scheduler(config)


def test_an_unknown_site_names_the_nearest_and_a_missing_file_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'local'"):
        load_site("locale", tmp_path)
    with pytest.raises(InputError, match="which is not there"):
        load_site(str(tmp_path / "none.py"), tmp_path)
    assert isinstance(load_site("local", tmp_path), Config)


def test_a_tethered_process_ends_with_its_driver_even_when_nobody_has_noticed_its_death() -> None:
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    command = [sys.executable, "-m", "site_configs.tether", str(driver.pid), "http.server", "0", "--bind", "127.0.0.1"]
    tethered = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.5)
        assert tethered.poll() is None and is_running(driver.pid)
        tethered.send_signal(signal.SIGINT)  # Ctrl-C reaches the whole group, and is the driver's affair
        time.sleep(0.5)
        assert tethered.poll() is None
        driver.kill()  # it stays a zombie until we wait for it
        assert tethered.wait(timeout=10) == 1
        assert not is_running(driver.pid)
    finally:
        for process in (tethered, driver):
            process.kill()
            process.wait()


POOL = """
import multiprocessing, os, time
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    shared = context.Manager()
    (server,) = multiprocessing.active_children()
    worker = context.Process(target=time.sleep, args=(100,))
    worker.start()
    print(os.getpid(), worker.pid, server.pid, flush=True)
    worker.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are adopted by another on Linux alone")
@pytest.mark.parametrize("ends", ["guard", "pool", "server", "interchange"])
def test_no_worker_outlives_what_it_works_for(ends: str, tmp_path: Path) -> None:
    (tmp_path / "process_worker_pool.py").write_text(POOL)
    interchange = socket.create_server(("127.0.0.1", 0))
    interchange.settimeout(30)
    address = ["-a", "127.0.0.1", f"--port={interchange.getsockname()[1]}", "--hb_threshold=1.0"]
    command = [sys.executable, "-m", "site_configs.tether", "0", "process_worker_pool", *address]
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    guard = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert guard.stdout is not None
    pool, worker, server = map(int, guard.stdout.readline().split())
    assert len({guard.pid, pool, worker, server}) == 4 and is_running(worker)
    for _ in range(5):  # asked again and again, while it answers
        interchange.accept()[0].close()
        assert is_running(pool)
    if ends == "interchange":
        interchange.close()
    else:
        os.kill({"guard": guard.pid, "pool": pool, "server": server}[ends], signal.SIGKILL)
    guard.wait(timeout=60)
    guard.stdout.close()
    interchange.close()
    deadline = time.monotonic() + 30
    while (left := [pid for pid in (pool, worker, server) if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
