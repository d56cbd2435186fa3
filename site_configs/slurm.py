"""A Slurm cluster: walkers in one partition, labels in another. Copy this file, edit the capitals, and give its path:

    dynft train campaign.toml --site my_cluster.py

The driver runs where you start it (a login node, in tmux) and needs almost nothing. Walkers and labels run in blocks:
Slurm jobs that serve task after task until their walltime. The run folder, the Python environment and the calculator
must be visible from the compute nodes.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.launchers import SimpleLauncher
from parsl.providers import SlurmProvider

WALK_PARTITION: str | None = os.environ.get("DYNFT_WALK_PARTITION")  # None: Slurm's default partition
LABEL_PARTITION: str | None = os.environ.get("DYNFT_LABEL_PARTITION")
ACCOUNT: str | None = os.environ.get("DYNFT_ACCOUNT")
WALLTIME = os.environ.get("DYNFT_WALLTIME", "24:00:00")  # of one block; hours:minutes:seconds
WALK_CORES = int(os.environ.get("DYNFT_WALK_CORES", "4"))  # walk tasks that one block runs side by side
LABEL_CORES = int(os.environ.get("DYNFT_LABEL_CORES", "4"))  # cores of one label; its command starts the ranks
MAX_LABEL_BLOCKS = int(os.environ.get("DYNFT_LABEL_BLOCKS", "4"))  # labels that run side by side
WORKER_INIT = os.environ.get("DYNFT_WORKER_INIT", "")  # shell lines before the worker: module load vasp, …
ADDRESS = os.environ.get("DYNFT_ADDRESS")  # of this machine as the nodes see it; None: by its host name

_POOL = "parsl.executors.high_throughput.process_worker_pool"
_CACHE = 'export NUMBA_CACHE_DIR="${TMPDIR:-/tmp}/dynft-numba-$(id -u)"'  # on the node: shared folders race


def _executor(label: str, partition: str | None, cores: int, workers: int, max_blocks: int) -> HighThroughputExecutor:
    threads = cores // workers
    environment = [f"export {name}_NUM_THREADS={threads}" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")]
    tethered = [sys.executable, "-m", "site_configs.tether", str(os.getpid())]
    return HighThroughputExecutor(
        label=label,
        max_workers_per_node=workers,
        cores_per_worker=1e-6,  # as many workers as asked for
        address=ADDRESS or address_by_hostname(),
        encrypted=True,
        heartbeat_period=15,
        heartbeat_threshold=120,
        interchange_launch_cmd=[*tethered, "parsl.executors.high_throughput.interchange"],
        launch_cmd=f"{shlex.quote(sys.executable)} -m {_POOL} {DEFAULT_LAUNCH_CMD.partition(' ')[2]}",
        provider=SlurmProvider(
            partition=partition,
            account=ACCOUNT,
            walltime=WALLTIME,
            cores_per_node=cores,
            exclusive=False,
            init_blocks=1,
            min_blocks=0,
            max_blocks=max_blocks,
            launcher=SimpleLauncher(),
            worker_init="\n".join([*environment, _CACHE, WORKER_INIT]),
        ),
    )


def config(run_dir: str) -> Config:
    """Parsl's configuration for a campaign in `run_dir` (absolute, on a shared file system)."""
    return Config(
        executors=[
            _executor("walkers", WALK_PARTITION, WALK_CORES, WALK_CORES, max_blocks=1),
            _executor("ab_initio", LABEL_PARTITION, LABEL_CORES, 1, MAX_LABEL_BLOCKS),
        ],
        strategy="simple",
        max_idletime=600.0,  # an idle block goes back after ten minutes
        usage_tracking=0,
        initialize_logging=False,
        run_dir=str(Path(run_dir) / "parsl"),
    )
