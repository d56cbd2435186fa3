"""A Slurm cluster: walkers in one partition, labels in another. Copy this file, edit the capitals, and give its path:

    dynft site check my_cluster.py
    dynft train campaign.toml --site my_cluster.py

The driver runs where you start it (a login node, in tmux) and needs almost nothing. Walkers and labels run in blocks:
Slurm jobs that serve task after task. A block takes no task that might not end within its walltime, idle blocks go
back, and the campaign goes on in new ones for as long as it takes. The run folder, the Python environment and the
calculator must be visible from the compute nodes.
"""

from __future__ import annotations

from typing import Any

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor

from site_configs.blocks import SlurmBlocks, environment, parsl_folder, worker_pool

ACCOUNT: str | None = None  # None: your default account
QOS: str | None = None
WORKER_INIT = ""  # shell lines before all workers: source ~/dynft/bin/activate
ADDRESS: str | None = None  # of this machine as the nodes see it: address_by_interface("ib0"); None: by host name
SCHEDULER_OPTIONS = ""  # further lines of all job scripts: "#SBATCH --constraint=milan"
POLL_S = 15  # how often Slurm is asked about our jobs
MAX_IDLE_S = 600.0  # an idle block goes back after this
HEARTBEAT_S, PATIENCE_S = 15, 120  # a block without a sign of its driver for this long ends itself

WALK_PARTITION: str | None = None  # None: Slurm's default partition
WALK_WALLTIME = "1-00:00:00"  # of one block: days-hours:minutes:seconds
WALK_TASKS = 4  # batches of walkers (dynamics.walkers_per_task) that a block walks side by side
WALK_THREADS = 1  # cores of each
MAX_WALK_BLOCKS = 2
WALK: dict[str, Any] = {}  # of this pool alone: {"account": "ab1", "qos": "short", "constraint": "milan"}
WALK_INIT = ""

LABEL_PARTITION: str | None = None
LABEL_WALLTIME = "2-00:00:00"  # longer than twice reference.timeout_s: a label may be computed twice
LABEL_TASKS = 1  # labels that a block computes side by side: several where the cells are small
LABEL_CORES = 4  # cores of one label; its own command starts the ranks
LABEL_THREADS = 1  # OMP_NUM_THREADS of that command
MAX_LABEL_BLOCKS = 4
LABEL: dict[str, Any] = {}  # as WALK: {"gres": "lscratch:50", "mem_per_node": 120}, GB
LABEL_INIT = ""  # module load vasp; export ASE_VASP_COMMAND="mpirun vasp_std"


def config(run_dir: str) -> Config:
    """Parsl's configuration for a campaign in `run_dir` (absolute, on a shared file system)."""

    def pool(label: str, most: int, tasks: int, cores: int, init: str, **options: Any) -> HighThroughputExecutor:
        blocks = SlurmBlocks(
            run_dir,
            POLL_S,
            scheduler_options=SCHEDULER_OPTIONS,
            cores_per_node=tasks * cores,
            exclusive=False,
            init_blocks=0,  # a block when there is a task for it
            max_blocks=most,
            worker_init=init,
            **options,
        )
        return worker_pool(label, blocks, tasks, ADDRESS or address_by_hostname(), HEARTBEAT_S, PATIENCE_S)

    walk_init = f"{environment(WALK_THREADS)}\n{WORKER_INIT}\n{WALK_INIT}"
    label_init = f"{environment(LABEL_THREADS)}\n{WORKER_INIT}\n{LABEL_INIT}"
    common = {"account": ACCOUNT, "qos": QOS}
    walk = {**common, "partition": WALK_PARTITION, "walltime": WALK_WALLTIME, **WALK}
    label = {**common, "partition": LABEL_PARTITION, "walltime": LABEL_WALLTIME, **LABEL}
    walkers = pool("walkers", MAX_WALK_BLOCKS, WALK_TASKS, WALK_THREADS, walk_init, **walk)
    labels = pool("ab_initio", MAX_LABEL_BLOCKS, LABEL_TASKS, LABEL_CORES, label_init, **label)
    return Config(
        executors=[walkers, labels],
        strategy="htex_auto_scale",  # blocks come with the tasks and go when idle
        max_idletime=MAX_IDLE_S,
        strategy_period=max(POLL_S / 3, 0.3),
        usage_tracking=0,
        run_dir=parsl_folder(run_dir),
    )
